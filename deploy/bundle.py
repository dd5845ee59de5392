"""The artefact that a device receives: a folder that says what it holds and proves it.

    model.onnx         the graph: frame uint8 (H, W, 3) -> labels uint8 (H, W)
    model.fp16.onnx    the same in another precision, and so model.int8.onnx; there when an engine was built of it
    calibration.json   the ranges that model.int8.onnx was made with, and what they come from
    meta.json          its contract (see meta.py)
    provenance.json    where it came from
    golden/            000.png, a frame; 000.mask.png, the labels that torch gave it; and so on
    engines/<key>/     engine.json, which names its graph, that graph's digest and its plugins; engine.plan where the backend
                       has one, and libedgesmith_plugins.so where that plan needs it
    manifest.json      size and SHA-256 of each file above, and a digest over that table

Engines of several devices and precisions lie side by side. An engine is code that runs on the machine that opens it: one
that the manifest does not list, with its digest, is not opened.

manifest.json has one canonical form, so that a changed byte shows even where it would not change the meaning.
`artifact.json`, the pipeline's sidecar, may lie beside them; it is no part of the bundle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesmith.deploy.engines import PRECISIONS, Engine, open_engine
from edgesmith.deploy.engines.tensorrt import PLAN
from edgesmith.deploy.fields import is_sha256
from edgesmith.deploy.files import payload_files, read_json, sha256_file, sha256_json, write_text
from edgesmith.deploy.images import in_colour_order, read_png
from edgesmith.deploy.meta import EngineRecord, Meta
from edgesmith.deploy.plugins import LIBRARY

MANIFEST = "manifest.json"
SIDECAR = "artifact.json"  # the pipeline's, which takes the word from here: this room imports nothing of that one
GRAPH = "model.onnx"
META = "meta.json"
CALIBRATION = "calibration.json"
REQUIRED = (GRAPH, META, "provenance.json")
GOLDEN_AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "int8": 0.9}
"""Part of the golden pixels that must have torch's label. Of fp32 999 in 1000, not all: the engine adds the same products in
another order, so that logits differ in their last bits, and where two classes tie to within that the label may fall either
way. Lower precisions move borders by more; what they cost in mIoU is calibration's to bound. What this check is to catch
(channels swapped, another normalisation, a resize with other coordinates) changes far more."""


def graph_name(precision: str) -> str:
    """Name of the graph of one precision in a bundle."""
    return GRAPH if precision == "fp32" else f"model.{precision}.onnx"


class FileEntry(NamedTuple):
    """What the manifest says of one file."""

    sha256: str
    size_bytes: int


class Problem(NamedTuple):
    """One thing that is wrong with a bundle."""

    file: str
    """Path inside the bundle."""
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


class GoldenFrame(NamedTuple):
    """A frame with the labels that torch gave it when the graph was exported."""

    name: str
    frame: NDArray[np.uint8]
    """(H, W, 3), RGB."""
    mask: NDArray[np.uint8]
    """(H, W), class indices."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `Bundle.open` reads its structure; `verify` proves its bytes."""

    folder: Path
    meta: Meta
    files: dict[str, FileEntry]
    """The manifest, by relative path."""
    engines: dict[str, EngineRecord]
    """By engine key."""

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Read meta.json, manifest.json and the engine records. Cheap: the files' digests are left to `verify`.

        Raises FileNotFoundError when there is no bundle, ValueError naming file and field when one is malformed.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder; a bundle is one")
        if not (folder / MANIFEST).exists():
            raise FileNotFoundError(f"{folder} is not a bundle: it has no {MANIFEST}; `edgesmith build` makes bundles")
        files = _read_manifest(folder)
        _require_files(folder, files)
        return cls(folder, Meta.read(_plain(folder, META)), files, _read_records(folder, files))

    def problems(self) -> list[Problem]:
        """All that is wrong with the bundle's files as they are now on the disk; empty when it is intact."""
        return find_problems(self.folder)

    def verify(self) -> None:
        """Raise ValueError naming every damaged, missing and unlisted file; return when every byte is as it was written."""
        if problems := self.problems():
            listed = "; ".join(str(p) for p in problems)
            raise ValueError(f"{self.folder} is not the bundle that was written: {listed}")

    def golden(self) -> Iterator[GoldenFrame]:
        """The golden frames in order of their names. Raises ValueError naming the file that cannot be read.

        Raises ImportError when OpenCV is missing.
        """
        for name in self.golden_names():
            image, mask = (f"golden/{name}{end}" for end in (".png", ".mask.png"))
            frame, labels = read_png(_plain(self.folder, image), True), read_png(_plain(self.folder, mask), False)
            for file, pixels in ((image, frame), (mask, labels)):
                if pixels.shape[:2] != self.meta.frame_hw:
                    raise ValueError(f"{self.folder / file} is {pixels.shape[:2]} pixels; frame_hw is {self.meta.frame_hw}")
            if labels.max() >= len(self.meta.classes):
                raise ValueError(
                    f"{self.folder / mask} holds label {labels.max()}, but there are {len(self.meta.classes)} classes"
                )
            yield GoldenFrame(name, frame, labels)

    def golden_names(self) -> list[str]:
        """Names of the golden frames. Raises ValueError when a frame lacks its mask or a mask its frame."""
        return _golden_names(self.folder, self.files)

    def engine(self, backend: str | None = None, precision: str | None = None) -> Engine:
        """Open the engine of `backend` and `precision`; of several the first that `ranked` names. Raises as the two do."""
        return self.open_engine(self.ranked(backend, precision)[0])

    def open_engine(self, record: EngineRecord) -> Engine:
        """Open one of `engines`, once graph, record and plan were checked against the manifest.

        Raises ValueError when its files are damaged, ImportError when the backend is not installed, RuntimeError when this
        machine cannot run it.
        """
        folder = self.folder / "engines" / record.key
        for name in (record.graph, META, *(n for n in self.files if n.startswith(f"engines/{record.key}/"))):
            if problem := _damage(self.folder, name, self.files[name]):
                raise ValueError(f"{self.folder} is not the bundle that was written: {problem}")
        for path in folder.iterdir():
            if f"engines/{record.key}/{path.name}" not in self.files:
                raise ValueError(f"{path} is not in the manifest, and an engine is code: it is not opened")
        return open_engine(record.backend, self.folder / record.graph, folder, self.meta.frame_hw, record.precision)

    def ranked(self, backend: str | None = None, precision: str | None = None) -> list[EngineRecord]:
        """The engines of `backend` and `precision`: first those that need least of the machine (ONNX Runtime's), of these
        first those that lose least to precision. Raises ValueError when there is none.
        """
        held = sorted(self.engines.items())
        found = [r for _, r in held if backend in (None, r.backend) and precision in (None, r.precision)]
        if not found:
            there = ", ".join(sorted({f"{r.backend} {r.precision}" for r in self.engines.values()})) or "none"
            asked = " and ".join(f"{k} {v!r}" for k, v in (("backend", backend), ("precision", precision)) if v)
            raise ValueError(f"{self.folder} has no engine for {asked}; it has: {there}")
        order: dict[str, int] = {name: place for place, name in enumerate(PRECISIONS)}
        return sorted(found, key=lambda r: (r.backend != "onnxruntime", order.get(r.precision, 9)))


