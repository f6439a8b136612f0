"""How long a killed run takes from its start to its first step, over data of a size to choose.

    python benchmarks/resume.py [--records 665000] [--images 20000] [--folder FOLDER] [--cached]

Makes that many records about tiny images, trains a stage that shares images over them in a
process of its own, kills it with SIGKILL after its third step, runs the same command again, and
prints what that took until a step was done, by the clock and in CPU seconds; of it, what imports,
the model and the saved state took; and what is left. With `--cached` the encoder's features come
from the cache on disk.

How long it takes to prepare so many records is another question (`preparation.py`): here the first
49 chunks of 512 rows are prepared, all images among them, and the parts that follow repeat them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BEGUN = "LATERNA_BEGUN"
"""In the environment of the run that is measured: when it was started."""
STEPS = 3
PREPARED = 3
"""Parts that are really prepared, 8,192 rows each."""
WORDS = "red blue cup plate apple lies stands beside behind small large table two".split()


def write_data(folder: Path, records: int, images: int) -> Path:
    """Write images of one colour each, and records of one caption about them in turn."""
    from PIL import Image

    images = folder / "images"
    images.mkdir(parents=True)
    draw = random.Random(0)
    for number in range(images):
        colour = tuple(draw.randrange(256) for _ in range(3))
        Image.new("RGB", (16, 16), colour).save(images / f"{number:07}.png")
    path = folder / "records.json"
    with path.open("w", encoding="utf-8") as file:
        for number in range(records):
            text = " ".join(draw.choices(WORDS, k=12))
            turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": text}]
            row = {"id": number, "image": f"{number % images:07}.png", "conversations": turns}
            file.write(("[" if number == 0 else ",\n") + json.dumps(row))
        file.write("]\n")
    return path


def write_encoder(folder: Path) -> Path:
    """Write a CLIP with random weights that is quick enough to see all images."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    CLIPVisionModel(config).save_pretrained(folder)
    side = {"height": 28, "width": 28}
    CLIPImageProcessorPil(size=side, crop_size=side).save_pretrained(folder)
    return folder


def fill_quickly(place: Path, source: Any, job: Any, tokenizer: Any, *_: object) -> None:
    """Prepare the first parts of a source, and repeat them for its other rows."""
    from itertools import cycle, islice

    from laterna.data.preparation import PART_CHUNKS, cache
    from laterna.data.preparation.workers import do_chunks

    chunks = list(source.chunks())
    done = list(do_chunks(iter(chunks[: PREPARED * PART_CHUNKS]), job, tokenizer, 1))
    parts = -(-len(chunks) // PART_CHUNKS)
    again = cycle(done)
    for number in range(parts):
        batches = [one.batch for one in islice(again, PART_CHUNKS)]
        cache.write_part(cache.part_path(place, number), batches, [])
    cache.write_manifest(place, rows=sum(len(chunk.json) for chunk in chunks), parts=parts)


def write_recipe(folder: Path, data: Path, *, cached: bool) -> Path:
    """Write the nano recipe over that data with a smaller encoder, saving at every step."""
    import msgspec

    from laterna.recipe import RunSettings, load_recipe

    nano = load_recipe("nano")
    align = msgspec.structs.replace(
        nano.align, data=str(data), images=str(data.parent / "images"), max_steps=1000
    )
    recipe = msgspec.structs.replace(
        nano,
        threads=1,
        vision=msgspec.structs.replace(nano.vision, source=str(folder / "encoder")),
        prepared=str(folder / "prepared"),
        feature_cache=str(folder / "features") if cached else "",
        align=align,
        run=RunSettings(save_minutes=0, save_steps=1),
    )
    path = folder / ("cached.json" if cached else "direct.json")
    path.write_bytes(msgspec.json.encode(recipe))
    return path


def run_child(path: Path) -> None:
    """Train, and say on stdout when what was done, in seconds since the process was started."""
    began = float(os.environ[BEGUN])

    def say(what: str) -> None:
        figures = {"what": what, "at": time.time() - began, "cpu": sum(os.times()[:2])}
        sys.stdout.write(json.dumps(figures) + "\n")
        sys.stdout.flush()

    import msgspec

    import laterna.training.run
    import laterna.training.setup
    from laterna.data import preparation
    from laterna.recipe import Recipe
    from laterna.training.resume import States

    def told(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            say(f"{name} begins")
            found = real(*args, **kwargs)
            say(f"{name} ends")
            return found

        return wrapped

    def stepping(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for done in real_steps(*args, **kwargs):
            say("step")
            yield done

    say("imported")
    preparation._fill = fill_quickly
    real_steps = laterna.training.run.train_steps
    laterna.training.run.train_steps = stepping
    laterna.training.setup.begin = told("model", laterna.training.setup.begin)
    States.find = told("find", States.find)  # type: ignore[method-assign]
    States.restore = told("restore", States.restore)  # type: ignore[method-assign]
    recipe = msgspec.json.decode(path.read_bytes(), type=Recipe)
    laterna.training.run.train(recipe, stage="align", out=path.with_suffix(".out"))


def run_until(path: Path, steps: int) -> dict[str, dict[str, float]]:
    """Run until so many steps are done, kill it, and return what it said when it first did it."""
    environment = {**os.environ, BEGUN: repr(time.time())}
    command = [sys.executable, __file__, "--child", str(path)]
    first: dict[str, dict[str, float]] = {}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith('{"what"'):
                continue
            told = json.loads(line)
            first.setdefault(told.pop("what"), told)
            steps -= '"what": "step"' in line
            if steps == 0:
                break
        process.kill()
    if steps:
        raise SystemExit("the run ended before it was killed")
    return first


def measure(path: Path) -> dict[str, dict[str, float]]:
    """Start, kill, go on and kill again; return the second start's seconds, part by part."""
    run_until(path, STEPS)
    found = run_until(path, 1)
    figures = {}
    for clock in ("at", "cpu"):
        when = {what: told[clock] for what, told in found.items()}
        parts = {"imports": when["imported"]}
        for part in ("model", "find", "restore"):
            parts[part] = when.get(f"{part} ends", 0) - when.get(f"{part} begins", 0)
        rest = when["step"] - sum(parts.values())
        figures[clock] = {"first step": when["step"], **parts, "rest": rest}
    return figures


def main() -> None:
    """Make the data where it is not there yet, measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=665_000)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--cached", action="store_true")
    parser.add_argument("--child", type=Path, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        run_child(given.child)
        return
    with tempfile.TemporaryDirectory() as aside:
        folder = given.folder or Path(aside)
        data = folder / "data"
        path = data / "records.json"
        if not path.is_file():
            write_data(data, given.records, given.images)
            write_encoder(folder / "encoder")
        figures = measure(write_recipe(folder, path, cached=given.cached))
    for clock, parts in figures.items():
        named = ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items())
        sys.stdout.write(f"{'by the clock' if clock == 'at' else 'CPU seconds'}: {named}\n")
    sys.stdout.write(f"load average {os.getloadavg()[0]:.1f}\n")


if __name__ == "__main__":
    main()
