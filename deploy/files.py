"""Files that are either whole or absent: written under a temporary name, fsynced, renamed; and the digests that prove it.

Used by every room that writes: bundles here, stages and tables above.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # as in Linux's fcntl.h and fs.h


def sha256_file(path: Path) -> str:
    """SHA-256 of one file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in its canonical form: sorted keys, no spaces."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def payload_files(folder: Path, without: tuple[str, ...] = ()) -> list[str]:
    """Relative POSIX paths of all files below `folder`, sorted, less the names in `without`.

    Raises ValueError for anything that is neither a plain file nor a folder (a link could lead outside).
    """
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is not a plain file; an artifact holds only plain files")
        if path.is_file() and name not in without:
            found.append(name)
    return found


def copy_payload(source: Path, target: Path, without: tuple[str, ...] = ()) -> None:
    """Copy all files below `source`, less those named in `without`, to the same places below `target`.

    Raises as `payload_files` does.
    """
    for name in payload_files(source, without):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, and `folder` itself, to the disk."""
    for path in [*folder.rglob("*"), folder]:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_bytes(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write one file so that `path` holds either its old content or all of `data`, also after a power loss.

    Large data may come in pieces.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as f:
            f.writelines([data] if isinstance(data, bytes) else data)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _fsync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=False, allow_nan=False) + "\n")


def existing_file(path: Path, name: str, fix: str) -> Path:
    """`path`, if something can be read there.

    Raises FileNotFoundError or IsADirectoryError with `name`, the argument or field that the path comes from, and the fix.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{name}: {path} is a folder; {fix}")
    if not path.exists():
        where = "does not exist" if path.is_absolute() else f"is not in {Path.cwd()}"
        raise FileNotFoundError(f"{name}: {path} {where}; {fix}")
    return path


def require_folder_above(path: Path, name: str) -> None:
    """Raise NotADirectoryError, naming the argument or field, where the folders above `path` can not be made."""
    above = next(p for p in path.absolute().parents if p.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"{name}: {path} can not lie there, {above} is a file; name another place")


def read_json(path: Path) -> Any:
    """The JSON value in `path`. Raises FileNotFoundError, or ValueError that names the file and the place."""
    try:
        return json.loads(path.read_bytes().decode())
    except UnicodeDecodeError as e:
        raise ValueError(f"{path} is not JSON: byte {e.start} is not UTF-8") from None
    except json.JSONDecodeError as e:
        raise ValueError(f"{path} is not JSON: line {e.lineno}, column {e.colno}: {e.msg}") from None
    except (ValueError, RecursionError) as e:  # a number of thousands of digits, nesting of thousands of levels
        raise ValueError(f"{path} is not JSON that is read here: {e}") from None


@contextlib.contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `final`; when the block ends without an error it becomes `final`.

    What lay at `final` before is replaced only then; when the block raises, it is untouched. Of a link, what it leads to is
    replaced. What a killed process was writing for `final` is cleared first.
    """
    final = final.resolve()
    final.parent.mkdir(parents=True, exist_ok=True)
    for left in _left(final, ".tmp"):
        _clear_if_dead(left)
    temporary, lock = _temporary_beside(final)
    try:
        yield temporary
        temporary.chmod(0o755)
        fsync_tree(temporary)
        if not final.exists():
            os.replace(temporary, final)
        elif _exchange(temporary, final):
            shutil.rmtree(temporary, ignore_errors=True)  # another may be clearing what was there before
        else:
            _replace_in_two_steps(temporary, final)
        _fsync_folder(final.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _temporary_beside(final: Path) -> tuple[Path, int]:
    """A new folder, and the lock on it by which others know that its writer lives."""
    while True:
        made = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".tmp", dir=final.parent))
        try:
            lock = os.open(made, os.O_RDONLY)
        except FileNotFoundError:  # another took it for a leftover before it was locked
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.exists():
            return made, lock
        os.close(lock)


def _clear_if_dead(folder: Path) -> None:
    """Remove a temporary folder unless its writer lives."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except (FileNotFoundError, PermissionError):  # cleared by another, or another user's
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step, so that a kill finds both whole. False where system or file system cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:  # a C library of before 2018, or none of Linux
        return False
    return not rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)


def _replace_in_two_steps(temporary: Path, final: Path) -> None:
    """Put `temporary` in the place of `final`. A kill between the steps leaves none: `bring_back` is for that."""
    replaced = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".old", dir=final.parent))
    try:
        os.replace(final, replaced / "was")
    except BaseException:
        replaced.rmdir()
        raise
    try:
        os.replace(temporary, final)
    except BaseException:
        os.replace(replaced / "was", final)
        replaced.rmdir()
        raise
    shutil.rmtree(replaced)


def bring_back(final: Path) -> None:
    """Put in its place what a killed `new_folder(final)` had moved away and not replaced.

    Only for a caller who knows that no other is writing there.
    """
    for old in _left(final, ".old"):
        if (old / "was").exists() and not final.exists():
            os.replace(old / "was", final)


def remove_leftovers(final: Path) -> None:
    """Clear what a killed `new_folder(final)` left beside `final`; what it had moved away and not replaced comes back.

    Only for a caller who knows that no other is writing there.
    """
    bring_back(final)
    for folder in (*_left(final, ".old"), *_left(final, ".tmp")):
        shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished(path: Path) -> None:
    """Remove what a killed `write_bytes(path)` left beside it. Only for a caller who knows that no other is writing there."""
    for file in _left(path, ".tmp"):
        file.unlink(missing_ok=True)


def _left(final: Path, suffix: str) -> list[Path]:
    """What lies beside `final` and is named as mkdtemp and mkstemp name it: what is called otherwise is somebody's own."""
    final = final.resolve()
    return list(final.parent.glob(f".{glob.escape(final.name)}.????????{suffix}"))


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
