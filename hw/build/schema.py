"""What a ``report.json`` holds: each key once, with its meaning, unit and type.

`Report` is all of it. `to_json` writes one, and `from_json` reads one and takes nothing else: no
key may be missing, unknown or of another type. A change of the keys is a new `SCHEMA`.
docs/reports.md has the same as a table, made by `document`.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

SCHEMA = 2
"""Version of the keys below."""

READABLE = (1, SCHEMA)
"""Versions that are read: one of the first is of a build that was routed, as all were."""


CALLED = {
    **{"lut4": "LUT4", "ff": "flip-flops", "bram": "block RAM", "dsp": "multipliers"},
    "spram": "large RAM",
}
"""Resources, as people call them."""


NEEDED = {
    "resources": ("lut4", "ff", "bram", "dsp"),
    "geometry": ("rows", "columns", "elements", "contexts"),
}
"""What must be among names of which there may be more."""
_NONE = f"is no report of version {SCHEMA}"


class SchemaError(ValueError):
    """What was read is no report of this version; the message says why, without the file."""


@dataclass(frozen=True)
class Key:
    """What a key means, and in which unit it is."""

    meaning: str
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Use:
    """What a machine takes of one resource of its device."""

    used: Annotated[int, Key("what nextpnr placed, or yosys left if nothing was routed")]
    available: Annotated[int, Key("what the device has")]
    estimate: Annotated[int, Key("what `hw.build.estimate` said before")]

    @property
    def share(self) -> float:
        """Of what the device has; of what it has none of, nothing is used."""
        return self.used / self.available if self.available else 0.0


@dataclass(frozen=True, kw_only=True)
class Hop:
    """A cell on a path of signals, and the wire to it."""

    cell: Annotated[str, Key("name of the cell")]
    unit: Annotated[str, Key("of the core, or `other`")]
    x: Annotated[int, Key("column of its tile", "tiles")]
    y: Annotated[int, Key("row of its tile", "tiles")]
    wire_ns: Annotated[float, Key("in the wire that leads to it; 0 for the first", "ns")]
    cell_ns: Annotated[float, Key("in the cell", "ns")]


@dataclass(frozen=True, kw_only=True)
class Streams:
    """How fast the model runs in some of the machine's contexts at once."""

    contexts: Annotated[int, Key("texts that are written side by side")]
    cycles_predicted: Annotated[int, Key("for a token in each of them, by `sim.timing`", "cycles")]
    cycles_simulated: Annotated[
        float | None,
        Key("the same, counted by the compiled core; null if it was not run so", "cycles"),
    ]
    utilization: Annotated[
        float, Key("ternary weights of these tokens to what the lanes could take")
    ]
    tokens_per_s: Annotated[
        float | None,
        Key("of all together, at the routed clock; null if nothing was routed", "tokens/s"),
    ]
    tokens_per_s_as_built: Annotated[
        float, Key("the same at the clock that the bitstream is asked to have", "tokens/s")
    ]

    @property
    def cycles(self) -> float:
        """Simulated if they were, or else predicted."""
        return self.cycles_predicted if self.cycles_simulated is None else self.cycles_simulated

    @property
    def kind(self) -> str:
        """Which of the two."""
        return "predicted" if self.cycles_simulated is None else "simulated"


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of the model's program in a token of one stream."""

    name: Annotated[str, Key("of the step")]
    unit: Annotated[str, Key("that it is for")]
    times: Annotated[int, Key("how often it is executed in a token")]
    cycles_simulated: Annotated[float | None, Key("counted, all times together", "cycles")]
    cycles_predicted: Annotated[int, Key("predicted, all times together", "cycles")]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A build: routed, or as far as synthesis where no router of the device is at hand."""

    board: Annotated[str, Key("name of the board")]
    device: Annotated[str, Key("its part")]
    digest: Annotated[
        str, Key("of all that decides the bitstream but seed and tools; the device says it")
    ]
    machine: Annotated[
        str, Key("digest of the board's machine, link and clock: `Board.machine_digest`")
    ]
    geometry: Annotated[dict[str, int], Key("sizes of the machine: `hw.arch.geometry.Geometry`")]
    lanes: Annotated[int, Key("ternary weights that the engine takes in a cycle")]
    resources: Annotated[
        dict[str, Use],
        Key(
            "`lut4`, `ff`, `bram`, `dsp`, and `spram` where there is any; of Xilinx's devices "
            "LUTs have six inputs, and a RAMB36 is two block RAMs"
        ),
    ]
    cells_by_unit: Annotated[
        dict[str, dict[str, int]],
        Key("placed cells of each unit of the core, by resource; `other` is of none"),
    ]
    clock_mhz: Annotated[
        float | None,
        Key(
            "that the slowest path of the machine's clock allows; null if nothing was routed", "MHz"
        ),
    ]
    clock_required_mhz: Annotated[float, Key("that the bitstream's PLL makes", "MHz")]
    passed: Annotated[
        bool | None, Key("whether every clock is as fast as required; null if nothing was routed")
    ]
    critical_path: Annotated[tuple[Hop, ...], Key("that slowest path, from register to register")]
    seed: Annotated[
        int | None, Key("of the placer: the fastest that was tried; null if nothing was routed")
    ]
    seeds: Annotated[
        dict[str, float | None], Key("clock of each seed that was tried; null if none", "MHz")
    ]
    failures: Annotated[dict[str, str], Key("why, for each seed that has none")]
    tools: Annotated[dict[str, str], Key("version of each tool that ran")]
    seconds: Annotated[dict[str, float], Key("that each of them took", "s")]
    model: Annotated[
        str | None, Key("that the figures below are of; null if none runs on the machine")
    ]
    trits_per_token: Annotated[int | None, Key("ternary weights that a token of it takes")]
    streams: Annotated[tuple[Streams, ...], Key("for one context, and for all if there are more")]
    profile: Annotated[
        tuple[Step, ...] | None, Key("a token of one stream; left out of kept reports")
    ]

    @property
    def engine_lut4(self) -> int:
        """LUTs of the ternary engine."""
        return self.cells_by_unit.get("engine", {}).get("lut4", 0)

    @property
    def cells_ns(self) -> float:
        """Of the critical path, in cells."""
        return sum(hop.cell_ns for hop in self.critical_path)

    @property
    def wires_ns(self) -> float:
        """Of the critical path, in wires."""
        return sum(hop.wire_ns for hop in self.critical_path)


# JSON ------------------------------------------------------------------------------------------


def to_json(report: Report) -> str:
    """A report as text, indented, but with each list and object of plain values in one line."""
    value = {"schema": SCHEMA, **dataclasses.asdict(report)}
    text = json.dumps(value, indent=2, allow_nan=False)
    plain = r'((?:"(?:[^"\\]|\\.)*"|[^][{}"])*?)'
    for begin, end in ("[]", "{}"):
        text = re.sub(
            rf"\{begin}\s+{plain}\s+\{end}",
            lambda found: found[0][0] + re.sub(r"\n *", " ", found[1]) + found[0][-1],
            text,
        )
    return text + "\n"


def from_json(text: str | bytes) -> Report:
    """The report that `to_json` wrote. Raises `SchemaError` for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SchemaError("is no JSON; give the report.json of a build") from error
    if not isinstance(value, dict) or "digest" not in value:
        raise SchemaError("is no report of hw.build; give the report.json of a build")
    version = value.pop("schema", None)
    if version is None:
        raise SchemaError("is of a build from before reports had versions; build the board again")
    if version not in READABLE or type(version) is not int:
        newer = isinstance(version, int) and version > SCHEMA
        remedy = "take the version of Tritstream that made it" if newer else "build the board again"
        raise SchemaError(f"is a report of version {version!r}, not {SCHEMA}: {remedy}")
    report: Report = _take(Report, value, "")
    for where, names in NEEDED.items():
        for name in names:
            if name not in getattr(report, where):
                raise SchemaError(f"{_NONE}: {where}.{name} is missing")
    return report


