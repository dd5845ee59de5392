"""Add an engine to a bundle that is there: on the device that will run it, with what the bundle brings along."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgesmith.deploy.bundle import SIDECAR, Bundle
from edgesmith.deploy.files import bring_back, copy_payload, new_folder, read_json, remove_leftovers, sha256_json, write_json
from edgesmith.pipeline.artifacts import file_digests
from edgesmith.pipeline.build import Build
from edgesmith.pipeline.events import Log
from edgesmith.pipeline.stage import LOCK


def add_engines(folder: Path, build: Build, log: Log) -> list[dict[str, Any]]:
    """Build the engines that `build` asks for into the bundle at `folder`; notes of each, with its key.

    The bundle is copied, added to and put in the place of the old one, so that it is at every moment one or the other; where
    the file system cannot swap two folders, a kill between two renames leaves that to the next call.
    Engines that it holds stay, but for one of the same key, with whatever plugins: that is replaced.

    Raises ValueError when the bundle is damaged, and as Build does; the bundle is as it was then. BlockingIOError when
    another process is adding to it or to a bundle beside it, or the run that it is of goes on.
    """
    build.require_backends()
    folder = folder.resolve()
    with _alone(folder):
        bring_back(folder)
        Bundle.open(folder).verify()  # what was changed on the way here is not built upon
        remove_leftovers(folder)  # now that there is a bundle, no one is building it
        with new_folder(folder) as temporary:
            copy_payload(folder, temporary)
            notes = build.add_engines(temporary, folder, log)
            if (temporary / SIDECAR).is_file():
                _update_sidecar(temporary, notes)
    return notes


def _update_sidecar(folder: Path, notes: list[dict[str, Any]]) -> None:
    """The pipeline's sidecar describes the bundle as it is now."""
    sidecar, files = read_json(folder / SIDECAR), file_digests(folder)
    new = {note["key"] for note in notes}
    engines = [e for e in sidecar.get("engines", []) if e["key"] not in new and (folder / "engines" / e["key"]).is_dir()]
    was = [*sidecar.get("was", []), sidecar["digest"]]  # by which what was made of it still names it
    now = {"digest": sha256_json(files), "files": files, "was": was, "engines": [*engines, *notes]}
    write_json(folder / SIDECAR, {**sidecar, **now})


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold what is around bundle `folder`, which itself is replaced: the run that it is of, or the folder.

    The lock dies with the process and leaves no file.
    """
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; a bundle is one")
    mark = folder.parent / LOCK
    handle = os.open(mark if mark.is_file() else folder.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BlockingIOError(f"another edgesmith is at work in {folder.parent}; wait for it") from None
    finally:
        os.close(handle)
