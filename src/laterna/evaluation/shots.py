"""Few-shot questions by Flamingo's protocol: demonstrations with their answers, then the question.

0 shots are two demonstrations without their images; more are shown with them. They come from data
that is not asked about: one an image, drawn by a seed, so that all questions of a seed have the
same, and fewer shots are the first of more; or for each question those whose images are nearest to
its own by the vision encoder's features, the nearest last (RICES).

A chat model sees each as a turn of the user and one of the assistant. A model whose template has no
turns (`plain`, `openflamingo`) sees OpenFlamingo's form (open_flamingo/eval/models and
eval/utils.py): `<image>Question:… Short answer:…<|endofchunk|>`, or `<image>Output:…` for captions.

Shapes: p images · d width.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from laterna.data.images.files import open_images
from laterna.data.images.opening import load_image
from laterna.data.sources import read_records
from laterna.data.template import ENDS, SHIPPED_TEMPLATES
from laterna.errors import LaternaError
from laterna.evaluation.tasks.base import Task, read_questions
from laterna.inference.assistant import Assistant
from laterna.inference.generation import Prompt
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import SourceSettings
from laterna.records import DEFAULT_IMAGE_TOKEN, Question, Record, Turn

WITHOUT_IMAGES = 2
"""Demonstrations of 0 shots, which show no image: Flamingo's zero-shot prompt."""
WORDS_ALONE = "question-only"
"""The setting of tasks whose questions stand as they are asked, which the published form wants."""
CAPTION_TOKENS, ANSWER_TOKENS = 20, 5
"""Longest answers in the published form (scripts/run_eval.sh: max_new_tokens)."""
CUTS = ("Output", "Question", "Answer", "Short")
"""Words with which a model of the published form goes on to another question: there it is cut."""
END = ENDS["openflamingo"]
KEPT = 64
"""Demonstrations whose opened images are kept."""
Source = Path | bytes
"""An image's file, or the bytes of one."""


class Shots(Record):
    """How many demonstrations stand before each question, and where they come from.

    Raises LaternaError for what cannot be meant.
    """

    count: int
    source: Path
    """A folder of the same task's files, or a file of instruction records."""
    images: Path | None = None
    """Folder, zip or tar file of the images of a file's records. Default: `images` beside it, or
    where it lies."""
    retrieve: bool = False
    """Show each question those with the nearest images, in the place of the same to all."""
    pool: int = 1000
    """The most demonstrations among which the nearest are looked for, drawn by the seed."""

    def __post_init__(self) -> None:
        if self.count < 0 or self.pool < max(1, self.count):
            raise LaternaError(
                f"{self.count} shots of {self.pool} demonstrations: give 0 shots or more, and at "
                "least as many demonstrations to choose from"
            )
        if self.retrieve and not self.count:
            raise LaternaError("0 shots show no image, so there is none to retrieve them by")


class ShotFigures(Record):
    """What of the demonstrations stands beside a score."""

    count: int
    source: str
    retrieved: bool
    chosen_from: int
    """Demonstrations that were there to be shown."""
    passed_over: dict[str, int]
    """Those that were drawn and could not be shown, by reason."""

    @property
    def words(self) -> str:
        """How it is told in the title of a table."""
        how = f"the nearest of {self.chosen_from}" if self.retrieved else "the same for all"
        shown = f"{self.count} shots" if self.count else f"0 shots ({WITHOUT_IMAGES} without image)"
        return f"{shown}, {how}"


class Demonstration(NamedTuple):
    """A question with its answer; `text` holds a mark for each image."""

    text: str
    answer: str
    images: tuple[str, ...]
    find: Callable[[str], Source]
    """Gives the place of an image, by its name."""

    def opened(self) -> list[Image.Image]:
        """Open its images; raises as `load_image` does."""
        return [load_image(self.find(name), name) for name in self.images]


class Demonstrations(NamedTuple):
    """Those that may be shown, in the order in which they were drawn."""

    shots: Shots
    found: tuple[Demonstration, ...]
    passed_over: dict[str, int]

    def figures(self) -> ShotFigures:
        """Return what stands beside a score."""
        shots = self.shots
        return ShotFigures(
            count=shots.count,
            source=str(shots.source),
            retrieved=shots.retrieve,
            chosen_from=len(self.found),
            passed_over=self.passed_over,
        )