@dataclass(frozen=True)
class GoldenCheck:
    """How an engine did on a bundle's golden frames."""

    frames: int
    agreement: float
    """Part of all pixels that have torch's label, 0 to 1."""
    worst: str
    """The frame with the least agreement."""
    worst_agreement: float
    threshold: float = GOLDEN_AGREEMENT["fp32"]

    @property
    def passed(self) -> bool:
        return self.agreement >= self.threshold


def check_golden(bundle: Bundle, engine: Engine) -> GoldenCheck:
    """Run the golden frames through `engine` and compare with torch's masks; GOLDEN_AGREEMENT says how many must agree.

    Raises ValueError when the bundle has no golden frames or one cannot be read.
    """
    by_frame = {
        name: float(np.mean(engine.infer(in_colour_order(frame, bundle.meta.colour_order)) == mask))
        for name, frame, mask in bundle.golden()
    }
    if not by_frame:
        raise ValueError(f"{bundle.folder} has no golden frames to check an engine with")
    worst = min(by_frame, key=lambda name: by_frame[name])
    # All golden frames have one size, so the mean over frames is the mean over pixels.
    mean = sum(by_frame.values()) / len(by_frame)
    threshold = GOLDEN_AGREEMENT.get(engine.precision, GOLDEN_AGREEMENT["fp32"])
    return GoldenCheck(len(by_frame), mean, worst, by_frame[worst], threshold)


