"""How does accuracy grow with the number of instruction records, with and without stage 1?"""

from __future__ import annotations

import math
from itertools import pairwise

from laterna.lab.bench import Bench, Plan
from laterna.lab.drawing import Panel, draw_panels
from laterna.lab.experiment import Answer, Arm, Measures, Results, Value, change, verdict

SHARES = (1 / 16, 1 / 4, 1.0)
WITH, WITHOUT = "with stage 1", "without stage 1"
RECORDS, RIGHT = "records", "accuracy"


def plan() -> Plan:
    """Return how the experiment is carried out."""
    return Plan(
        done=(
            "Stage 2 takes a sixteenth, a quarter and all of its steps, each record at most once, "
            "from an aligned connector and from a calibrated one that was not aligned."
        ),
        arms=arms,
        measure=measure,
        table=(RECORDS, "accuracy", "accuracy count", "accuracy relation", "blank image"),
        draw=draw,
        conclude=conclude,
    )


def arms(bench: Bench) -> list[Arm]:
    """Return each amount with and without stage 1."""
    stage = bench.recipe.instruct
    return [
        Arm(
            name=_name(share, way),
            recipe=change(
                bench.recipe,
                {
                    "instruct.epochs": stage.epochs * share,
                    "instruct.max_steps": math.ceil(stage.max_steps * share),
                },
            ),
            stages=("align", "instruct") if way == WITH else ("instruct",),
        )
        for way in (WITH, WITHOUT)
        for share in reversed(SHARES)
    ]


def measure(bench: Bench, arm: Arm) -> Measures:
    """Train, count what was learned from, and ask."""
    checkpoint = bench.train(arm)
    steps = len(bench.losses(checkpoint))
    records = float(steps * arm.recipe.instruct.global_batch_size)
    return {RECORDS: Value(value=records)} | bench.examine(checkpoint)


def draw(results: Results) -> str:
    """Draw accuracy against the number of records, which doubles along the axis."""
    series = {
        way: sorted(
            (results.spread(_name(share, way), RECORDS).mean,
             results.spread(_name(share, way), "accuracy"))
            for share in SHARES
        )
        for way in (WITH, WITHOUT)
    }  # fmt: skip
    ticks = {place: f"{place:,.0f}" for place, _ in series[WITH]}
    blank = results.spread(_name(1.0, WITH), "blank image").mean
    return draw_panels(
        "data-scale",
        [Panel(series, across="instruction records, each seen once", up="share right", log="x",
               ticks=ticks, level={"blank image": blank})],
    )  # fmt: skip


def conclude(results: Results) -> Answer:
    """Say what four times the records bring, and where stage 1 still helps."""
    records = [f"{results.spread(_name(share, WITH), RECORDS).mean:,.0f}" for share in SHARES]
    grown = "; ".join(
        f"{records[place + 1]} records {results.beside(_name(many, WITH), _name(few, WITH), RIGHT)}"
        for place, (few, many) in enumerate(pairwise(SHARES))
    )
    worth = [results.difference(_name(share, WITH), _name(share, WITHOUT), RIGHT)
             for share in SHARES]  # fmt: skip
    told = "; ".join(
        f"with {number} records {results.beside(_name(share, WITH), _name(share, WITHOUT), RIGHT)}"
        for number, share in zip(records, SHARES, strict=True)
    )
    return Answer(
        sentence=(
            f"Shares of right answers, against a quarter as many records: {grown}. With stage 1 "
            f"against without: {told}."
        ),
        foretold=" ".join(
            [
                verdict(
                    "more records answer more questions right",
                    results.difference(_name(1.0, WITH), _name(SHARES[0], WITH), RIGHT).sign == 1,
                ),
                verdict("stage 1 is worth more where records are few",
                        worth[0].low > worth[-1].high),
            ]
        ),
        limits=(
            "Fewer records are fewer steps here too: what many steps over few records would reach "
            "is another question. Three amounts show a direction and no law."
        ),
    )  # fmt: skip


def _name(share: float, way: str) -> str:
    return f"{way}, 1/{round(1 / share)}"
