"""Everything that is wrong with a dataset, found in one go."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .images import decode_frame, decode_mask
from .pairs import FileDataset, Pair, Problem, describe_strange, read_bytes
from .show import Shares, class_shares, label_counts, shares_of
from .spec import Data, open_files, open_split, splits

_STREET_SAMPLE = 32


@dataclass(frozen=True)
class Report:
    """What `inspect` found."""

    problems: tuple[Problem, ...]
    """In the order of splits and lists."""
    shares: dict[str, Shares]
    """Per split, over the masks that could be read; of the street over a sample."""
    frames: dict[str, int]
    """Per split, the frames that it has."""


def inspect(data: Data) -> Report:
    """All problems of all splits (missing, unreadable, mismatched, mislabelled files, empty splits, shared frames), and shares.

    Reads every file once, in threads. Raises ValueError or OSError only when the dataset itself is not found.
    """
    if data.dataset == "street":
        return _street(data)
    dataset = open_files(data)
    problems: list[Problem] = []
    shares: dict[str, Shares] = {}
    found: dict[str, list[_Found]] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for split, listing in dataset.listings.items():
            problems.extend(listing.problems)
            found[split] = list(pool.map(lambda pair, split=split: _look(dataset, split, pair), listing.pairs))
            problems.extend(problem for one in found[split] for problem in one.problems)
            shares[split] = shares_of(dataset.labels, [one.counts for one in found[split] if one.counts is not None])
    problems.extend(_in_two_splits(dataset, found))
    return Report(tuple(problems), shares, {split: len(ones) for split, ones in found.items()})


class _Found(NamedTuple):
    pair: Pair
    problems: list[Problem]
    counts: NDArray[np.int64] | None  # pixels per label, None where the mask could not be read
    frame_sha256: str | None


def _look(dataset: FileDataset, split: str, pair: Pair) -> _Found:
    problems: list[Problem] = []
    frame_hw = mask_hw = counts = sha256 = None
    path = dataset.root / pair.frame
    try:
        content = read_bytes(path)
        sha256 = hashlib.sha256(content).hexdigest()
        frame_hw = decode_frame(content, path).shape[:2]
    except (OSError, ValueError) as e:
        problems.append(_problem(str(path), split, e))
    path = dataset.root / pair.mask
    try:
        raw = decode_mask(read_bytes(path), path, dataset.coding.kind)
        mask_hw = raw.shape[:2]
        label, strange = dataset.coding.decode(raw)
        counts = label_counts(label)
        if strange:
            fix = "name them in the dataset's classes or as void" if dataset.name != "camvid" else "correct the mask"
            problems.append(Problem(str(path), split, describe_strange(strange, dataset.coding.kind), fix))
    except (OSError, ValueError) as e:
        problems.append(_problem(str(path), split, e))
    if frame_hw and mask_hw and frame_hw != mask_hw:
        what = f"is {mask_hw[0]}x{mask_hw[1]}, its frame {frame_hw[0]}x{frame_hw[1]} (height x width)"
        problems.append(Problem(str(path), split, what, "frame and mask must have one size; is this the right mask?"))
    return _Found(pair, problems, counts, sha256)


def _problem(file: str, split: str, error: OSError | ValueError) -> Problem:
    if isinstance(error, FileNotFoundError):
        return Problem(file, split, "is not there", "add the file, or take it out of the split")
    if isinstance(error, OSError):
        return Problem(file, split, f"cannot be read: {error.strerror or error}", "make the file readable")
    what, _, fix = str(error).removeprefix(f"{file}: ").partition("; ")
    return Problem(file, split, what, fix or "replace the file by a whole one")


def _in_two_splits(dataset: FileDataset, found: dict[str, list[_Found]]) -> list[Problem]:
    problems = []
    first: dict[str, tuple[str, str]] = {}
    for split, ones in found.items():
        for one in ones:
            if one.frame_sha256 is None:
                continue
            where, file = first.setdefault(one.frame_sha256, (split, one.pair.frame))
            if where != split:
                what = f"is also in split {where}" + (f", as {file}" if file != one.pair.frame else "")
                fix = "keep it in one split; otherwise the scores are those of seen frames"
                problems.append(Problem(str(dataset.root / one.pair.frame), split, what, fix))
    return problems


def _street(data: Data) -> Report:
    """The street is drawn: no file can be wrong, so a sample of each split gives the shares."""
    opened = {name: open_split(data, name) for name in splits(data)}
    shares = {name: class_shares(split, range(min(len(split), _STREET_SAMPLE))) for name, split in opened.items()}
    return Report((), shares, {name: len(split) for name, split in opened.items()})
