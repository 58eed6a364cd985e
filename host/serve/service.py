"""What all endpoints share: the model, its tokenizer, the device's scheduler, and the limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenizers import Tokenizer

from host.serve.scheduler import Scheduler
from host.serve.stories import Stories
from weights.model import IntegerModel


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client can ask for.

    Members
    -------
    body_bytes : of a request
    prompt_tokens, tokens : of a prompt and of an answer
    default_tokens : of an answer to a request that does not say
    request_s : seconds that a request's headers and body may take to come
    send_s : seconds after which a client that does not read what it gets is given up
    ping_s : seconds between the signs of life in a stream
    connections : at once
    """

    body_bytes: int = 1 << 16
    prompt_tokens: int = 4096
    tokens: int = 4096
    default_tokens: int = 256
    request_s: float = 10.0
    send_s: float = 30.0
    ping_s: float = 15.0
    connections: int = 2000


@dataclass(frozen=True, kw_only=True)
class Service:
    """What is served.

    Members
    -------
    name, created : of the model, and its file's time
    device : its URL
    keys : one of which a client must have, if there are any
    hosts : names by which the server can be called, lower case; None for all
    stories : the texts of all answers, where everyone here is shown them
    """

    name: str
    created: int
    model: IntegerModel
    tokenizer: Tokenizer
    scheduler: Scheduler
    device: str
    limits: Limits = Limits()
    keys: tuple[str, ...] = ()
    hosts: frozenset[str] | None = None
    stories: Stories = field(default_factory=Stories)

    def close(self) -> None:
        """End all sessions and watchers, and close the device; from any thread."""
        self.stories.close()
        self.scheduler.close()

    @property
    def fingerprint(self) -> str:
        """Names what an answer follows from, beside the request and its seed."""
        return f"fp_{self.model.source[:16]}"
