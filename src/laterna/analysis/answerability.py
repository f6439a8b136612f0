"""Whether a text proxy supports what an answer says, property by property.

The question is whether the teacher could have known it, not whether it was right, which the checks
decide. Each property has one rule, which names the lines of the proxy that support it:

    existence   boxes or captions name at least half of the things that the answer names
    count       a box of the thing, or a caption with a number before it
    colour      a caption with a colour before the thing, or a line of `colours` about it
    place       a box of the thing, or a caption that names it with a place behind it
    relation    boxes of two things in question or answer, or a caption that relates one of them
    action      a caption that names the thing and what is being done
    text        a line of `ocr`, or half of the answer's new words in the captions
    texture     a caption with a material or pattern to the thing, or a line of `texture`
    lighting    a line of `lighting`, or a caption with a word for light, time or weather
    emotion     a caption with a word for a feeling or an expression

For every property, boxes without a thing support an answer that it is not there. `background`,
`description` and `other` are not judged: no line supports them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Set

from laterna.analysis.mentions import (
    NUMBER_WORDS,
    WORDS,
    ReadText,
    described,
    read_text,
    subjects_of,
)
from laterna.analysis.properties import QUESTIONS, Property, bare_question
from laterna.records import Proxy, Record
from laterna.scenes.vocabulary import CATEGORIES, COLOURS
from laterna.synthesis.checks.polarity import is_denied

_NUMBERS = NUMBER_WORDS | {str(number) for number in range(100)}


class ProxyEvidence(Record):
    """What a proxy says, by channel; `boxes` are the keys of the boxed things, one for each box."""

    captions: tuple[str, ...]
    boxes: tuple[str, ...]
    categories: tuple[str, ...]
    """The categories of `boxes`, as written."""
    enrichments: dict[str, tuple[str, ...]]
    """Lines of every other channel."""


class QAPair(Record):
    """A question and its answer, with what they are about."""

    question: str
    answer: str
    subjects: tuple[str, ...]
    """Keys of what the question is about."""


def read_evidence(proxy: Proxy) -> ProxyEvidence:
    """Sort the lines of a proxy by channel."""
    lines: dict[str, list[str]] = {}
    for channel, line in zip(proxy.channels, _lines(proxy), strict=True):
        lines.setdefault(channel, []).append(line)
    categories = tuple(line.rpartition(": [")[0] for line in lines.pop("box", ()))
    lines.pop("", None)
    return ProxyEvidence(
        captions=tuple(lines.pop("caption", ())),
        # The last word is the thing, the words before it say which.
        boxes=tuple(found[-1].key for name in categories if (found := read_text(name).mentions)),
        categories=categories,
        enrichments={channel: tuple(found) for channel, found in lines.items()},
    )


def _lines(proxy: Proxy) -> list[str]:
    return proxy.text.split("\n") if proxy.channels else []


def make_pair(question: str, answer: str) -> QAPair:
    """Find what a question is about."""
    return QAPair(
        question=question, answer=answer, subjects=tuple(subjects_of(bare_question(question)))
    )


def is_answerable(evidence: ProxyEvidence, pair: QAPair, about: Property) -> bool | None:
    """Say whether the proxy supports the answer for a property; None: not judged."""
    rule = _RULES.get(about)
    return None if rule is None else rule(evidence, pair) or _is_rightly_denied(evidence, pair)


def _is_rightly_denied(evidence: ProxyEvidence, pair: QAPair) -> bool:
    """Say whether the answer is that a thing asked about is not there, and boxes lack it."""
    if not evidence.boxes:
        return False
    words, mentions, _ = _read_answer(pair.answer)
    denied = {one.key for one in mentions if one.known and is_denied(words, one.first, one.last)}
    return bool(denied) and denied <= set(pair.subjects) and not denied & _held(evidence)


def _held(evidence: ProxyEvidence) -> set[str]:
    return set(evidence.boxes).union(*(read_text(caption).keys for caption in evidence.captions))


def _existence(evidence: ProxyEvidence, pair: QAPair) -> bool:
    held = _held(evidence)
    subjects = set(pair.subjects)
    if QUESTIONS["yes_no"].match(pair.question.lower()) and subjects:
        if subjects & held:
            return True
        # Boxes are complete for the categories that were annotated, and for no other.
        annotated = subjects <= {*CATEGORIES, *evidence.boxes}
        return bool(evidence.boxes) and annotated and _denies(pair.answer, subjects)
    named = {one.key for one in read_text(pair.answer).mentions if one.known}
    # Of an answer that names categories only these count: the rest may be its reasons.
    return _half(named - subjects or read_text(pair.answer).keys, subjects, held)


def _denies(answer: str, subjects: Set[str]) -> bool:
    """Say whether an answer says that what was asked about is not there."""
    words, mentions, _ = _read_answer(answer)
    if any(is_denied(words, one.first, one.last) for one in mentions if one.key in subjects):
        return True
    return bool(QUESTIONS["denial"].search(_plain(answer).lower()))


def _read_answer(answer: str) -> ReadText:
    return read_text(_plain(answer))


def _plain(answer: str) -> str:
    """Return an answer with straight apostrophes, as in "isn't"."""
    return answer.replace("\u2019", "'").strip()


def _count(evidence: ProxyEvidence, pair: QAPair) -> bool:
    # "How many cups are in the box?" counts the cups.
    counted = pair.subjects[:1]
    if evidence.boxes and (not counted or counted[0] in evidence.boxes):
        return True
    return any(described(caption, counted, _NUMBERS) for caption in evidence.captions)


def _describing(words: Collection[str], channel: str) -> Callable[[ProxyEvidence, QAPair], bool]:
    """Return the rule for a quality: a caption gives it to a subject, or a channel names one."""

    def rule(evidence: ProxyEvidence, pair: QAPair) -> bool:
        if any(described(caption, pair.subjects, words) for caption in evidence.captions):
            return True
        lines = evidence.enrichments.get(channel, ())
        about = set(pair.subjects)
        return any(not about or about & read_text(line).keys for line in lines)

    return rule


def _of_the_whole(words: Set[str], channel: str) -> Callable[[ProxyEvidence, QAPair], bool]:
    """Return the rule for light or mood: a caption has a word for it, or a channel has lines."""

    def rule(evidence: ProxyEvidence, _: QAPair) -> bool:
        # Only the word alone: a traffic light is no light.
        return any(words & read_text(caption).keys for caption in evidence.captions) or bool(
            evidence.enrichments.get(channel)
        )

    return rule


def _place(evidence: ProxyEvidence, pair: QAPair) -> bool:
    if evidence.boxes and (not pair.subjects or set(pair.subjects) & set(evidence.boxes)):
        return True
    return any(_places(caption, pair.subjects) for caption in evidence.captions)


def _relation(evidence: ProxyEvidence, pair: QAPair) -> bool:
    concerned = {*pair.subjects, *read_text(pair.answer).keys}
    boxed = [key for key in evidence.boxes if key in concerned]
    if len(boxed) > 1 and (not pair.subjects or set(pair.subjects) & set(boxed)):
        return True
    return _captioned(
        evidence, pair.subjects, lambda caption: bool(QUESTIONS["related"].search(caption))
    )


def _action(evidence: ProxyEvidence, pair: QAPair) -> bool:
    def acts(caption: str) -> bool:
        return any(
            word in WORDS.actions or (word.endswith("ing") and word not in WORDS.no_actions)
            for word in re.findall(r"[a-z]+", caption)
        )

    return _captioned(evidence, pair.subjects, acts)


def _text(evidence: ProxyEvidence, pair: QAPair) -> bool:
    if evidence.enrichments.get("ocr"):
        return True
    held: set[str] = set().union(*(read_text(caption).keys for caption in evidence.captions))
    return _half(read_text(pair.answer).keys, set(subjects_of(pair.question)), held)


_RULES: dict[Property, Callable[[ProxyEvidence, QAPair], bool]] = {
    "existence": _existence,
    "count": _count,
    "colour": _describing(COLOURS, "colours"),
    "place": _place,
    "relation": _relation,
    "action": _action,
    "text": _text,
    "texture": _describing(WORDS.materials, "texture"),
    "lighting": _of_the_whole(WORDS.light, "lighting"),
    "emotion": _of_the_whole(WORDS.feelings, "emotion"),
}


def _half(answered: Set[str], asked: Set[str], held: Set[str]) -> bool:
    """Say whether the proxy has at least half of what the answer adds to the question."""
    new = answered - asked or answered
    return bool(new) and 2 * len(new & held) >= len(new)


def _places(caption: str, subjects: Collection[str]) -> bool:
    """Say whether a caption has a place after one of the subjects (without subjects: anywhere)."""
    words, mentions, _ = read_text(caption)
    starts = [one.last for one in mentions if one.key in subjects] if subjects else [0]
    return any(WORDS.locatives.intersection(words[start:]) for start in starts)


def _captioned(
    evidence: ProxyEvidence, subjects: Collection[str], says: Callable[[str], bool]
) -> bool:
    """Say whether a caption that names one of the subjects (without subjects: any) `says` it."""
    return any(
        says(caption.lower()) and (not subjects or not read_text(caption).keys.isdisjoint(subjects))
        for caption in evidence.captions
    )
