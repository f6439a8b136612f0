"""What an assistant says of images, with what it hangs on: `show.py MODEL OUT.png [IMAGE…]`.

Without images, four that scikit-image carries and anyone may use: a cat, a cup of coffee, a
rocket, a motorcycle. One row each: the image, and where covering it makes the answer unlikelier.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from laterna.data.images.opening import load_image
from laterna.errors import LaternaError, package, told
from laterna.evaluation.tasks.descriptions import IN_A_SENTENCE
from laterna.files import write_atomically
from laterna.inference.assistant import Assistant, load
from laterna.report.explanation import overlay

FREE = ("chelsea", "coffee", "rocket", "motorcycle_left")
SIDE, GAP, ACROSS = 160, 6, 2
"""Pixels of an image and between two; pairs in a row."""


def free_images() -> list[Path]:
    """Return the files of four images in scikit-image's package. LaternaError where there is none.

    Its data stands in files of these names; some are not given out by a function.
    """
    folder = Path(str(package("skimage.data", "enrich", "show.py").__file__)).parent
    found = [path for name in FREE for path in sorted(folder.glob(f"{name}.*"))]
    if len(found) != len(FREE):
        raise LaternaError(f"{folder}: {len(found)} of the images {', '.join(FREE)}; name files")
    return found


def shown(assistant: Assistant, image: Image.Image) -> tuple[str, Image.Image]:
    """Return the answer about an image, and both images side by side."""
    found = assistant.explain(image, IN_A_SENTENCE, methods=("occlusion",))
    if found.occlusion is None:
        raise LaternaError("this assistant's answers cannot be explained by occlusion")
    small = ImageOps.fit(image, (SIDE, SIDE))
    pair = Image.new("RGB", (2 * SIDE, SIDE), "white")
    pair.paste(small, (0, 0))
    pair.paste(overlay(small, found.occlusion.overall, side=SIDE), (SIDE, 0))
    return found.answer, pair


def sheet(pairs: Sequence[Image.Image]) -> Image.Image:
    """Return the pairs as one image, `ACROSS` in a row."""
    rows = -(-len(pairs) // ACROSS)
    size = (ACROSS * (2 * SIDE + GAP) - GAP, rows * (SIDE + GAP) - GAP)
    whole = Image.new("RGB", size, "white")
    for number, pair in enumerate(pairs):
        row, column = divmod(number, ACROSS)
        whole.paste(pair, (column * (2 * SIDE + GAP), row * (SIDE + GAP)))
    return whole


def main() -> None:
    """Read the command line, ask, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="checkpoint")
    parser.add_argument("out", type=Path, help="PNG file to write")
    parser.add_argument("images", type=Path, nargs="*")
    given = parser.parse_args()
    assistant = load(given.model)
    pairs = []
    for path in given.images or free_images():
        # Squashed, as the photographs that it learned from are.
        image = load_image(path).convert("RGB").resize((224, 224))
        answer, pair = shown(assistant, image)
        print(f"{path.name}: {answer}")
        pairs.append(pair)
    with write_atomically(given.out) as aside:
        small = sheet(pairs).quantize(128)  # a third of the bytes
        small.save(aside, format="PNG", optimize=True)


if __name__ == "__main__":
    sys.exit(told(main))
