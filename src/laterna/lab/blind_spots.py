"""What the instruction data never showed: texture, lighting and sign text.

A text-only teacher sees boxes and captions, and neither says what a toy feels like, how bright
the light is or what a sign reads. Two measurements tell where such a blind spot sits: the
assistant is asked, and a linear probe is trained on the frozen encoder's features. A probe that
succeeds where the assistant fails says that the eye sees what the instructions never named. The
same probe on shuffled labels shows what such a probe gets from nothing.

The arms teach it by a proxy enriched from the pixels, by the truth, or to say that it cannot tell.

Shapes: b images · n patches an image · d width.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from msgspec.structs import replace
from torch import Tensor

from laterna.errors import LaternaError
from laterna.evaluation.metrics import find_metric
from laterna.evaluation.run import AnswerFunction, ask
from laterna.evaluation.tasks.base import IMAGE_FOLDER
from laterna.evaluation.tasks.world import TRUTH_FILE, read_truth, single_toys
from laterna.inference.assistant import Assistant
from laterna.lab import proxies
from laterna.lab.bench import Bench, Plan, score_value
from laterna.lab.drawing import Panel, draw_panels
from laterna.lab.experiment import Answer, Arm, Measures, Results, Spread, Value, compared
from laterna.lab.measures.probes import (
    box_pool,
    image_features,
    mean_max_pool,
    mean_pool,
    probe_accuracy,
)
from laterna.lab.measures.text import answer_loss, prompt_of, said
from laterna.records import (
    Box,
    Question,
    Record,
    Truth,
)
from laterna.scenes.phrases import SHORT_ANSWER
from laterna.synthesis.refusal_detection import declines

FEWEST = 20
"""Images without which neither half can hold a probe worth reading."""
SIGNS_READ = 1 / 3
"""Share of the images whose signs are read: reading takes most of the enrichment's time."""
PROXY, ENRICHED, TRUE, CANNOT = "proxy", "enriched proxy", "truth", "says it cannot tell"
ROOM = 16
LOOKED_AT = 120
"""Held-out answers of either sort whose loss is measured."""
ASKED, COVERAGE, RIGHT, SURE = (
    "blind spots, asked", "coverage", "right where answered", "confidence when wrong",
)  # fmt: skip
SAME, FREE = "loss, same blind spot", "loss, without it"
SHARES = (0.25, 0.5, 0.75, 1.0)


class BlindSpot(Record):
    """How well a property is told by the assistant and by a probe; accuracies in 0..1."""

    name: str
    asked: float
    """Exact match of the assistant's answers, over `questions`."""
    probe: float
    """Accuracy of the linear probe on the half of the images that it was not trained on."""
    shuffled: float
    """The same, with the labels shuffled among the images before training."""
    chance: float
    """Share of the commonest label: what always saying it would score."""
    questions: int
    """One an image; half of them train the probe."""


class Case(NamedTuple):
    """One image in which a property can be asked about."""

    image: str
    question: str
    label: str
    box: Box | None
    """Where to look; None: the whole image."""


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
        table=(*(f"{name}, {what}" for name in PROPERTIES for what in ("asked", "probe")),
               ASKED, COVERAGE, RIGHT, SURE, SAME, FREE, "accuracy", "blank image"),
        draw=draw,
        conclude=conclude,
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
            shares = {"probe": spot.probe, "probe, labels shuffled": spot.shuffled}
            shares["chance"] = spot.chance
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
        _question(name, case)
        for name, about in PROPERTIES.items()
        for case in _cases(about, truths, bench.seed)
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
        for what in ("probe", "chance")
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
    eye = ", ".join(
        f"{name} {results.spread(PROXY, f'{name}, probe').mean:.2f} "
        f"(asked {results.spread(PROXY, f'{name}, asked').mean:.2f})"
        for name in PROPERTIES
    )
    told = {arm: compared(results.difference(arm, PROXY, ASKED), "share right")
            for arm in (ENRICHED, TRUE)}  # fmt: skip
    same, free = (results.difference(PROXY, TRUE, name) for name in (SAME, FREE))
    losses = [compared(one, "nats", more="above", less="below") for one in (same, free)]
    kept = results.difference(ENRICHED, PROXY, "accuracy")
    wrong, covered, right = (
        results.spread(arm, name).words if results.has(arm, name) else "none"
        for arm, name in ((PROXY, SURE), (CANNOT, COVERAGE), (CANNOT, RIGHT))
    )
    return Answer(
        sentence=(
            f"A probe reads what the proxy's assistant does not tell: {eye}. Asked about blind "
            f"spots, the enriched proxy is {told[ENRICHED]} the proxy, and the truth "
            f"{told[TRUE]} it; elsewhere the enriched proxy is "
            f"{compared(kept, 'share right')} the proxy. The proxy's validation loss is "
            f"{losses[0]} the truth's on data with the same blind spot, and {losses[1]} it on "
            f"data without. Its wrong answers have a confidence of {wrong}; the assistant that "
            f"was taught to say that it cannot tell answers a share of {covered}, of which "
            f"{right} are right."
        ),
        limits=(
            "What a probe cannot read may still be there for a larger reader. Signs are read in "
            f"{SIGNS_READ:.0%} of the images alone, so their words are seldom taught. The "
            "assistant that declines is taught to decline everywhere in these spots: it learns "
            "what is not told, and not when it is unsure."
        ),
    )


