"""How fast and in how much memory both stages train, beside `Trainer` over Hugging Face's LLaVA.

    python benchmarks/training.py --replies FILE [--photographs FOLDER] [--shapes nano smollm2-135m]
        [--stages align instruct] [--attention varlen] [--pack-length 1024] [--repeat 3]
        [--sparing] [--out FILE]

Both sides begin with the same weights and take the same optimizer steps over the same records; each
run is a process of its own, both sides in turn (`training_sides.py`). The baseline runs at the best
of several batch sizes. Then our side runs again with cached features, and with one part switched
off at a time (`training_parts.py`). Losses are compared in float32: for a shape in 16 bits by
another run of each side. `--sparing` runs ours as one does who lacks memory, too.

`--replies` is a JSON lines file of `{image, instruction, output}`, GPT-4's published answers, whose
mix of lengths stage 2 has; without it stage 2 is left out. `--photographs` is a folder of JPEG
files that stand for their images. `--out` takes the figures of one shape as JSON.

On a machine with a GPU the shapes are LLaVA-1.5-7B's, and memory is what torch allocated there.
That was written for such a machine and never run on one.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import msgspec
import torch
from msgspec.structs import replace

from laterna.recipe import Recipe, StageName
from laterna.records import Sample
from training_figures import apart, beside, cached_figures, clock_rate, figures, rate, table
from training_parts import PARTS
from training_shapes import (
    SHAPES,
    make_job,
    recipe_of,
    shapes_for,
    with_rows,
    write_captions,
    write_instructions,
)
from training_sides import Job, Measured

BATCHES = (1, 2, 4, 8)
"""Batch sizes that the baseline is tried at; then on, doubled, for as long as that helps."""
TRIAL_STEPS = 3
"""At most, the first of which is not timed."""
ASKED = {"align": 3.0, "instruct": 2.0, "memory": 0.6, "losses": 1e-3}
"""Issue's figures: times the baseline's target tokens a second in each stage, at least; its peak
memory and the difference of the losses, at most."""


def run_apart(job: Job, threads: int) -> Measured:
    """Run one side in a process of its own."""
    path = job.aside / "job.json"
    path.write_bytes(msgspec.json.encode(job, enc_hook=str))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    script = Path(__file__).with_name("training_sides.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{job.stage}: a side ended with {done.returncode}\n{done.stderr[-4000:]}")
    measured = path.with_suffix(".measured.json")
    return msgspec.json.decode(measured.read_bytes(), type=Measured)


def sparing(recipe: Recipe, stage: StageName) -> dict[str, Recipe]:
    """Return the recipe as one sets it who lacks memory, by what is changed."""
    again = recipe.with_savings(*recipe.savings, "checkpointing")
    eight = replace(recipe.stage(stage), optimizer="adamw8bit")
    return {
        "checkpointing": again,
        "checkpointing and AdamW in 8 bits": replace(again, **{stage: eight}),
    }


class Bench:
    """The runs of one stage of one shape, told to stderr as they end."""

    def __init__(self, job: Job, threads: int) -> None:
        self.job = job
        self.threads = threads

    def run(self, name: str, **changes: Any) -> Measured:
        """Run the job with some of its fields changed."""
        found = run_apart(replace(self.job, **changes), self.threads)
        said = f"{rate(found):,.0f} targets a CPU second, {clock_rate(found):,.0f} by the clock"
        said += f", peak {found.memory.peak:,.0f} MiB"
        print(f"{self.job.stage}, {name}: {said}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        return found

    def best_batch(self, records: int, least: Sequence[int]) -> tuple[int, dict[int, float]]:
        """Return the batch size at which the baseline learns most, and all that were tried: none
        where there is one alone.
        """
        if len(least) == 1:
            return least[0], {}
        trial = _cut(self.job, min(TRIAL_STEPS, self.job.steps))
        of = rate if self.threads == 1 else clock_rate  # threads spin while they wait
        rates: dict[int, float] = {}
        best = 0
        sizes = [*least, *(least[-1] * 2**power for power in range(1, 8))]
        for batch in sizes:
            if batch > records or (batch > least[-1] and best != batch // 2):
                break
            rates[batch] = round(of(run_apart(replace(trial, batch=batch), self.threads)), 2)
            print(f"{self.job.stage}, batch size {batch}: {rates[batch]:,.1f}", file=sys.stderr)
            best = max(rates, key=lambda one: rates[one])
        return best, rates

    def cached(self) -> Measured:
        """Run ours with the encoder's features from disk, the cache filled first."""
        with tempfile.TemporaryDirectory(dir=self.job.aside) as folder:
            recipe = replace(self.job.recipe, feature_cache=folder)
            return self.run("cached features", recipe=recipe)

    def losses_in_full(self) -> tuple[Measured, Measured]:
        """Run both sides in float32."""
        recipe = self.job.recipe.with_savings()
        return (
            self.run("baseline in float32", recipe=recipe, batch=1),
            self.run("ours in float32", recipe=recipe),
        )


def _cut(job: Job, steps: int) -> Job:
    """Return a job of fewer steps, over the records of these."""
    records = job.aside / "trial.json"
    records.write_bytes(msgspec.json.encode(msgspec.json.decode(job.records.read_bytes())[:steps]))
    return replace(job, steps=steps, records=records)


