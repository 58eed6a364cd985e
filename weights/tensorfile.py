"""Reads safetensors files a few rows at a time, and writes them in one step.

The `safetensors` package checks the header; the data is read here, because its NumPy interface
has no bfloat16 and hands out whole tensors only. Reads go through the file rather than a memory
map: a file cut while it is open then gives an error and not a bus fault.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from .errors import ModelError
from .files import atomic_file, check_pointer

STORED_TYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # the upper half of a float32's bits
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
"""safetensors' type names, and the NumPy type that holds the same bytes."""

_TYPE_NAMES = {stored: name for name, stored in STORED_TYPES.items() if name != "BF16"}


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """Where one tensor lies in its file.

    Members
    -------
    type_name : safetensors' name of the element type, such as ``"BF16"``
    shape : dimensions, row-major
    offset : first byte, counted from the start of the file
    """

    type_name: str
    shape: tuple[int, ...]
    offset: int


class TensorFile:
    """A safetensors file, opened by its header only.

    Raises
    ------
    ModelError
        When the file is missing, cut short, or not safetensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if path.exists() and not path.is_file():  # a pipe would make this wait
                raise ModelError(f"{path}: not a file; give a safetensors file")
            with path.open("rb") as file:
                beginning = file.read(64)
                check_pointer(path, beginning)
                with safe_open(str(path), framework="numpy"):
                    pass
                (header_size,) = struct.unpack("<Q", beginning[:8])
                file.seek(8)
                header = json.loads(file.read(header_size))
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
        except (SafetensorError, ValueError, RecursionError, struct.error) as error:
            raise ModelError(
                f"{path}: truncated or not a safetensors file ({error}); fetch or write it again"
            ) from error
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self.entries: dict[str, TensorEntry] = {
            name: TensorEntry(
                type_name=entry["dtype"],
                shape=tuple(entry["shape"]),
                offset=8 + header_size + entry["data_offsets"][0],
            )
            for name, entry in header.items()
        }

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """Bytes of a tensor, or of `rows` of its first dimension, as the stored type.

        bfloat16 comes as ``uint16``, see `widen`.
        """
        entry = self.entries[name]
        stored = STORED_TYPES.get(entry.type_name)
        if stored is None:
            raise ModelError(
                f"{self.path}: {name} has element type {entry.type_name}, which is not supported"
            )
        shape = entry.shape
        offset = entry.offset
        if rows is not None:
            first, stop, _ = rows.indices(shape[0])
            row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * stored.itemsize
            offset += first * row_bytes
            shape = (max(stop - first, 0), *shape[1:])
        count = int(np.prod(shape, dtype=np.int64))
        try:
            with self.path.open("rb") as file:
                flat = np.fromfile(file, dtype=stored, count=count, offset=offset)
        except OSError as error:
            raise ModelError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        if flat.size != count:
            raise ModelError(f"{self.path}: cut short within {name}; fetch or write it again")
        return flat.reshape(shape)


def widen(values: np.ndarray, type_name: str) -> np.ndarray:
    """`values` of a stored floating-point type as ``float32``, exactly.

    Parameters
    ----------
    values : what `TensorFile.read` gave
    type_name : ``"F32"``, ``"F16"`` or ``"BF16"``
    """
    if type_name == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Writes a safetensors file in one step: `path` is the old file or the whole new one.

    The order of bytes depends on names, types and shapes only, so that equal content gives equal
    files; wide types come first, so that each tensor is aligned. Raises `OSError`.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _TYPE_NAMES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": (begin, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            file.write(np.ascontiguousarray(tensors[name]).data)
