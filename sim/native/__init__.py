"""``native://``: the integer model in C++ on this machine's processors, equal to golden to the bit.

``model.cpp`` is compiled at first use, for the very processor that it runs on.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from host.errors import DeviceError
from hw.arch import arithmetic
from sim import compiler, libraries
from sim.compiler import Build
from sim.libraries import Progress, Recipe, announce
from sim.software_device import SoftwareDevice
from weights import fixed, noise
from weights.fixed import Scale
from weights.model import IntegerModel
from weights.units import MachineUnits

SOURCE = Path(__file__).with_name("model.cpp")
FLAGS = ("-O3", "-Wall", "-Wextra", "-pthread")
MOST_THREADS = 256
CPU_FACTS = {
    *("vendor_id", "cpu family", "model", "flags"),  # x86
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"),  # Arm
    *("uarch", "isa"),  # RISC-V
}
"""What Linux says of a processor that decides which instructions it has."""

CONSTANTS = {
    "FULL_SCALE_MANTISSA": fixed.FULL_SCALE.mantissa,
    "FULL_SCALE_EXPONENT": fixed.FULL_SCALE.exponent,
    "MANTISSA_BITS": fixed.MANTISSA_BITS,
    "PREACTIVATION_FRACTION": fixed.PREACTIVATION_FRACTION,
    "KEY_FRACTION": fixed.KEY_FRACTION,
    "ROW_SCALE_SHIFT": fixed.ROW_SCALE_SHIFT,
    "NORM_SHIFT": fixed.NORM_SHIFT,
    "PLAIN_SHIFT": fixed.PLAIN_SHIFT,
    "GAIN_SHIFT": fixed.GAIN_SHIFT,
    "FRACTION_BITS": arithmetic.FRACTION_BITS,
    "FRACTION_MASK": arithmetic.FRACTION_MASK,
    "DELTA_BITS": arithmetic.DELTA_BITS,
    "OCTAVE_BITS": arithmetic.OCTAVE_BITS,
    "LAST_OCTAVE": arithmetic.LAST_OCTAVE,
    "DRAW_BITS": arithmetic.DRAW_BITS,
    "DRAW_MASK": arithmetic.DRAW_MASK,
    "PRODUCT_PLACE": arithmetic.PRODUCT_PLACE,
    "CODE_PLACE": arithmetic.CODE_PLACE,
    "OPERAND_BITS": arithmetic.OPERAND_BITS,
    "HIDDEN_BITS": arithmetic.HIDDEN_BITS,
    "HIDDEN_EXTRA": arithmetic.HIDDEN_EXTRA,
    "RESIDUAL_BITS": arithmetic.RESIDUAL_BITS,
    "GATE_BITS": arithmetic.GATE_BITS,
    "GATE_ONE": arithmetic.GATE_ONE,
    "GATE_MAX": arithmetic.GATE_MAX,
    "GATE_HALF": arithmetic.GATE_HALF,
    "PRODUCT_SHIFT": arithmetic.PRODUCT_SHIFT,
    "CHANGE_SHIFT": arithmetic.CHANGE_SHIFT,
}


def constants() -> str:
    """``constants.h``: what Python states already. An entry of a table is base and delta in one."""

    def values(name: str, numbers: tuple[int, ...]) -> str:
        return f"constexpr int {name}[] = {{{', '.join(map(str, numbers))}}};\n"

    def table(name: str, entries: tuple[tuple[int, int], ...]) -> str:
        low = (1 << arithmetic.DELTA_BITS) - 1
        words = (base << arithmetic.DELTA_BITS | delta & low for base, delta in entries)
        return values(name, tuple(words))

    return (
        "".join(f"constexpr int {name} = {value};\n" for name, value in CONSTANTS.items())
        + values("NOISE_STEP", noise.NOISE_STEP)
        + values("BLOCK_SHIFTS", arithmetic.BLOCK_SHIFTS)
        + table("SIGMOID", arithmetic.sigmoid_table())
        + table("GUMBEL", arithmetic.gumbel_table())
    )


def processor() -> tuple[str, ...]:
    """What this processor is; nothing where that is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").split("\n\n")[0].splitlines()
    except OSError:
        return ()
    return tuple(line for line in lines if line.partition(":")[0].strip() in CPU_FACTS)


def recipe_here() -> Recipe:
    """How the library is made that has all of this processor's instructions, if they are known."""
    machine = processor()
    return recipe("-march=native", machine=machine) if machine else recipe()


def recipe(*options: str, machine: tuple[str, ...] = ()) -> Recipe:
    """How the library is made with more options, which may be meant for one machine only."""
    title = "the native model"
    source = SOURCE.read_text(encoding="utf-8")
    flags = (*FLAGS, *options)

    def compile(folder: Path, log: Path) -> Path:
        (folder / "constants.h").write_text(constants())
        (folder / SOURCE.name).write_text(source)
        return Build(folder, log, title).library(*flags, SOURCE.name)

    return Recipe(
        title=title,
        ingredients=(source, constants(), *flags, *machine, *compiler.recipe()),
        compile=compile,
    )


class _Shape(ctypes.Structure):
    _fields_ = (
        ("hidden", ctypes.c_uint32),
        ("layers", ctypes.c_uint32),
        ("intermediate", ctypes.c_uint32),
        ("vocabulary", ctypes.c_uint32),
        ("threads", ctypes.c_uint32),
        ("residual_fraction", ctypes.c_int32),
        ("hidden_shift", ctypes.c_int32),
        ("middle_shift", ctypes.c_int32),
        ("epsilon_exponent", ctypes.c_int32),
    )


