"""A crowd at a server: ``python -m sim.crowd --device sim://ulx3s_85f --clients 32``.

Starts a server for a device, or takes the one at ``--url``. Its clients all begin at once, every
one with a prompt of its own, greedy and sampled in turn. Says whether each got what the golden
model says alone, how fast all were served, how long they waited and what changing turns took.
The exit status is 1 where a text is another.
"""

from __future__ import annotations

from weights import early as early  # isort: split

import contextlib
import http.client
import itertools
import json
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from host.arguments import add_device_arguments, find_chosen_model
from host.errors import HostError
from host.serve.scheduler import ALONE_SECONDS
from sim.golden_device import GoldenDevice
from weights.commandline import OneLineParser, program
from weights.model import MAKE_AGAIN, IntegerModel
from weights.text import decode, encode_prompt, open_tokenizer

MOST_CLIENTS = 256
PATIENCE_S = 600.0
"""Seconds without a byte after which a server is given up."""

BEGINNINGS = ("Once upon a time", "One day", "In a small house", "At night")
NAMES = ("Lily", "Tom", "a little cat", "the old bear")
DEEDS = "was saw went had said ran liked lost found made took got gave put ate hid".split()


@dataclass(frozen=True, kw_only=True)
class Order:
    """What one client asks for."""

    prompt: str
    tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Served:
    """What one client got.

    Members
    -------
    text : what follows the prompt
    turn_s : seconds from the request to the first turn at the device
    first_s, all_s : to the first and to the last of the text
    tokens : of the answer
    """

    text: str
    turn_s: float
    first_s: float
    all_s: float
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """What became of a crowd.

    Members
    -------
    served : in the order of their orders
    alone : what the first order got before the others came
    wall_s : from the first request to the last answer's end
    device_s : of these, in which the device worked for somebody
    swaps : how often one state took another's place
    contexts : how many sessions run side by side
    slice_s, swap_s : a turn and a change of turns, as the server measured them
    """

    served: tuple[Served, ...]
    alone: Served
    wall_s: float
    device_s: float
    swaps: int
    contexts: int
    slice_s: float
    swap_s: float

    @property
    def bound_s(self) -> float:
        """How long a first turn may be awaited: everyone else's, and the changes for each, or that
        of whoever came first."""
        turns = (len(self.served) - 1) // self.contexts
        return max(ALONE_SECONDS, turns * (self.slice_s + self.contexts * self.swap_s))


def orders(clients: int, tokens: int) -> list[Order]:
    """So many different ones, every other greedy."""
    words = itertools.product(DEEDS, NAMES, BEGINNINGS)
    return [
        Order(
            prompt=f"{beginning} {name} {deed}",
            tokens=tokens,
            temperature=float(number % 2),
            seed=number,
        )
        for number, (deed, name, beginning) in enumerate(itertools.islice(words, clients))
    ]


def expected(model: IntegerModel, orders: Sequence[Order]) -> list[str]:
    """What the golden model says to each, alone."""
    device = GoldenDevice()
    device.load(model)
    tokenizer = open_tokenizer(model.tokenizer_json, "model", MAKE_AGAIN)
    texts = []
    for order in orders:
        ids = encode_prompt(tokenizer, order.prompt, model.shape.vocabulary)
        prompt = [model.start_token, *ids]
        chosen = device.generate(
            prompt, order.tokens, order.temperature, order.seed, model.end_tokens
        )
        whole = decode(tokenizer, [*prompt, *chosen])
        texts.append(whole.removeprefix(decode(tokenizer, prompt)))
    return texts


