"""Files as users have them: reading with one-line complaints, writing in one step, folders."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from .errors import ModelError

if sys.platform != "win32":
    import fcntl

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ZOO = Path(__file__).parent / "zoo"
"""The shipped models."""

FETCH_AGAIN = "fetch it again"

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What writing to a file ends with when there is no room for it."""

POINTERS = {
    b"version https://git-lfs.github.com/spec/": "git-lfs",
    b"# xet version ": "git-xet",
}
"""How a file begins that stands for a large one, and what puts that in its place."""
POINTER_BYTES = max(map(len, POINTERS))


# Reading --------------------------------------------------------------------------------------


def check_pointer(path: Path, beginning: bytes) -> None:
    """Raises `ModelError` for a file that only points to its content, as git leaves large ones."""
    for mark, tool in POINTERS.items():
        if beginning.startswith(mark):
            command = tool.replace("-", " ", 1)
            raise ModelError(
                f"{path}: a {tool} pointer, not the file itself; run '{command} pull' there, "
                "or download the file"
            )


def read_text(path: Path, remedy: str = FETCH_AGAIN) -> str:
    """Text of a UTF-8 file, without a byte order mark, and with plain line ends.

    Parameters
    ----------
    remedy : what the user can do about a file that cannot be read

    Raises
    ------
    ModelError
        When it is missing, cannot be read, is not UTF-8, or only points to its content.
    """
    try:
        content = path.read_bytes()
        check_pointer(path, content[:POINTER_BYTES])
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: missing; copy it from where it came from") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not UTF-8 ({error}); {remedy}") from error


def read_json(path: Path, remedy: str = FETCH_AGAIN) -> dict[str, Any]:
    """The JSON object in a file. Raises `ModelError` as `read_text` does, and for anything else."""
    return parse_json(read_text(path, remedy), path, remedy)


def parse_json(text: str, where: object, remedy: str = FETCH_AGAIN) -> dict[str, Any]:
    """The JSON object that a text is; `where` it comes from is for the `ModelError`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where}: not valid JSON ({error}); {remedy}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{where}: must hold a JSON object; {remedy}")
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """The tables in a TOML file. Raises `ModelError`."""
    text = read_text(path, "give a TOML file")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid TOML ({error}); correct it") from error


# Writing --------------------------------------------------------------------------------------


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """The error of a full disk in the block, which by itself names no file, names `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in FULL:
            error.filename = str(path)
        raise


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A new file for writing that takes `path`'s place when the block ends without an exception.

    Until then it lies beside `path`, so that a crash leaves the old content. What killed processes
    left beside it goes once the new file is in its place. Raises `OSError`.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    file = _claimed(partial)
    try:
        with naming(path), file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _remove_left_parts(path)


def write_file(path: Path, content: bytes) -> None:
    """`path` holds the old content or all of the new one. Raises `OSError`."""
    with atomic_file(path) as file:
        file.write(content)


def _claimed(partial: Path) -> BinaryIO:
    """A new file with a lock that tells that its process lives, where the file system has locks."""
    while True:
        file = cast(BinaryIO, partial.open("wb"))
        if _lock(file) is None or _is_at(file, partial):
            return file
        file.close()  # another process took it for one that was left, before it was locked


def _remove_left_parts(path: Path) -> None:
    begin, end = f".{path.name}.", ".part"
    for part in path.parent.iterdir():
        if part.name.startswith(begin) and part.name.endswith(end):
            with suppress(OSError), part.open("rb") as file:
                if _lock(file):
                    part.unlink()


def _lock(file: IO[bytes]) -> bool | None:
    """Whether this process has the lock of a file now; None where there are no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def remove(path: Path) -> None:
    """Removes what has a file's name, if anything has, be it a folder. Raises `OSError`."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# Folders --------------------------------------------------------------------------------------


def user_path(text: str) -> Path:
    """The path that a user wrote, ``~`` and ``~name`` replaced. Raises `ModelError`."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ModelError(f"{text}: there is no such user's folder; write the path out") from error


def user_folder(variable: str, default: str) -> Path:
    """This program's folder below the one that an XDG `variable` names, or below ~/`default`.

    Raises
    ------
    ModelError
        When the user has no home folder, as in a container that runs under any user id.
    """
    folder = os.environ.get(variable, "")
    if os.path.isabs(folder):
        return Path(folder) / "tritstream"
    try:
        return Path.home() / default / "tritstream"
    except RuntimeError as error:
        raise ModelError(f"this user has no home folder; set {variable} to a folder") from error


def cache_folder() -> Path:
    """Where what takes long to make is kept. Raises `ModelError` where the user has no home."""
    return user_folder("XDG_CACHE_HOME", ".cache")


def make_cache(folder: Path) -> Path:
    """A folder within the cache, made if need be. Raises `ModelError` when it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"{folder}: cannot be made ({error.strerror}); set XDG_CACHE_HOME to a folder that can "
            "be written to"
        ) from error
    return folder
