"""What stages hand on: folders with a sidecar.

An artifact's *content digest* covers its payload files; the sidecar `artifact.json` beside them holds how it was made:
stage, configuration, key, parents, tool versions, seed, wall time. Whether it is up to date is decided by the key alone.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import edgesmith
from edgesmith.deploy import bundle
from edgesmith.deploy.files import (
    copy_payload,
    new_folder,
    payload_files,
    read_json,
    require_folder_above,
    sha256_file,
    sha256_json,
    write_json,
)

from .events import Log, silent

SIDECAR = bundle.SIDECAR
TOOLS = ("numpy", "torch", "onnx", "onnxscript", "onnxsim", "onnxruntime", "opencv-python-headless", "tensorrt-rtx")


@dataclass(frozen=True)
class Artifact:
    """A finished folder. `open` reads one that lies on disk and checks it against its sidecar."""

    path: Path
    kind: ClassVar[str]

    @cached_property
    def digest(self) -> str:
        """Content digest: SHA-256 over the names and bytes of the payload files (hexadecimal)."""
        return content_digest(self.path)

    @cached_property
    def sidecar(self) -> dict[str, Any]:
        """`artifact.json` as a dictionary. Raises FileNotFoundError or ValueError."""
        value = read_json(self.path / SIDECAR)
        good = isinstance(value, dict) and all(isinstance(value.get(k), str) for k in ("kind", "digest", "key"))
        if not good or not isinstance(value.get("files", {}), dict):
            raise ValueError(f"{self.path / SIDECAR} is not the sidecar of an artifact: it needs kind, digest and key as texts")
        return dict(value)

    def check(self) -> None:
        """Raise ValueError naming the folder when it is of another kind or its payload is not what its stage wrote."""
        if self.sidecar["kind"] != self.kind:
            raise ValueError(f"{self.path} holds an artifact of kind {self.sidecar['kind']!r}, not {self.kind!r}")
        if self.sidecar["digest"] != self.digest:
            raise ValueError(f"{self.path} was changed after it was written ({self._changed()}); make it again")

    @property
    def strays(self) -> list[str]:
        """Files that lie in the folder and are not its stage's; none where one of the stage's own is not as it was written."""
        with contextlib.suppress(ValueError):
            known, now = self.sidecar.get("files", {}), file_digests(self.path)
            if known and known.items() <= now.items():
                return sorted(now.keys() - known.keys())
        return []

    def copy_to(self, folder: Path) -> None:
        """Copy the payload into the empty `folder`. Raises ValueError when what arrives is not what its stage wrote."""
        copy_payload(self.path, folder, without=(SIDECAR,))
        if content_digest(folder) != self.sidecar["digest"]:
            raise ValueError(f"{self.path} was changed while it was in use; make it again")

    def _changed(self) -> str:
        known = self.sidecar.get("files", {})
        now = file_digests(self.path)
        names = sorted(n for n in {*known, *now} if known.get(n) != now.get(n))
        return f"{', '.join(names) or 'its sidecar'} differs"


@dataclass(frozen=True)
class SearchResult(Artifact):
    """What a search found: search.json (its course), the supernet's weights, and samples.json (SqueezeNAS) or logits.json."""

    kind: ClassVar[str] = "search"


@dataclass(frozen=True)
class Architecture(Artifact):
    """A chosen or found architecture: arch.json."""

    kind: ClassVar[str] = "architecture"


@dataclass(frozen=True)
class Weights(Artifact):
    """A trained or imported network: model.json and safetensors files."""

    kind: ClassVar[str] = "weights"


@dataclass(frozen=True)
class OnnxModel(Artifact):
    """A static graph from frame to label map, with its contract (meta.json) and golden frames."""

    kind: ClassVar[str] = "onnx"


@dataclass(frozen=True)
class BundleFolder(Artifact):
    """What a device receives; read on the device by `edgesmith.deploy.bundle.Bundle`."""

    kind: ClassVar[str] = "bundle"