def draw_demonstrations(
    shots: Shots | None,
    task: Task,
    questions: Sequence[Question],
    find: Callable[[str], Source],
    *,
    setting: str,
    seed: int,
) -> Demonstrations | None:
    """Draw by `seed` what can be shown before questions of a task; None: nothing is asked for.

    `find` gives the questions' images, none of which is ever shown. Raises LaternaError for a task
    whose references are no answers, a source that cannot be read, and where too few are left.
    """
    if shots is None:
        return None
    if task.judge or not task.demonstrable:
        raise LaternaError(
            f"{task.about}: its references are no answers that a demonstration could show; ask "
            "without --shots"
        )
    candidates = list(_candidates(shots, task, setting, seed))
    random.Random(seed).shuffle(candidates)
    wanted = shots.count or WITHOUT_IMAGES
    most = shots.pool if shots.retrieve else wanted
    found: dict[tuple[str, ...], Demonstration] = {}
    passed_over: Counter[str] = Counter()
    tested = _Tested(asked_images(questions, find))
    for one in candidates:
        if len(found) == most:
            break
        if one.images in found:
            continue
        if fault := _fault(one, tested):
            passed_over[fault] += 1
        else:
            found[one.images] = one
    if len(found) < wanted:
        lost = "".join(f"; {count} {why}" for why, count in passed_over.items())
        raise LaternaError(
            f"{shots.source}: {wanted} demonstrations are wanted, and {len(found)} can be shown, "
            f"one an image{lost}; name other data with --shots-from, or ask with fewer shots"
        )
    return Demonstrations(shots, tuple(found.values()), dict(passed_over))


def _candidates(shots: Shots, task: Task, setting: str, seed: int) -> Iterator[Demonstration]:
    """Yield every question of the source with its commonest reference; of records, the first."""
    source = shots.source
    if source.is_dir():
        if shots.images is not None:
            raise LaternaError(
                f"--shots-images {shots.images}: the folder {source} has images of its own; leave "
                "it out, or name a file of records with --shots-from"
            )
        for one in read_questions(task, source, seed=seed, setting=setting).questions:
            answer = Counter(one.references).most_common(1)[0][0]
            marks = f"{DEFAULT_IMAGE_TOKEN}\n" * len(one.images)
            yield Demonstration(marks + one.text, answer, one.images, partial(task.image, source))
        return
    beside = source.parent / "images"
    where = str(shots.images or (beside if beside.is_dir() else source.parent))
    images = open_images(where)
    for record in read_records(SourceSettings(data=str(source), images=where)):
        turns = [turn for turn in record.turns if turn.role != "system"][:2]
        if [turn.role for turn in turns] == ["user", "assistant"]:
            text, answer = (turn.text for turn in turns)
            shown = record.images[: text.count(DEFAULT_IMAGE_TOKEN)]
            yield Demonstration(text, answer, shown, images.find)


def _fault(one: Demonstration, tested: _Tested) -> str:
    """Return why a demonstration cannot be shown; empty: it can."""
    if not one.images:
        return "without an image"
    try:
        if any(one.find(name) in tested for name in one.images):
            return "about an image that is asked about"
        one.opened()
    except (LaternaError, OSError):
        return "with an image that cannot be read"
    return ""


class _Tested:
    """The images that are asked about, told by what is in their files."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._by_size: dict[int, list[Source]] = {}
        for one in sources:
            size = len(one) if isinstance(one, bytes) else one.stat().st_size
            kept = one if isinstance(one, Path) else sha256(one).digest()
            self._by_size.setdefault(size, []).append(kept)

    def __contains__(self, source: Source) -> bool:
        content = source if isinstance(source, bytes) else source.read_bytes()
        own = sha256(content).digest()
        return any(
            own == (sha256(one.read_bytes()).digest() if isinstance(one, Path) else one)
            for one in self._by_size.get(len(content), ())
        )


def asked_images(questions: Iterable[Question], find: Callable[[str], Source]) -> Iterator[Source]:
    """Yield the images of questions, each once; those that are missing are left out."""
    for name in dict.fromkeys(name for one in questions for name in one.images):
        with suppress(LaternaError):
            source = find(name)
            if isinstance(source, bytes) or source.is_file():
                yield source


def words_alone(assistant: Assistant, task: Task) -> str:
    """Return the setting in which OpenFlamingo's form puts questions, empty: the default one."""
    published = _is_without_turns(assistant.model.template)
    return WORDS_ALONE if published and WORDS_ALONE in task.settings else ""


