"""Builds a shared library of the plugins' sources at first use and keeps it in the cache under their digest.

The cache folder is `$EDGESMITH_CACHE`, or `$XDG_CACHE_HOME/edgesmith`, or `~/.cache/edgesmith`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgesmith.deploy.files import fsync_tree
from edgesmith.deploy.plugins import SOURCES, require_ours, source_digest


def cache_folder() -> Path:
    if folder := os.environ.get("EDGESMITH_CACHE"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgesmith"


def built(name: str, compiler: str, arguments: Sequence[str], sources: Sequence[str], target: str) -> ctypes.CDLL:
    """The library that `compiler` makes of `sources` with `arguments`, loaded. `target` says in words what it is for.

    One from the cache is taken only under the digest of the sources, the compiler's version, the arguments and the target,
    and only if it says itself that it was built from these sources.
    Raises RuntimeError with the compiler's words when it fails, or with the cache's folder where that takes no library.
    """
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    key = hashlib.sha256("\n".join((source_digest(), compiler, version, target, *arguments)).encode()).hexdigest()
    path = cache_folder() / "plugins" / f"{name}-{key[:24]}.so"
    digest = f'-DEDGESMITH_SOURCE_DIGEST="{source_digest()}"'
    command = [compiler, *arguments, digest, *(str(SOURCES / s) for s in sources)]
    try:
        if not path.is_file():
            _build(command, path)
        try:
            library = ctypes.CDLL(str(path))
        except OSError:  # damaged on the disk: it is built again, once
            _build(command, path)
            library = ctypes.CDLL(str(path))
    except OSError as e:
        raise RuntimeError(f"{path.parent} takes no library of plugins: {e}; name another folder in EDGESMITH_CACHE") from None
    require_ours(library, path)
    return library


def _build(command: Sequence[str], path: Path) -> None:
    """Run `command`, a compiler with what it is to do, for the library `path`, which is whole or absent then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} does not build {path.name}: {done.stderr.strip()[-2000:]}")
        fsync_tree(Path(scratch))
        os.replace(made, path)
