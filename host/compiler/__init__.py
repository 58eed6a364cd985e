"""Compiles an integer model for a geometry: program, tables and weights as a device stores them.

An image is made from what a device reports of itself and is never stored.
"""

from dataclasses import replace

from host.compiler.image import Image
from host.compiler.mmfree import compile_mmfree, spare_memory, working_memory
from hw.arch.geometry import LARGEST, Geometry
from weights.model import IntegerModel


def compile_image(model: IntegerModel, geometry: Geometry) -> Image:
    """Lay out a model for a device.

    Raises
    ------
    FitError
        If a memory or a field is too small; the message names each with what is needed and there.
    """
    return compile_mmfree(model, geometry)


def compile_fitting(model: IntegerModel, geometry: Geometry, *, spare: bool = False) -> Image:
    """Lay out a model for a machine of these lanes and elements whose memories just hold it.

    Its ``geometry`` says how deep they are; ``spare`` is room that makes it faster, too.

    Raises
    ------
    FitError
        No machine can run it.
    """
    loaded = ["weight_rows", "table_words", "descriptors"]
    if geometry.embedding_words:
        loaded.append("embedding_words")
    working = working_memory(model.shape, geometry)
    if spare:
        room = spare_memory(model.shape, geometry)
        working |= {name: max(working[name], size) for name, size in room.items()}
    deep = replace(
        geometry, **working, **{name: LARGEST[name] for name in loaded}, contexts=1
    ).with_contexts(geometry.contexts)
    image = compile_image(model, deep)
    return replace(image, geometry=replace(deep, **image.depths))