class _Property(NamedTuple):
    case: Callable[[Truth, random.Random], Case | None]
    pool: Callable[[Tensor, Box | None], Tensor]


def blind_spots(
    assistant: Assistant,
    dataset: Path,
    *,
    limit: int,
    seed: int,
    answer: AnswerFunction | None = None,
    progress: bool = True,
) -> list[BlindSpot]:
    """Measure texture, lighting and sign text on a world dataset that was held out.

    `limit` is the most images (0: all); `seed` draws them, the toys asked about and the probe's
    halves. Raises LaternaError when the dataset is empty or unreadable, an image cannot be read,
    or fewer than `FEWEST` images show a property.
    """
    truths = read_truth(dataset / TRUTH_FILE)
    random.Random(seed).shuffle(truths)
    truths = truths[:limit] if limit else truths
    names = [truth.image for truth in truths]
    features = dict(
        zip(names, image_features(assistant.model, dataset / IMAGE_FOLDER, names), strict=True)
    )
    spots = []
    for name, about in PROPERTIES.items():
        cases = _cases(about, truths, seed)
        if len(cases) < FEWEST:
            raise LaternaError(
                f"{dataset}: {len(cases)} of {len(truths)} images show a {name}, the probe needs "
                f"{FEWEST}; raise the limit or draw more images"
            )
        questions = [_question(name, case) for case in cases]
        asked = ask(assistant, questions, dataset / IMAGE_FOLDER, answer=answer, progress=progress)
        accuracy = sum(given.score for given in asked.answers) / len(questions)
        pooled = torch.stack([about.pool(features[case.image], case.box) for case in cases])
        spots.append(_spot(name, cases, accuracy, pooled, seed))
    return spots


def _cases(about: _Property, truths: Sequence[Truth], seed: int) -> list[Case]:
    rng = random.Random(seed)
    return [case for truth in truths if (case := about.case(truth, rng))]


def texture_case(truth: Truth, rng: random.Random) -> Case | None:
    """Ask for the texture of a toy that can be named, or of none."""
    toys = single_toys(truth)
    if not toys:
        return None
    toy = rng.choice(toys)
    question = f"Is the {toy.category} smooth, rough or striped?"
    return Case(truth.image, question, toy.texture, toy.box)


def lighting_case(truth: Truth, _: random.Random) -> Case | None:
    """Ask for the light."""
    return Case(truth.image, "Is the light in the image bright or dim?", truth.lighting, None)


def sign_case(truth: Truth, _: random.Random) -> Case | None:
    """Ask for the word on the sign, where there is one."""
    if truth.sign is None or truth.sign_box is None:
        return None
    return Case(truth.image, "Which word is on the sign?", truth.sign, truth.sign_box)


PROPERTIES: dict[str, _Property] = {
    "texture": _Property(texture_case, box_pool),
    "lighting": _Property(lighting_case, mean_pool),
    "sign": _Property(sign_case, mean_max_pool),
}
"""Property to how it is asked about, and how its features are pooled for the probe."""


def _question(name: str, case: Case) -> Question:
    return Question(
        id=f"{case.image}-{name}",
        images=(case.image,),
        kind=name,
        text=case.question + SHORT_ANSWER,
        references=(case.label,),
    )


def _spot(
    name: str, cases: Sequence[Case], asked: float, pooled_bd: Tensor, seed: int
) -> BlindSpot:
    labels = [case.label for case in cases]
    shuffled = random.Random(seed).sample(labels, k=len(labels))
    return BlindSpot(
        name=name,
        asked=asked,
        probe=probe_accuracy(pooled_bd, labels, seed=seed),
        shuffled=probe_accuracy(pooled_bd, shuffled, seed=seed),
        chance=max(Counter(labels).values()) / len(labels),
        questions=len(labels),
    )
