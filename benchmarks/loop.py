"""What of a training step is neither forward, backward nor optimizer, part by part.

    python benchmarks/loop.py [--steps 60] [--images 400] [--threads 1] [--cached] [--out FILE]

Draws a world, trains both stages of the shipped nano recipe on it for so many steps, and times
every part of a step on the thread that trains, by the clock and in that thread's CPU seconds. What
other threads do meanwhile, who read images and make the next batches, is told beside it. The
first steps are left out: they warm up. With `--cached` the encoder's features come from the disk,
as in the demo.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace

import laterna.training.loop
import laterna.training.run
from laterna.recipe import Recipe, StageName, load_recipe
from laterna.synthesis.run import INSTRUCTION_KINDS, synthesize
from laterna.training.objective import Objective
from laterna.training.optimizers import Optimizers
from laterna.training.parallel import Ranks
from laterna.training.resume import States
from laterna.training.telemetry import MetricsFile, StageBar, read_metrics
from laterna.training.throughput import Meter, VisionClock, speeds
from laterna.training.train_state import TrainState
from laterna.world.dataset import write_world

WARM_UP = 5
MODEL = ("forward", "backward", "clip", "optimizer")
"""Parts that are not the loop's; all others are."""


class Parts:
    """Seconds by part: by the clock, and of the thread that trains."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.wall: defaultdict[str, float] = defaultdict(float)
        self.cpu: defaultdict[str, float] = defaultdict(float)
        self.begun = time.perf_counter(), time.thread_time(), time.process_time()
        self.steps = 0

    def timed(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that is timed as a part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return real(*args, **kwargs)
            finally:
                self.wall[name] += time.perf_counter() - wall
                self.cpu[name] += time.thread_time() - cpu

        return call

    def figures(self) -> dict[str, Any]:
        """Return milliseconds a step of every part, and what is left."""
        now = time.perf_counter(), time.thread_time(), time.process_time()
        wall, cpu, process = (end - begin for end, begin in zip(now, self.begun, strict=True))
        found: dict[str, Any] = {"steps": self.steps}
        for clock, whole, spent in (("clock", wall, self.wall), ("cpu", cpu, self.cpu)):
            parts = dict(spent) | {"rest": whole - sum(spent.values())}
            model = sum(parts[name] for name in MODEL)
            found[clock] = {name: 1000 * took / self.steps for name, took in parts.items()}
            found[clock]["step"] = 1000 * whole / self.steps
            found[f"loop_share_{clock}"] = 1 - model / whole
        found["other_threads_cpu"] = 1000 * (process - cpu) / self.steps
        return found


def take_apart(parts: Parts) -> None:
    """Time the parts of a step wherever they are called."""
    run, loop = laterna.training.run, laterna.training.loop
    owners: tuple[tuple[str, Any, str], ...] = (
        ("forward", Objective, "forward"),
        ("backward", torch.Tensor, "backward"),
        ("clip", loop, "gradient_norm"),
        ("optimizer", Optimizers, "step"),
        ("forget gradients", Optimizers, "forget_gradients"),
        ("learning rates", TrainState, "set_rates"),
        ("count targets", loop, "count_targets"),
        ("count FLOPs", Meter, "flops"),
        ("read the clock", VisionClock, "take_seconds"),
        ("metrics.jsonl", MetricsFile, "step"),
        ("progress bar", StageBar, "step"),
        ("save a state", States, "save"),
        ("sum over ranks", Ranks, "total"),
        ("seed", torch, "manual_seed"),
    )
    for name, owner, attribute in owners:
        setattr(owner, attribute, parts.timed(name, getattr(owner, attribute)))
    real_feed, real_steps = run.feed, run.train_steps

    def fed(*args: Any, **kwargs: Any) -> Iterator[Any]:
        steps = real_feed(*args, **kwargs)
        take = parts.timed("wait for batches", lambda: next(steps, None))
        while (step := take()) is not None:
            yield step

    def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for figures in real_steps(*args, **kwargs):
            yield figures
            # Here, where the followers have been told of the step too.
            parts.steps += 1
            if figures.step == WARM_UP:
                parts.clear()

    run.feed, run.train_steps = fed, counted


def drawn_recipe(folder: Path, name: str, *, images: int, steps: int) -> Recipe:
    """Draw a world, write its records, and return a shipped recipe over them."""
    world = folder / "world"
    if not world.is_dir():
        write_world(world, images=images, seed=0)
        synthesize(world, folder / "captions.json", kinds=("caption",), seed=0)
        synthesize(
            world,
            folder / "instructions.json",
            kinds=INSTRUCTION_KINDS,
            seed=0,
            conversation_boxes=True,
        )
    recipe = load_recipe(name)
    stages = {
        stage: replace(
            recipe.stage(stage),
            data=str(folder / f"{data}.json"),
            images=str(world / "images"),
            epochs=100.0,
            max_steps=steps,
        )
        for stage, data in (("align", "captions"), ("instruct", "instructions"))
    }
    return replace(recipe, prepared=str(folder / "prepared"), **stages)


def machine() -> dict[str, Any]:
    """Return what figures depend on beside the code."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2),
    }


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Train both stages and return their figures."""
    recipe = drawn_recipe(folder, "nano", images=given.images, steps=given.steps + WARM_UP)
    cache = str(folder / "features") if given.cached else ""
    recipe = replace(recipe, threads=given.threads, feature_cache=cache)
    parts = Parts()
    take_apart(parts)
    found: dict[str, Any] = {}
    stages: tuple[StageName, ...] = ("align", "instruct")
    real_finish = laterna.training.run._finish

    def finish(*args: Any, **kwargs: Any) -> None:
        found["now"] = parts.figures()  # before the checkpoint is written
        real_finish(*args, **kwargs)

    laterna.training.run._finish = finish
    start = None
    for stage in stages:
        out = folder / f"{stage}-{given.cached}"
        start = laterna.training.run.train(recipe, stage=stage, out=out, init_from=start)
        steps = read_metrics(out / "metrics.jsonl")[WARM_UP:]
        found[stage] = found.pop("now") | {"loop_share_shown": speeds(steps).loop}
    return found


def main() -> None:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cached", action="store_true")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), given)
    settings = {"threads": given.threads, "cached": given.cached, "images": given.images}
    figures = before | settings | {"load_after": round(os.getloadavg()[0], 2)} | found
    text = json.dumps(figures, indent=2)
    if given.out:
        given.out.write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
