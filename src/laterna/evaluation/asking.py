"""Puts questions to an assistant: with their images, or with something essential taken away.

Images of successive questions are opened once. With a cache, a question that has an answer is not
asked, and one that comes twice in the same form is asked once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import count, groupby, islice
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar

from msgspec.structs import replace
from PIL import Image
from rich.console import Console

from laterna.data.images.opening import MissingImageError, image_size, load_image
from laterna.errors import LaternaError
from laterna.evaluation.answer_cache import AnswerCache, Said, answer_key
from laterna.evaluation.metrics import find_metric
from laterna.inference.assistant import Assistant
from laterna.inference.batching.request import Completion
from laterna.inference.generation import Decoding, Prompt
from laterna.model.vlm import VisionLanguageModel
from laterna.progress import shown_progress
from laterna.records import DEFAULT_IMAGE_TOKEN, Answer, Question, Record, Turn

T = TypeVar("T")
Shown = Literal["own", "blank", "shuffled", "text_only"]
"""What is shown with a question: its own images; for each, one of the encoder's mean colour, as
large as it, so that it takes as many tokens; those of another question, no image staying in its
place; or none at all."""
FindImage = Callable[[str], Path | bytes]
"""Gives the file of an image, or the bytes of one, by its name in `Question.images`."""
PutQuestion = Callable[[Question, Sequence[Image.Image]], Prompt]
"""Makes the prompt of a question that is shown with these images."""


class AnswerFunction(Protocol):
    """Answers a batch of prompts, in the place of the assistant's engine."""

    def __call__(
        self, model: VisionLanguageModel, prompts: Sequence[Prompt], decoding: Decoding
    ) -> list[str]:
        """Return one answer a prompt, in order."""
        ...


def alone(question: Question, images: Sequence[Image.Image]) -> Prompt:
    """Put a question by itself: one turn, its images before the words."""
    marks = f"{DEFAULT_IMAGE_TOKEN}\n" * len(images)
    return [Turn(role="user", text=marks + question.text)], images


class Known(NamedTuple):
    """Where a model's earlier answers are, and the fingerprint that it has there."""

    cache: AnswerCache
    model: str


class Skipped(Record):
    """A question that was not asked, because its image could not be read."""

    question: Question
    reason: str
    """The same words for every question with that fault."""
    message: str
    """What was wrong with this image, its file named."""


class Asked(Record):
    """What came of asking: the answers in the questions' order, and what could not be asked."""

    answers: tuple[Answer, ...]
    skipped: tuple[Skipped, ...] = ()


def ask(
    assistant: Assistant,
    questions: Sequence[Question],
    images: Path | FindImage,
    *,
    metric: str = "exact_match",
    max_new_tokens: int = 16,
    shown: Shown = "own",
    seed: int = 0,
    put: PutQuestion = alone,
    stop: tuple[str, ...] = (),
    known: Known | None = None,
    batch: int = 64,
    answer: AnswerFunction | None = None,
    progress: bool = True,
) -> Asked:
    """Ask each question once, greedily.

    The assistant's engine answers them as they come, or `answer` in batches of `batch`. `images`
    is the folder of the questions' images, or finds them; `seed` draws who is shown whose image
    where they are `shuffled`; `put` may say more before a question, and a text of `stop` ends an
    answer. Answers are scored by `metric`, a key of `METRICS`; empty: not.
    Questions with an image that cannot be read are skipped and come back with the reason.
    """
    skipped: dict[int, Skipped] = {}
    said: dict[int, Said] = {}
    find: FindImage = images.__truediv__ if isinstance(images, Path) else images
    prompts = _prompts(assistant, questions, find, shown, seed, put, skipped)
    decoding = Decoding(
        max_new_tokens=max_new_tokens, stop=stop, logprobs=0 if answer is None else None
    )
    title = "asking" if shown == "own" else f"asking ({shown.replace('_', ' ')})"
    console = Console(stderr=True, quiet=not progress)  # where it stays out of what is piped on
    with shown_progress(title, total=len(questions), console=console) as bar:
        for indices, one in _answered(assistant, prompts, decoding, known, answer, batch):
            said |= dict.fromkeys(indices, one)
            bar.update(len(said) + len(skipped))
    answers = [
        Answer(question=questions[index], score=math.nan, **one._asdict())
        for index, one in sorted(said.items())
    ]
    return Asked(
        answers=tuple(rated(answers, metric) if metric else answers),
        skipped=tuple(skipped[index] for index in sorted(skipped)),
    )


def rated(answers: Sequence[Answer], metric: str) -> list[Answer]:
    """Return answers with the scores that a metric gives them: a judge's review, or their texts."""
    if not answers:
        return []
    texts = [answer.text if answer.review is None else answer.review for answer in answers]
    scores = find_metric(metric).score([answer.question for answer in answers], texts)
    return [replace(one, score=score) for one, score in zip(answers, scores, strict=True)]


