"""What the instruction data never showed: texture, lighting and sign text.

A text-only teacher sees boxes and captions, and neither says what a toy feels like, how bright
the light is or what a sign reads. Two measurements tell where such a blind spot sits: the
assistant is asked, and a linear probe is trained on the frozen encoder's features. A probe that
succeeds where the assistant fails says that the eye sees what the instructions never named. The
same probe on shuffled labels shows what such a probe gets from nothing.

The arms teach it by a proxy enriched from the pixels, by the truth, or to say that it cannot tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from laterna.evaluation.metrics import find_metric
from laterna.evaluation.tasks.base import IMAGE_FOLDER
from laterna.evaluation.tasks.world import TRUTH_FILE, read_truth
from laterna.inference.assistant import Assistant
from laterna.lab.bench import Bench, Plan, score_value
from laterna.lab.drawing import Panel, draw_panels
from laterna.lab.experiment import (
    Answer,
    Arm,
    Measures,
    Results,
    Spread,
    Value,
    verdict,
)
from laterna.lab.material import proxies
from laterna.lab.measures.spots import PROPERTIES, blind_spots, cases_of, question_of
from laterna.lab.measures.text import answer_loss, prompt_of, said
from laterna.records import Truth
from laterna.synthesis.refusal_detection import declines

SIGNS_READ = 1 / 3
"""Share of the images whose signs are read: reading takes most of the enrichment's time."""
PROXY, ENRICHED, TRUE, CANNOT = "proxy", "enriched proxy", "truth", "says it cannot tell"
ROOM = 16
LOOKED_AT = 120
"""Held-out answers of either sort whose loss is measured."""
ASKED, COVERAGE, RIGHT, SURE = (
    "blind spots, asked", "coverage", "right where answered", "confidence when wrong",
)  # fmt: skip
PROBE, SHUFFLED, CHANCE = "probe", "probe of shuffled labels", "commonest label"
SAME, FREE = "loss, same blind spot", "loss, without it"
SHARES = (0.25, 0.5, 0.75, 1.0)


def plan() -> Plan:
    """Return how the experiment is carried out."""
    return Plan(
        done=(
            "An assistant is trained on what a teacher wrote from boxes and captions, which say "
            "nothing of texture, light and words on signs. The other arms learn from as many "
            "records, some of which ask for these: answered by what enrichments measure in the "
            "pixels, by the truth, or with words that say it cannot be told. All are asked about "
            "them in other words. Confidence is the model's own probability of its answer. "
            "The loss is measured on held-out answers that the same teacher wrote, and on "
            "answers about what it could not see. A linear probe reads the frozen encoder's "
            "features, beside the same probe with shuffled labels."
        ),
        arms=arms,
        measure=measure,
        table={
            "Asked about blind spots": (*(f"{name}, asked" for name in PROPERTIES), ASKED, COVERAGE,
                                        RIGHT, SURE),
            "Validation, and questions that nothing changes": (SAME, FREE, "accuracy",
                                                               "blank image"),
            "What probes read from the frozen encoder, the same in all arms": tuple(
                f"{name}, {what}" for name in PROPERTIES for what in (PROBE, SHUFFLED, CHANCE)
            ),
        },
        draw=draw,
        conclude=conclude,
        published=(
            "MMVP (arXiv 2401.06209) finds LLaVA-1.5 at chance on pairs that CLIP does not tell "
            "apart: there the eye is blind, and the probe here tells that case from this one."
        ),
    )  # fmt: skip


def arms(bench: Bench) -> list[Arm]:
    """Return what each teacher taught, all in as many records."""
    truths = read_truth(bench.images.parent / TRUTH_FILE)
    read = round(len(truths) * SIGNS_READ)
    # Where no sign was read, none is asked for: the arms differ in the answers alone.
    truths = truths[:read] + [replace(one, sign=None, sign_box=None) for one in truths[read:]]
    seen = proxies.all_measured(truths, bench.images, bench.cached("measured.jsonl"))
    asked = [
        replace(one, sign=one.sign and other.sign) for one, other in zip(truths, seen, strict=True)
    ]
    more = {
        PROXY: proxies.conversations(
            bench.world, bench.cached("conversations.jsonl"), bench.seed + 1
        )[: len(truths)],
        ENRICHED: list(proxies.records(seen, bench.seed)),
        TRUE: list(proxies.records(asked, bench.seed)),
        CANNOT: list(proxies.records(asked, bench.seed, lambda _: proxies.CANNOT)),
    }
    return [
        Arm(name=name, recipe=bench.taught(f"blind-spots-{number}", given))
        for number, (name, given) in enumerate(more.items())
    ]


def measure(bench: Bench, arm: Arm) -> Measures:
    """Train, ask about each property, look at the losses, and probe the features."""
    checkpoint = bench.train(arm)
    assistant = bench.load(checkpoint)
    truths = read_truth(bench.validation / TRUTH_FILE)
    told = _tell(assistant, truths, bench)
    measures = {f"{name}, asked": score_value([one.score for one in told if one.name == name])
                for name in PROPERTIES}  # fmt: skip
    measures |= _sureness(told) | _losses(bench, assistant, truths)
    if arm.name == PROXY:  # the encoder is frozen: it is the same for all
        spots = blind_spots(assistant, bench.validation, limit=0, seed=bench.seed)
        for spot in spots:
            shares = {PROBE: spot.probe, SHUFFLED: spot.shuffled, CHANCE: spot.chance}
            measures |= {f"{spot.name}, {what}": Value(value=one) for what, one in shares.items()}
    return measures | bench.examine(checkpoint)


class Told(NamedTuple):
    """How a question about a blind spot was answered."""

    name: str
    score: float
    declined: bool
    confidence: float