class _Scale(ctypes.Structure):
    _fields_ = (("mantissa", ctypes.c_int32), ("exponent", ctypes.c_int32))


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    pointer, number = ctypes.c_void_p, ctypes.c_uint32
    for name, result, arguments in (
        ("create", pointer, (ctypes.POINTER(_Shape), ctypes.POINTER(pointer))),
        ("delete", None, (pointer,)),
        ("start", None, (pointer,)),
        ("state", None, (pointer, pointer)),
        ("restore", None, (pointer, pointer)),
        ("step", None, (pointer, number)),
        ("head", None, (pointer, pointer, number, ctypes.POINTER(_Scale))),
        ("choose", number, (pointer, ctypes.POINTER(_Scale), number)),
    ):
        function = getattr(loaded, f"model_{name}")
        function.restype = result
        function.argtypes = arguments
    return loaded


def _tensor_names(layers: int) -> Iterator[str]:
    """Tensors in the order in which ``model.cpp`` reads them."""

    def matrix(name: str) -> Iterator[str]:
        return (f"{name}.{part}" for part in ("gain", "trits", "scale"))

    yield from ("embedding.codes", "embedding.scale")
    for n in range(layers):
        attn, mlp = f"layers.{n}.attn", f"layers.{n}.mlp"
        yield f"{attn}.norm"
        for projection in "ifg":
            yield from matrix(f"{attn}.{projection}")
        yield from (f"{attn}.lower_bound", f"{attn}.o.norm")
        yield from matrix(f"{attn}.o")
        yield from (f"{attn}.o.epsilon", f"{mlp}.norm")
        yield from matrix(f"{mlp}.gate")
        yield from matrix(f"{mlp}.down")
        yield f"{mlp}.down.epsilon"
    yield "head.norm"
    yield from matrix("head")


def _delete(library: ctypes.CDLL, model: int, owner: int) -> None:
    if os.getpid() == owner:  # its threads are not in a fork of that process
        library.model_delete(model)


class NativeModel:
    """Runs an integer model token by token, one sequence; for one thread of Python at a time.

    Parameters
    ----------
    model : IntegerModel
        Its embedding is used where it is, all else is copied.
    library : Path
        What a `recipe` makes.
    threads : int
        That work at most; fewer do where a matrix is too small to be shared out.

    Raises
    ------
    DeviceError
        There is no memory, or no thread, to be had.
    """

    def __init__(self, model: IntegerModel, library: Path, threads: int = 1):
        shape = model.shape
        self.vocabulary = shape.vocabulary
        self._state_shape = (shape.layers, shape.hidden)
        self._library = _load(library)
        units = MachineUnits.of(model)
        tensors = [np.ascontiguousarray(model[name]) for name in _tensor_names(shape.layers)]
        tensors[1] = units.row_scales(model)
        self._embedding = tensors[:2]
        self._model = self._library.model_create(
            _Shape(
                hidden=shape.hidden,
                layers=shape.layers,
                intermediate=shape.intermediate,
                vocabulary=shape.vocabulary,
                threads=threads,
                residual_fraction=units.residual_fraction,
                hidden_shift=units.hidden_shift,
                middle_shift=units.middle_shift,
                epsilon_exponent=units.epsilon_exponent,
            ),
            (ctypes.c_void_p * len(tensors))(*(tensor.ctypes.data for tensor in tensors)),
        )
        if self._model is None:
            raise DeviceError(
                f"no memory for the model, or no {threads} threads; close other programs, or use "
                "fewer threads"
            )
        weakref.finalize(self, _delete, self._library, self._model, os.getpid())
        self.start()

    def start(self) -> None:
        """Go to the zero state; `head` and `choose` need a token from then on."""
        self._library.model_start(self._model)

    @property
    def state(self) -> np.ndarray:
        """Of all tokens since the start, int32 (layers, hidden)."""
        state = np.empty(self._state_shape, dtype=np.int32)
        self._library.model_state(self._model, state.ctypes.data)
        return state

    @state.setter
    def state(self, state: np.ndarray) -> None:
        values = np.ascontiguousarray(state, dtype=np.int32)
        assert values.shape == self._state_shape
        self._library.model_restore(self._model, values.ctypes.data)

    def step(self, token: int) -> None:
        """Take a token of the vocabulary through all layers."""
        self._library.model_step(self._model, token)

    def head(self) -> tuple[np.ndarray, Scale]:
        """Sums of the head, int32 (vocabulary), and their scale."""
        sums, sigma = np.empty(self.vocabulary, dtype=np.int32), _Scale()
        self._library.model_head(self._model, sums.ctypes.data, len(sums), sigma)
        return sums, Scale(sigma.mantissa, sigma.exponent)

    def choose(self, inverse_temperature: Scale | None, noise: int) -> int:
        """The next token: greedy without a temperature, else sampled with that noise state."""
        scale = inverse_temperature and _Scale(
            inverse_temperature.mantissa, inverse_temperature.exponent
        )
        return self._library.model_choose(self._model, scale, noise)

    def logits(self) -> np.ndarray:
        """Real logits, float64 (vocabulary)."""
        sums, sigma = self.head()
        return sums * float(sigma)


def processors() -> int:
    """How many of the machine's processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class NativeDevice(SoftwareDevice):
    """A model on this machine's processors; its library is compiled unless it is there.

    Parameters
    ----------
    threads : int or None
        That work at most; as many as there are processors unless given.
    name : str
        What messages call the device.
    progress : callable
        Receives a line of text when something takes long.

    Raises
    ------
    SimulationError, ModelError
        The library cannot be made; see `libraries.library`.
    """

    def __init__(
        self,
        threads: int | None = None,
        *,
        name: str = "native://",
        progress: Progress = announce,
    ):
        library = libraries.library(recipe_here(), progress=progress)
        threads = min(processors(), MOST_THREADS) if threads is None else threads
        super().__init__(name, partial(NativeModel, library=library, threads=threads))
