"""What programs send and get: OpenAI's requests and answers, as far as they exist here.

What the choice on the device cannot do, such as `top_p` below 1, is refused. The fields for it are
taken where they ask for nothing, because many programs send all that they know.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError
from typing_extensions import TypedDict

from host.errors import UsageError
from host.sampling import inverse_temperature

MOST_SEED = (1 << 32) - 1
MOST_STOPS = 4
LONGEST_STOP = 256
"""Characters of a stop string at most: so much text may have to be held back."""


class _Model(BaseModel):
    """JSON of these fields and no others, each of its own type."""

    model_config = ConfigDict(extra="forbid", strict=True)


# Requests -------------------------------------------------------------------------------------

Empty = Annotated[list[Any], Field(max_length=0)]
Nothing = Annotated[dict[str, Any], Field(max_length=0)]


def _whole(value: Any) -> Any:
    """JSON has one kind of number, and some programs write 16.0 for 16."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
Seed = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=MOST_SEED)]

TEXT, TEXTS, TOKENS, TOKEN_LISTS, PARTS = TAGS = (
    "a text",
    "a list of texts",
    "a list of tokens",
    "a list of such lists",
    "a list of parts",
)
"""Ways in which one field may be given; they stand in an error's path among the names of fields."""


def _kind(value: Any) -> str:
    """What of a union a value is meant to be."""
    match value:
        case [dict(), *_]:
            return PARTS
        case [list(), *_]:
            return TOKEN_LISTS
        case [str(), *_] | []:
            return TEXTS
        case list():
            return TOKENS
    return TEXT


Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
One = Field(min_length=1, max_length=1)
"""Several prompts at once are as many requests."""


def _no_truth(value: Any) -> Any:
    """In Python False is 0; in JSON it is another value."""
    if isinstance(value, bool):
        raise PydanticKnownError("literal_error", {"expected": "a number"})
    return value


