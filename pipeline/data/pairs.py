"""Datasets that are pairs of files, a frame and a mask: what belongs to a split, what a mask means, the digest."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesmith.deploy.files import sha256_json

from .dataset import VOID, LabelSet, Sample
from .images import decode_frame, decode_mask

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Problem:
    """Something wrong with a dataset, in a user's words."""

    file: str
    split: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file} ({self.split}): {self.what}; {self.fix}"


@dataclass(frozen=True)
class Pair:
    """A frame and its mask, as POSIX paths relative to the dataset's root."""

    frame: str
    mask: str


@dataclass(frozen=True)
class Listing:
    """What a split is said to consist of, before any file was opened, and what is wrong with that statement."""

    pairs: tuple[Pair, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Coding:
    """What a mask's pixels mean. Everything that `table` does not name is an error, never silently void."""

    kind: Literal["index", "colour"]
    """index: the pixel's value (in a palette PNG, its place in the palette); colour: the RGB colour."""
    table: Mapping[int, int]
    """From the value, or from the colour as 0xRRGGBB, to class index or VOID."""

    def decode(self, raw: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], dict[str, int]]:
        """A mask as stored -> (label map (H, W), pixels per value or colour that has no meaning here)."""
        if self.kind == "index":
            label = np.asarray(cv2.LUT(raw, self._lut), np.uint8)
            if not cv2.countNonZero(cv2.LUT(raw, self._strange)):
                return label, {}
            counts = np.bincount(raw.ravel(), minlength=256)
            return label, {str(v): int(counts[v]) for v in np.flatnonzero((self._strange != 0) & (counts > 0))}
        code = (raw[..., 0].astype(np.uint32) << 16) | (raw[..., 1].astype(np.uint32) << 8) | raw[..., 2]
        keys, labels = self._colours
        place = np.minimum(np.searchsorted(keys, code), len(keys) - 1)
        label = labels[place]
        strange = keys[place] != code
        if not strange.any():
            return label, {}
        values, pixels = np.unique(code[strange], return_counts=True)
        return label, {
            str((int(v) >> 16, int(v) >> 8 & 255, int(v) & 255)): int(n) for v, n in zip(values, pixels, strict=True)
        }

    @functools.cached_property
    def _lut(self) -> NDArray[np.uint8]:
        lut = np.full(256, VOID, np.uint8)
        for value, label in self.table.items():
            lut[value] = label
        return lut

    @functools.cached_property
    def _strange(self) -> NDArray[np.uint8]:
        strange = np.ones(256, np.uint8)
        strange[list(self.table)] = 0
        return strange

    @functools.cached_property
    def _colours(self) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        keys = sorted(self.table)
        return np.array(keys, np.uint32), np.array([self.table[k] for k in keys], np.uint8)


def rgb_code(rgb: RGB) -> int:
    """A colour as 0xRRGGBB."""
    return rgb[0] << 16 | rgb[1] << 8 | rgb[2]


@dataclass(frozen=True)
class FileDataset:
    """A dataset of frame and mask files below `root`. Building one opens no image."""

    name: str
    root: Path
    labels: LabelSet
    coding: Coding
    listings: Mapping[str, Listing]

    def open(self, split: str) -> FileSplit:
        """The split, once each of its files is there. Raises ValueError that names what is missing."""
        if split not in self.listings:
            raise ValueError(f"{self.name} has no split {split!r}; it has {', '.join(self.listings)}")
        listing = self.listings[split]
        problems = [str(p) for p in listing.problems]
        for pair in listing.pairs:
            missing = [f for f in (pair.frame, pair.mask) if not (self.root / f).is_file()]
            problems.extend(f"{self.root / f} ({split}): is listed, but is not there" for f in missing)
        if problems:
            more = f"\n... and {len(problems) - 5} more; `edgesmith data check` lists all" if len(problems) > 5 else ""
            raise ValueError("\n".join(problems[:5]) + more)
        return FileSplit(self, split)