def _prompts(
    assistant: Assistant,
    questions: Sequence[Question],
    find: FindImage,
    shown: Shown,
    seed: int,
    put: PutQuestion,
    skipped: dict[int, Skipped],
) -> Iterator[tuple[int, Prompt]]:
    """Yield each question's index with its prompt, by images; fill `skipped` with the others."""
    # Blank images of one size are one, so that each is encoded once a batch.
    blank_of = lru_cache(lambda width, height: assistant.model.prepare.blank(width, height))

    def opened(name: str) -> Image.Image:
        source = find(name)
        if shown == "blank":
            return blank_of(*image_size(source, name))
        return load_image(source, name)

    names = [question.images for question in questions]
    if shown == "shuffled":
        names = _deranged(names, seed)
    elif shown == "text_only":
        names = [()] * len(questions)
    by_images = sorted(range(len(questions)), key=lambda index: names[index])
    for group, indices in groupby(by_images, key=lambda index: names[index]):
        try:
            images = [opened(name) for name in group]
        except LaternaError as error:
            missing = isinstance(error, MissingImageError)
            reason = "image missing" if missing else "image cannot be read"
            for i in indices:
                skipped[i] = Skipped(question=questions[i], reason=reason, message=str(error))
            continue
        for i in indices:
            if shown == "shuffled" and group and group == questions[i].images:
                reason = "no other image to show"
                message = f"question {questions[i].id}: {reason}: all are about {group[0]}"
                skipped[i] = Skipped(question=questions[i], reason=reason, message=message)
                continue
            yield i, put(questions[i], images)


def _deranged(names: Sequence[tuple[str, ...]], seed: int) -> list[tuple[str, ...]]:
    """Give each question the images of another, as many as its own, all of one group the same.

    The groups are shuffled and each takes the images of the next, so that none keeps its own
    unless it is the only one with so many images.
    """
    partner: dict[tuple[str, ...], tuple[str, ...]] = {}
    groups = sorted(set(names), key=lambda group: (len(group), group))
    for _, alike in groupby(groups, key=len):
        order = list(alike)
        random.Random(seed).shuffle(order)
        partner |= zip(order, order[1:] + order[:1], strict=True)
    return [partner[group] for group in names]


def _answered(
    assistant: Assistant,
    prompts: Iterator[tuple[int, Prompt]],
    decoding: Decoding,
    known: Known | None,
    answer: AnswerFunction | None,
    batch: int,
) -> Iterator[tuple[Sequence[int], Said]]:
    """Yield answers, each with the indices of the questions that it is of."""
    waiting: dict[bytes, list[int]] = {}
    """Questions of each prompt that is being asked, in the order of asking."""
    keys: list[bytes] = []
    """Of all prompts that were asked."""
    found: list[tuple[Sequence[int], Said]] = []

    def new() -> Iterator[Prompt]:
        """Yield prompts that have no answer and are not being asked."""
        for index, prompt in prompts:
            if known is None:
                waiting[index.to_bytes(8)] = [index]
                yield prompt
                continue
            key = answer_key(known.model, prompt, decoding)
            before = known.cache.find(key)
            if before is not None:
                found.append(([index], before))
            elif key in waiting:
                waiting[key].append(index)
            else:
                waiting[key] = [index]
                keys.append(key)
                yield prompt

    def keep(number: int, said: Said) -> None:
        if known is not None:
            known.cache.keep(keys[number], said)

    for said in _asked(assistant, new(), decoding, answer, batch, keep):
        yield waiting.pop(next(iter(waiting))), said
        yield from found
        found.clear()
    yield from found


def _asked(
    assistant: Assistant,
    prompts: Iterator[Prompt],
    decoding: Decoding,
    answer: AnswerFunction | None,
    batch: int,
    keep: Callable[[int, Said], None],
) -> Iterator[Said]:
    """Yield the answers to prompts, in order; each is kept as soon as it is there."""
    if answer is None:
        said: dict[int, Said] = {}

        def arrived(number: int, completion: Completion) -> None:
            said[number] = _said(completion)
            keep(number, said[number])

        answers = assistant.engine.answers(prompts, decoding, fit=True, arrived=arrived)
        for number, _ in enumerate(answers):
            yield said.pop(number)
        return
    numbers = count()
    for chunk in _chunks(prompts, batch):
        texts = answer(assistant.model, chunk, decoding)
        given = [Said(text) for _, text in zip(chunk, texts, strict=True)]
        for one, number in zip(given, numbers, strict=False):
            keep(number, one)
        yield from given


def _said(completion: Completion) -> Said:
    logprobs = [token.logprob for token in completion.tokens]
    total = math.fsum(one for one in logprobs if one is not None)
    # Rounded: the last digits hang on who else is being answered.
    return Said(completion.text.strip(), float(f"{math.exp(total):.4g}"))


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
