"""Models by name: sources, the cache, and all that can go wrong on the way."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import huggingface_hub
import pytest

from sim.checkpoints import RandomCheckpoint
from weights import ModelError
from weights.__main__ import main
from weights.checkpoint import Checkpoint, ModelShape
from weights.model import IntegerModel
from weights.quantise import convert
from weights.sources import (
    Coordinates,
    DirectorySource,
    WebSource,
    configured_sources,
    parse_source,
)
from weights.store import Store
from weights.store_commands import find_model

ROOT = Path(__file__).resolve().parents[1]
RANDOM = RandomCheckpoint(
    shape=ModelShape(hidden=64, layers=2, intermediate=40, vocabulary=301), seed=5
)
NAME = "some-org/some-model"
KEY = f"{NAME}@main"
COMMIT = "c0ffee" * 6 + "c0ff"
WEIGHTS = "model.safetensors"
SECONDS = 60  # a limit for what takes a moment


@dataclass(kw_only=True)
class Server:
    """A web server with the hub's layout, and whatever faults a test wants.

    Members
    -------
    files : content by path, such as ``ORG/NAME/resolve/main/config.json``
    hub : speak the hub's protocol, with commit and digests; else send sizes only
    etags : tell a digest of the content; otherwise nothing tells versions apart
    ranges : honour the header ``Range``
    cuts : of each next body of weights, after how many bytes the connection ends
    wrong : send other bytes than the digest says
    stall : hold weights back after half of them, until it is set
    endless : name of a file that never ends
    claim : size that is told of it; otherwise none is
    status : answer this to everything
    requests : method, path and headers of all requests
    """

    files: dict[str, bytes] = field(default_factory=dict)
    hub: bool = True
    etags: bool = True
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    wrong: bool = False
    stall: threading.Event | None = None
    stalled: threading.Event = field(default_factory=threading.Event)
    endless: str = ""
    claim: int | None = None
    status: int = 200
    commit: str = COMMIT
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def serve(self, directory: Path, revision: str = "main") -> None:
        """Serves these files as `NAME`, under the revision and under the commit."""
        for path in directory.iterdir():
            for name in (revision, self.commit):
                self.files[f"{NAME}/resolve/{name}/{path.name}"] = path.read_bytes()

    def fetched(self, file: str) -> list[dict[str, str]]:
        """The headers of all requests for the content of a file."""
        return [
            headers
            for method, path, headers in list(self.requests)
            if method == "GET" and path.endswith(f"/{file}")
        ]


class Handler(BaseHTTPRequestHandler):
    """Answers as the `Server` of its class says."""

    state: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        body = self.answer()
        if self.is_endless:
            with suppress(ConnectionError):
                while True:
                    self.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
            self.close_connection = True
            return
        weights = self.path.endswith(WEIGHTS)
        if weights and self.state.stall is not None:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.state.stalled.set()
            self.state.stall.wait(SECONDS)
            body = body[len(body) // 2 :]
        if weights and self.state.cuts:
            body = body[: self.state.cuts.pop(0)]
            self.close_connection = True
        try:
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True

    @property
    def is_endless(self) -> bool:
        return bool(self.state.endless) and self.path.endswith(f"/{self.state.endless}")

    def answer(self) -> bytes:
        """Sends the header. Returns the body that belongs to it."""
        state = self.state
        headers = {name.lower(): value for name, value in self.headers.items()}
        state.requests.append((self.command, self.path, headers))
        if self.is_endless:
            self.send_response(200)
            self.send_header("ETag", '"x"')
            if state.claim is None:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(state.claim))
            self.end_headers()
            return b""
        content = state.files.get(unquote(self.path).lstrip("/"))
        status = state.status
        if status == 200 and content is None:
            status = 404
        if status != 200 or content is None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return b""
        first = 0
        if state.ranges and "range" in headers:
            first = int(headers["range"].removeprefix("bytes=").removesuffix("-"))
            status = 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if state.etags:
            if self.path.endswith(".safetensors"):
                etag = hashlib.sha256(content).hexdigest()
            else:
                etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self.send_header("ETag", f'"{etag}"')
        if state.hub:
            self.send_header("X-Repo-Commit", state.commit)
        self.end_headers()
        if state.wrong and self.path.endswith(WEIGHTS):
            content = content[:-1] + bytes([content[-1] ^ 1])
        return content[first:]


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    handler = type("StateHandler", (Handler,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        state.url = f"http://127.0.0.1:{running.server_port}"
        yield state
        if state.stall is not None:
            state.stall.set()
        huggingface_hub.close_session()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with empty folders, who knows no hub, and does not wait between attempts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("TRITSTREAM_SOURCES", "no-hub")
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(variable, raising=False)
    from huggingface_hub import constants, file_download

    impatient = SimpleNamespace(sleep=lambda seconds: None, time=time.time)
    monkeypatch.setattr(file_download, "time", impatient)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 12)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return RANDOM.write(tmp_path_factory.mktemp("checkpoint") / "whole")


@pytest.fixture(scope="module")
def content(checkpoint: Path) -> str:
    """Digest of the model that `checkpoint` gives."""
    return convert(Checkpoint(checkpoint)).digest()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "tritstream" / "models"


def web(server: Server) -> WebSource:
    return WebSource(base=server.url)


def models(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.safetensors"))


def work(cache: Path) -> list[Path]:
    return [path for path in (cache / "work").rglob("*") if path.is_file()]


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def command(*arguments: str, code: str = "") -> subprocess.Popen[str]:
    """``python -m weights ...`` as a process of its own, after `code`."""
    program = f"import sys\n{code}\nfrom weights.__main__ import main\nsys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=SECONDS)
    return process.returncode, output, errors


# Names and sources


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("a/b", "a/b@main"),
        ("ridger/MMfreeLM-370M@main", "ridger/MMfreeLM-370M@main"),
        ("a_b/c.d@v1.0", "a_b/c.d@v1.0"),
        ("a/b@refs/pr/1", "a/b@refs/pr/1"),
        ("a", None),
        ("a/b/c", None),
        ("a/b@", None),
        ("../b", None),
        ("a/..", None),
        ("a/b@../x", None),
        ("a/b@x/../y", None),
        ("./a/b", None),
        ("a/b c", None),
        ("a/b\n", None),
        ("", None),
    ],
)
def test_coordinates(text: str, parsed: str | None) -> None:
    assert str(Coordinates.parse(text)) == str(parsed)


def test_revision_is_one_step_of_the_address() -> None:
    coordinates = Coordinates.parse("a/b@refs/pr/1")
    assert coordinates is not None
    assert coordinates.folder == "a/b/resolve/refs%2Fpr%2F1"


def test_sources_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config" / "tritstream"
    config.mkdir(parents=True)
    (config / "config.toml").write_text('sources = ["near", "https://three.example/hub/"]\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRITSTREAM_SOURCES", " /two , https://user:secret@two.example,")
    assert list(map(str, configured_sources(["one"]))) == [
        str(tmp_path / "one"),
        "/two",
        "https://two.example",
        str(config / "near"),
        "https://three.example/hub",
        "hub",
    ]
    monkeypatch.setenv("TRITSTREAM_SOURCES", "hub,/two")
    assert list(map(str, configured_sources()))[:3] == ["hub", "/two", str(config / "near")]
    assert sum(str(source) == "hub" for source in configured_sources(["hub"])) == 1
    monkeypatch.setenv("TRITSTREAM_SOURCES", "no-hub")
    assert "hub" not in map(str, configured_sources())


@pytest.mark.parametrize("text", ["sources = [", "sources = 'hub'", "sources = [1]", "\udcff"])
def test_configuration_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config" / "tritstream" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match=re.escape(str(path))) as error:
        configured_sources()
    one_line(error)


@pytest.mark.parametrize(
    "text", ["", "ftp://server", "file:///models", "https://", "http://[::1", "http://a:port/"]
)
def test_source_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelError, match="must be 'hub', an https:// URL or a directory"):
        parse_source(text, tmp_path)


def test_shipped_models_go_by_their_names(tmp_path: Path, checkpoint: Path, cache: Path) -> None:
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    convert(Checkpoint(checkpoint)).save(zoo / "tiny.safetensors")
    store = Store(root=cache, zoo=zoo)
    assert store.get("tiny") == store.resolve("tiny") == zoo / "tiny.safetensors"
    assert not cache.exists()
    with pytest.raises(ModelError, match="neither a shipped model \\(tiny\\)") as error:
        store.get("tinny")
    one_line(error)
    with pytest.raises(ModelError, match="shipped with the project"):
        store.remove("tiny")


def test_model_file_is_used_as_it_is(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "own.safetensors"
    file.write_bytes(b"")
    assert Store(root=cache).get(str(file)) == file
    assert not cache.exists()
    with pytest.raises(ModelError, match="neither a shipped model"):
        Store(root=cache).get("folder/absent.safetensors")
    with pytest.raises(ModelError, match="the model's name is empty"):  # not the current folder
        Store(root=cache).get("")


# Directories


def test_checkpoint_directory_is_converted_once(
    checkpoint: Path, content: str, cache: Path, tmp_path: Path
) -> None:
    steps: list[int] = []
    store = Store(root=cache, progress=lambda done, total: steps.append(done))
    with pytest.raises(ModelError, match="not in the cache; 'python -m weights get"):
        store.resolve(str(checkpoint))
    path = store.get(str(checkpoint))
    assert path == cache / f"{content}.safetensors"
    assert IntegerModel.load(path).digest() == content
    assert steps
    steps.clear()
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    assert store.get(str(checkpoint)) == store.get(str(copy)) == store.resolve(str(copy)) == path
    assert not steps
    assert [entry.name for entry in store.entries()] == sorted(map(str, (checkpoint, copy)))
    assert not store.unfinished()


def test_changed_checkpoint_directory_is_converted_again(tmp_path: Path, cache: Path) -> None:
    directory = RANDOM.write(tmp_path / "own")
    store = Store(root=cache)
    old = store.get(str(directory))
    replace(RANDOM, seed=6).write(directory)
    new = store.get(str(directory))
    assert models(cache) == [new]
    assert old != new


def test_directory_as_source(tmp_path: Path, checkpoint: Path, content: str, cache: Path) -> None:
    served = tmp_path / "served"
    shutil.copytree(checkpoint, served / NAME / "resolve" / "v1")
    shutil.copytree(checkpoint, served / "other" / "clone")
    sources = (DirectorySource(path=tmp_path / "none"), DirectorySource(path=served))
    notes: list[str] = []
    store = Store(root=cache, sources=sources, offline=True, note=notes.append)
    assert store.get(f"{NAME}@v1").stem == content
    assert f"{NAME}@v1: {sources[0]}: no such directory" in notes
    assert store.get("other/clone").stem == content
    assert [entry.source for entry in store.entries()] == [str(served)] * 2
    for absent in (NAME, "other/clone@v1", "no/thing"):
        with pytest.raises(ModelError, match=r"no such directory; .*: not there") as error:
            store.get(absent)
        one_line(error)
    assert not store.unfinished()


# Servers


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(("hub", "etags"), [(True, True), (False, True), (False, False)])
def test_get_from_a_server(
    server: Server, tmp_path: Path, cache: Path, hub: bool, etags: bool, shards: int
) -> None:
    directory = replace(RANDOM, shards=shards).write(tmp_path / "served")
    server.hub, server.etags = hub, etags
    server.serve(directory)
    path = Store(root=cache, sources=[web(server)]).get(NAME)
    assert IntegerModel.load(path).source == Checkpoint(directory).digest()
    (entry,) = Store(root=cache).entries()
    assert (entry.name, entry.source) == (KEY, server.url)
    assert entry.commit == (COMMIT if hub else None)
    assert not work(cache)
    asked = len(server.requests)
    offline = Store(root=cache, sources=[web(server)], offline=True)
    assert offline.get(NAME) == offline.get(KEY) == offline.resolve(NAME) == path
    assert len(server.requests) == asked
    pinned = [path for _, path, _ in server.requests if "config.json" not in path]
    assert all(f"/resolve/{COMMIT if hub else 'main'}/" in path for path in pinned)


def test_offline_asks_no_server(server: Server, checkpoint: Path, cache: Path) -> None:
    server.serve(checkpoint)
    with pytest.raises(ModelError, match="not in the cache, and offline nothing") as error:
        Store(root=cache, sources=[web(server)], offline=True).get(NAME)
    one_line(error)
    assert not server.requests


def test_server_that_cuts_once_is_asked_for_the_rest(
    server: Server, checkpoint: Path, content: str, cache: Path
) -> None:
    server.serve(checkpoint)
    server.cuts = [30_000, 20_000]
    assert Store(root=cache, sources=[web(server)]).get(NAME).stem == content
    ranges = [headers.get("range") for headers in server.fetched(WEIGHTS)]
    assert ranges == [None, "bytes=28672-", "bytes=45056-"]


def test_server_without_ranges_starts_again(
    server: Server, checkpoint: Path, content: str, cache: Path
) -> None:
    server.serve(checkpoint)
    server.cuts, server.ranges = [30_000], False
    assert Store(root=cache, sources=[web(server)]).get(NAME).stem == content


@pytest.mark.parametrize("etags", [True, False])
def test_half_finished_file_waits_for_the_next_attempt(
    server: Server, checkpoint: Path, content: str, cache: Path, etags: bool
) -> None:
    server.serve(checkpoint)
    server.hub, server.etags = False, etags
    server.cuts = [30_000] + [0] * 6
    store = Store(root=cache, sources=[web(server)])
    with pytest.raises(ModelError, match=f"{WEIGHTS}: ") as error:
        store.get(NAME)
    one_line(error)
    assert not models(cache)
    assert not store.entries()
    assert store.unfinished() == [KEY]
    with pytest.raises(ModelError, match="not in the cache"):
        store.resolve(NAME)
    server.requests.clear()
    assert store.get(NAME).stem == content
    # Without a digest nobody knows whether the rest belongs to the same file.
    assert server.fetched(WEIGHTS)[0].get("range") == ("bytes=28672-" if etags else None)
    assert not store.unfinished()


def test_half_finished_file_of_other_content_is_not_used(
    server: Server, checkpoint: Path, tmp_path: Path, cache: Path
) -> None:
    server.serve(checkpoint)
    server.cuts = [30_000] + [0] * 6
    store = Store(root=cache, sources=[web(server)])
    with pytest.raises(ModelError):
        store.get(NAME)
    newer = replace(RANDOM, seed=6).write(tmp_path / "newer")
    server.commit = "f" * 40
    server.serve(newer)
    assert store.get(NAME).stem == convert(Checkpoint(newer)).digest()


def test_wrong_content_is_discarded(
    server: Server, checkpoint: Path, content: str, cache: Path, tmp_path: Path
) -> None:
    server.serve(checkpoint)
    server.wrong = True
    store = Store(root=cache, sources=[web(server)])
    with pytest.raises(ModelError, match="content does not match its digest") as error:
        store.get(NAME)
    one_line(error)
    assert not models(cache)
    shutil.copytree(checkpoint, tmp_path / "second" / NAME)
    notes: list[str] = []
    sources = (web(server), DirectorySource(path=tmp_path / "second"))
    assert Store(root=cache, sources=sources, note=notes.append).get(NAME).stem == content
    assert any("content does not match its digest" in note for note in notes)
    store.remove(NAME)
    server.wrong = False
    assert store.get(NAME).stem == content


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", WEIGHTS])
def test_what_is_no_checkpoint_is_discarded(
    server: Server, checkpoint: Path, cache: Path, file: str
) -> None:
    server.serve(checkpoint)
    server.hub = False
    server.files[f"{NAME}/resolve/main/{file}"] = b"<html>Please log in</html>"
    store = Store(root=cache, sources=[web(server)])
    with pytest.raises(ModelError, match=file) as error:
        store.get(NAME)
    one_line(error)
    assert not models(cache)
    assert not store.unfinished()


INDEX = f"{WEIGHTS}.index.json"


@pytest.mark.parametrize("claim", [None, 10**12])
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", WEIGHTS, INDEX])
def test_endless_file_is_refused(
    server: Server, checkpoint: Path, cache: Path, file: str, claim: int | None
) -> None:
    """Whatever the server says of its size; and nothing of it stays."""
    server.serve(checkpoint)
    server.hub, server.endless, server.claim = False, file, claim
    if file == INDEX:
        del server.files[f"{NAME}/resolve/main/{WEIGHTS}"]
    store = Store(root=cache, sources=[web(server)])
    with pytest.raises(ModelError, match=rf"{file}: larger than the [\d,]+ bytes") as error:
        store.get(NAME)
    one_line(error)
    assert len(server.fetched(file)) == (claim is None)
    assert not work(cache)
    assert not store.unfinished()


def test_shards_are_together_as_large_as_the_model(
    server: Server, tmp_path: Path, cache: Path
) -> None:
    directory = replace(RANDOM, shards=3, dtype="fp32").write(tmp_path / "served")
    server.serve(directory)
    server.hub = False
    for path in directory.glob("model-*"):
        server.files[f"{NAME}/resolve/main/{path.name}"] += bytes(3 << 19)
    with pytest.raises(ModelError, match=r"model-0000\d-of-00003\.safetensors: larger than"):
        Store(root=cache, sources=[web(server)]).get(NAME)
    assert not work(cache)


def test_configuration_is_read_before_the_weights_are_asked_for(
    server: Server, checkpoint: Path, cache: Path
) -> None:
    server.serve(checkpoint)
    server.hub = False
    server.files[f"{NAME}/resolve/main/config.json"] = b'{"model_type": "llama"}'
    with pytest.raises(ModelError, match='model_type must be "hgrn_bit", not "llama"'):
        Store(root=cache, sources=[web(server)]).get(NAME)
    assert {path.split("/")[-1] for _, path, _ in server.requests} == {"config.json"}
    assert not work(cache)


@pytest.mark.parametrize("length", ["kept", "cut"])
def test_whole_file_that_changed_since_is_fetched_again(
    server: Server, checkpoint: Path, content: str, cache: Path, length: str
) -> None:
    server.serve(checkpoint)
    server.cuts = [30_000] + [0] * 6
    store = Store(root=cache, sources=[web(server)])
    with pytest.raises(ModelError):
        store.get(NAME)
    (left,) = [path for path in work(cache) if path.name == "tokenizer.json"]
    text = left.read_bytes()
    left.write_bytes(text.replace(b"a", b"b", 1) if length == "kept" else text[:-1])
    server.requests.clear()
    assert store.get(NAME).stem == content
    assert len(server.fetched("tokenizer.json")) == 1


def test_full_disk_leaves_what_came_for_the_next_attempt(
    server: Server,
    checkpoint: Path,
    content: str,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.serve(checkpoint)
    store = Store(root=cache, sources=[web(server)])

    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 10_000:  # not the small files
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ModelError, match="No space left on device; make room") as error:
            store.get(NAME)
        assert str(cache) in one_line(error)
    assert not models(cache)
    assert store.unfinished() == [KEY]
    server.requests.clear()
    assert store.get(NAME).stem == content
    assert not server.fetched("config.json")
    assert not work(cache)


def test_network_settings_that_cannot_work(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/ca.pem")
    huggingface_hub.close_session()
    with pytest.raises(
        ModelError, match=rf"{KEY}: https://127\.0\.0\.1:9: config\.json: "
    ) as error:
        Store(root=cache, sources=[WebSource(base="https://127.0.0.1:9")]).get(NAME)
    assert "SSL_CERT_FILE is set to /nonexistent/ca.pem, which is not there" in one_line(error)
    huggingface_hub.close_session()


@pytest.mark.parametrize(
    "setting", ["HF_ENDPOINT=http://[::1", "HF_HUB_ETAG_TIMEOUT=soon", "ALL_PROXY=foo://a"]
)
def test_settings_that_the_client_cannot_read(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read when it is imported, and so by a new process."""
    for variable in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(*setting.split("="))
    monkeypatch.setenv("TRITSTREAM_SOURCES", "hub")
    status, output, errors = finish(command("get", NAME))
    assert (status, output) == (1, "")
    assert errors.splitlines()[-1].startswith(f"{KEY}: hub: config.json: ")
    assert "Traceback" not in errors


