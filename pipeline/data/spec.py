"""From what a user writes to a split: a recipe's `data:` section, or SPEC on the command line."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgesmith.deploy.fields import MAX_SIDE

from .dataset import MIN_SIDE, Split

if TYPE_CHECKING:
    from .pairs import FileDataset

ENVIRONMENT = "EDGESMITH_DATA"
_STREET_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Data:
    """Which dataset, and where it lies."""

    dataset: str = "street"
    """street (procedural, needs no files), camvid, or the path of a YAML file that describes a folder of images."""
    root: str | None = None
    """Folder that holds the dataset. Default: $EDGESMITH_DATA/<dataset>, else $EDGESMITH_DATA; for a YAML file, its root."""
    frame_hw: tuple[int, int] | None = None
    """Only street: size of the frames it draws, height x width. Default: 360 x 480."""
    train_frames: int = 400
    """Only street: frames in split train."""
    val_frames: int = 40
    """Only street: frames in split val."""
    test_frames: int = 64
    """Only street: frames in split test."""
    seed: int = 0
    """Only street: another seed gives other streets. The three splits never share one."""

    def __post_init__(self) -> None:
        problems = []
        if not self.dataset:
            problems.append("dataset: is empty; needs street, camvid or the path of a YAML file")
        elif self.dataset not in ("street", "camvid") and not _is_yaml(self.dataset):
            problems.append("dataset: needs street, camvid or the path of a .yaml file")
        if self.dataset == "street" and self.root is not None:
            problems.append("root: street is drawn, not read, and has no root; leave it out")
        if self.dataset != "street" and self.frame_hw is not None:
            problems.append("frame_hw: only street draws frames of any size; leave it out")
        elif self.frame_hw is not None and not all(MIN_SIDE <= side <= MAX_SIDE for side in self.frame_hw):
            problems.append(f"frame_hw: needs height and width of {MIN_SIDE} to {MAX_SIDE} pixels")
        for name in ("train_frames", "val_frames", "test_frames"):
            if not 1 <= getattr(self, name) <= 1_000_000:
                problems.append(f"{name}: needs 1 to 1000000 frames")
        if not 0 <= self.seed < 2**31:
            problems.append("seed: needs 0 to 2147483647")
        if problems:
            raise ValueError("\n".join(problems))


def splits_digest(data: Data, names: tuple[str, ...]) -> str:
    """Identity of the named splits for a stage's key: what is in them, not where they lie. Reads their files."""
    return hashlib.sha256("".join(f"{n} {open_split(data, n).digest}\n" for n in names).encode()).hexdigest()


def parse_spec(text: str) -> tuple[Data, str | None]:
    """`street`, `camvid`, `camvid:/root` or `path/to.yaml`, each with `@split` if it is about one split."""
    body, split = text, None
    if found := re.fullmatch(r"(.+)@([A-Za-z0-9_-]+)", text):
        body, split = found.group(1), found.group(2)
    name, colon, root = body.partition(":")
    if _is_yaml(body):
        return Data(dataset=body), split
    if name in ("street", "camvid") and (not colon or (root and name == "camvid")):
        return Data(dataset=name, root=root or None), split
    raise ValueError(
        f"data {text!r}: needs street, camvid, camvid:ROOT or the path of a .yaml file, each with @SPLIT if wanted"
    )


def splits(data: Data) -> tuple[str, ...]:
    """The names of the dataset's splits, in order."""
    if data.dataset == "street":
        return _STREET_SPLITS
    return tuple(open_files(data).listings)


def named(data: Data | None, field: str) -> Data:
    """`data`. Raises ValueError naming the recipe's field where there is none."""
    if data is None:
        raise ValueError(f"{field}: no dataset is named")
    return data


def open_split(data: Data, split: str) -> Split:
    """The split, ready to read. Raises ValueError or OSError in the user's words: no such split, no root, files missing."""
    if data.dataset != "street":
        return open_files(data).open(split)
    from .street import StreetSplit

    if split not in _STREET_SPLITS:
        raise ValueError(f"street has no split {split!r}; it has {', '.join(_STREET_SPLITS)}")
    frames = {"train": data.train_frames, "val": data.val_frames, "test": data.test_frames}
    # Three seeds of its own for each data.seed: no two splits of any two seeds share a street.
    seed = 3 * data.seed + _STREET_SPLITS.index(split)
    return StreetSplit(seed, frames[split], data.frame_hw or (360, 480))


def open_files(data: Data) -> FileDataset:
    """A dataset that lies in files, with its listings; no image is opened."""
    from . import camvid, folder

    if data.dataset == "camvid":
        return camvid.find(resolve_root(data))
    if data.dataset == "street":
        raise ValueError("street is drawn, not read: it has no files")
    return folder.find(user_path("dataset", data.dataset), None if data.root is None else user_path("root", data.root))


def resolve_root(data: Data) -> Path:
    """The folder of a dataset that has a name: `data.root`, else below EDGESMITH_DATA."""
    if data.root is not None:
        root = user_path("root", data.root)
        if not root.is_dir():
            raise ValueError(f"root: {data.root} is not a folder; name the folder that holds {data.dataset}")
        return root
    base = os.environ.get(ENVIRONMENT, "")
    if not base:
        raise ValueError(
            f"where {data.dataset} lies is not known: set {ENVIRONMENT} to the folder that holds it (as "
            f"{ENVIRONMENT}/{data.dataset} or itself), or give its root: --set data.root=DIR, {data.dataset}:DIR"
        )
    whole = user_path(ENVIRONMENT, base)
    for root in (whole / data.dataset, whole):
        if root.is_dir():
            return root
    raise ValueError(f"{ENVIRONMENT}={base} is not a folder; set it to the folder that holds {data.dataset}")


def user_path(field: str, text: str) -> Path:
    """The path that a user wrote, ~ and ~NAME filled in. Raises ValueError naming `field` when there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{field}: {text}: there is no home folder of that user; write the path out") from None


def _is_yaml(text: str) -> bool:
    return text.endswith((".yaml", ".yml"))
