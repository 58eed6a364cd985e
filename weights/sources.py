"""Where checkpoints come from by name: the hub, mirrors of it, and directories.

A source is written as ``hub``, as the base URL of a mirror, or as the path of a directory. All of
them keep the hub's layout, so that a mirror is any web server, and a directory what one serves:
``BASE/ORG/NAME/resolve/REVISION/FILE``. A directory may also hold plain checkpoints, such as git
clones, as ``BASE/ORG/NAME``, which stand for the revision ``main``.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

from .architectures.mmfree import ModelShape
from .checkpoint import read_shape
from .errors import ModelError
from .files import FULL, read_json, read_toml, user_folder, user_path

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from huggingface_hub import HfFileMetadata

HUB = "hub"
NO_HUB = "no-hub"
HUB_URL = "https://huggingface.co"
MAIN = "main"
SOURCES_VARIABLE = "TRITSTREAM_SOURCES"

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

SMALL_FILE = 1 << 20
"""Bytes of a configuration at most, and of any other file besides what the model's size adds."""
ENTRY_BYTES = 1 << 10
"""Of one token in a tokenizer, or of one tensor in an index or a header, at most."""
VALUE_BYTES = 4

_PART = r"[A-Za-z0-9_][\w.-]*"
_COORDINATES = re.compile(rf"({_PART})/({_PART})(?:@({_PART}(?:/{_PART})*))?", re.ASCII)
_FILE_NAME = re.compile(_PART, re.ASCII)
_SHA1_DIGITS = 40
_SHA256_DIGITS = 64


class SourceError(ModelError):
    """A source does not have a checkpoint, or does not hand it over."""


