"""What every page is made of: the template environment, images inside it, and shown answers."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from laterna.files import write_atomically
from laterna.records import Answer

NamedTexts = tuple[tuple[str, str], ...]
"""Lines of a table: what, and its value."""


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


def write_page(path: Path, template: str, **shown: object) -> None:
    """Write a page by a template: one HTML file that needs nothing else."""
    text = page_environment().get_template(template).render(**shown)
    with write_atomically(path) as aside:
        aside.write_text(text, encoding="utf-8")


def share(part: float, whole: int) -> str:
    """Return a share in percent as pages write it; a dash over nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def jpeg_uri(image: Image.Image) -> str:
    """Return an image as a JPEG data URI."""
    data = io.BytesIO()
    image.save(data, format="JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"


def shrink(image: Image.Image, side: int) -> None:
    """Make an image no longer than `side` pixels either way, in place."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)


def choose(answers: Sequence[Answer], wrong: int, right: int, seed: int) -> list[Answer]:
    """Draw answers by lot, kinds in turn: so many that are not right, and so many that are."""
    found = []
    for number, wanted in ((wrong, False), (right, True)):
        groups: dict[str, list[Answer]] = {}
        for answer in sorted(answers, key=lambda one: one.question.id):
            if (answer.score == 1) is wanted:
                groups.setdefault(answer.question.kind, []).append(answer)
        rng = random.Random(seed)
        for group in groups.values():
            rng.shuffle(group)
        chosen: list[Answer] = []
        while any(groups.values()) and len(chosen) < number:
            chosen += [group.pop() for group in groups.values() if group][: number - len(chosen)]
        found += chosen
    return found