def _tell(assistant: Assistant, truths: Sequence[Truth], bench: Bench) -> list[Told]:
    questions = [
        question_of(name, case)
        for name, about in PROPERTIES.items()
        for case in cases_of(about, truths, bench.seed)
    ]
    folder = bench.validation / IMAGE_FOLDER
    answers = said(assistant, (prompt_of(one, folder) for one in questions), ROOM)
    scores = find_metric("exact_match").score(questions, [one.text for one in answers])
    return [
        Told(question.kind, score, declines(answer.text), answer.confidence)
        for question, score, answer in zip(questions, scores, answers, strict=True)
    ]


def _sureness(told: Sequence[Told]) -> Measures:
    """Return accuracy and coverage, and how sure wrong answers are.

    `right at SHARE` is the accuracy of that share of all questions: those answered most surely.
    It is not measured where fewer are answered.
    """
    answered = sorted((one for one in told if not one.declined), key=lambda one: -one.confidence)
    found = {
        ASKED: score_value([one.score for one in told]),
        COVERAGE: score_value([float(not one.declined) for one in told]),
    }
    if answered:
        found[RIGHT] = score_value([one.score for one in answered])
    if wrong := [one.confidence for one in answered if one.score == 0]:
        found[SURE] = score_value(wrong)
    for share in SHARES:
        count = round(share * len(told))
        if 0 < count <= len(answered):
            found[_at(share)] = score_value([one.score for one in answered[:count]])
    return found


def _losses(bench: Bench, assistant: Assistant, truths: Sequence[Truth]) -> Measures:
    """Return the loss of held-out answers: the same teacher's, and those about what it missed."""
    own = bench.cached("validation.jsonl")
    taught = {
        SAME: proxies.conversations(bench.validation, own, bench.seed),
        FREE: list(proxies.records(truths, bench.seed)),
    }
    folder = bench.validation / IMAGE_FOLDER
    return {
        name: score_value(
            [
                answer_loss(assistant.model, proxies.first_exchange(one), folder)
                for one in given[:LOOKED_AT]
            ]
        )
        for name, given in taught.items()
    }


def _at(share: float) -> str:
    return f"right at {share:g}"


def draw(results: Results) -> str:
    """Draw what is answered and what a probe reads; the losses; accuracy against coverage."""
    places = {float(number): name for number, name in enumerate(PROPERTIES)}
    asked = {
        arm: [(place, results.spread(arm, f"{name}, asked")) for place, name in places.items()]
        for arm in results.arms
    }
    asked |= {
        what: [(place, results.spread(PROXY, f"{name}, {what}")) for place, name in places.items()]
        for what in (PROBE, CHANCE)
    }
    at = {0.0: SAME, 1.0: FREE}
    losses = {
        arm: [(place, results.spread(arm, name)) for place, name in at.items()]
        for arm in results.arms
    }
    covered: dict[str, list[tuple[float, Spread]]] = {
        arm: [(share, results.spread(arm, _at(share))) for share in SHARES
              if results.has(arm, _at(share))]
        for arm in results.arms
    }  # fmt: skip
    return draw_panels(
        "blind-spots",
        [
            Panel(asked, across="property", up="share right", ticks=places, lines=False,
                  title="Asked"),
            Panel(losses, across="held-out answers", up="loss (nats a token)", lines=False,
                  ticks={0.0: "same\nblind spot", 1.0: "without\nit"}, title="Validation"),
            Panel(covered, across="share answered, surest first", up="share right of these",
                  title="Coverage"),
        ],
    )  # fmt: skip


def conclude(results: Results) -> Answer:
    """Say what each teacher's assistant tells, what the loss shows, and what declining costs."""
    eye = "; ".join(
        f"{name} {results.spread(PROXY, f'{name}, {PROBE}').mean:.2f}, "
        f"{results.spread(PROXY, f'{name}, asked').mean:.2f}, "
        f"{results.spread(PROXY, f'{name}, {CHANCE}').mean:.2f}"
        for name in PROPERTIES
    )
    wrong, covered, right = (
        results.spread(arm, name).words if results.has(arm, name) else "none"
        for arm, name in ((PROXY, SURE), (CANNOT, COVERAGE), (CANNOT, RIGHT))
    )
    return Answer(
        sentence=(
            "What a probe reads from the frozen encoder, what the text proxy's assistant answers, "
            f"and what the commonest answer alone would score: {eye}. Its validation loss beside "
            f"that of the assistant taught by the truth is {results.beside(PROXY, TRUE, SAME)} on "
            f"data with the same blind spot, and {results.beside(PROXY, TRUE, FREE)} on data "
            "without it. The enriched proxy answers a share of "
            f"{results.beside(ENRICHED, PROXY, ASKED)} of the questions about blind spots right, "
            f"and {results.beside(ENRICHED, PROXY, 'accuracy')} of the others. Wrong answers of "
            f"the text proxy's have a confidence of {wrong}; the assistant that was taught to say "
            f"that it cannot tell answers a share of {covered}, of which {right} are right."
        ),
        foretold=" ".join(
            [
                verdict(
                    "loss on data with the same blind spot does not show it",
                    results.difference(PROXY, TRUE, SAME).sign < 1,
                ),
                verdict(
                    "loss on data without it does",
                    results.difference(PROXY, TRUE, FREE).sign == 1,
                ),
            ]
        ),
        limits=(
            "What a probe cannot read may still be there for a larger reader. Signs are read in "
            f"{SIGNS_READ:.0%} of the images alone, so their words are seldom taught. The "
            "assistant that declines is taught to decline everywhere in these spots: it learns "
            "what is not told, and not when it is unsure."
        ),
    )
