"""Runs experiments: every arm for every seed, what is finished taken as it is, then one page."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import rich

from laterna.errors import LaternaError
from laterna.files import held, some, write_atomically, write_json
from laterna.lab import EXPERIMENTS
from laterna.lab.bench import FULL, NOTHING, QUICK, Bench, Cost, Plan, spent
from laterna.lab.experiment import Arm, Finding, Measures, Results, differences
from laterna.lab.pages import FIGURE, as_markdown, tables_of
from laterna.recipe import Recipe, load_recipe
from laterna.records import Record
from laterna.report.parts import write_page

PAGE, MARK = "index.html", "lab.json"
TEXT, FOUND = "README.md", "finding.json"
DATA_COST = ".data.json"
SHOWS_WORKING = "Quick run: this shows that the experiment works, and nothing else"


class Measured(Record):
    """What one arm measured for one seed, as it is kept."""

    digest: str
    """Of all that decides it."""
    measures: Measures
    cost: Cost
    """Of measuring it, without its training."""
    training: dict[str, Cost]
    """Checkpoint's name to what its training took; several arms may need the same."""


def run_experiments(
    names: Sequence[str],
    out: Path,
    *,
    recipe: Recipe | None = None,
    seeds: int = 3,
    quick: bool = False,
) -> list[Finding]:
    """Run experiments in a folder, and write what each found: a figure, a page, its numbers.

    `names` are keys of `EXPERIMENTS`. What is finished there is taken. `out/index.html` shows
    all that were asked for. Raises LaternaError for an unknown name, for seeds below one, while
    another process is at the folder, and for what stops training.
    """
    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown:
        known = ", ".join(EXPERIMENTS)
        raise LaternaError(f"{unknown[0]}: no such experiment; the experiments are: {known}")
    if seeds < 1:
        raise LaternaError(f"seeds = {seeds}: at least 1 is needed")
    recipe = recipe or load_recipe("nano")
    findings = []
    _require_ours(out)
    with held(out / "lab", "laterna lab"):
        write_json(out / MARK, {"made by": "laterna lab"})
        for name in names:
            findings.append(_run(name, out, recipe, seeds, quick))
            write_page(out / PAGE, "lab.html.jinja", findings=findings)
    return findings


def _require_ours(out: Path) -> None:
    """Raise LaternaError for a folder with something in it that is no lab's."""
    names = (one.name for one in out.iterdir()) if out.is_dir() else ()
    inside = sorted(name for name in names if not name.startswith("."))
    if inside and MARK not in inside:
        raise LaternaError(
            f"{out}: is not empty, and no lab is in it (it holds {some(inside)}); choose another "
            "folder with --out"
        )


def _run(name: str, out: Path, recipe: Recipe, seeds: int, quick: bool) -> Finding:
    plan: Plan = EXPERIMENTS[name].plan()
    console = rich.get_console()
    console.rule(f"{name}: {EXPERIMENTS[name].question}", align="left")
    measured: dict[str, list[Measures]] = {}
    arms: list[Arm] = []
    cost, training = NOTHING, dict[str, Cost]()
    for seed in range(seeds):
        bench = Bench(out, recipe, seed=seed, size=QUICK if quick else FULL)
        arms, took = _arms(out / name / f"seed-{seed}", plan, bench)
        cost += took
        for arm in arms:
            if seed == 0:
                console.print(
                    f"arm {arm.name}: {_differs(arms[0], arm, out)}", soft_wrap=True, markup=False
                )
            found = _measured(out / name / f"seed-{seed}" / f"{arm.name}.json", plan, bench, arm)
            measured.setdefault(arm.name, []).append(found.measures)
            cost += found.cost
            training |= found.training
    results = Results(
        arms={arm: tuple(found) for arm, found in measured.items()}, seeds=tuple(range(seeds))
    )
    cost = sum(training.values(), cost)
    finding = _finding(name, plan, arms, results, out=out, cost=cost, quick=quick)
    _write(out / name, finding)
    return finding


def _arms(folder: Path, plan: Plan, bench: Bench) -> tuple[list[Arm], Cost]:
    """Return the arms, and what making their data took when it was made."""
    began = spent()
    arms = list(plan.arms(bench))
    took, path = spent() - began, folder / DATA_COST
    if path.is_file():
        return arms, msgspec.json.decode(path.read_bytes(), type=Cost)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, took)
    return arms, took


def _measured(path: Path, plan: Plan, bench: Bench, arm: Arm) -> Measured:
    """Return what an arm measured, from its file where it is there and of the very same."""
    told = msgspec.json.encode((arm, bench.size, bench.seed, plan.measure.__module__))
    digest = hashlib.sha256(told).hexdigest()
    if path.is_file():
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=Measured)
        except msgspec.DecodeError:
            kept = None  # half a file, or another program's: measured again
        if kept is not None and kept.digest == digest:
            return kept
    bench.training.clear()
    began, trained = spent(), bench.trained
    measures = plan.measure(bench, arm)
    # What is not a number was not measured, and JSON has no word for it.
    measures = {name: one for name, one in measures.items() if math.isfinite(one.value)}
    cost = (spent() - began) - (bench.trained - trained)
    found = Measured(digest=digest, measures=measures, cost=cost, training=dict(bench.training))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    return found


def _finding(
    name: str,
    plan: Plan,
    arms: Sequence[Arm],
    results: Results,
    *,
    out: Path,
    cost: Cost,
    quick: bool,
) -> Finding:
    answer = plan.conclude(results)
    question = EXPERIMENTS[name].question
    return Finding(
        title=f"{SHOWS_WORKING}: {name}" if quick else name,
        question=question,
        done=plan.done,
        answer=answer.sentence,
        limits=answer.limits + _of_seeds(results),
        foretold=" ".join(filter(None, (answer.foretold, plan.published))),
        tables=tables_of(plan.table, [arm.name for arm in arms], results),
        figure=plan.draw(results),
        arms=tuple((arm.name, _differs(arms[0], arm, out)) for arm in arms),
        seeds=results.seeds,
        minutes=round(cost.seconds / 60, 1),
        processor_minutes=round(cost.processor_seconds / 60, 1),
        quick=quick,
    )


def _differs(first: Arm, arm: Arm, out: Path) -> str:
    """Say what an arm differs in from the first: settings, and the stages that are trained.

    Files are named from the lab's folder `out` on: where that is differs in nothing.
    """
    told = differences(first.recipe, arm.recipe).replace(f"{out}{os.sep}", "")
    if arm.stages == first.stages:
        return told
    stages = f"stages: {' and '.join(arm.stages) or 'none'}"
    return stages if told == "nothing" else f"{told}, {stages}"


def _of_seeds(results: Results) -> str:
    if len(results.seeds) > 1:
        return f" Intervals are over {len(results.seeds)} seeds."
    return " One seed: intervals are over questions alone, and say nothing of another training."


def _write(folder: Path, finding: Finding) -> None:
    write_json(folder / FOUND, finding)
    for name, text in ((FIGURE, finding.figure), (TEXT, as_markdown(finding))):
        with write_atomically(folder / name) as aside:
            aside.write_text(text, encoding="utf-8")
