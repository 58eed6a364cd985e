"""Locks between processes, on every file system."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What a file system answers that has no locks, as some network file systems do."""


class InUse(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(
    path: Path, waiting: Callable[[], None] | None = None, *, wait: bool = True
) -> Iterator[None]:
    """Only one process at a time is in the block of a `path`; one that was killed is out of it.

    The file stays, since others may wait on it.

    Parameters
    ----------
    waiting : called once when another process holds the lock
    wait : for that one; otherwise raise `InUse`

    Raises
    ------
    OSError
        When the file cannot be made.
    """
    lock = _acquire(path, waiting, wait)
    try:
        yield
    finally:
        lock.release()


def _acquire(path: Path, waiting: Callable[[], None] | None, wait: bool) -> BaseFileLock:
    try:
        return _take(FileLock(path), waiting, wait)
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
    # By existence; the package frees one whose process on this machine is gone.
    return _take(SoftFileLock(path.with_name(f"{path.name}.held")), waiting, wait)


def _take(lock: BaseFileLock, waiting: Callable[[], None] | None, wait: bool) -> BaseFileLock:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise InUse(lock.lock_file) from None
        if waiting is not None:
            waiting()
        lock.acquire()
    return lock
