"""What pictures are drawn with: SVG, as text, that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

INK, FAINT, GROUND = "#1a202c", "#4a5568", "#fff"
"""Of text, of what only explains, and behind all."""


def document(
    width: float,
    height: float,
    lines: Iterable[str],
    *,
    title: str,
    description: str = "",
    style: str = "",
    **attributes: object,
) -> str:
    """A whole picture on its ground; title and description are for those who do not see it.

    Parameters
    ----------
    lines : iterable of str
        Elements.
    style : str
        CSS.
    attributes
        Of the outermost element, as in `element`.
    """
    size = {"width": f"{width:g}", "height": f"{height:g}", "viewBox": f"0 0 {width:g} {height:g}"}
    parts = [element("title", title)]
    if description:
        parts.append(element("desc", description))
    if style:
        parts.append(f"<style>{style}</style>")
    parts.append(_tag("rect", {"width": "100%", "height": "100%", "fill": GROUND}) + "</rect>")
    start = _tag("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img"} | size | attributes)
    return "\n".join([start, *parts, *lines, "</svg>", ""])


def element(name: str, content: str = "", **attributes: object) -> str:
    """An element with text in it; ``text_anchor`` stands for the attribute ``text-anchor``."""
    return f"{_tag(name, attributes)}{escape(content, quote=False)}</{name}>"


def words(x: float, y: float, content: str, **attributes: object) -> str:
    """Text that begins, unless it is anchored elsewhere, at ``x``; ``y`` is its base line."""
    return element("text", content, x=f"{x:.1f}", y=f"{y:g}", **attributes)


def rectangle(
    x: float, y: float, width: float, height: float, *, note: str = "", **attributes: object
) -> str:
    """A rectangle, with a note for those who point at it."""
    at = {"x": f"{x:.2f}", "y": f"{y:g}", "width": f"{width:.2f}", "height": f"{height:g}"}
    return f"{_tag('rect', at | attributes)}{element('title', note) if note else ''}</rect>"


def _tag(name: str, attributes: dict[str, object]) -> str:
    pairs = (f' {key.replace("_", "-")}="{escape(str(to))}"' for key, to in attributes.items())
    return f"<{name}{''.join(pairs)}>"