def test_index_that_leads_elsewhere_is_refused(server: Server, tmp_path: Path, cache: Path) -> None:
    directory = replace(RANDOM, shards=2).write(tmp_path / "served")
    index = directory / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../../etc/passwd"}}))
    server.serve(directory)
    with pytest.raises(ModelError, match="not an index of shards"):
        Store(root=cache, sources=[web(server)]).get(NAME)
    assert not any("passwd" in path for _, path, _ in server.requests)


@pytest.mark.parametrize(
    ("status", "words"), [(404, "config.json is not there"), (401, "auth login"), (500, "500")]
)
def test_server_that_refuses(server: Server, cache: Path, status: int, words: str) -> None:
    server.status = status
    with pytest.raises(ModelError, match=words) as error:
        Store(root=cache, sources=[web(server)]).get(NAME)
    assert server.url in one_line(error)
    assert not Store(root=cache).unfinished()


def test_server_that_is_not_there(cache: Path) -> None:
    with pytest.raises(ModelError, match="--source names another") as error:
        Store(root=cache, sources=[WebSource(base="http://127.0.0.1:9")]).get(NAME)
    one_line(error)


def test_token_is_for_the_hub_only(
    server: Server, checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve(checkpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    Store(root=cache, sources=[parse_source(server.url, cache)]).get(NAME)
    assert not any("authorization" in headers for _, _, headers in server.requests)
    server.requests.clear()
    Store(root=cache / "other", sources=[parse_source("hub", cache)]).get(NAME)
    assert all("authorization" in headers for _, _, headers in server.requests)
    assert not any("agent" in path for _, path, _ in server.requests)


def test_refresh_looks_for_a_newer_commit(
    server: Server, checkpoint: Path, content: str, cache: Path, tmp_path: Path
) -> None:
    server.serve(checkpoint)
    store = Store(root=cache, sources=[web(server)])
    store.get(NAME)
    server.requests.clear()
    assert store.get(NAME, refresh=True).stem == content
    assert [(method, path.split("/")[-1]) for method, path, _ in server.requests] == [
        ("HEAD", "config.json")
    ]
    newer = replace(RANDOM, seed=6).write(tmp_path / "newer")
    server.commit = "f" * 40
    server.serve(newer)
    assert store.get(NAME).stem == content
    assert store.get(NAME, refresh=True).stem == convert(Checkpoint(newer)).digest()
    assert len(models(cache)) == 1


# Processes


def test_two_processes_do_the_work_once(
    server: Server, checkpoint: Path, content: str, cache: Path
) -> None:
    server.serve(checkpoint)
    server.stall = threading.Event()
    first = command("get", NAME, "--source", server.url)
    assert server.stalled.wait(SECONDS)
    second = command("get", NAME, "--source", server.url)
    assert second.stderr is not None
    assert "waiting for another process" in second.stderr.readline()
    server.stall.set()
    for process in (first, second):
        status, output, errors = finish(process)
        assert (status, output.strip()) == (0, str(cache / f"{content}.safetensors")), errors
    assert len(server.fetched(WEIGHTS)) == 1


def test_many_processes_at_once(checkpoint: Path, cache: Path) -> None:
    processes = [command("get", str(checkpoint)) for _ in range(6)]
    results = [finish(process) for process in processes]
    assert {status for status, _, _ in results} == {0}
    assert len({output for _, output, _ in results}) == 1
    assert sum("converting" in errors for _, _, errors in results) == 1
    assert len(models(cache)) == 1


def test_process_killed_during_the_download(
    server: Server, checkpoint: Path, content: str, cache: Path
) -> None:
    server.serve(checkpoint)
    server.stall = threading.Event()
    process = command("get", NAME, "--source", server.url)
    assert server.stalled.wait(SECONDS)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    server.stall.set()
    server.stall = None
    store = Store(root=cache, sources=[web(server)])
    assert not models(cache)
    assert store.unfinished() == [KEY]
    with pytest.raises(ModelError, match="not in the cache"):
        store.resolve(NAME)
    server.requests.clear()
    assert store.get(NAME).stem == content
    assert not server.fetched("tokenizer.json")  # that one was whole
    assert not work(cache)


SLEEP_HALFWAY = """
import time
import weights.quantise as quantise
original = quantise._Conversion.channel_mixer
def slow(self, n):
    print("halfway", flush=True)
    time.sleep(600)
quantise._Conversion.channel_mixer = slow
"""

SLEEP_BEFORE_INDEX = """
import time
import weights.store as store
def slow(path):
    print("halfway", flush=True)
    time.sleep(600)
store.atomic_file = slow
"""


def test_interrupt_during_the_download(server: Server, checkpoint: Path, cache: Path) -> None:
    server.serve(checkpoint)
    server.stall = threading.Event()
    process = command("get", NAME, "--source", server.url)
    assert server.stalled.wait(SECONDS)
    process.send_signal(signal.SIGINT)
    status, output, errors = finish(process)
    assert (status, output) == (130, "")
    assert "Traceback" not in errors
    assert not models(cache)


def test_interrupt_during_a_conversion(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    process = command("convert", str(checkpoint), str(target), code=SLEEP_HALFWAY)
    assert process.stdout is not None
    assert process.stdout.readline() == "halfway\n"
    process.send_signal(signal.SIGINT)
    status, _, errors = finish(process)
    assert (status, errors) == (130, "")
    assert not target.exists()


@pytest.mark.parametrize("code", [SLEEP_HALFWAY, SLEEP_BEFORE_INDEX])
def test_process_killed_during_the_conversion(
    checkpoint: Path, content: str, cache: Path, code: str
) -> None:
    process = command("get", str(checkpoint), code=code)
    assert process.stdout is not None
    assert process.stdout.readline() == "halfway\n"
    process.send_signal(signal.SIGKILL)
    finish(process)
    store = Store(root=cache)
    assert not store.entries()
    with pytest.raises(ModelError, match="not in the cache"):
        store.resolve(str(checkpoint))
    assert store.get(str(checkpoint)).stem == content
    assert not work(cache)
    assert [entry.content for entry in store.entries()] == [content]


# The cache


def test_file_that_lost_bytes_is_made_again(checkpoint: Path, content: str, cache: Path) -> None:
    store = Store(root=cache)
    path = store.get(str(checkpoint))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ModelError, match="not in the cache"):
        store.resolve(str(checkpoint))
    assert IntegerModel.load(store.get(str(checkpoint))).digest() == content
    path.unlink()
    assert store.get(str(checkpoint)) == path


def test_index_that_is_none(checkpoint: Path, cache: Path) -> None:
    Store(root=cache).get(str(checkpoint))
    (cache / "index.json").write_text('{"format": 2, "models": []}')
    with pytest.raises(ModelError, match=rf"format 2.*delete {cache}") as error:
        Store(root=cache).get(str(checkpoint))
    one_line(error)
    assert models(cache)


Edit = Callable[[dict, dict], object]
"""Changes the index or its entry, or returns another text."""


@pytest.mark.parametrize(
    "edit",
    [
        lambda index, entry: "[]",
        lambda index, entry: "{}",
        lambda index, entry: "",
        lambda index, entry: '{"a":' * 100_000,
        lambda index, entry: index.update(models=3),
        lambda index, entry: index.update(models={"a": 1}),
        lambda index, entry: entry.pop("bytes"),
        lambda index, entry: entry.update(extra=1),
        lambda index, entry: entry.update(name=1),
        lambda index, entry: entry.update(commit=[1]),
        lambda index, entry: entry.update(bytes=True),
        lambda index, entry: entry.update(version="1"),
        lambda index, entry: entry.update(content="../../../../etc/passwd"),
        lambda index, entry: entry.update(content=["0" * 64]),
    ],
)
def test_damaged_index(
    checkpoint: Path, cache: Path, capsys: pytest.CaptureFixture[str], edit: Edit
) -> None:
    """Every command says in one line what helps, and that does help."""
    assert main(["get", str(checkpoint)]) == 0
    path = cache / "index.json"
    index = json.loads(path.read_text())
    text = edit(index, index["models"][0])
    path.write_text(text if isinstance(text, str) else json.dumps(index))
    capsys.readouterr()
    commands = (["list"], ["verify"], ["get"], ["resolve"], ["remove"])
    for words in commands:
        arguments = words if words[0] in ("list", "verify") else [*words, str(checkpoint)]
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith(str(path)) and error.endswith(f"; delete {cache}\n")
        assert error.count("\n") == 1
    shutil.rmtree(cache)
    assert main(["get", str(checkpoint)]) == 0


Damage = Callable[[Path, bytes], object]


def flip(path: Path, other: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[-50] ^= 1
    path.write_bytes(content)


def make_folder(path: Path, other: bytes) -> None:
    path.unlink()
    (path / "inner").mkdir(parents=True)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path, other: path.write_bytes(other),
        lambda path, other: path.write_bytes(b""),
        lambda path, other: path.unlink(),
        make_folder,
    ],
    ids=["flipped", "other", "empty", "lost", "folder"],
)
def test_damaged_model_is_not_handed_out(
    checkpoint: Path, content: str, cache: Path, tmp_path: Path, damage: Damage
) -> None:
    """It is made again where its checkpoint is, and else told of with what helps."""
    other = convert(Checkpoint(replace(RANDOM, seed=6).write(tmp_path / "other")))
    other.save(tmp_path / "other.safetensors")
    served = tmp_path / "served"
    shutil.copytree(checkpoint, served / NAME)
    sources = [DirectorySource(path=served)]
    notes: list[str] = []
    store = Store(root=cache, sources=sources, note=notes.append)
    for name in (NAME, str(checkpoint)):
        path = store.get(name)
        damage(path, (tmp_path / "other.safetensors").read_bytes())
        with pytest.raises(ModelError, match="not in the cache any more, its file is lost or"):
            store.resolve(name)
        (_, problem), *_ = store.verify()
        assert problem is not None
        assert store.get(name) == store.resolve(name) == path
        assert IntegerModel.load(path).digest() == content
    assert f"{KEY}: the file in the cache is lost or damaged and is made again" in notes
    damage(path, (tmp_path / "other.safetensors").read_bytes())
    with pytest.raises(ModelError, match=rf"damaged; 'python -m weights remove {KEY}'") as error:
        Store(root=cache, sources=[]).get(NAME)
    one_line(error)


def test_index_that_gives_another_name_its_model(
    checkpoint: Path, content: str, cache: Path, tmp_path: Path
) -> None:
    store = Store(root=cache)
    other = store.get(str(replace(RANDOM, seed=6).write(tmp_path / "other")))
    store.get(str(checkpoint))
    index = json.loads((cache / "index.json").read_text())
    for entry in index["models"]:
        entry["content"] = other.stem
    (cache / "index.json").write_text(json.dumps(index))
    assert store.get(str(checkpoint)).stem == content


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes all caches read-only, from the call on."""

    def refuse(path: Path, *arguments: object) -> None:
        raise OSError(30, "Read-only file system", str(path))

    return lambda: monkeypatch.setattr("weights.store.locked", refuse)


def test_read_only_cache(
    checkpoint: Path, cache: Path, tmp_path: Path, read_only: Callable[[], None]
) -> None:
    """What it holds is used, under every name; what it lacks is told of in one line."""
    shutil.copytree(checkpoint, tmp_path / "served" / NAME)
    store = Store(root=cache, sources=[DirectorySource(path=tmp_path / "served")])
    path = store.get(NAME)
    read_only()
    assert store.get(NAME) == store.resolve(NAME) == store.get(str(checkpoint)) == path
    assert [entry.name for entry in store.entries()] == [KEY]
    other = replace(RANDOM, seed=6).write(tmp_path / "other")
    for call in (lambda: store.get("no/thing"), lambda: store.get(str(other))):
        with pytest.raises(
            ModelError, match=r"Read-only file system; .*set XDG_CACHE_HOME"
        ) as error:
            call()
        assert str(cache) in one_line(error)
    with pytest.raises(ModelError, match="Read-only file system"):
        store.remove(NAME)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home folder, as in a container that runs under any user id."""

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", nowhere)


@pytest.mark.usefixtures("homeless")
def test_user_without_a_home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = ROOT / "weights" / "zoo" / "stories-tiny.safetensors"
    for name in ("stories-tiny", str(shipped)):
        for words in (["get", name], ["resolve", name]):
            assert main(words) == 0
            assert capsys.readouterr().out == f"{shipped}\n"
    assert main(["list"]) == 0
    captured = capsys.readouterr()
    assert "stories-tiny" in captured.out
    assert captured.err == "this user has no home folder; set XDG_CACHE_HOME to a folder\n"
    for words in (["get", NAME], ["resolve", NAME], ["remove", NAME], ["verify"]):
        assert main(words) == 1
        assert capsys.readouterr().err.endswith("set XDG_CACHE_HOME to a folder\n")


@pytest.mark.usefixtures("homeless")
def test_cache_without_a_home(
    checkpoint: Path, cache: Path, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(checkpoint, tmp_path / "served" / NAME)
    assert find_model(NAME, [str(tmp_path / "served")]) == cache / f"{content}.safetensors"


def test_damaged_configuration_is_read_only_for_sources(
    checkpoint: Path, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "config" / "tritstream" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("sources = [")
    assert find_model("stories-tiny").stem == "stories-tiny"
    assert find_model(str(checkpoint)).stem == content
    assert main(["list"]) == main(["verify"]) == 0
    with pytest.raises(ModelError, match="not valid TOML"):
        find_model(NAME)


@pytest.mark.parametrize("words", [["get"], ["resolve"], ["remove"], ["info"]])
def test_home_of_nobody(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "~nosuchuser/x"]) == 1
    assert capsys.readouterr().err == (
        "~nosuchuser/x: there is no such user's folder; write the path out\n"
    )


def test_what_killed_processes_left_goes(checkpoint: Path, cache: Path, tmp_path: Path) -> None:
    store = Store(root=cache)
    store.get(str(checkpoint))
    (cache / ".index.json.999999.part").write_text("{")
    (cache / "0.safetensors").write_text("without a name")
    long = str(tmp_path.joinpath(*["long" * 40] * 4))
    for key in ("a/b@main", long):
        folder = store._work(key)
        folder.mkdir(parents=True)
        (folder / "part").write_text("x")
    assert len(store.unfinished()) == 2
    store.remove("a/b")
    store.remove(long)
    assert not store.unfinished()
    store.remove(str(checkpoint))
    assert sorted(path.name for path in cache.iterdir()) == ["index.json", "locks", "work"]


@pytest.mark.parametrize("name", ["a[/b]", "b[red]c", ":smile:", "[link=x]y"])
def test_names_are_printed_as_they_are(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    directory = tmp_path / name
    shutil.copytree(checkpoint, directory)
    assert main(["get", str(directory)]) == 0
    capfd.readouterr()
    assert main(["list"]) == 0
    names = [line.split("│")[0].strip() for line in capfd.readouterr().out.splitlines()]
    assert names[-1] == str(directory)
    convert(Checkpoint(directory)).save(directory / "int.safetensors")
    assert main(["info", str(directory / "int.safetensors")]) == 0
    assert capfd.readouterr().out.splitlines()[0] == str(directory / "int.safetensors")


def test_path_of_any_bytes_is_printed_as_it_is(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(cache)
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    monkeypatch.setenv("XDG_CACHE_HOME", os.fsdecode(cache))
    process = subprocess.run(
        [sys.executable, "-m", "weights", "get", str(checkpoint)],
        cwd=ROOT,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        capture_output=True,
    )
    path = process.stdout.removesuffix(b"\n")
    assert path.startswith(cache) and os.path.isfile(path), process.stderr


def test_directory_of_any_bytes(checkpoint: Path, tmp_path: Path, cache: Path) -> None:
    directory = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        shutil.copytree(checkpoint, directory)
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    store = Store(root=cache)
    assert store.get(str(directory)) == store.resolve(str(directory))
    store._work(str(directory)).mkdir(parents=True)
    assert store.unfinished() == [str(directory)]
    store.remove(str(directory))
    assert not store.entries() and not store.unfinished()


def test_file_goes_with_its_last_name(checkpoint: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "served" / NAME)
    store = Store(root=cache, sources=[DirectorySource(path=tmp_path / "served")])
    store.get(NAME)
    store.get(str(checkpoint))
    store.remove(NAME)
    assert len(models(cache)) == 1
    store.remove(str(checkpoint))
    assert not models(cache)
    with pytest.raises(ModelError, match="not in the cache"):
        store.remove(NAME)


def test_long_path(checkpoint: Path, tmp_path: Path, cache: Path) -> None:
    directory = shutil.copytree(checkpoint, tmp_path.joinpath(*["long" * 40] * 4))
    store = Store(root=cache)
    store.get(str(directory))
    store.remove(str(directory))
    assert not store.entries()


# Command line


def test_commands(
    server: Server, checkpoint: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve(checkpoint)
    assert main(["resolve", NAME]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["get", NAME, "--source", server.url]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert main(["get", NAME, "--offline"]) == 0
    assert main(["resolve", NAME]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{path}\n" * 2
    assert captured.err == ""
    assert main(["list"]) == 0
    assert KEY in capsys.readouterr().out
    assert main(["verify"]) == 0
    assert capsys.readouterr().out == f"{KEY}: good\n"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert main(["verify"]) == 1
    assert "content does not match its digest" in capsys.readouterr().out
    assert main(["remove", NAME]) == 0
    assert not models(cache)
    assert main(["verify"]) == 0
    assert main(["get", NAME, "--offline"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_pointer_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n")
    for command in ("get", "resolve"):
        assert main([command, str(path)]) == 1
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        assert "a git-lfs pointer, not the file itself" in captured.err


def test_inline_dependencies_are_those_of_the_project() -> None:
    """`host/infer.py` runs without an installation, so it lists what an installation has."""
    tomllib = pytest.importorskip("tomllib")
    script = (ROOT / "host" / "infer.py").read_text().split("# /// script\n")[1].split("# ///\n")[0]
    inline = tomllib.loads(re.sub(r"(?m)^# ?", "", script))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert inline["requires-python"] == project["requires-python"]
    extra = project["optional-dependencies"]["sim"]
    assert inline["dependencies"] == project["dependencies"] + extra


def test_find_model(checkpoint: Path, content: str) -> None:
    assert find_model(str(checkpoint)).stem == content