def _no_number(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise PydanticKnownError("literal_error", {"expected": "true or false"})
    return value


Zero = Annotated[Literal[0], BeforeValidator(_no_truth)]
Unity = Annotated[Literal[1], BeforeValidator(_no_truth)]
No = Annotated[Literal[False], BeforeValidator(_no_number)]
Yes = Annotated[Literal[True], BeforeValidator(_no_number)]


class StreamOptions(_Model):
    include_usage: bool | None = None
    include_obfuscation: No | None = None


class Generation(_Model):
    """What both kinds of requests have in common.

    Members
    -------
    model : the one that is served, or none
    temperature : 0 is greedy, 1 the model's own distribution
    seed : of the sampling; random where it is none, and told in the answer
    stop : texts, before the first of which the answer ends
    ignore_eos : go on after the token that ends a text
    """

    model: str | None = None
    max_tokens: Count | None = None
    temperature: float | None = None
    seed: Seed | None = None
    stop: (
        Annotated[
            Annotated[Stop, Tag(TEXT)]
            | Annotated[list[Stop], Field(max_length=MOST_STOPS), Tag(TEXTS)],
            Discriminator(_kind),
        ]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None

    # Taken where they ask for nothing.
    n: Unity | None = None
    top_p: Unity | None = None
    top_k: Annotated[Literal[0, -1], BeforeValidator(_no_truth)] | None = None
    min_p: Zero | None = None
    typical_p: Unity | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    repeat_penalty: Unity | None = None
    repetition_penalty: Unity | None = None
    logit_bias: Nothing | None = None
    cache_prompt: Yes | None = None
    user: str | None = None

    @field_validator("temperature")
    @classmethod
    def _check_temperature(cls, value: float | None) -> float | None:
        try:
            inverse_temperature(value or 0)
        except UsageError as error:
            told = str(error).removeprefix("temperature ")
            raise PydanticCustomError("temperature", "{told}", {"told": told}) from None
        return value

    @field_validator("stream_options")
    @classmethod
    def _check_stream(cls, value: StreamOptions | None, info: Any) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise PydanticCustomError("stream_options", "must be left out where stream is false")
        return value

    @property
    def most(self) -> int | None:
        """Tokens that are wanted at most."""
        return self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(Generation):
    """Go on from a text, or from tokens as they are.

    Members
    -------
    prompt : the empty text has the model begin one
    echo : give the prompt back before what follows it
    """

    prompt: Annotated[
        Annotated[str, Tag(TEXT)]
        | Annotated[list[str], One, Tag(TEXTS)]
        | Annotated[list[int], Tag(TOKENS)]
        | Annotated[list[list[int]], One, Tag(TOKEN_LISTS)],
        Discriminator(_kind),
    ]
    echo: bool | None = None

    best_of: Unity | None = None
    logprobs: None = None
    suffix: Literal[""] | None = None

    @property
    def one_prompt(self) -> str | list[int]:
        match self.prompt:
            case [(str() | list()) as only]:
                return only
        return self.prompt  # type: ignore[return-value]  # lists of lists have one element


class TextPart(_Model):
    type: Literal["text"]
    text: str


class Message(_Model):
    """One of a chat's; what an answer's message has beside its text is taken where it is empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: (
        Annotated[
            Annotated[str, Tag(TEXT)] | Annotated[list[TextPart], Tag(PARTS)],
            Discriminator(lambda value: PARTS if isinstance(value, list) else TEXT),
        ]
        | None
    ) = None
    name: str | None = None

    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Empty | None = None
    annotations: Empty | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class PlainText(_Model):
    type: Literal["text"]


class ChatRequest(Generation):
    """Go on from messages, which are joined to one text as ``/props`` says."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None

    logprobs: No | None = None
    top_logprobs: Zero | None = None
    tools: Empty | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None  # of none
    functions: Empty | None = None
    function_call: Literal["none", "auto"] | None = None
    response_format: PlainText | None = None
    modalities: Annotated[list[Literal["text"]], One] | None = None
    store: No | None = None
    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default"] | None = None

    @field_validator("max_completion_tokens")
    @classmethod
    def _check_most(cls, value: int | None, info: Any) -> int | None:
        if value and info.data.get("max_tokens") not in (None, value):
            raise PydanticCustomError("twice", "must be max_tokens, or one of them left out")
        return value

    @property
    def most(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


CHATS = (
    "The texts of all messages, of every role, are one text, which the model goes on with. Between "
    "two of them is a blank where neither has one there, nor a line end."
)


def joined(messages: list[Message]) -> str:
    """The text of a chat; `CHATS` says how it is made."""
    whole = ""
    for message in messages:
        apart = not whole or whole[-1:].isspace() or message.text[:1].isspace()
        whole += message.text if apart or not message.text else f" {message.text}"
    return whole


# Answers --------------------------------------------------------------------------------------


class PromptDetails(_Model):
    cached_tokens: int


class Usage(_Model):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Timings(_Model):
    """How long an answer took. Milliseconds are by this machine's clock.

    Members
    -------
    cache_n, prompt_n, predicted_n : tokens of the prompt whose state was there, of it that were
        read, of the answer
    wait_ms, prompt_ms, predicted_ms : before the device's first work for it, up to its first token,
        from there to the last
    predicted_per_second : tokens after the first one, by the time since
    cycles_per_token, engine_share, board_tokens_per_second : counted by the device over all that it
        did for this answer, if it counts: mean, part in which the engine worked, and its clock by
        the mean
    """

    cache_n: int
    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float | None
    wait_ms: float
    cycles_per_token: float | None
    engine_share: float | None
    board_tokens_per_second: float | None


Finish = Literal["stop", "length"]


class _Answer(_Model):
    """What whole answers and parts of streams have in common.

    Members
    -------
    seed : gives the same answer to the same request again; none for parts before the last
    """

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage | None = None
    timings: Timings | None = None
    seed: int | None = None


class TextChoice(_Model):
    index: Literal[0] = 0
    text: str
    finish_reason: Finish | None = None
    logprobs: None = None


class Completion(_Answer):
    object: Literal["text_completion"] = "text_completion"
    choices: list[TextChoice]


class Reply(_Model):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ReplyChoice(_Model):
    index: Literal[0] = 0
    message: Reply
    finish_reason: Finish
    logprobs: None = None


class ChatCompletion(_Answer):
    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ReplyChoice]


class Delta(TypedDict, total=False):
    role: str
    content: str


class DeltaChoice(_Model):
    index: Literal[0] = 0
    delta: Delta
    finish_reason: Finish | None = None
    logprobs: None = None


class ChatCompletionChunk(_Answer):
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[DeltaChoice]


class ModelEntry(_Model):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(_Model):
    object: Literal["list"] = "list"
    data: list[ModelEntry]


class Health(_Model):
    status: Literal["ok", "loading", "lost"]


class Slot(_Model):
    """A session under way, without its text."""

    id: int
    max_tokens: int
    sampled: bool
    usage: Usage
    timings: Timings


class Slots(_Model):
    """Sessions under way, in the order of their coming.

    Members
    -------
    total : sessions that there may be
    contexts : how many of them the device runs side by side
    slice_ms, swap_ms : a session's turn at the device while others wait, and a change of turns
    """

    total: int
    contexts: int
    slice_ms: float
    swap_ms: float | None
    sessions: list[Slot]


class DeviceProps(_Model):
    url: str
    state: Literal["ok", "loading", "lost"]
    board: str | None
    clock_hz: int | None
    geometry: dict[str, int] | None


class ModelProps(_Model):
    id: str
    source: str
    shape: dict[str, int]
    ternary_weights: int


class LimitProps(_Model):
    body_bytes: int
    prompt_tokens: int
    max_tokens: int
    stops: int
    stop_characters: int


class DefaultProps(_Model):
    max_tokens: int
    temperature: float


class Props(_Model):
    """What is served, and how.

    Members
    -------
    chats : how messages are joined to a prompt
    shared : whether everyone at this server is shown the texts of others
    """

    model: ModelProps
    device: DeviceProps
    total_slots: int
    limits: LimitProps
    defaults: DefaultProps
    chats: str
    shared: bool


class ErrorBody(_Model):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(_Model):
    error: ErrorBody