def _take(kind: Any, value: Any, where: str) -> Any:
    """A value as a field has it, or `SchemaError` with the key that is wrong."""
    inner = get_args(kind)
    origin = get_origin(kind)
    if origin is UnionType:
        if value is None:
            return None
        (kind,) = set(inner) - {NoneType}
        return _take(kind, value, where)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        if odd := hints.keys() ^ value.keys():
            name = min(odd)
            what = "is missing" if name in hints else "is unknown"
            raise SchemaError(f"{_NONE}: {_join(where, name)} {what}")
        assert isinstance(kind, type)
        return kind(**{n: _take(hint, value[n], _join(where, n)) for n, hint in hints.items()})
    if origin is tuple and isinstance(value, list):
        return tuple(_take(inner[0], each, f"{where}[{n}]") for n, each in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {name: _take(inner[1], each, _join(where, name)) for name, each in value.items()}
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return value
    if type(value) is kind and kind is not float:
        return value
    raise SchemaError(f"{_NONE}: {where} must be {_called(kind)}, not {value!r:.60}")


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


NAMES = {int: "integer", float: "number", str: "text", bool: "boolean"}


def _called(kind: Any) -> str:
    """What people call a type."""
    inner = get_args(kind)
    match get_origin(kind):
        case origin if origin is UnionType:
            (kind,) = set(inner) - {NoneType}
            return f"{_called(kind)} or null"
        case origin if origin is tuple:
            return "list"
        case origin if origin is dict:
            return "object"
    return NAMES.get(kind, "object")


# Document --------------------------------------------------------------------------------------


def document() -> str:
    """All keys as a table in markdown; ``*`` is any name, ``[]`` any place in a list."""
    rows = [
        f"| `{name}` | {called} | {unit} | {meaning} |"
        for name, called, unit, meaning in (
            ("schema", "integer", "", f"version of these keys: {SCHEMA}"),
            *_rows(Report, ""),
        )
    ]
    return "\n".join(["| key | type | unit | meaning |", "|---|---|---|---|", *rows])


def _rows(kind: Any, where: str) -> Iterator[tuple[str, str, str, str]]:
    for each, annotated in get_type_hints(kind, include_extras=True).items():
        hint, key = get_args(annotated)
        name = _join(where, each)
        yield name, _called(hint), key.unit, key.meaning
        for path, inner in _within(hint, name):
            if dataclasses.is_dataclass(inner):
                yield from _rows(inner, path)


def _within(kind: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Where the values of lists and objects are, and what they are."""
    inner = get_args(kind)
    match get_origin(kind):
        case origin if origin is UnionType:
            for each in inner:
                yield from _within(each, where)
        case origin if origin is tuple:
            yield f"{where}[]", inner[0]
        case origin if origin is dict:
            yield f"{where}.*", inner[1]