class AbsentError(SourceError):
    """A source answers, but does not have what was asked for."""


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """A checkpoint's place on a hub, written ``ORG/NAME@REVISION``.

    Members
    -------
    organisation, name : of the repository
    revision : branch, tag or commit
    """

    organisation: str
    name: str
    revision: str = MAIN

    @classmethod
    def parse(cls, text: str) -> Coordinates | None:
        """The coordinates that `text` writes, ``main`` where it gives no revision, or None."""
        match = _COORDINATES.fullmatch(text)
        if match is None:
            return None
        return cls(organisation=match[1], name=match[2], revision=match[3] or MAIN)

    def __str__(self) -> str:
        return f"{self.organisation}/{self.name}@{self.revision}"

    @property
    def folder(self) -> str:
        """Where a source keeps the files, below its base; the revision is one step of the path."""
        return f"{self.organisation}/{self.name}/resolve/{quote(self.revision, safe='')}"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A checkpoint that a source handed over.

    Members
    -------
    directory : holds the checkpoint's files, for as long as nobody touches the work folder
    commit : what the revision stood for, where the source knows
    """

    directory: Path
    commit: str | None = None


class Source(Protocol):
    """Something that hands over checkpoints. ``str`` gives it as the user would write it."""

    @property
    def remote(self) -> bool:
        """Whether asking touches the network."""

    def commit(self, wanted: Coordinates) -> str | None:
        """What the revision stands for now, or None where it is not told. Raises `SourceError`."""

    def checkpoint(self, wanted: Coordinates, work: Path) -> Found:
        """Gets a checkpoint, whole; nobody else may use the folder `work` meanwhile.

        Raises
        ------
        SourceError
            When this source cannot; what it left in `work` makes the next attempt shorter.
        """


@dataclass(frozen=True, kw_only=True)
class DirectorySource:
    """A directory of checkpoints, which are used where they are."""

    path: Path

    remote = False

    def __str__(self) -> str:
        return str(self.path)

    def commit(self, wanted: Coordinates) -> str | None:
        return None

    def checkpoint(self, wanted: Coordinates, work: Path) -> Found:
        repository = self.path / wanted.organisation / wanted.name
        places = [repository / "resolve" / wanted.revision]
        if wanted.revision == MAIN:
            places.append(repository)
        for place in places:
            if (place / CONFIG_FILE).is_file():
                return Found(directory=place)
        raise AbsentError("not there" if self.path.is_dir() else "no such directory")


@dataclass(frozen=True, kw_only=True)
class WebSource:
    """The hub, or a web server with the same layout.

    A server that speaks the hub's protocol tells commit and digest of each file: all files then
    come from one commit, and their contents are checked. Of any other only the sizes are known.

    Members
    -------
    base : URL, without a slash at its end
    is_hub : whether the user's hub token, if there is one, is for this server
    """

    base: str
    is_hub: bool = False

    remote = True

    def __str__(self) -> str:
        if self.is_hub:
            return HUB
        parts = urlsplit(self.base)
        return urlunsplit(parts._replace(netloc=parts.netloc.split("@")[-1]))  # no password

    def commit(self, wanted: Coordinates) -> str | None:
        return self.ask(wanted, CONFIG_FILE).commit_hash

    def checkpoint(self, wanted: Coordinates, work: Path) -> Found:
        return _Download(self, wanted, work).run()

    def ask(self, wanted: Coordinates, name: str) -> HfFileMetadata:
        """What the server says of file `name`. Raises `SourceError`."""
        url = f"{self.base}/{wanted.folder}/{name}"
        with _explained(name):
            from huggingface_hub import get_hf_file_metadata

            return get_hf_file_metadata(url, headers=self.headers(url), token=False)

    def headers(self, url: str) -> dict[str, str]:
        """Headers for `url`, with the user's token for the hub's own host only."""
        from huggingface_hub import constants
        from huggingface_hub.utils import build_hf_headers

        constants.HF_HUB_DISABLE_TELEMETRY = True  # or a mirror's user would ask the hub as well
        ours = urlsplit(url)[:2] == urlsplit(self.base)[:2]
        token = None if self.is_hub and ours else False
        headers: dict[str, str] = build_hf_headers(token=token, library_name="tritstream")
        return headers | {"Accept-Encoding": "identity"}  # byte ranges are of the file itself


class _Download:
    """One checkpoint on its way from a server.

    A file lies in a folder named by what the server says of its content, under its own name once
    it is whole and checked. So what an earlier attempt left is used only for the same content.

    The configuration comes first. It is read, and bounds the size of all other files, whatever
    the server says or does not say of them. Raises `ModelError` for what cannot be a checkpoint.
    """

    def __init__(self, source: WebSource, wanted: Coordinates, work: Path) -> None:
        self.source = source
        self.wanted = wanted
        self.work = work
        self.commit: str | None = None

    def run(self) -> Found:
        config = self.file(CONFIG_FILE, SMALL_FILE)
        shape = read_shape(config)
        files = [config, self.file(TOKENIZER_FILE, SMALL_FILE + ENTRY_BYTES * shape.vocabulary)]
        header, room = _weight_bounds(shape)
        try:
            files.append(self.file(WEIGHTS_FILE, room))
        except AbsentError:
            index = self.file(INDEX_FILE, header)
            files.append(index)
            for name in _shard_names(index):
                shard = self.file(name, room)
                room -= shard.stat().st_size
                files.append(shard)
        directory = self.work / "checkpoint"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        for file in files:
            _link(file, directory / file.name)
        return Found(directory=directory, commit=self.commit)

    def file(self, name: str, bound: int) -> Path:
        """Fetches one file of up to `bound` bytes, or the rest of it."""
        facts = self.source.ask(self.wanted, name)
        if facts.size is not None and facts.size > bound:
            raise _too_large(name, bound)
        if facts.commit_hash:  # the next files come from the same commit
            self.wanted = replace(self.wanted, revision=facts.commit_hash)
            self.commit = facts.commit_hash
        content = f"{facts.etag} {facts.size}"
        folder = self.work / hashlib.sha256(content.encode()).hexdigest()[:16]
        if facts.etag is None:  # nothing tells whether what lies there is the same content
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        whole = folder / name
        if not (whole.exists() and _is_intact(whole, facts)):
            part = folder / f"{name}.part"
            self.fill(part, facts, name, bound)
            part.replace(whole)
        return whole

    def fill(self, part: Path, facts: HfFileMetadata, name: str, bound: int) -> None:
        """Completes `part`, or raises `SourceError`; wrong content does not stay."""
        from huggingface_hub.file_download import http_get

        done = part.stat().st_size if part.exists() else 0
        if facts.size is None or done > facts.size:
            done = 0
        headers = self.source.headers(facts.location)
        limit = bound if facts.size is None else facts.size
        with _explained(name), _LimitedFile(part, "ab" if done else "wb", name, limit) as file:
            http_get(
                facts.location,
                file,
                resume_size=done,
                headers=headers,
                expected_size=facts.size,
                displayed_filename=name,
            )
            file.flush()
            os.fsync(file.fileno())
        if not _is_intact(part, facts):
            part.unlink()
            raise SourceError(f"{name}: content does not match its digest, discarded; try again")


class _LimitedFile(io.BufferedWriter):
    """A file for writing, of what is called `name`, that does not grow beyond `limit` bytes.

    It raises `ModelError` instead.
    """

    def __init__(self, path: Path, mode: str, name: str, limit: int) -> None:
        super().__init__(io.FileIO(path, mode))
        self._name, self._limit = name, limit

    def write(self, data: ReadableBuffer) -> int:
        if self.tell() + memoryview(data).nbytes > self._limit:
            raise _too_large(self._name, self._limit)
        return super().write(data)


def _too_large(name: str, bound: int) -> ModelError:
    return ModelError(f"{name}: larger than the {bound:,} bytes that it can have; discarded")


def _weight_bounds(shape: ModelShape) -> tuple[int, int]:
    """Bytes at most of a list of the checkpoint's tensors, and of the tensors with such a list."""
    shapes = shape.tensor_shapes.values()
    header = SMALL_FILE + ENTRY_BYTES * len(shapes)
    return header, header + VALUE_BYTES * sum(math.prod(each) for each in shapes)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turns what goes wrong with file `name` on the network into a `SourceError` of one line.

    That includes the import of the hub's client, which reads settings of its own, and prints on
    standard output of those that it does not understand.
    """
    try:
        with redirect_stdout(io.StringIO()):
            yield
    except ModelError:
        raise
    except Exception as error:  # of the HTTP client, which differs between releases of the hub's
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        status = getattr(getattr(error, "response", None), "status_code", None)
        match status:
            case 404 | 410:
                raise AbsentError(f"{name} is not there") from error
            case 401 | 403:
                told = f"status {status}, not there or not public; 'hf auth login' if it is yours"
            case int():
                told = f"the server answered with status {status}"
            case _:
                told = _first_line(error) + _absent_certificates()
        raise SourceError(f"{name}: {told}") from error


def _absent_certificates() -> str:
    """Which of the user's settings leads to no file: the exception of that does not tell it."""
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        path = os.environ.get(variable)
        if path and not os.path.exists(path):
            return f" ({variable} is set to {path}, which is not there)"
    return ""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _shard_names(index: Path) -> list[str]:
    """The files that an index lists; `SourceError` when it is none, or leads elsewhere."""
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
        if not all(_FILE_NAME.fullmatch(name) for name in names):
            raise ValueError(names)
    except (ModelError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{index.name}: not an index of shards") from error
    return names


def _is_intact(path: Path, facts: HfFileMetadata) -> bool:
    """Whether a whole file is what the server says of it, as far as it says."""
    if facts.size not in (None, path.stat().st_size):
        return False
    return not (facts.commit_hash and facts.etag) or _matches(path, facts.etag)


def _matches(path: Path, etag: str) -> bool:
    """Whether a file has the content that the hub's ETag names: by SHA-256, or as a git blob."""
    if len(etag) == _SHA256_DIGITS:
        digest = hashlib.sha256()
    elif len(etag) == _SHA1_DIGITS:
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        return True
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == etag


def _link(file: Path, target: Path) -> None:
    """`file` under a second name, or moved where the file system has no links."""
    try:
        os.link(file, target)
    except OSError:
        file.replace(target)


def parse_source(text: str, base: Path) -> Source:
    """The source that `text` writes; a relative path starts from `base`."""
    if text == HUB:
        return WebSource(base=os.environ.get("HF_ENDPOINT", HUB_URL).rstrip("/"), is_hub=True)
    if text.startswith(("https://", "http://")) and _names_host(text):
        return WebSource(base=text.rstrip("/"))
    if not text or "://" in text:
        raise ModelError(f"{text!r}: a source must be 'hub', an https:// URL or a directory")
    return DirectorySource(path=base / user_path(text))


def _names_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def configured_sources(first: Sequence[str] = ()) -> tuple[Source, ...]:
    """The sources in the order in which they are asked.

    Those of the command line come first, then the comma-separated ones of ``TRITSTREAM_SOURCES``,
    then ``sources = [...]`` of ``tritstream/config.toml`` in the user's configuration folder. The
    hub comes last, unless one of these lists says where, or says ``no-hub``.

    Parameters
    ----------
    first : from the command line

    Raises
    ------
    ModelError
        When one of them is no source, or the configuration file is damaged.
    """
    here = Path.cwd()
    listed = [(text, here) for text in first]
    variable = os.environ.get(SOURCES_VARIABLE, "").split(",")
    listed += [(text.strip(), here) for text in variable if text.strip()]
    folder = _configuration_folder()
    if folder is not None:
        listed += [(text, folder) for text in _config_sources(folder / "config.toml")]
    words = [text for text, _ in listed]
    if HUB not in words and NO_HUB not in words:
        listed.append((HUB, here))
    sources = [parse_source(text, base) for text, base in listed if text != NO_HUB]
    return tuple(dict.fromkeys(sources))


def _configuration_folder() -> Path | None:
    try:
        return user_folder("XDG_CONFIG_HOME", ".config")
    except ModelError:  # no home folder, and so no configuration
        return None


def _config_sources(path: Path) -> list[str]:
    if not path.exists():
        return []
    sources = read_toml(path).get("sources", [])
    if not isinstance(sources, list) or not all(isinstance(text, str) for text in sources):
        raise ModelError(f"{path}: sources must be a list of strings, not {sources!r}; correct it")
    return sources
