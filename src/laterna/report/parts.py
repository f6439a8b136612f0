"""What every page of ours is made of: the template environment, pictures and drawings inside it."""

from __future__ import annotations

import base64
import io

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

NamedTexts = tuple[tuple[str, str], ...]
"""Lines of a table: what, and its value."""
INK, LINE = "#333333", "#1f5f8b"
"""Colours of drawings: words, and what is shown."""


def page_environment() -> Environment:
    """Return the environment of the page templates; what stands in a page is escaped."""
    environment = Environment(
        loader=PackageLoader("laterna.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["share"] = share
    return environment


def share(part: float, whole: int) -> str:
    """Return a share in percent as pages write it; a dash over nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def jpeg_uri(picture: Image.Image) -> str:
    """Return a picture as a JPEG data URI."""
    data = io.BytesIO()
    picture.save(data, format="JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"


def shrink(picture: Image.Image, side: int) -> None:
    """Make a picture no longer than `side` pixels either way, in place."""
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)


def drawing_look(name: str) -> dict[str, object]:
    """Return matplotlib's settings for a drawing that stands inside a page."""
    # Drawings share a page, so their SVG identifiers must differ: the salt is the name.
    return {"svg.hashsalt": f"laterna {name}", "svg.fonttype": "none", "font.size": 9}


def svg_of(figure: Figure, name: str) -> str:
    """Return a figure as an `<svg>` element; to be called within `drawing_look`."""
    text = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) | {"Title": name}
    figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    document = text.getvalue()
    # The XML prologue has no place inside HTML.
    return document[document.index("<svg") :]
