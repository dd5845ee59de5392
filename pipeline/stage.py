"""Stages and the pipeline that runs them: a stage is up to date when its key is that of the artifact in its place.

A key is the hash of the stage's name, version and configuration and of its inputs' content digests. Same key, nothing runs:
that is resume and caching in one rule.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from edgesmith.deploy.files import remove_leftovers, sha256_json

from .artifacts import KINDS, SIDECAR, Artifact, Slot, require_ours
from .events import Log

LOCK = ".edgesmith-run"
"""Marks a run folder as ours, and is locked while something is made in it."""

Made = TypeVar("Made", bound=Artifact)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process. The lock dies with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another edgesmith is running in {folder}; wait for it or choose another --out") from None
        yield


class Stage(Protocol):
    """A frozen dataclass that is also a callable, of its inputs and a `Slot`. Its fields are its whole configuration.

    Fields whose metadata has `identity=False` say how to do the work, not what comes of it (a number of threads), and do not
    enter the key. What has a `digest` (a dataset, other weights, a stage that reads a file) enters the key by it.
    """

    version: ClassVar[int]

    def __call__(self, *given: Any, **_: Any) -> Any:
        """The artifact made of `given`, whose last is the slot. Each stage says what it takes."""
        ...


def configuration(stage: Any) -> dict[str, Any]:
    """A stage's fields as a JSON value."""
    return {f.name: _plain(getattr(stage, f.name)) for f in dataclasses.fields(stage)}


def stage_key(stage: Any, *given: Artifact) -> str:
    """The key of `stage` for its inputs (hexadecimal).

    A stage whose result depends on more (a device, an engine's version, the frames of its splits) has a property
    `environment` that says so.
    """
    return sha256_json(
        {
            "stage": type(stage).__name__,
            "version": stage.version,
            "config": _identity(stage),
            "inputs": [g.digest for g in given],
            "environment": getattr(stage, "environment", {}),
        }
    )


def _identity(value: Any) -> Any:
    digest = getattr(value, "digest", None)
    if isinstance(digest, str):
        return {"digest": digest}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        counted = (f for f in dataclasses.fields(value) if f.metadata.get("identity", True))
        return {f.name: _identity(getattr(value, f.name)) for f in counted}
    return _plain(value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


@dataclass(frozen=True)
class Pipeline:
    """Runs stages one after another inside a run folder and skips those that are up to date."""

    folder: Path
    log: Log

    def run(self, name: str, kind: type[Made], stage: Stage, *given: Artifact) -> Made:
        """The artifact of `stage` for `given` in `folder/name`, made now unless it is there or was there before.

        Raises ValueError where files lie in its place that no stage wrote.
        """
        key = stage_key(stage, *given)
        artifact = kind(self.folder / name)
        remove_leftovers(artifact.path)
        require_ours(artifact.path)
        slot = self.slot(name, stage, key)
        if is_current(artifact, key):
            self.log("up-to-date", stage=name)
        elif earlier := [p for p in self._replaced(name, key[:12]) if is_current(kind(p), key)]:
            self.set_aside(artifact)
            artifact = kind(earlier[0].rename(artifact.path))
            self.log("brought-back", stage=name, earlier=str(earlier[0]))
        else:
            self.set_aside(artifact)
            self.log("start", stage=name)
            artifact = stage(*given, slot)
            self.log("done", stage=name, digest=artifact.digest)
        if slot.scratch is not None:
            shutil.rmtree(slot.scratch, ignore_errors=True)
        return artifact

    def set_aside(self, artifact: Artifact) -> None:
        """Move what lies in an artifact's place out of the way, damaged or not: it may have taken days.

        What was made of it goes first, so that the folder never holds one recipe's network and another's bundle, after a kill
        neither; all of it comes back by its key. Raises ValueError, and moves nothing, where one of them, whole itself, holds
        files that no stage wrote.
        """
        if not (artifact.path / SIDECAR).is_file():
            return
        moved = [*self._made_of(artifact), artifact]
        for one in moved:
            if strays := one.strays:
                raise ValueError(f"{one.path} holds {', '.join(strays)}, which no stage wrote; move that elsewhere")
        for one in moved:
            self._move(one)

    def _move(self, artifact: Artifact) -> None:
        name, why = artifact.path.name, {}
        try:
            artifact.check()
            version = artifact.sidecar["key"][:12]
        except ValueError as e:
            version, why = "damaged", {"why": str(e)}
        places = (self.folder / "replaced" / f"{name}-{version}-{i}" for i in itertools.count(1))
        kept = next(place for place in places if not place.exists())
        kept.parent.mkdir(exist_ok=True)
        artifact.path.rename(kept)
        self.log("damaged" if why else "kept", stage=name, earlier=str(kept), **why)

    def _made_of(self, artifact: Artifact) -> list[Artifact]:
        """The run folder's artifacts that `artifact` went into, directly or not, each before what it was made of."""
        kinds, sidecars = {k.kind: k for k in KINDS}, {}
        for path in sorted(self.folder.glob(f"[!.]*/{SIDECAR}")):
            with contextlib.suppress(ValueError):
                sidecars[path.parent] = Artifact(path.parent).sidecar
        found: dict[Path, Artifact] = {}
        seen = {artifact.path}

        def visit(path: Path) -> None:
            for other, sidecar in sidecars.items():
                if other not in seen and sidecar["kind"] in kinds and _went_into(sidecars[path], sidecar):
                    seen.add(other)
                    visit(other)
                    found[other] = kinds[sidecar["kind"]](other)

        if artifact.path in sidecars:
            visit(artifact.path)
        return list(found.values())

    def _replaced(self, name: str, version: str) -> list[Path]:
        """What was set aside of a stage: of the first letters of a key, or "damaged"."""
        return sorted((self.folder / "replaced").glob(f"{name}-{version}-*"))

    def slot(self, name: str, stage: Stage, key: str) -> Slot:
        def log(event: str, **fields: Any) -> None:
            self.log(event, stage=name, **fields)

        scratch = self.folder / ".scratch" / name / key[:12]  # a key's own: the checkpoints of others stay
        return Slot(self.folder / name, key, scratch, log, _made_by(stage))


def _went_into(sidecar: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the artifact of `sidecar`, as it is or was before engines were added, is a parent of that of `other`."""
    parents = {p.get("digest") for p in other.get("parents", []) if isinstance(p, dict)}
    return not parents.isdisjoint({sidecar["digest"], *sidecar.get("was", [])})


def is_current(artifact: Artifact, key: str) -> bool:
    """True when the folder holds an artifact made under `key`, unchanged. A damaged one is not current; OSError passes."""
    if not (artifact.path / SIDECAR).is_file():
        return False
    try:
        artifact.check()
    except ValueError:
        return False
    return bool(artifact.sidecar["key"] == key)


def standalone_slot(out: Path, stage: Any, key: str, view: Log, scratch: Path | None = None) -> Slot:
    """A slot for one stage that runs outside a pipeline: events go to `view` only. With `scratch` it can go on after a kill."""
    return Slot(out, key, scratch, view, _made_by(stage))


def _made_by(stage: Any) -> dict[str, Any]:
    """What the sidecar says of the stage."""
    return {"stage": type(stage).__name__, "version": stage.version, "config": configuration(stage)}