def write_manifest(folder: Path) -> None:
    """Write `folder`/manifest.json over all files below it. Raises ValueError when something there is no plain file."""
    names = payload_files(folder, without=(MANIFEST, SIDECAR))
    entries = {name: FileEntry(sha256_file(folder / name), (folder / name).stat().st_size) for name in names}
    write_text(folder / MANIFEST, _manifest_text(entries))


def find_problems(folder: Path) -> list[Problem]:
    """All that is wrong with the bundle in `folder`; empty when every byte is what `write_manifest` saw.

    Never raises for what the files hold. Raises FileNotFoundError when `folder` is no folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; a bundle is one")
    present, problems = _survey(folder)
    if any(p.file == MANIFEST for p in problems):
        return problems
    try:
        files = _read_manifest(folder)
    except (ValueError, OSError) as e:
        return [*problems, Problem(MANIFEST, str(e))]
    odd = {p.file for p in problems}
    for name in sorted({*files, *present} - odd - {MANIFEST, SIDECAR}):
        if name not in files:
            problems.append(Problem(name, "is not listed in the manifest"))
        elif problem := _damage(folder, name, files[name]):
            problems.append(problem)
    return problems or _malformed(folder, files)


def _malformed(folder: Path, files: dict[str, FileEntry]) -> list[Problem]:
    """The bytes are those that were written; were the right ones written?"""
    parts: tuple[tuple[str, Callable[[], object]], ...] = (
        (MANIFEST, lambda: _require_files(folder, files)),
        (META, lambda: Meta.read(_plain(folder, META))),
        ("engines", lambda: _read_records(folder, files)),
        ("golden", lambda: _golden_names(folder, files)),
    )
    problems = []
    for name, read in parts:
        try:
            read()
        except (ValueError, OSError) as e:
            problems.append(Problem(name, str(e)))
    return problems


def _survey(folder: Path) -> tuple[set[str], list[Problem]]:
    """All files below `folder`, and whatever is neither a plain file nor a folder."""
    present, problems = set(), []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            problems.append(Problem(name, "is a symbolic link; a bundle holds only plain files"))
        elif path.is_file():
            present.add(name)
        elif not path.is_dir():
            problems.append(Problem(name, "is not a plain file"))
    return present, problems


def _damage(folder: Path, name: str, entry: FileEntry) -> Problem | None:
    """What is wrong with one file of the manifest."""
    path = folder / name
    try:
        if _behind_link(folder, path):
            return Problem(name, "is or lies behind a symbolic link")
        if not path.is_file():
            return Problem(name, "is missing")
        size = path.stat().st_size
        if size != entry.size_bytes:
            return Problem(name, f"has {size} bytes; the manifest says {entry.size_bytes}")
        if sha256_file(path) != entry.sha256:
            return Problem(name, "was changed: its SHA-256 is not the manifest's")
    except OSError as e:  # a name that is too long among others
        return Problem(name, f"cannot be read: {e.strerror}")
    return None


def _behind_link(folder: Path, path: Path) -> bool:
    return any(p.is_symlink() for p in (path, *path.parents) if p.is_relative_to(folder) and p != folder)


def _plain(folder: Path, name: str) -> Path:
    """The path of one file, once it is a plain one: a pipe would block its reader, a link could lead anywhere.

    Raises FileNotFoundError when it is missing, ValueError when it is something else.
    """
    path = folder / name
    try:
        if _behind_link(folder, path):
            raise ValueError(f"{path} is or lies behind a symbolic link; a bundle holds only plain files")
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is not a plain file")
    except OSError as e:
        raise ValueError(f"{path} cannot be read: {e.strerror}") from None
    return path


def _manifest_text(entries: dict[str, FileEntry]) -> str:
    """manifest.json in its one form: sorted, one space of indentation, a digest over the table in front of it."""
    table = {name: {"bytes": e.size_bytes, "sha256": e.sha256} for name, e in entries.items()}
    value = {"digest": sha256_json({"files": table, "format": 1}), "files": table, "format": 1}
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def _read_manifest(folder: Path) -> dict[str, FileEntry]:
    path = _plain(folder, MANIFEST)
    value = read_json(path)
    if not isinstance(value, dict) or set(value) != {"digest", "files", "format"}:
        raise ValueError(f"{path} must be an object with digest, files and format")
    if type(value["format"]) is not int or value["format"] != 1:
        raise ValueError(f"{path}: format is {value['format']!r}; this edgesmith reads 1")
    if not isinstance(value["files"], dict):
        raise ValueError(f"{path}: files must be an object")
    entries = {name: _entry(path, name, entry) for name, entry in value["files"].items()}
    if path.read_bytes() != _manifest_text(entries).encode():
        raise ValueError(f"{path} was changed: it is not the text that belongs to its file table")
    return entries


def _entry(path: Path, name: str, entry: Any) -> FileEntry:
    parts = name.split("/")
    if name in (MANIFEST, SIDECAR) or "\\" in name or "\0" in name or {"", ".", ".."} & set(parts):
        raise ValueError(f"{path}: files has the path {name!r}; only relative paths inside the bundle may stand there")
    if not isinstance(entry, dict) or set(entry) != {"bytes", "sha256"}:
        raise ValueError(f"{path}: files[{name!r}] must be an object with bytes and sha256")
    if type(entry["bytes"]) is not int or entry["bytes"] < 0 or not is_sha256(entry["sha256"]):
        raise ValueError(f"{path}: files[{name!r}] must hold a number of bytes and a SHA-256")
    return FileEntry(entry["sha256"], entry["bytes"])


def _golden_names(folder: Path, files: dict[str, FileEntry]) -> list[str]:
    stems = [n.removeprefix("golden/").removesuffix(".png") for n in files if n.startswith("golden/")]
    names = {s for s in stems if not s.endswith(".mask")}
    masked = {s.removesuffix(".mask") for s in stems if s.endswith(".mask")}
    if names != masked:
        raise ValueError(f"{folder}/golden: {', '.join(sorted(names ^ masked))} lacks its frame or its mask")
    return sorted(names)


def _require_files(folder: Path, files: dict[str, FileEntry]) -> None:
    for name in REQUIRED:
        if name not in files:
            raise ValueError(f"{folder / MANIFEST}: files lacks {name}, which every bundle has")


def _read_records(folder: Path, files: dict[str, FileEntry]) -> dict[str, EngineRecord]:
    records = {}
    for name in files:
        parts = name.split("/")
        if parts[0] == "engines" and parts[-1] == "engine.json":
            record = EngineRecord.read(_plain(folder, name))
            _require_consistent(record, folder / name, parts, files)
            records[record.key] = record
    if not records:
        raise ValueError(f"{folder / MANIFEST}: files lists no engines/<key>/engine.json; a bundle has at least one engine")
    return records


def _require_consistent(record: EngineRecord, path: Path, parts: list[str], files: dict[str, FileEntry]) -> None:
    """Raise ValueError unless what engine.json says of its folder, its graph and its plan is what the manifest says."""
    if parts != ["engines", record.key, "engine.json"]:
        raise ValueError(f"{path}: key is {record.key!r}; it must be the name of its folder")
    graph, plan = files.get(record.graph), files.get(f"engines/{record.key}/{PLAN}")
    if graph is None and record.graph != GRAPH:  # that one is missed by name anyway
        raise ValueError(f"{path}: its graph {record.graph!r} is not in the manifest; build the engine again")
    if graph is not None and record.graph_sha256 != graph.sha256:
        raise ValueError(f"{path}: graph_sha256 is not that of {record.graph}; build the engine again")
    held = None if plan is None else plan.size_bytes
    if record.plan_bytes != held:
        there = "there is none" if held is None else f"it has {held} bytes"
        raise ValueError(f"{path}: plan_bytes is {record.plan_bytes}, but of {PLAN} {there}; build the engine again")
    held_library = f"engines/{record.key}/{LIBRARY}" in files
    if record.plugins_digest is not None and not held_library:
        raise ValueError(f"{path}: has a plugins_digest, but {LIBRARY} is missing beside it; build the engine again")
    if record.plugins_digest is None and held_library:
        raise ValueError(f"{path}: has no plugins_digest, but {LIBRARY} lies beside it; build the engine again")