def measure_stage(job: Job, given: argparse.Namespace) -> dict[str, Any]:
    """Run everything about one stage; return its figures."""
    bench = Bench(job, given.threads)
    records = job.recipe.stage(job.stage).global_batch_size
    batch, tried = bench.best_batch(records, given.batches)
    baseline: list[Measured] = []
    ours: list[Measured] = []
    without: dict[str, list[Measured]] = {name: [] for name in PARTS}
    cached: list[Measured] = []
    for _ in range(given.repeat):
        baseline.append(bench.run(f"baseline, batch size {batch}", batch=batch))
        ours.append(bench.run("ours"))
        if given.parts:
            for name, runs in without.items():
                runs.append(bench.run(f"ours without {name}", off=(name,)))
            cached.append(bench.cached())
    in_full = given.full and bool(job.recipe.savings)
    spared = {
        name: bench.run(f"ours, {name}", recipe=recipe)
        for name, recipe in sparing(job.recipe, job.stage).items()
        if given.sparing
    }
    full = bench.losses_in_full() if in_full else (baseline[0], ours[0])
    found = _settings(job) | {
        "targets": ours[0].targets,
        "baseline_batch": batch,
        "baseline_rates_by_batch": tried,
        "baseline": figures(baseline),
        "ours": figures(ours),
        "ours_beside_baseline": beside(ours, baseline),
        "largest_difference_of_losses": apart(*full),
        "losses_in_float32": in_full or not job.recipe.savings,
        "losses": {"baseline": full[0].losses, "ours": full[1].losses},
    }
    if in_full:
        found["largest_difference_of_losses_as_run"] = apart(baseline[0], ours[0])
    if spared:
        found["sparing"] = {
            name: {**figures([one]), "beside_baseline": beside([one], baseline)}
            for name, one in spared.items()
        }
    if given.parts:
        found["without"] = {
            name: {**figures(runs), "beside_baseline": beside(runs, baseline)}
            for name, runs in without.items()
        }
        steps = msgspec.json.decode(job.records.read_bytes(), type=list[list[Sample]])
        found["cached_features"] = cached_figures(cached, baseline, steps[1:])
    return found


def _settings(job: Job) -> dict[str, Any]:
    stage = job.recipe.stage(job.stage)
    return {
        "records_a_step": stage.global_batch_size,
        "attention": job.recipe.run.attention,
        "pack_length": stage.pack_length,
        "micro_batch_tokens": stage.micro_batch_tokens,
        "timed_steps": job.steps - 1,
    }


def report(shape: str, stages: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """Return all figures of a shape, with what they were measured on."""
    names = ("laterna", "torch", "transformers", "accelerate")
    return {
        "benchmark": "benchmarks/training.py",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": {"before": given.load, "after": os.getloadavg()[0]},
        "threads": given.threads,
        "repetitions": given.repeat,
        "versions": {name: version(name) for name in names},
        "shape": shape,
        "about": SHAPES[shape].about,
        "asked": ASKED,
        "stages": stages,
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=shapes_for(device))
    parser.add_argument("--stages", nargs="+", default=["align", "instruct"])
    parser.add_argument("--replies", type=Path, default=None)
    parser.add_argument("--photographs", type=Path, default=None)
    parser.add_argument("--steps", type=int, default=6, help="the first of them is not timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--attention", default="", help="ours, in the place of the recipe's")
    parser.add_argument("--pack-length", type=int, default=0, help="the same, one row a pass")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--no-parts", dest="parts", action="store_false")
    parser.add_argument("--sparing", action="store_true")
    parser.add_argument(
        "--no-float32", dest="full", action="store_false", help="compare losses as they were run"
    )
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    if given.out and len(given.shapes) > 1:
        parser.error("--out takes the figures of one shape: name one by --shapes")
    if given.replies is None or not given.replies.is_file():
        print(f"stage 2 is left out: no file of replies ({given.replies})")
        given.stages = [stage for stage in given.stages if stage != "instruct"]
    given.load = os.getloadavg()[0]
    return given


def main() -> None:
    """Measure the shapes and print a table; write the figures where `--out` says."""
    given = parse()
    for name in given.shapes:
        with tempfile.TemporaryDirectory() as aside:
            folder = given.folder or Path(aside)
            folder.mkdir(parents=True, exist_ok=True)
            data = {
                "align": write_captions(folder),
                "instruct": write_instructions(folder, given.replies, given.photographs),
            }
            recipe = recipe_of(SHAPES[name], folder, data, given.threads)
            recipe = with_rows(recipe, given.attention, given.pack_length)
            stages: dict[str, Any] = {}
            for stage in given.stages:
                job = make_job(SHAPES[name], recipe, stage, folder, given.steps)
                stages[stage] = measure_stage(job, given)
                if given.out:  # after each stage: what is measured is kept, whatever comes
                    told = msgspec.json.encode(report(name, stages, given))
                    given.out.write_bytes(msgspec.json.format(told, indent=2) + b"\n")
        print(table(name, stages))


if __name__ == "__main__":
    main()