class Caller:
    """Asks a server at an address, with a key if it wants one.

    Raises
    ------
    HostError
        From every method: the server refuses, or is not there.
    """

    def __init__(self, url: str, key: str | None = None):
        self._url = url
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise HostError(f"{url!r} is no address of a server; it must be http://HOST:PORT")
        self._host, self._port = parts.hostname, parts.port or 80
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    @contextlib.contextmanager
    def _answer(
        self, path: str, body: dict[str, Any] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        line = http.client.HTTPConnection(self._host, self._port, timeout=PATIENCE_S)
        try:
            line.request(
                "GET" if body is None else "POST",
                path,
                None if body is None else json.dumps(body),
                self._headers,
            )
            answer = line.getresponse()
            if answer.status != http.client.OK:
                raise HostError(f"{self._url}{path}: {_told(answer.read())}")
            yield answer
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or error or type(error).__name__
            raise HostError(f"{self._url}: {reason}; is a server there?") from error
        finally:
            line.close()

    def fetch(self, path: str) -> Any:
        with self._answer(path) as answer:
            return json.load(answer)

    def numbers(self) -> dict[str, float]:
        """Of ``/metrics``, by their names."""
        with self._answer("/metrics") as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.split() for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def tell(self, order: Order) -> Served:
        """Have an order answered, as a stream."""
        body = {
            "prompt": order.prompt,
            "max_tokens": order.tokens,
            "temperature": order.temperature,
            "seed": order.seed,
            "stream": True,
        }
        start = time.monotonic()
        first: float | None = None
        text = ""
        timings: dict[str, Any] = {}
        with self._answer("/v1/completions", body) as answer:
            for part in _events(answer):
                if "error" in part:
                    raise HostError(f"{self._url}: {part['error']['message']}")
                text += part["choices"][0]["text"]
                timings = part["timings"] or timings
                if first is None and text:
                    first = time.monotonic()
        end = time.monotonic()
        if not timings:
            raise HostError(f"{self._url}: a stream ended before its end")
        return Served(
            text=text,
            turn_s=timings["wait_ms"] / 1e3,
            first_s=(first or end) - start,
            all_s=end - start,
            tokens=timings["predicted_n"],
        )


def _told(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return "what answers there is no such server"


def _events(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in answer:
        data = line.strip().removeprefix(b"data: ")
        if data.startswith(b"{"):
            yield json.loads(data)


def gather(caller: Caller, orders: Sequence[Order]) -> Crowd:
    """Have all orders answered at once, after the first one alone."""
    alone = caller.tell(orders[0])
    before = caller.numbers()
    together = threading.Barrier(len(orders))

    def ask(order: Order) -> Served:
        together.wait()
        return caller.tell(order)

    start = time.monotonic()
    with ThreadPoolExecutor(len(orders)) as pool:
        served = tuple(pool.map(ask, orders))
    wall_s = time.monotonic() - start
    after, slots = caller.numbers(), caller.fetch("/slots")

    def grown(name: str) -> float:
        return after[f"tritstream_{name}_total"] - before[f"tritstream_{name}_total"]

    return Crowd(
        served=served,
        alone=alone,
        wall_s=wall_s,
        device_s=grown("device_seconds"),
        swaps=round(grown("state_swaps")),
        contexts=slots["contexts"],
        slice_s=slots["slice_ms"] / 1e3,
        swap_s=(slots["swap_ms"] or 0) / 1e3,
    )


@contextlib.contextmanager
def server(device: str, path: Path, slots: int) -> Iterator[str]:
    """The address of a server of our own, with so many places, once its device is there.

    Raises
    ------
    HostError
        It cannot begin, as it has said on standard error.
    """
    command = [sys.executable, "-m", "host.serve", "--port", "0", "--slots", str(slots)]
    command += ["--device", device, "--model", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            url = process.stdout.readline().strip().rpartition(" ")[2]
            while url and process.poll() is None:
                with contextlib.suppress(HostError):
                    Caller(url).fetch("/health")
                    break
                time.sleep(0.1)
            else:
                raise HostError("the server did not begin; what it said is above")
            yield url
        finally:
            process.send_signal(signal.SIGINT)


def _spread(seconds: Iterable[float]) -> str:
    values = list(seconds)
    return f"{statistics.median(values):.2f} s (median), {max(values):.2f} s (longest)"


def report(crowd: Crowd, texts: Sequence[str]) -> str:
    """What users read of it."""
    served = crowd.served
    equal = sum(one.text == text for one, text in zip(served, texts, strict=True))
    tokens = sum(one.tokens for one in served)
    lost = 1 - crowd.device_s / crowd.wall_s
    rows = (
        ("texts", f"{equal} of {len(served)} as the golden model says them alone"),
        (
            "tokens",
            f"{tokens:,} in {crowd.wall_s:.2f} s: {tokens / crowd.wall_s:,.1f} tokens/s together; "
            f"one client alone {crowd.alone.tokens / crowd.alone.all_s:,.1f}",
        ),
        (
            "first turn",
            f"after {_spread(one.turn_s for one in served)}; "
            f"bound {crowd.bound_s:.2f} s and a token",
        ),
        ("first text", f"after {_spread(one.first_s for one in served)}"),
        (
            "turns",
            f"{crowd.swaps} swaps of {1e3 * crowd.swap_s:.2f} ms, slices of "
            f"{1e3 * crowd.slice_s:.1f} ms; {lost:.1%} of the time the device worked for nobody",
        ),
    )
    return "\n".join(f"{name:<11}{told}" for name, told in rows)


def _parse(arguments: Sequence[str] | None) -> Any:
    parser = OneLineParser(
        prog="python -m sim.crowd", description="Has many clients ask a server at once."
    )
    add_device_arguments(parser)
    parser.add_argument("--url", metavar="URL", help="of a server, instead of one of our own")
    parser.add_argument("--key", metavar="KEY", help="that this server asks for")
    parser.add_argument("--clients", type=int, default=32, metavar="N", help="at once (32)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="of each answer (64)")
    options = parser.parse_args(arguments)
    for name, most in (("clients", MOST_CLIENTS), ("tokens", 4096)):
        if not 1 <= getattr(options, name) <= most:
            parser.error(f"--{name} must be 1 to {most}, not {getattr(options, name)}")
    return options


@program
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    path = find_chosen_model(options)
    model = IntegerModel.load(path)
    wanted = orders(options.clients, options.tokens)
    with contextlib.ExitStack() as stack:
        url = options.url or stack.enter_context(server(options.device, path, options.clients))
        caller = Caller(url, options.key)
        served = caller.fetch("/props")["model"]
        if served["source"] != model.source:
            raise HostError(f"{url} serves {served['id']!r}; say so with --model")
        crowd = gather(caller, wanted)
    texts = expected(model, wanted)
    print(report(crowd, texts))
    return 0 if [one.text for one in crowd.served] == texts else 1


if __name__ == "__main__":
    sys.exit(main())
