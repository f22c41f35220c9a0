"""Outputs that appear whole or not at all; knows nothing of what is in them.

Everything is written beside its destination and renamed into place, so a crash, a full disk or Ctrl-C
leaves the destination as it was. What a killed process leaves beside it is cleared by the next one that writes there;
a lock on it, which dies with its process, tells the living from the dead.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlm.errors import UserError

if sys.platform != "win32":
    import fcntl

SETTLED = 10.0
"""Seconds that a leftover must be old: between its making and its lock a living one looks dead."""


def check_output_folder(target: Path, *, marker: str, force: bool = False, advice: str = "") -> None:
    """Raise `UserError` unless a folder may be written at `target`; advice: what to do then, where there is no --out.

    A missing or empty folder is free. One with files in it is replaced only with `force`, and only if it
    holds a file named `marker`: the sign that an earlier run wrote it, so that `force` never deletes a home.
    """
    another = advice or "choose another --out"
    with _user_error(target):
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise UserError(f"{target} is a file, expected a folder to write; {another}")
        occupied = target.is_dir() and any(target.iterdir())
    if not occupied:
        return
    if not force:
        raise UserError(
            f"{target} exists and is not empty; {advice or f'{another}, or pass --force to replace it'}"
        )
    if not (target / marker).is_file():
        raise UserError(
            f"{target} is not empty and holds no {marker}, so --force does not replace it; {another}"
        )


@contextmanager
def output_folder(target: Path, *, marker: str, force: bool = False, advice: str = "") -> Iterator[Path]:
    """Yield an empty folder to fill; on leaving without an error it becomes `target`.

    Entering already proves that the place can be written, so no long computation inside is lost to it.
    Raises `UserError` as `check_output_folder` does, and if the place is not writable.
    """
    target = Path(os.path.abspath(target))
    clear_leftovers(target.parent, target.name)
    check_output_folder(target, marker=marker, force=force, advice=advice)
    made = _make_parents(target)
    try:
        with _user_error(target):
            staging = Path(tempfile.mkdtemp(prefix=_prefix(target.name), suffix=".partial", dir=target.parent))
        try:
            with _held(staging):
                yield staging
                with _user_error(target):
                    check_output_folder(target, marker=marker, force=force, advice=advice)
                    usual_modes(staging)
                    _replace_folder(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except BaseException:
        for parent in reversed(made):
            _remove_if_empty(parent)
        raise


@contextmanager
def output_file(target: Path) -> Iterator[Path]:
    """Yield a path to write; on leaving without an error it replaces `target`. Raises `UserError`."""
    target = Path(os.path.abspath(target))
    if os.path.isdir(target):
        raise UserError(f"{target} is a folder, expected a file to write; choose another path")
    clear_leftovers(target.parent, target.name)
    made = _make_parents(target)
    try:
        with _user_error(target):
            handle, name = tempfile.mkstemp(prefix=_prefix(target.name), suffix=".partial", dir=target.parent)
            os.close(handle)
        staging = Path(name)
        try:
            with _held(staging):
                yield staging
                with _user_error(target):
                    staging.chmod(0o666 & ~_umask())
                    os.replace(staging, target)
        finally:
            staging.unlink(missing_ok=True)
    except BaseException:
        for parent in reversed(made):
            _remove_if_empty(parent)
        raise


def usual_modes(folder: Path) -> None:
    """Give a folder and all below it the permissions that new files get.

    Temporary ones, and those that safetensors writes, can be read by their owner alone.
    """
    mask = _umask()
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def clear_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left in `folder` while they wrote `name` (None: anything) there.

    What a living process is writing stays. A folder that was being replaced, and had gone from its place when the kill
    came, is put back. Where files cannot be locked, nothing is removed.
    """
    pattern = ".vlm.*" if name is None else _prefix(name) + "*"
    with suppress(OSError):
        for path in folder.glob(pattern):
            if path.suffix not in (".partial", ".old") or not _abandoned(path):
                continue
            if path.suffix == ".old" and name is not None and not os.path.lexists(folder / name):
                with suppress(OSError):
                    os.rename(path / name, folder / name)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _prefix(name: str) -> str:
    """How names beside a target begin; short, whatever the target's name."""
    return f".vlm.{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}."


@contextmanager
def _held(staging: Path) -> Iterator[None]:
    """Show others that the process which writes here lives."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(staging, os.O_RDONLY)
    try:
        # A file system without locks: nobody will find this abandoned either.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _abandoned(path: Path) -> bool:
    if sys.platform == "win32" or time.time() - path.lstat().st_mtime < SETTLED:
        return False
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def _make_parents(target: Path) -> list[Path]:
    """Make the folders above `target`; return those that were missing, outermost first."""
    with _user_error(target):
        missing = [parent for parent in target.parents if not parent.exists()][::-1]
        target.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _replace_folder(staging: Path, target: Path) -> None:
    if not target.exists():
        os.rename(staging, target)
        return
    retired = Path(tempfile.mkdtemp(prefix=_prefix(target.name), suffix=".old", dir=target.parent))
    with _held(retired):
        os.rename(target, retired / target.name)
        try:
            os.rename(staging, target)
        except BaseException:
            os.rename(retired / target.name, target)
            raise
        finally:
            shutil.rmtree(retired, ignore_errors=True)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _user_error(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot use {target} ({error.strerror or error}); choose a place you may write to"
        ) from error