@dataclass(frozen=True)
class Validation(Artifact):
    """What an engine was measured to do over a split: validation.json."""

    kind: ClassVar[str] = "validation"


KINDS: tuple[type[Artifact], ...] = (SearchResult, Architecture, Weights, OnnxModel, BundleFolder, Validation)

A = TypeVar("A", bound=Artifact)


def open_artifact(kind: type[A], path: Path) -> A:
    """The artifact at `path`, checked. Raises FileNotFoundError, or ValueError saying what is wrong and what to do."""
    if not (path / SIDECAR).is_file():
        raise FileNotFoundError(f"{path} is not an artifact folder: it has no {SIDECAR}")
    artifact = kind(path)
    artifact.check()
    return artifact


def exported_from(folder: Path) -> str:
    """Digest of the weights that the graph in `folder` was exported from; empty where its provenance does not say."""
    provenance = read_json(folder / "provenance.json")
    said = provenance.get("weights") if isinstance(provenance, dict) else None
    return said if isinstance(said, str) else ""


def open_weights_of(folder: Path, path: Path) -> Weights:
    """The weights at `path`. Raises ValueError unless they are those that the graph in `folder` was exported from."""
    weights = open_artifact(Weights, path)
    if (said := exported_from(folder)) != weights.digest:
        raise ValueError(
            f"weights: {path} is not what the graph was exported from: its digest is {weights.digest}, "
            f"provenance.json in {folder} names {said or 'none'}"
        )
    return weights


def require_ours(out: Path) -> None:
    """Raise ValueError unless `out` is free, empty, or holds an artifact, so that nobody else's files are ever replaced."""
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / SIDECAR).is_file())):
        raise ValueError(f"{out} exists and is no artifact of ours; name another folder, nothing was overwritten")


def require_free(out: Path) -> None:
    """Raise ValueError when anything lies at `out`, what took long to make is not replaced by a slip of the hand, and OSError
    where no folder can be made.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"--out: {out} exists; name another folder or remove it, nothing was overwritten")
    require_folder_above(out, "--out")


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each payload file below `folder`, by relative path."""
    return {name: sha256_file(folder / name) for name in payload_files(folder, without=(SIDECAR,))}


def content_digest(folder: Path) -> str:
    return sha256_json(file_digests(folder))


def tool_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on, as installed."""
    versions = {"edgesmith": edgesmith.__version__, "python": platform.python_version()}
    for name in TOOLS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@dataclass(frozen=True)
class Slot:
    """Where one stage puts its artifact. Not part of its configuration: the same work in another place is the same work."""

    out: Path
    """The artifact's folder."""
    key: str = ""
    """The stage's key for its inputs (see stage.py)."""
    scratch: Path | None = None
    """A folder that outlives a kill, for what a long stage needs to go on; None when it is not to resume."""
    log: Log = silent
    """Told of whatever a person or a report may want to follow."""
    config: dict[str, Any] = field(default_factory=dict)
    """The stage's configuration as it stands in the sidecar."""
    started: float = field(default_factory=time.monotonic)
    """When the work began, for the sidecar's `seconds`."""

    @contextlib.contextmanager
    def writing(self, kind: type[Artifact], parents: Sequence[Artifact] = (), **notes: Any) -> Iterator[Path]:
        """Yield a temporary folder; when the block ends, add the sidecar, flush all to disk, rename it to `out`.

        `notes` (seed, device and the like) go into the sidecar. Raises ValueError when something that is not ours lies there.
        """
        require_ours(self.out)
        with new_folder(self.out) as folder:
            yield folder
            files = file_digests(folder)
            sidecar = {
                "kind": kind.kind,
                "key": self.key,
                "digest": sha256_json(files),
                "files": files,
                **self.config,
                "parents": [{"kind": p.kind, "digest": p.digest} for p in parents],
                "tools": tool_versions(),
                **notes,
                "seconds": round(time.monotonic() - self.started, 3),
                "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
            write_json(folder / SIDECAR, sidecar)
