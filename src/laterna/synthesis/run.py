"""Annotated pictures in, instruction records out: the synthesis step as a whole."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.progress import track

from laterna.errors import LaternaError
from laterna.records import (
    PICTURE_MARK,
    InstructionRecord,
    Kind,
    Provenance,
    Record,
    Scene,
    Turn,
)
from laterna.synthesis.annotations import Annotations, Problem, read_annotations
from laterna.synthesis.coco import CATEGORIES
from laterna.synthesis.grounding import unsupported_objects
from laterna.synthesis.object_words import ObjectWords
from laterna.synthesis.output import write_llava_json
from laterna.synthesis.parsing import Exchange, ReplyError, parse_reply
from laterna.synthesis.prompts import build_messages, detail_questions
from laterna.synthesis.proxy import proxy_digest, write_proxy
from laterna.synthesis.teachers import Teacher, make_teacher

KINDS: tuple[Kind, ...] = ("caption", "conversation", "detail", "reasoning")
INSTRUCTION_KINDS: tuple[Kind, ...] = KINDS[1:]
CAPTION_QUESTION = "Describe the picture in brief."
"""Stands before the captions of stage 1; the `plain` template leaves it out."""


class Summary(Record):
    """What a synthesis made, and what it left out by reason."""

    out: str
    scenes: int
    records: dict[str, int]
    """Records by kind."""
    problems: tuple[Problem, ...]

    def line(self) -> str:
        """Return the summary as one line."""
        made = ", ".join(f"{number} {kind}" for kind, number in self.records.items())
        reasons = Counter(problem.reason for problem in self.problems)
        left = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
        return f"{self.scenes} pictures -> {made} records in {self.out}" + (
            f"; left out: {left}" if left else ""
        )


def synthesize(
    annotations: Path,
    out: Path,
    *,
    captions: Path | None = None,
    teacher: str = "scribe",
    kinds: tuple[Kind, ...] = INSTRUCTION_KINDS,
    seed: int = 0,
    conversation_boxes: bool = False,
) -> Summary:
    """Write instruction records for every annotated picture to `out`, in LLaVA's form.

    `kinds` may hold `caption`, which needs no teacher. `conversation_boxes` shows the boxes to
    the teacher of conversations too, who cannot count without them (LLaVA issue 991); LLaVA's
    own form leaves them out. Raises LaternaError when the annotations cannot be read or nothing
    can be made of them.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        asked = f"unknown kind of record {unknown}" if unknown else "no kind of record asked for"
        raise LaternaError(f"{asked}; known are: {', '.join(KINDS)}")
    if seed < 0:
        raise LaternaError(f"seed {seed}: a seed cannot be negative")
    if out.is_dir():
        raise LaternaError(f"{out} is a folder; name the JSON file to write")
    found = read_annotations(annotations, captions)
    workshop = _Workshop(found, teacher, kinds, seed, conversation_boxes)
    records = list(workshop.make(found.scenes))
    if not records:
        raise LaternaError(f"{annotations}: no record could be made of it")
    write_llava_json(out, records)
    made = Counter(str(record.kind) for record in records)
    return Summary(
        out=str(out),
        scenes=len(found.scenes),
        records={kind: made[kind] for kind in kinds},
        problems=found.problems + tuple(workshop.problems),
    )


class _Workshop:
    """Makes the records of scene after scene, and notes what could not be made."""

    def __init__(
        self,
        found: Annotations,
        teacher: str,
        kinds: tuple[Kind, ...],
        seed: int,
        conversation_boxes: bool,
    ) -> None:
        annotated = {box.category for scene in found.scenes for box in scene.boxes}
        self.words = ObjectWords(dict.fromkeys((*CATEGORIES, *sorted(annotated))))
        self.teacher_name = teacher
        self.teachers: dict[Kind, Teacher] = {
            kind: make_teacher(teacher, kind, annotated, seed)
            for kind in kinds
            if kind != "caption"
        }
        self.captioned = "caption" in kinds
        self.shows_boxes = {"conversation": conversation_boxes}
        self.seed = seed
        self.problems: list[Problem] = []

    def make(self, scenes: tuple[Scene, ...]) -> Iterator[InstructionRecord]:
        """Yield the records of the scenes, in their order."""
        with asyncio.Runner() as runner:
            for scene in track(scenes, "synthesis", transient=True):
                if self.captioned:
                    yield from _caption_records(scene)
                for kind, teacher in self.teachers.items():
                    record = runner.run(self._instruct(scene, kind, teacher))
                    if record is not None:
                        yield record

    async def _instruct(
        self, scene: Scene, kind: Kind, teacher: Teacher
    ) -> InstructionRecord | None:
        boxes = scene.boxes if self.shows_boxes.get(kind, True) else ()
        proxy = write_proxy(scene.captions, boxes)
        reply = await teacher.complete(build_messages(kind, proxy))
        if not reply.text:
            self._refuse("nothing certain to say", scene, kind)
            return None
        rng = np.random.default_rng([self.seed, int(proxy_digest(proxy)[:16], 16)])
        try:
            exchanges = _exchanges(kind, reply.text, rng)
        except ReplyError:
            self._refuse("reply not in the form asked for", scene, kind)
            return None
        # Each for itself: run together, "One" and "Orange" would name a fruit.
        if any(unsupported_objects(pair.answer, scene, self.words) for pair in exchanges):
            self._refuse("answer names what is not there", scene, kind)
            return None
        return InstructionRecord(
            id=f"{scene.id}-{kind}",
            pictures=(scene.picture,),
            turns=_turns(exchanges, mark_first=bool(rng.integers(2))),
            kind=kind,
            provenance=Provenance(teacher=self.teacher_name, proxy_digest=proxy_digest(proxy)),
        )

    def _refuse(self, reason: str, scene: Scene, kind: Kind) -> None:
        self.problems.append(Problem(reason=reason, where=f"picture {scene.id}, {kind}"))


def _exchanges(kind: Kind, reply: str, rng: np.random.Generator) -> tuple[Exchange, ...]:
    if kind != "detail":
        return parse_reply(reply)
    questions = detail_questions()
    return (Exchange(questions[int(rng.integers(len(questions)))], reply),)


def _turns(exchanges: tuple[Exchange, ...], *, mark_first: bool) -> tuple[Turn, ...]:
    """Return the chat; the picture stands before or after the first question."""
    turns = []
    for number, (question, answer) in enumerate(exchanges):
        text = question
        if number == 0:
            text = f"{PICTURE_MARK}\n{text}" if mark_first else f"{text}\n{PICTURE_MARK}"
        turns += [Turn(role="user", text=text), Turn(role="assistant", text=answer, loss=True)]
    return tuple(turns)


def _caption_records(scene: Scene) -> Iterator[InstructionRecord]:
    for number, caption in enumerate(scene.captions):
        yield InstructionRecord(
            id=f"{scene.id}-caption-{number}",
            pictures=(scene.picture,),
            turns=_turns((Exchange(CAPTION_QUESTION, caption.strip()),), mark_first=True),
            kind="caption",
        )
