"""Writes the world as an ordinary COCO dataset, and the truth beside it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import msgspec
import numpy as np

from laterna.errors import LaternaError
from laterna.files import Made, write_atomically, write_lines
from laterna.progress import followed
from laterna.records import Record, Truth
from laterna.synthesis.outputs.llava import write_llava
from laterna.world.captions import write_captions
from laterna.world.drawing import draw_image
from laterna.world.pairs import pair_records
from laterna.world.scenes import draw_truth
from laterna.world.toys import CATEGORIES, IMAGE_SIDE

WORTH_A_PROCESS = 500
"""Images up to which starting processes takes longer than drawing here."""


class WorldSummary(Record):
    """What was drawn and where."""

    folder: str
    images: int
    toys: int

    def line(self) -> str:
        """Return the summary as one line."""
        return f"drew {self.images} images of {self.toys} toys in {self.folder}"


def world_made(
    images: int,
    seed: int,
    start: int,
    change: Callable[[Truth], Truth] | None = None,
    pairs: int = 0,
) -> Made:
    """Return what a world's folder says of itself."""
    of = {"images": str(images), "seed": str(seed), "start": str(start)}
    of |= {"pairs": str(pairs)} if pairs else {}
    return Made(kind="world", of=of | ({"changed by": change.__qualname__} if change else {}))


def write_world(
    folder: Path,
    *,
    images: int,
    seed: int,
    start: int = 0,
    workers: int = 1,
    overwrite: bool = False,
    change: Callable[[Truth], Truth] | None = None,
    pairs: int = 0,
) -> WorldSummary:
    """Draw images number `start` and on of a seed's world into a COCO folder.

    Writes images/, instances.json, captions.json and truth.jsonl; with `pairs` also pairs.json, so
    many records in LLaVA's form about two of the images. The folder appears whole or
    not at all, and replaces the same world, or with `overwrite` another. `workers` are processes
    that draw (more than one need a main module that can be imported); they change nothing in the
    files. `change` makes another scene of each before it is drawn, such as one in another light.
    Raises LaternaError for no images, a negative seed or start, and where the folder holds
    anything but such a world.
    """
    if images < 1:
        raise LaternaError(f"{folder}: cannot draw {images} images, ask for at least 1")
    if seed < 0 or start < 0:
        raise LaternaError(f"{folder}: seed {seed} and start {start} cannot be negative")
    if pairs and images < 2:
        raise LaternaError(f"{folder}: {pairs} pairs need at least 2 images")
    made = world_made(images, seed, start, change, pairs)
    with write_atomically(folder, made, overwrite=overwrite) as aside:
        truths = [draw_truth("world", seed, start + number) for number in range(images)]
        truths = list(map(change, truths)) if change else truths
        (aside / "images").mkdir(parents=True)
        draw = partial(_draw, aside / "images", seed)
        with ExitStack() as stack:
            drawn: Iterable[None] = map(draw, truths)
            if workers > 1 and images > WORTH_A_PROCESS:
                pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
                drawn = stack.enter_context(pool).map(draw, truths, chunksize=32)
            deque(followed(drawn, "drawing the world", total=images), maxlen=0)
        (aside / "instances.json").write_bytes(msgspec.json.encode(_instances(truths)))
        (aside / "captions.json").write_bytes(msgspec.json.encode(_captions(truths, seed)))
        write_lines(aside / "truth.jsonl", truths)
        if pairs:
            write_llava(aside / "pairs.json", pair_records(truths, pairs, seed))
    return WorldSummary(
        folder=str(folder), images=images, toys=sum(len(truth.toys) for truth in truths)
    )


def _draw(images: Path, seed: int, truth: Truth) -> None:
    noise_seed = seed * 1_000_003 + int(truth.id)
    draw_image(truth, noise_seed).save(images / truth.image, compress_level=1)


def _images(truths: list[Truth]) -> list[dict[str, object]]:
    side = {"width": IMAGE_SIDE, "height": IMAGE_SIDE}
    return [{"id": int(t.id), "file_name": t.image, **side} for t in truths]


def _instances(truths: list[Truth]) -> dict[str, object]:
    """Return COCO's instances: boxes in pixels, x, y, width, height; signs are not annotated."""
    numbers = {name: number for number, name in enumerate(CATEGORIES, start=1)}
    annotations: list[dict[str, object]] = []
    for truth in truths:
        for toy in truth.toys:
            x, y = toy.box.x1 * IMAGE_SIDE, toy.box.y1 * IMAGE_SIDE
            width = (toy.box.x2 - toy.box.x1) * IMAGE_SIDE
            height = (toy.box.y2 - toy.box.y1) * IMAGE_SIDE
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": int(truth.id),
                    "category_id": numbers[toy.category],
                    "bbox": [round(value, 2) for value in (x, y, width, height)],
                    "area": round(width * height, 2),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return {"images": _images(truths), "annotations": annotations, "categories": categories}


def _captions(truths: list[Truth], seed: int) -> dict[str, object]:
    annotations: list[dict[str, object]] = []
    for truth in truths:
        rng = np.random.default_rng([seed, int(truth.id)])
        for caption in write_captions(truth, rng):
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": int(truth.id), "caption": caption})
    return {"images": _images(truths), "annotations": annotations}
