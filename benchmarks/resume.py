"""How long a killed run takes from its start to its first step, over data of a size to choose.

    python benchmarks/resume.py [--records 665000] [--pictures 20000] [--folder FOLDER] [--cached]

Makes that many records about tiny pictures, trains the nano recipe's first stage over them in a
process of its own, kills it with SIGKILL after its third step, runs the same command again, and
prints what that took until a step was done: by the clock, and without loading the model and the
saved state. With `--cached` the encoder's features come from the cache on disk.
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
WORDS = "red blue cup plate apple lies stands beside behind small large table two".split()


def write_data(folder: Path, records: int, pictures: int) -> Path:
    """Write pictures of one colour each, and records of one caption about them in turn."""
    from PIL import Image

    images = folder / "images"
    images.mkdir(parents=True)
    draw = random.Random(0)
    for number in range(pictures):
        colour = tuple(draw.randrange(256) for _ in range(3))
        Image.new("RGB", (16, 16), colour).save(images / f"{number:07}.png")
    path = folder / "records.json"
    with path.open("w", encoding="utf-8") as file:
        for number in range(records):
            text = " ".join(draw.choices(WORDS, k=12))
            turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": text}]
            image = f"{draw.randrange(pictures):07}.png"
            row = {"id": number, "image": image, "conversations": turns}
            file.write(("[" if number == 0 else ",\n") + json.dumps(row))
        file.write("]\n")
    return path


def write_recipe(folder: Path, data: Path, *, cached: bool) -> Path:
    """Write the nano recipe over that data, saving a state at every step."""
    import msgspec

    from laterna.recipe import RunSettings, load_recipe

    nano = load_recipe("nano")
    align = msgspec.structs.replace(
        nano.align, data=str(data), pictures=str(data.parent / "images"), max_steps=1000
    )
    recipe = msgspec.structs.replace(
        nano,
        threads=1,
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
        sys.stdout.write(json.dumps({"what": what, "at": time.time() - began}) + "\n")
        sys.stdout.flush()

    import msgspec

    import laterna.training.run
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
    real_steps = laterna.training.run.train_steps
    laterna.training.run.train_steps = stepping
    laterna.training.run.begin = told("model", laterna.training.run.begin)
    States.restore = told("state", States.restore)  # type: ignore[method-assign]
    recipe = msgspec.json.decode(path.read_bytes(), type=Recipe)
    laterna.training.run.train(recipe, stage="align", out=path.with_suffix(".out"))


def run_until(path: Path, steps: int) -> dict[str, float]:
    """Run until so many steps are done, kill it, and return when what was first done."""
    environment = {**os.environ, BEGUN: repr(time.time())}
    command = [sys.executable, __file__, "--child", str(path)]
    first: dict[str, float] = {}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith('{"what"'):
                continue
            told = json.loads(line)
            first.setdefault(told["what"], told["at"])
            steps -= told["what"] == "step"
            if steps == 0:
                break
        process.kill()
    if steps:
        raise SystemExit("the run ended before it was killed")
    return first


def measure(path: Path) -> dict[str, float]:
    """Start, kill, and go on; return the seconds of both starts until their first step."""
    cold = run_until(path, STEPS)
    warm = run_until(path, 1)
    model = warm["model ends"] - warm["model begins"]
    state = warm["state ends"] - warm["state begins"]
    return {
        "first start": cold["step"],
        "resumed": warm["step"],
        "imports": warm["imported"],
        "model": model,
        "state": state,
        "resumed, without model and state": warm["step"] - model - state,
    }


def main() -> None:
    """Make the data where it is not there yet, measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=665_000)
    parser.add_argument("--pictures", type=int, default=20_000)
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
            write_data(data, given.records, given.pictures)
        figures = measure(write_recipe(folder, path, cached=given.cached))
    figures["load"] = os.getloadavg()[0]
    sys.stdout.write(json.dumps({name: round(value, 2) for name, value in figures.items()}) + "\n")


if __name__ == "__main__":
    main()
