"""What each way of saving time or memory brings in stage 2: CPU seconds a step, and peak memory.

    python benchmarks/savings.py [--recipes nano smollm2-135m] [--only NAME …] [--steps 6]
        [--repeat 1] [--folder FOLDER] [--out FILE]

Every setting trains in a process of its own: the shipped recipe's stage 2 on a drawn world, from
fresh parts, as `laterna train` does it, and every setting sees the same steps, of `RECORDS`
records where that says so. A step's CPU seconds
are those of the whole process, reading images included; the first step is left out. Memory is the
most that the process held while it trained, beside what it held before the first step (weights,
libraries, prepared records). "whole logits" makes those of every token, as a plain loss does. A
setting that fails (`compile` without a C++ compiler, 8 bits without bitsandbytes) says why.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from msgspec.structs import replace

import laterna.training.run
from laterna.recipe import Recipe
from laterna.training import objective
from loop import drawn_recipe, machine
from process_memory import forget_peak, in_memory
from training_parts import whole_loss

PLAIN = "float32"
RECORDS = {"smollm2-135m": 3}
"""Records a step where the recipe's (12) would take too long on two cores."""


class Setting(NamedTuple):
    """What is changed in the recipe, whose `savings` are left out at first."""

    savings: tuple[str, ...] = ()
    threads: int = 1
    attention: str = ""
    """Empty: the recipe's."""
    rows: tuple[int, int] | None = None
    """`pack_length` and `micro_batch_tokens`; None: the recipe's."""
    logits: str = "targets"
    """`targets`, in chunks; `at once`: the targets' without chunks; `whole`: every token's."""
    optimizer: str = ""
    """Empty: the recipe's."""


SETTINGS: dict[str, Setting] = {
    PLAIN: Setting(),
    "bf16": Setting(savings=("bf16",)),
    "checkpointing": Setting(savings=("checkpointing",)),
    "bf16 and checkpointing": Setting(savings=("bf16", "checkpointing")),
    "2 threads": Setting(threads=2),
    "padded rows under a mask": Setting(attention="sdpa", rows=(0, 640)),
    "targets' logits at once": Setting(logits="at once"),
    "whole logits": Setting(logits="whole"),
    "AdamW": Setting(optimizer="adamw"),
    "AdamW in 8 bits": Setting(optimizer="adamw8bit"),
    "compile": Setting(savings=("compile",)),
    "bf16 and compile": Setting(savings=("bf16", "compile")),
}


def changed(recipe: Recipe, setting: Setting) -> Recipe:
    """Return the recipe with a setting, and let the loss make its logits as that says."""
    if setting.logits == "whole":
        objective.Objective._loss = whole_loss  # type: ignore[method-assign]
    elif setting.logits == "at once":
        objective.LOGITS_AT_ONCE = 2**62
    if setting.optimizer:
        instruct = replace(recipe.instruct, optimizer=setting.optimizer)  # type: ignore[arg-type]
        recipe = replace(recipe, instruct=instruct)
    if setting.rows:
        pack_length, micro_batch_tokens = setting.rows
        rows = replace(
            recipe.instruct, pack_length=pack_length, micro_batch_tokens=micro_batch_tokens
        )
        recipe = replace(recipe, instruct=rows)
    attention: Any = setting.attention or recipe.run.attention
    run = replace(recipe.run, attention=attention, save_minutes=0)
    return replace(recipe.with_savings(*setting.savings), threads=setting.threads, run=run)


def run_child(name: str, setting: str, folder: Path, steps: int) -> None:
    """Train in this process, and print the figures."""
    recipe = changed(drawn_recipe(folder, name, images=60, steps=steps), SETTINGS[setting])
    batch = RECORDS.get(name, recipe.instruct.global_batch_size)
    recipe = replace(recipe, instruct=replace(recipe.instruct, global_batch_size=batch))
    real = laterna.training.run.train_steps
    seen: list[dict[str, float]] = []
    before: list[float] = []

    def watched(*args: Any, **kwargs: Any) -> Iterator[Any]:
        before.append(in_memory("VmRSS"))
        forget_peak()
        begun = time.process_time(), time.perf_counter()
        for done in real(*args, **kwargs):
            now = time.process_time(), time.perf_counter()
            cpu, clock = (end - start for end, start in zip(now, begun, strict=True))
            told = {"cpu": cpu, "clock": clock, "tokens": done.tokens, "loss": done.loss}
            seen.append(told | {"targets": done.target_tokens, "peak": in_memory("VmHWM")})
            begun = now
            yield done

    laterna.training.run.train_steps = watched
    with tempfile.TemporaryDirectory() as out:
        laterna.training.run.train(recipe, stage="instruct", out=Path(out) / "out")
    warm = seen[1:]
    figures = {
        "cpu_seconds": mean(step["cpu"] for step in warm),
        "clock_seconds": mean(step["clock"] for step in warm),
        "tokens": mean(step["tokens"] for step in warm),
        "target_tokens": mean(step["targets"] for step in warm),
        "first_step_cpu_seconds": seen[0]["cpu"],
        "before_mib": before[0],
        "peak_mib": seen[-1]["peak"],
        "last_loss": seen[-1]["loss"],
    }
    sys.stdout.write("\n" + json.dumps(figures) + "\n")


def run_apart(name: str, setting: str, folder: Path, steps: int) -> dict[str, float] | str:
    """Train in a process of its own; return its figures, or why it has none."""
    command = [sys.executable, __file__, "--child", name, setting, str(folder), str(steps)]
    threads = {"OMP_NUM_THREADS": str(SETTINGS[setting].threads)}
    done = subprocess.run(
        command, env={**os.environ, **threads}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Measure every setting in turn and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", default=["nano", "smollm2-135m"])
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--child", nargs=4, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        name, setting, folder, steps = given.child
        run_child(name, setting, Path(folder), int(steps))
        return
    figures: dict[str, Any] = machine() | {"steps": given.steps, "runs": []}
    with tempfile.TemporaryDirectory() as aside:
        folder = given.folder or Path(aside)
        for name in given.recipes:
            drawn_recipe(folder, name, images=60, steps=1)
            for _ in range(given.repeat):
                for setting in given.only:
                    found = run_apart(name, setting, folder, given.steps)
                    load = round(os.getloadavg()[0], 2)
                    row = {"recipe": name, "setting": setting, "load": load, "found": found}
                    figures["runs"].append(row)
                    sys.stderr.write(json.dumps(row) + "\n")
                    if given.out:
                        given.out.write_text(json.dumps(figures, indent=2) + "\n")
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
