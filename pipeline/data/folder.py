"""Any images and PNG masks, described by one YAML file.

```yaml
name: cityscapes
root: .                       # relative to this file
classes:                      # in label order; a class's value in the masks is its place unless `values` says otherwise
- {name: road, colour: [128, 64, 128]}
- {name: sidewalk, colour: [244, 35, 232]}
ignore_index: 255
splits:
  val:
    images: leftImg8bit/val/{city}/{stem}_leftImg8bit.png
    masks: gtFine/val/{city}/{stem}_gtFine_labelTrainIds.png
```

`{city}` and `{stem}` match any part of one file or folder name; the mask of an image is the `masks` path with the same
parts put in. With `list: val.txt` the images are not searched: each line of the file is put in for the one `{stem}`. A
list alone has lines `image<TAB>mask`. All paths stay below the root.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from edgesmith.deploy.files import existing_file
from edgesmith.pipeline.yamlfile import read

from .dataset import VOID, LabelSet
from .pairs import RGB, Coding, FileDataset, Listing, Pair, Problem, list_lines, outside, pairs_of_lines, rgb_code, verified
from .spec import user_path

_PLACE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class FolderClass:
    """One class; its place in the list is its label."""

    name: str
    """Name in tables and legends."""
    colour: RGB
    """Colour in which it is drawn, [red, green, blue]; with `masks: colour` also its colour in the masks."""
    values: tuple[int, ...] | None = None
    """Values in the masks that mean this class. Default: its place in the list."""
    colours: tuple[RGB, ...] = ()
    """Further colours in the masks that mean this class."""

    def __post_init__(self) -> None:
        problems = []
        if not self.name.strip():
            problems.append("name: is empty")
        if not _is_rgb(self.colour):
            problems.append("colour: needs red, green, blue from 0 to 255")
        if not all(_is_rgb(c) for c in self.colours):
            problems.append("colours: needs lists of red, green, blue from 0 to 255")
        if self.values is not None and (not self.values or not all(0 <= v <= 255 for v in self.values)):
            problems.append("values: needs at least one number, each from 0 to 255")
        if problems:
            raise ValueError("\n".join(problems))


@dataclass(frozen=True)
class FolderSplit:
    """Which files belong to a split."""

    images: str | None = None
    """Paths of the images, such as images/train/{stem}.jpg."""
    masks: str | None = None
    """Path of an image's mask, with the same {names}, such as labels/train/{stem}.png."""
    list: str | None = None
    """A text file: what stands for {stem}, a line each; without `images` and `masks`, lines image<TAB>mask."""

    def __post_init__(self) -> None:
        if (self.images is None) != (self.masks is None):
            missing = "images" if self.images is None else "masks"
            raise ValueError(f"missing {missing}; images and masks go together")
        if self.images is None or self.masks is None:
            if self.list is None:
                raise ValueError("needs images and masks, or list")
            return
        problems = [p for name in ("images", "masks") if (p := _pattern_problem(name, getattr(self, name)))]
        places, used = set(_PLACE.findall(self.images)), set(_PLACE.findall(self.masks))
        if not problems and not places:
            problems.append("images: needs at least one {name}, such as images/{stem}.jpg")
        elif not problems and used != places:
            odd = ", ".join(f"{{{p}}}" for p in sorted(used ^ places))
            problems.append(f"masks: needs the same {{names}} as images; {odd} stands in only one of them")
        elif not problems and self.list is not None and len(places) != 1:
            problems.append("images: with a list, needs exactly one {name}, for which the lines are put in")
        if problems:
            raise ValueError("\n".join(problems))


@dataclass(frozen=True)
class Folder:
    """The YAML file."""

    name: str
    """Name in reports."""
    classes: tuple[FolderClass, ...]
    """The classes in label order."""
    splits: dict[str, FolderSplit]
    """The splits by name."""
    root: str = "."
    """Folder that all paths start from, relative to the YAML file."""
    masks: Literal["index", "colour"] = "index"
    """What the masks hold: class values (grey or palette PNG), or the classes' colours."""
    ignore_index: int | tuple[int, ...] | None = None
    """Value or values in the masks that count for no class. Default with index masks: 255."""
    ignore_colours: tuple[RGB, ...] = ()
    """Colours in the masks that count for no class."""

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= len(self.classes) <= VOID:
            problems.append(f"classes: needs 1 to {VOID} classes, has {len(self.classes)}")
        names = [c.name for c in self.classes]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            problems.append(f"classes: names must differ; twice: {', '.join(twice)}")
        if not self.splits:
            problems.append("splits: needs at least one split")
        if bad := [s for s in self.splits if not re.fullmatch(r"[A-Za-z0-9_-]+", s)]:
            problems.append(f"splits: names have letters, digits, - and _ only; not {', '.join(map(repr, bad))}")
        if not all(0 <= v <= 255 for v in self._ignored):
            problems.append("ignore_index: needs numbers from 0 to 255")
        if not all(_is_rgb(c) for c in self.ignore_colours):
            problems.append("ignore_colours: needs lists of red, green, blue from 0 to 255")
        if self.masks == "colour" and self.ignore_index is not None:
            problems.append("ignore_index: the masks hold colours, no values; name void colours in ignore_colours")
        if self.masks == "colour" and any(c.values is not None for c in self.classes):
            problems.append("classes: have values, but the masks hold colours; leave the values out")
        if self.masks == "index" and (self.ignore_colours or any(c.colours for c in self.classes)):
            problems.append("masks: index masks have values, no colours; leave colours and ignore_colours out")
        problems.extend(self._ambiguous())
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def _ignored(self) -> tuple[int, ...]:
        if self.ignore_index is None:
            return (VOID,)
        return self.ignore_index if isinstance(self.ignore_index, tuple) else (self.ignore_index,)

    def _meanings(self) -> list[tuple[int, int, str]]:
        """(value or colour code in the masks, label, who says so)."""
        found: list[tuple[int, int, str]] = []
        for label, one in enumerate(self.classes):
            if self.masks == "colour":
                found.extend((rgb_code(c), label, one.name) for c in dict.fromkeys((one.colour, *one.colours)))
            else:
                found.extend((v, label, one.name) for v in dict.fromkeys(one.values or (label,)))
        if self.masks == "colour":
            found.extend((rgb_code(c), VOID, "ignore_colours") for c in self.ignore_colours)
        else:
            found.extend((v, VOID, "ignore_index") for v in self._ignored)
        return found

    def _ambiguous(self) -> list[str]:
        problems: list[str] = []
        seen: dict[int, tuple[int, str]] = {}
        for value, label, who in self._meanings():
            first = seen.setdefault(value, (label, who))
            if first[0] != label:
                shown = value if self.masks == "index" else [value >> 16, value >> 8 & 255, value & 255]
                problems.append(f"classes: {shown} in a mask would mean both {first[1]} and {who}")
        return problems

    @property
    def coding(self) -> Coding:
        """What the masks' pixels mean."""
        return Coding(self.masks, {value: label for value, label, _ in self._meanings()})