@dataclass(frozen=True)
class FileSplit:
    """A Split over files."""

    dataset: FileDataset
    split: str
    pairs: tuple[Pair, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", self.dataset.listings[self.split].pairs)

    @property
    def labels(self) -> LabelSet:
        return self.dataset.labels

    @functools.cached_property
    def digest(self) -> str:
        """Over relative paths, contents, the meaning of the masks and the classes; reads every file once."""
        root, coding = self.dataset.root, self.dataset.coding
        files = [[f, hashlib.sha256(read_bytes(root / f)).hexdigest()] for p in self.pairs for f in (p.frame, p.mask)]
        classes = [list(self.labels.names), self.labels.palette]  # both end up in model.json
        return sha256_json({"files": files, "classes": classes, "coding": [coding.kind, sorted(coding.table.items())]})

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        frame = decode_frame(read_bytes(self.dataset.root / pair.frame), self.dataset.root / pair.frame)
        label = self.label(index)
        if frame.shape[:2] != label.shape:
            sizes = f"{label.shape[0]}x{label.shape[1]}, its frame {frame.shape[0]}x{frame.shape[1]}"
            raise ValueError(f"{self.dataset.root / pair.mask}: the mask is {sizes} (height x width)")
        return Sample(Path(pair.frame).stem, frame, label)

    def label(self, index: int) -> NDArray[np.uint8]:
        """The label map alone, (H, W)."""
        path = self.dataset.root / self.pairs[index].mask
        label, strange = self.dataset.coding.decode(decode_mask(read_bytes(path), path, self.dataset.coding.kind))
        if strange:
            raise ValueError(f"{path}: {describe_strange(strange, self.dataset.coding.kind)}")
        return label


def describe_strange(strange: Mapping[str, int], kind: str) -> str:
    """The values or colours without a meaning, most frequent first."""
    most = sorted(strange.items(), key=lambda item: -item[1])
    named = ", ".join(f"{value} in {pixels} pixels" for value, pixels in most[:6])
    more = f" and {len(most) - 6} more" if len(most) > 6 else ""
    return f"holds {'values' if kind == 'index' else 'colours (RGB)'} that stand for no class: {named}{more}"


def read_bytes(path: Path) -> bytes:
    """A file's bytes. Raises OSError that names the file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: is not there") from None


def list_lines(root: Path, name: str, split: str) -> tuple[list[tuple[int, str]], list[Problem]]:
    """The lines of a list file with their numbers, less blank ones, and what is wrong with the file."""
    path = root / name
    if not path.is_file():
        return [], [Problem(str(path), split, "the list of this split is not there", "add it, or use another split")]
    if path.stat().st_size > 1 << 26:
        return [], [Problem(str(path), split, "is larger than 64 MiB, no list of files", "name the right file")]
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as e:
        return [], [Problem(str(path), split, f"byte {e.start} is not UTF-8", "save the list as UTF-8 text")]
    lines = [(i, line.strip(" \r")) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    empty = Problem(str(path), split, "lists nothing", "list the files of this split, one a line")
    return lines, [] if lines else [empty]


def pairs_of_lines(lines: Iterable[tuple[int, str]], split: str, source: str) -> tuple[list[Pair], list[Problem]]:
    """Numbered lines `image<TAB>mask` of the list `source` as pairs, and a problem for each that is none."""
    pairs, problems = [], []
    for number, line in lines:
        columns = line.split("\t")
        if len(columns) == 2:
            pairs.append(Pair(*columns))
        else:
            what = f"{line[:80]!r} is not image<TAB>mask"
            problems.append(Problem(f"{source}:{number}", split, what, "write two paths with a tab between"))
    return pairs, problems


def outside(root: Path, name: str) -> str | None:
    """Why the file `name` may not be used below `root`: absolute, with .., a link that leads out. None: it may."""
    path = PurePosixPath(name)
    if not name.isascii() and any("\ud800" <= c <= "\udfff" for c in name):
        return f"{ascii(name)[:80]} is not a UTF-8 name"
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        return f"{name[:80]!r} is not a path below the root"
    try:
        inside = (root / path).resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # links in a circle
        inside = False
    return None if inside else f"{name[:80]!r} is a link that leads out of the root"


def verified(root: Path, split: str, source: str, pairs: Iterable[Pair], problems: Iterable[Problem]) -> Listing:
    """A listing of those pairs that lie below the root, each frame once."""
    kept: dict[str, Pair] = {}
    found = list(problems)
    resolved = root.resolve()
    for pair in pairs:
        bad = [why for why in (outside(resolved, pair.frame), outside(resolved, pair.mask)) if why]
        found.extend(Problem(source, split, why, "use files below the root, without links out of it") for why in bad)
        if pair.frame in kept:
            found.append(Problem(source, split, f"{pair.frame[:80]!r} is listed twice", "list it once"))
        elif not bad:
            kept[pair.frame] = pair
    if not kept and not found:
        found.append(Problem(source, split, "the split is empty", "add frames, or use another split"))
    return Listing(tuple(kept.values()), tuple(found))
