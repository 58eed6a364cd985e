"""Integer models by name: shipped with the project, local, or fetched and converted once.

A name is that of a model in ``weights/zoo``, a path, or coordinates ``ORG/NAME[@REVISION]`` that
`weights.sources` resolves. What had to be converted is kept in the user's cache folder::

    tritstream/models/
        index.json              which names have which model
        CONTENT.safetensors     a model by `IntegerModel.digest`
        work/NAME/              what is being made; never used by anyone else
        locks/NAME.lock         held by the process that makes it

A model file gets its place, and a name its entry in the index, in one step each and under a lock.
A process that dies leaves work and free locks, which the next one that wants the same name takes
over.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from .checkpoint import Checkpoint
from .errors import ModelError
from .files import (
    FULL,
    POINTER_BYTES,
    ZOO,
    atomic_file,
    cache_folder,
    check_pointer,
    make_cache,
    read_json,
    remove,
    user_path,
)
from .locks import locked
from .model import DIGEST, VERSION, IntegerModel
from .quantise import Progress, convert
from .sources import Coordinates, Source, SourceError, configured_sources

SUFFIX = ".safetensors"
INDEX = "index.json"
INDEX_FORMAT = 1
LONGEST_FILE_NAME = 200
NOT_WRITABLE = FULL | {errno.EROFS, errno.EACCES, errno.EPERM}


Note = Callable[[str], None]
"""Called with a line for the user."""


@dataclass(frozen=True, kw_only=True)
class CachedModel:
    """What the index says of a name.

    Members
    -------
    name : coordinates, or the absolute path of a checkpoint directory
    content : `IntegerModel.digest`, which names the file
    bytes : size of the file
    version : of the file's format
    checkpoint : digest of what it was made from
    source, commit : where that came from; the commit where the source tells
    made : date of the conversion, or of the last look at the source

    Raises
    ------
    ValueError
        From the constructor, when these are not what an index holds.
    """

    name: str
    content: str
    bytes: int
    version: int
    checkpoint: str
    source: str
    commit: str | None
    made: str

    def __post_init__(self) -> None:
        texts = (self.name, self.checkpoint, self.source, self.commit or "", self.made)
        if not all(isinstance(text, str) for text in (*texts, self.content)):
            raise ValueError("a text is none")
        if not (type(self.bytes) is type(self.version) is int):
            raise ValueError("a number is none")
        if not DIGEST.fullmatch(self.content):
            raise ValueError("content is no digest")


@dataclass(frozen=True, kw_only=True)
class Store:
    """Gives a name's model file, and manages the cache.

    It proves what it hands out of the cache: the file holds the model that the index says. Only
    what has to be made needs a cache that can be written to.

    Parameters
    ----------
    root : folder of the cache, made when it is needed
    sources : asked in this order
    offline : never touch the network
    note : told what takes time, and which source failed though another did not
    progress : told how far a conversion is
    zoo : folder of the shipped models
    """

    root: Path
    sources: Sequence[Source] = ()
    offline: bool = False
    note: Note = lambda line: None
    progress: Progress | None = None
    zoo: Path = ZOO

    def shipped(self) -> dict[str, Path]:
        """The models in the repository by name."""
        return shipped_models(self.zoo)

    def get(self, name: str, *, refresh: bool = False) -> Path:
        """The model file of `name`, which is fetched and converted when it is not there yet.

        A model file is used as it is. A checkpoint directory is read whole each time, and
        converted when that content is new. Coordinates that are cached are not asked for again,
        whatever they came from, unless with `refresh`.

        Raises
        ------
        ModelError
            When there is no such model, no source gives it, it is damaged, or the cache cannot be
            written to.
        """
        place = self._place(name)
        with self._written():
            if isinstance(place, Coordinates):
                return self._from_sources(place, refresh)
            return self._from_directory(place) if place.is_dir() else place

    def resolve(self, name: str) -> Path:
        """The model file of `name`, if there is one already: fetches and converts nothing.

        Raises `ModelError` as `get` does, and when `get` would have to make it.
        """
        place = self._place(name)
        if isinstance(place, Path) and not place.is_dir():
            return place
        if isinstance(place, Path):
            key = str(place.resolve())
            entry = self._made_from(Checkpoint(place).digest())
        else:
            key = str(place)
            entry = self._cached(key)
        if entry is None:
            lost = " any more, its file is lost or damaged" if key in self._index() else ""
            raise ModelError(
                f"{name}: not in the cache{lost}; 'python -m weights get {name}' gets it"
            )
        return self._file(entry)

    def entries(self) -> list[CachedModel]:
        """What is in the cache, by name."""
        return sorted(self._index().values(), key=lambda entry: entry.name)

    def unfinished(self) -> list[str]:
        """Names, or checkpoint digests, that work was begun on and not finished."""
        names = (path.name for path in (self.root / "work").glob("*"))
        return sorted(os.fsdecode(unquote_to_bytes(name)) for name in names)

    def verify(self) -> Iterator[tuple[CachedModel, ModelError | None]]:
        """Reads every cached model, and tells what is wrong with it, or None."""
        for entry in self.entries():
            try:
                self._prove(entry)
            except ModelError as error:
                yield entry, error
            else:
                yield entry, None

    def remove(self, name: str) -> None:
        """Forgets a cached name, with its half-finished work; its file goes with its last name.

        Raises `ModelError` when the cache does not know the name.
        """
        coordinates = Coordinates.parse(name)
        names = {name, str(user_path(name).resolve())} | ({str(coordinates)} - {"None"})
        index = self._index()
        known = {key for key in names if key in index or self._work(key).exists()}
        if not known:
            owner = "shipped with the project" if name in self.shipped() else "not in the cache"
            raise ModelError(f"{name}: {owner}; 'python -m weights list' shows what can go")
        with self._written():
            for key in known:
                with self._locked(key):
                    shutil.rmtree(self._work(key), ignore_errors=True)
                    with self._changing() as changed:
                        changed.pop(key, None)

    def _place(self, name: str) -> Path | Coordinates:
        place = local_place(name, self.zoo)
        if place is not None:
            return place
        coordinates = Coordinates.parse(name)
        if coordinates is None or name.endswith(SUFFIX):
            names = ", ".join(self.shipped()) or "none"
            raise ModelError(
                f"{name}: neither a shipped model ({names}) nor a path nor ORG/NAME[@REVISION]; "
                "'python -m weights list' shows what is here"
            )
        return coordinates

    def _from_sources(self, wanted: Coordinates, refresh: bool) -> Path:
        key = str(wanted)
        entry = None if refresh else self._cached(key)
        if entry is not None:
            return self._file(entry)
        with self._locked(key):
            entry = self._cached(key)  # what another process just made
            if entry is None or refresh:
                entry = self._fetch(wanted, entry)
            return self._file(entry)

    def _fetch(self, wanted: Coordinates, old: CachedModel | None) -> CachedModel:
        """Asks one source after the other; the lock of `wanted` is held.

        Parameters
        ----------
        old : what is cached of it
        """
        key = str(wanted)
        lost = old is None and key in self._index()
        if lost:
            self.note(f"{key}: the file in the cache is lost or damaged and is made again")
        sources = [source for source in self.sources if not (self.offline and source.remote)]
        problems: list[str] = []
        for source in sources:
            self.note(f"{key}: asking {source}")
            work = self._work(key) / hashlib.sha256(os.fsencode(str(source))).hexdigest()[:16]
            work.mkdir(parents=True, exist_ok=True)
            try:
                if old is not None and old.commit and old.source == str(source):
                    if source.commit(wanted) == old.commit:
                        return old
                found = source.checkpoint(wanted, work)
                entry = self._convert(key, str(source), found.commit, Checkpoint(found.directory))
            except SourceError as error:
                problems.append(f"{source}: {error}")
            except ModelError as error:
                shutil.rmtree(work)  # whole, but not a checkpoint
                problems.append(f"{source}: {error}")
            else:
                for problem in problems:
                    self.note(f"{key}: {problem}")
                shutil.rmtree(self._work(key))
                return entry
            _remove_if_empty(work)
        _remove_if_empty(self._work(key))
        if len(sources) < len(self.sources):
            problems.append("not in the cache, and offline nothing else is asked")
        if lost:
            problems.append(f"its file in the cache is damaged; 'python -m weights remove {key}'")
        told = "; ".join(problems) or "there is no source to ask"
        raise ModelError(f"{key}: {told}; --source names another source")

    def _from_directory(self, directory: Path) -> Path:
        directory = directory.resolve()
        checkpoint = Checkpoint(directory)
        return self._file(self._convert(str(directory), "local", None, checkpoint))

    def _convert(
        self, name: str, source: str, commit: str | None, checkpoint: Checkpoint
    ) -> CachedModel:
        """Enters `name` into the index, with a model that is there or is made of `checkpoint`."""
        digest = checkpoint.digest()

        def made() -> CachedModel | None:
            same = self._made_from(digest)
            if same is None:
                return None
            entry = replace(same, name=name, source=source, commit=commit, made=_today())
            if entry != self._index().get(name):
                with suppress(OSError, ModelError), self._changing() as index:
                    index[name] = entry  # unless the cache cannot be written to
            return entry

        entry = made()
        if entry is not None:
            return entry
        with self._locked(digest):
            entry = made()  # by another process just now
            if entry is not None:
                return entry
            self.note(f"{name}: converting")
            model = convert(checkpoint, self.progress)
            if model.source != digest:
                raise ModelError(f"{name}: changed while it was read; try again")
            work = self._work(digest)
            work.mkdir(parents=True, exist_ok=True)
            file = work / f"model{SUFFIX}"
            model.save(file)
            entry = CachedModel(
                name=name,
                content=model.digest(),
                bytes=file.stat().st_size,
                version=VERSION,
                checkpoint=digest,
                source=source,
                commit=commit,
                made=_today(),
            )
            with self._changing() as index:
                if self._file(entry).is_dir():  # which nothing but a folder could replace
                    remove(self._file(entry))
                file.replace(self._file(entry))
                index[name] = entry
            shutil.rmtree(work)
            return entry

    def _file(self, entry: CachedModel) -> Path:
        return self.root / f"{entry.content}{SUFFIX}"

    def _work(self, key: str) -> Path:
        return self.root / "work" / _file_name(key)

    def _cached(self, name: str) -> CachedModel | None:
        entry = self._index().get(name)
        return entry if entry is not None and self._usable(entry) else None

    def _made_from(self, digest: str) -> CachedModel | None:
        """A cached model that was made from the checkpoint of that digest."""
        entries = self._index().values()
        same = (entry for entry in entries if entry.checkpoint == digest)
        return next(filter(self._usable, same), None)

    def _usable(self, entry: CachedModel) -> bool:
        """Whether the file is there, of the format that this program reads, and holds the model."""
        if entry.version != VERSION:
            return False
        try:
            self._prove(entry)
        except ModelError:
            return False
        return True

    def _prove(self, entry: CachedModel) -> None:
        """Reads an entry's file. Raises `ModelError` unless it holds the model of the entry."""
        path = self._file(entry)
        if IntegerModel.load(path, entry.content).source != entry.checkpoint:
            raise ModelError(f"{path}: made from another checkpoint")

    def _index(self) -> dict[str, CachedModel]:
        path = self.root / INDEX
        if not path.exists():
            return {}
        remedy = f"delete {self.root}"
        content = read_json(path, remedy)
        try:
            if content["format"] != INDEX_FORMAT:
                raise ValueError(f"format {content['format']!r}")
            entries = [CachedModel(**entry) for entry in content["models"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path}: not an index of this program ({error}); {remedy}") from error
        return {entry.name: entry for entry in entries}

    @contextmanager
    def _changing(self) -> Iterator[dict[str, CachedModel]]:
        """The index to be changed by the block; model files without a name go afterwards."""
        with self._locked(INDEX):
            index = self._index()
            yield index
            entries = [asdict(index[name]) for name in sorted(index)]
            text = json.dumps({"format": INDEX_FORMAT, "models": entries}, indent=1)
            with atomic_file(self.root / INDEX) as file:
                file.write(text.encode())
            used = {self._file(entry) for entry in index.values()}
            for path in set(self.root.glob(f"*{SUFFIX}")) - used:
                remove(path)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Only one process at a time is in the block of a `key`; a killed one is out of it."""
        locks = make_cache(self.root / "locks")

        def waiting() -> None:
            if key != INDEX:
                self.note(f"{key}: waiting for another process that makes it")

        with locked(locks / f"{_file_name(key)}.lock", waiting):
            yield

    @contextmanager
    def _written(self) -> Iterator[None]:
        """A block that may write to the cache; that it cannot is a `ModelError` with a remedy."""
        try:
            yield
        except OSError as error:
            ours = error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(
                self.root
            )
            if error.errno not in NOT_WRITABLE or not ours:
                raise
            raise ModelError(
                f"{self.root}: {error.strerror}; make room there and the right to write, or set "
                "XDG_CACHE_HOME to another folder"
            ) from error


def _file_name(key: str) -> str:
    """`key` as a file name: readable, `unquote_to_bytes` gives it back unless it is very long."""
    content = os.fsencode(key)
    name = quote(content, safe="@")
    return name if len(name) <= LONGEST_FILE_NAME else hashlib.sha256(content).hexdigest()


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _today() -> str:
    return datetime.now(timezone.utc).date().isoformat()


def shipped_models(zoo: Path = ZOO) -> dict[str, Path]:
    """The models in the repository by name."""
    return {path.stem: path for path in sorted(zoo.glob(f"*{SUFFIX}"))}


def local_place(name: str, zoo: Path = ZOO) -> Path | None:
    """The shipped model, file or directory that a name stands for, or None.

    Raises `ModelError` for no name, for the home folder of a user that is not there, and for a file
    that only points to its content.
    """
    if not name:
        raise ModelError("the model's name is empty; 'python -m weights list' shows what is here")
    path = shipped_models(zoo).get(name) or user_path(name)
    if path.is_file():
        with path.open("rb") as file:
            check_pointer(path, file.read(POINTER_BYTES))
    return path if path.exists() else None


def user_store(
    sources: Sequence[str] | None = (),
    *,
    offline: bool = False,
    note: Note = lambda line: None,
    progress: Progress | None = None,
) -> Store:
    """The user's own store.

    Parameters
    ----------
    sources : of the command line, asked before the configured ones; None asks no source at all

    Raises
    ------
    ModelError
        When a source or the configuration file cannot be used, or the user has no home folder.
    """
    return Store(
        root=cache_folder() / "models",
        sources=() if sources is None else configured_sources(sources),
        offline=offline,
        note=note,
        progress=progress,
    )
