"""A folder that appears under its final name whole or not at all."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

LOCK_NAME = ".lock"

logger = logging.getLogger(__name__)


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """Yield an empty sibling of ``out``; on success sync it and rename it to ``out``.

    Any exception removes the sibling. A killed run leaves ``.<name>.partial`` behind, which the
    next run for the same ``out`` empties and uses: its lock died with the process. A second run
    at the same time waits for the first. Raises FileExistsError where ``out`` exists, before or
    after waiting.
    """
    staging = out.with_name(f".{out.name}.partial")
    lock = _lock(staging)
    try:
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise FileExistsError(f"{out} exists already; choose another folder or remove it")
        _clear(staging)
        yield staging
        _sync(staging)
        staging.rename(out)
        (out / LOCK_NAME).unlink()
        _sync_one(out.parent)
    except BaseException:
        _remove(staging)
        raise
    finally:
        lock.close()


def _lock(staging: Path) -> IO[bytes]:
    """Own the lock file inside ``staging``, made if need be.

    Whoever held the lock before us may have renamed or removed the folder meanwhile; then what we
    hold is no longer the file at that path, and we start over.
    """
    while True:
        staging.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            lock = (staging / LOCK_NAME).open("ab")
            _wait_for(lock, staging)
            if _is_at(lock, staging / LOCK_NAME):
                return lock
            lock.close()


def _wait_for(lock: IO[bytes], staging: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.warning("another process is writing %s; waiting for it", staging)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _is_at(lock: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _clear(staging: Path) -> None:
    for path in staging.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_NAME:
            path.unlink()


def _remove(staging: Path) -> None:
    """The lock goes after what it guards; if someone takes the folder over then, it stays."""
    with suppress(OSError):
        _clear(staging)
        (staging / LOCK_NAME).unlink()
        staging.rmdir()


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