def _is_without_turns(template: str) -> bool:
    """Tell whether a chat template marks no turns, so that OpenFlamingo's form stands for them."""
    return any(template.endswith(_text_of(name)) for name in ("plain", "openflamingo"))


def _text_of(name: str) -> str:
    return SHIPPED_TEMPLATES[name].read_text(encoding="utf-8")


class ShotPrompts:
    """Puts demonstrations before an assistant's questions, in the form that it can read.

    `assistant` is the one to be asked: with a template of the published form where it has none with
    turns. `stop` and `longest` are that form's; empty and 0 for chats.
    """

    def __init__(self, demonstrations: Demonstrations, assistant: Assistant, task: Task) -> None:
        self._shots = demonstrations.shots
        self._found = demonstrations.found
        self._published = _is_without_turns(assistant.model.template)
        self._captions = task.metrics[0] == "captions"
        self.assistant = assistant
        self.stop: tuple[str, ...] = ()
        self.longest = 0
        if self._published:
            self.assistant, self.stop = _in_published_form(assistant)
            self.longest = CAPTION_TOKENS if self._captions else ANSWER_TOKENS
        self._opened = lru_cache(maxsize=max(KEPT, self._shots.count))(self._open)
        self._looks: Tensor | None = None

    def __call__(self, question: Question, images: Sequence[Image.Image]) -> Prompt:
        """Return the prompt of a question that is shown with these images, opened.

        Without any, where it has some, no demonstration shows its own either.
        """
        blind = not self._shots.count or (bool(question.images) and not images)
        turns, shown = [], []
        for number in self._chosen(images):
            one = self._found[number]
            turns.append(Turn(role="user", text=self._put(one.text, 0 if blind else None)))
            turns.append(Turn(role="assistant", text=one.answer))
            shown += [] if blind else self._opened(number)
        text = f"{DEFAULT_IMAGE_TOKEN}\n" * len(images) + question.text
        return [*turns, Turn(role="user", text=self._put(text))], [*shown, *images]

    def _open(self, number: int) -> list[Image.Image]:
        return self._found[number].opened()

    def _put(self, text: str, marks: int | None = None) -> str:
        """Return a question's text in the form; with `marks` 0 without its images."""
        words = text.replace(f"{DEFAULT_IMAGE_TOKEN}\n", "").replace(DEFAULT_IMAGE_TOKEN, "")
        marks = text.count(DEFAULT_IMAGE_TOKEN) if marks is None else marks
        if not self._published:
            return text if marks else words.strip()
        said = "Output:" if self._captions else f"Question:{words.strip()} Short answer:"
        return DEFAULT_IMAGE_TOKEN * marks + said

    def _chosen(self, images: Sequence[Image.Image]) -> Sequence[int]:
        """Return the numbers of the demonstrations to show, in order."""
        count = self._shots.count or WITHOUT_IMAGES
        if not self._shots.retrieve or not images:
            return range(count)
        model = self.assistant.model
        if self._looks is None:
            self._looks = torch.stack([looks(model, one.opened()) for one in self._found])
        near = (self._looks @ looks(model, images)).topk(count).indices.tolist()
        return near[::-1]


@torch.no_grad()
def looks(model: VisionLanguageModel, images: Sequence[Image.Image]) -> Tensor:
    """Return the direction (d,) of images' mean feature by the vision encoder."""
    pixels_bchw = model.prepare(images).to(model.device)
    mean_d: Tensor = model.vision(pixels_bchw).float().flatten(0, 1).mean(0)
    return normalize(mean_d, dim=0)


def _in_published_form(assistant: Assistant) -> tuple[Assistant, tuple[str, ...]]:
    """Return an assistant of the same weights with OpenFlamingo's template, and what ends its
    answers. One that was trained with it keeps it; where the tokenizer of another lacks `END`, a
    line's end stands for it, as `plain` trains it.
    """
    model = copy.copy(assistant.model)  # weights and tokenizer are shared
    text = _text_of("openflamingo")
    if model.template.endswith(text):
        return assistant, CUTS
    known = END in model.tokenizer.get_vocab()
    model.template = text if known else text.replace(END, "\\n")
    return Assistant(model, assistant.settings), CUTS if known else (*CUTS, "\n")