def find(path: Path, root: Path | None = None) -> FileDataset:
    """The dataset that the YAML file at `path` describes, below `root` if given. Raises ValueError, OSError."""
    fix = "paths, a recipe's too, start from the folder you run in (docs/data.md says what to write)"
    described = read(existing_file(path, "dataset", fix), Folder)
    base = root if root is not None else path.parent / user_path(f"{path}: root", described.root)
    if not base.is_dir():
        whose = "root" if root is not None else f"{path}: root"
        raise ValueError(f"{whose}: {base} is not a folder; name the folder that the paths of {path.name} start from")
    labels = LabelSet(tuple(c.name for c in described.classes), tuple(c.colour for c in described.classes))
    listings = {name: _listing(base, name, split, str(path)) for name, split in described.splits.items()}
    return FileDataset(described.name, base, labels, described.coding, listings)


def _listing(root: Path, name: str, split: FolderSplit, source: str) -> Listing:
    problems: list[Problem] = []
    lines: list[tuple[int, str]] = []
    if split.list is not None:
        source = str(root / split.list)
        if why := outside(root, split.list):
            return Listing(problems=(Problem(source, name, why, "put the list below the root"),))
        lines, problems = list_lines(root, split.list, name)
    if split.images is None or split.masks is None:
        pairs, bad = pairs_of_lines(lines, name, source)
        return verified(root, name, source, pairs, [*problems, *bad])
    if split.list is not None:
        stands_for = [dict.fromkeys(_PLACE.findall(split.images), line) for _, line in lines]
        found = [(_filled(split.images, parts), parts) for parts in stands_for]
    else:
        found = _search(root, split.images)
        if not found:
            what, fix = f"no file below {root} matches {split.images}", "correct the pattern or the root"
            problems.append(Problem(source, name, what, fix))
    pairs = [Pair(image, _filled(split.masks, parts)) for image, parts in found]
    return verified(root, name, source, pairs, problems)


def _filled(pattern: str, parts: dict[str, str]) -> str:
    return _PLACE.sub(lambda place: parts[place.group(1)], pattern)


def _search(root: Path, pattern: str) -> list[tuple[str, dict[str, str]]]:
    """Files below `root` that match, sorted, each with what its {names} stand for."""
    wild, exact, at = "", "", 0
    seen: set[str] = set()
    for place in _PLACE.finditer(pattern):
        literal, name = pattern[at : place.start()], place.group(1)
        wild += glob.escape(literal) + "*"
        exact += re.escape(literal) + (f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+)")
        at = place.end()
        seen.add(name)
    wild, exact = wild + glob.escape(pattern[at:]), exact + re.escape(pattern[at:])
    found = sorted(path.replace(os.sep, "/") for path in glob.glob(wild, root_dir=root))
    matches = [(path, re.fullmatch(exact, path)) for path in found]
    return [(path, match.groupdict()) for path, match in matches if match]


def _pattern_problem(field: str, pattern: str) -> str | None:
    rest = _PLACE.sub("", pattern)
    names = _PLACE.findall(pattern)
    if not pattern.strip() or "\0" in pattern:
        return f"{field}: needs a path such as images/{{stem}}.jpg"
    if pattern.startswith("/") or ".." in PurePosixPath(pattern).parts:
        return f"{field}: needs a path below root, without .."
    if "*" in rest:
        return f"{field}: write {{stem}} or another {{name}} in place of *, so that image and mask can be paired"
    if "{" in rest or "}" in rest or not all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,30}", n) for n in names):
        return f"{field}: a {{name}} has letters, digits and _ between braces"
    return f"{field}: has more than 8 {{names}}" if len(names) > 8 else None


def _is_rgb(colour: RGB) -> bool:
    return all(0 <= c <= 255 for c in colour)
