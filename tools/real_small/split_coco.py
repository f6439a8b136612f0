"""Split a COCO-format folder into one to train on and one to ask about: `split_coco.py --help`."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

from laterna.errors import LaternaError, told
from laterna.files import write_atomically

FILES = ("instances.json", "captions.json")


def split(folder: Path, out: Path, *, held_out: int, seed: int) -> dict[str, int]:
    """Write OUT/train and OUT/held_out, each a COCO folder, and return their images' numbers.

    Which images are held out follows from the seed and the images' ids alone.
    Raises LaternaError unless both parts have an image.
    """
    contents = {name: json.loads((folder / name).read_bytes()) for name in FILES}
    ids = sorted(image["id"] for image in contents[FILES[0]]["images"])
    if not 0 < held_out < len(ids):
        raise LaternaError(f"{folder}: cannot hold out {held_out} of {len(ids)} images")
    kept_back = set(random.Random(seed).sample(ids, held_out))
    parts = {"train": set(ids) - kept_back, "held_out": kept_back}
    with write_atomically(out) as aside:
        for name, chosen in parts.items():
            _write(folder, aside / name, contents, chosen)
    return {name: len(chosen) for name, chosen in parts.items()}


def _write(
    folder: Path,
    target: Path,
    contents: dict[str, dict[str, list[dict[str, object]]]],
    chosen: Collection[object],
) -> None:
    (target / "images").mkdir(parents=True)
    for name, content in contents.items():
        images = [image for image in content["images"] if image["id"] in chosen]
        rows = [row for row in content["annotations"] if row["image_id"] in chosen]
        part = content | {"images": images, "annotations": rows}
        (target / name).write_text(json.dumps(part), encoding="utf-8")
    for image in images:
        name = str(image["file_name"])
        shutil.copyfile(folder / "images" / name, target / "images" / name)


def main() -> None:
    """Read the command line and split."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with images/, instances.json, captions.json")
    parser.add_argument("out", type=Path)
    parser.add_argument("--held-out", type=int, default=16, help="images to ask about")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(split(given.folder, given.out, held_out=given.held_out, seed=given.seed))


if __name__ == "__main__":
    sys.exit(told(main))
