"""Compiles an integer model for a geometry: program, tables and weights as a device stores them.

An image is made from what a device reports of itself and is never stored.
"""

from host.compiler.image import Image
from host.compiler.mmfree import compile_mmfree
from hw.arch.geometry import Geometry
from weights.model import IntegerModel


def compile_image(model: IntegerModel, geometry: Geometry) -> Image:
    """Lay out a model for a device.

    Raises
    ------
    FitError
        If a memory or a field is too small; the message names each with what is needed and there.
    """
    return compile_mmfree(model, geometry)
