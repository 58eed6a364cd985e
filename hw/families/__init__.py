"""Families of devices: all that a build must know of one. `of` alone tells them apart."""

import difflib
from collections.abc import Mapping

from hw.families import ecp5, gowin, ice40, xilinx
from hw.families.family import Family
from weights.errors import ReportedError

FAMILIES = (ecp5.FAMILY, gowin.FAMILY, ice40.FAMILY, xilinx.FAMILY)


class PartError(ReportedError, ValueError):
    """No family has such a part."""


def of(part: str | None) -> Family:
    """The family of a part; ``PartError`` with those closest to it if none has it."""
    for family in FAMILIES:
        if part in family.parts:
            return family
    known = [name for family in FAMILIES for name in family.parts]
    near = difflib.get_close_matches(str(part), known, n=3) or known
    raise PartError(
        f"device must be a part that hw/families has, as {', '.join(near)}, without package and "
        f"speed, not {part!r}; one more is a line in its family"
    )


def capacity(part: str | None) -> Mapping[str, int]:
    """What a part has of ``lut4``, ``ff``, ``bram`` and ``dsp``; raises as `of`."""
    family = of(part)
    assert part is not None  # or no family has it
    return family.parts[part]
