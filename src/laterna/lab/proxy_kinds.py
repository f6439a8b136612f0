"""What do conversations, details and reasoning each bring?

LLaVA's own ablation (Table 4 of arXiv 2304.08485): each kind of instruction alone, and each left
out, with as many tokens to learn from in every arm.
"""

from __future__ import annotations

from laterna.lab.bench import Bench, Plan
from laterna.lab.drawing import draw_rows
from laterna.lab.experiment import Answer, Arm, Measures, Results, change, verdict
from laterna.synthesis.run import INSTRUCTION_KINDS

ALL = "all"
KINDS = ("accuracy colour", "accuracy count", "accuracy existence", "accuracy place")


def plan() -> Plan:
    """Return how the experiment is carried out."""
    return Plan(
        done=(
            "Stage 2 learns from all three kinds of records, from each kind alone, and from the "
            "other two. Stage 1 is the same in all arms, and so is the number of steps and of "
            "tokens a step: an arm with fewer records sees them more often."
        ),
        arms=arms,
        measure=measure,
        table=("accuracy", *KINDS, "accuracy relation", "blank image"),
        draw=draw,
        conclude=conclude,
        published=(
            "LLaVA's own ablation (Table 4 of arXiv 2304.08485), scored by GPT-4 on long answers, "
            "has all three kinds together ahead of conversations alone and of none."
        ),
    )


def arms(bench: Bench) -> list[Arm]:
    """Return all kinds, each alone, and each left out; all with as many steps."""
    recipe = bench.recipe
    chosen = {ALL: INSTRUCTION_KINDS}
    chosen |= {f"only {kind}": (kind,) for kind in INSTRUCTION_KINDS}
    chosen |= {
        f"without {kind}": tuple(one for one in INSTRUCTION_KINDS if one != kind)
        for kind in INSTRUCTION_KINDS
    }
    return [
        Arm(
            name=name,
            recipe=change(
                recipe,
                {
                    "instruct.data": str(bench.data("-".join(("instructions", *kinds)), *kinds)),
                    "instruct.epochs": recipe.instruct.epochs * len(INSTRUCTION_KINDS) / len(kinds),
                },
            ),
        )
        for name, kinds in chosen.items()
    ]


def measure(bench: Bench, arm: Arm) -> Measures:
    """Train and ask."""
    return bench.examine(bench.train(arm))


def draw(results: Results) -> str:
    """Draw the accuracies, over all and by kind of question."""
    columns = {measure.removeprefix("accuracy "): measure for measure in KINDS}
    columns = {"all questions": "accuracy", **columns}
    return draw_rows(
        "proxy-kinds",
        [*results.arms],
        {
            title: [results.spread(arm, measure) for arm in results.arms]
            for title, measure in columns.items()
        },
        level={"all questions": ("blank image", results.spread(ALL, "blank image").mean)},
    )


def conclude(results: Results) -> Answer:
    """Say what is lost without each kind, and what each does alone."""
    without, alone = (
        ", ".join(
            f"{kind} {results.beside(f'{how} {kind}', ALL, 'accuracy')}"
            for kind in INSTRUCTION_KINDS
        )
        for how in ("without", "only")
    )
    behind = [
        results.difference(f"without {kind}", ALL, "accuracy").sign for kind in INSTRUCTION_KINDS
    ]
    return Answer(
        sentence=(
            "Shares of right answers against those of all three kinds together: with one left "
            f"out, {without}; with one alone, {alone}."
        ),
        foretold=verdict(
            "all three kinds together answer more questions than any two of them",
            behind == [-1] * len(behind),
        ),
        limits=(
            "The questions here are short ones with one right answer; LLaVA's own ablation was "
            "scored by GPT-4 on long answers, where details and reasoning count for more."
        ),
    )
