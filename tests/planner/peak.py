"""Run as a program: train a few steps of a recipe on the CPU and print what memory they took.

    python peak.py RECIPE.json STAGE tensors|resident

`tensors` is the most that torch's own CPU allocator gave out at once, from the profiler's record
of every allocation; `resident` is how far the process grew from before its models were there.
Also printed, of the records of these steps: the mean and the longest text, and the targets' mean,
in tokens; and how many there are about an image.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.profiler import ProfilerActivity, profile

from laterna.data.chat import load_template
from laterna.data.packing import share_key
from laterna.data.preparation import prepare
from laterna.model.build import build_from_recipe
from laterna.recipe import Recipe
from laterna.training.dataloader import Order, feed, fill_pixels
from laterna.training.loop import train_steps
from laterna.training.setup import set_attention
from laterna.training.stages import apply_stage
from laterna.training.train_state import TrainState


def main(path: str, stage: Any, how: str) -> None:
    recipe = msgspec.json.decode(Path(path).read_bytes(), type=Recipe)
    settings = recipe.stage(stage)
    torch.zeros(64, 64) @ torch.zeros(64, 64)  # what libraries take for themselves at first use
    before = in_memory()
    assistant = build_from_recipe(recipe)
    prepared = prepare(
        settings.mixture(),
        assistant.tokenizer,
        template=load_template(settings.template, assistant.tokenizer),
        image_tokens=assistant.image_tokens,
        max_tokens=settings.max_tokens,
        folder=Path(recipe.prepared),
        workers=1,
    )
    apply_stage(assistant, recipe, stage)
    set_attention(assistant, recipe, settings)
    train_state = TrainState(assistant, settings, total=settings.max_steps, savings=recipe.savings)
    fill = fill_pixels(assistant.prepare, prepared.images)
    steps = feed(prepared.samples, settings, seed=0, fill=fill)

    def run() -> None:
        for _ in train_steps(train_state, steps, recipe.run, seed=0):
            pass

    held = {id(one): one for one in (*assistant.parameters(), *assistant.buffers())}
    weights = sum(one.untyped_storage().nbytes() for one in held.values())
    peak = weights + tensors(run) if how == "tensors" else resident(run) - before
    order = Order(prepared.samples, settings, 0)
    numbers = [number for step in range(settings.max_steps) for number in order.of_step(step)]
    samples = [prepared.samples[number] for number in numbers]
    texts = [sample.length - sum(sample.image_tokens) for sample in samples]
    targets = [sum(sample.targets) for sample in samples]
    figures = {
        "peak": peak,
        "text": sum(texts) / len(texts),
        "longest": max(texts),
        "targets": sum(targets) / len(targets),
        "per_image": len(texts) / len({share_key(sample) or sample.id for sample in samples}),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


def tensors(run: Any) -> int:
    """Return the most bytes that were allocated at once while `run` ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    allocations = sorted(
        (event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"
    )
    now = most = 0
    for _, size in allocations:
        now += size
        most = max(most, now)
    return most


def resident(run: Any) -> int:
    """Return the most bytes that the process had in memory while `run` ran."""
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            most[0] = max(most[0], in_memory())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return most[0]


def in_memory() -> int:
    """Return the bytes of this process that are in memory now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main(*sys.argv[1:])
