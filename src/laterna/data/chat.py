"""Turns become the one text that the language model reads, with the spans it learns to write."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from msgspec import structs

from laterna.data.template import (
    SHIPPED_TEMPLATES,
    Renderer,
    UnusableError,
    load_template,
    special_pattern,
)
from laterna.records import DEFAULT_IMAGE_TOKEN, Record, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "PROBE",
    "SHIPPED_TEMPLATES",
    "Rendered",
    "UnusableError",
    "asks_as_it_shows",
    "load_template",
    "only_words",
    "render",
    "render_prompt",
    "special_pattern",
]

# Characters of Unicode's private plane: no text that means anything holds them, and none that
# does is let through.
ANSWER_START = "\U000f1a70"
ANSWER_END = "\U000f1a71"
_MARKERS = re.compile(f"[{ANSWER_START}{ANSWER_END}]")
_DIGITS = re.compile(r"\d+")
_UNSAYABLE = re.compile(f"[{ANSWER_START}{ANSWER_END}\ud800-\udfff]")
Found = TypeVar("Found")
PROBE: tuple[Turn, ...] = (
    Turn(role="user", text="What is there?"),
    Turn(role="assistant", text="A cup.", loss=True),
    Turn(role="user", text="Is it red?"),
    Turn(role="assistant", text="Yes.", loss=True),
)
"""A chat by which templates are tried."""


class Rendered(Record, frozen=True):
    """A chat as text, and the character ranges (start, end) that carry loss, in order."""

    text: str
    spans: tuple[tuple[int, int], ...]


def render(
    turns: Sequence[Turn],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    *,
    continue_as_assistant: bool = False,
    image_mark: str = DEFAULT_IMAGE_TOKEN,
) -> Rendered:
    """Render a chat by a Jinja template (its text) and find what is to be learned in it.

    A span covers the text of an assistant turn that carries loss, from where the template's
    opening of the turn ends, and its end-of-turn: what the template writes after the answer up to
    the first special token, or, where none follows, all that it writes there when the chat ends
    with that answer. `continue_as_assistant` ends the
    text where the assistant is to write. `image_mark` is told to the template, since some
    templates keep nothing else of the user's words.

    The answers are found by rendering a second time with marker characters around them; the two
    renders must agree but for the markers.

    Raises UnusableError when the turns hold characters that cannot be passed on or the text of a
    special token, or when the template refuses the turns, or changes an answer, as those do that
    leave out the thought of an earlier one.
    """
    _check_turns(turns, tokenizer, continue_as_assistant)
    chat = Renderer(tokenizer, template, image_mark)
    text = chat.text(turns, prompt=continue_as_assistant)
    learned = [index for index, turn in enumerate(turns) if turn.loss]
    if not learned:
        return Rendered(text=text, spans=())
    gaps = _Gaps(text, turns)
    marked, answers = _find_answers(text, chat, turns, continue_as_assistant, gaps)
    ends = [
        end + _end_of_turn(text, end, chat, marked, index, gaps)
        for index, (_, end) in zip(learned, answers, strict=True)
    ]
    starts = _starts(text, answers, chat, turns, gaps)
    return Rendered(text=text, spans=tuple(zip(starts, ends, strict=True)))


def render_prompt(
    turns: Sequence[Turn],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    *,
    image_mark: str = DEFAULT_IMAGE_TOKEN,
) -> str:
    """Render a chat up to where the assistant is to write, as it is shown in training.

    That is what the template asks with, but where it asks otherwise than it shows: there it ends
    where an answer would begin to be learned. Raises UnusableError as `render` does.
    """
    if asks_as_it_shows(tokenizer, template):
        rendered = render(
            turns, tokenizer, template, continue_as_assistant=True, image_mark=image_mark
        )
        return rendered.text
    _check_turns(turns, tokenizer, continue_as_assistant=True)
    asked = [*(structs.replace(turn, loss=False) for turn in turns), PROBE[1]]
    rendered = render(asked, tokenizer, template, image_mark=image_mark)
    return rendered.text[: rendered.spans[-1][0]]


def asks_as_it_shows(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Say whether the prompt for an answer is what stands before the answer in training.

    It is tried once on a chat of one exchange and of two; a template that refuses both is taken at
    its word.
    """
    known = _asking.setdefault(tokenizer, {})
    if template not in known:
        known[template] = all(_shows(PROBE[:turns], tokenizer, template) for turns in (2, 4))
    return known[template]


_asking: WeakKeyDictionary[PreTrainedTokenizerBase, dict[str, bool]] = WeakKeyDictionary()


def _shows(chat: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    try:
        shown = render(chat, tokenizer, template)
        asked = render(chat[:-1], tokenizer, template, continue_as_assistant=True).text
    except UnusableError:
        return True
    return shown.text[: shown.spans[-1][0]] == asked


class _Gaps:
    """What a chat's beginnings show, each found once for all places with the same neighborhood.

    To know what a template writes around an answer, the chat up to it is rendered. Doing that for
    each answer would cost the square of their number; what stands between an answer and its
    neighbors' words says where it was done already. Numbers count as one, for rounds have them.
    """

    def __init__(self, text: str, turns: Sequence[Turn]) -> None:
        self._text = text
        self._turns = turns
        self._first = next(index for index, turn in enumerate(turns) if turn.loss)
        self._known: dict[tuple[object, ...], Any] = {}

    def before(self, what: str, index: int, start: int, find: Callable[[], Found]) -> Found:
        """Return what `find` says of the answer of a turn, which begins at `start`."""
        words = self._turns[index - 1].text.strip() if index else ""
        at = self._text.rfind(words, 0, start) if words else -1
        return self._once(what, index, self._text[at + len(words) : start], find)

    def after(self, index: int, end: int, find: Callable[[], Found]) -> Found:
        """Return what `find` says of the answer of a turn, which ends at `end`."""
        words = self._turns[index + 1].text.strip() if index + 1 < len(self._turns) else ""
        at = self._text.find(words, end) if words else -1
        if at < 0:
            following = (turn.text.strip() for turn in self._turns[index + 2 : index + 3])
            at = self._text.find(next(following, "") or "\0", end)
        return self._once("after", index, self._text[end : at if at >= 0 else None], find)

    def _once(self, side: str, index: int, gap: str, find: Callable[[], Found]) -> Found:
        place = (index == self._first, index + 1 == len(self._turns))
        key = (side, place, self._turns[max(index - 1, 0)].role, _DIGITS.sub("0", gap))
        if key not in self._known:
            self._known[key] = find()
        found: Found = self._known[key]
        return found


def _find_answers(
    text: str, chat: Renderer, turns: Sequence[Turn], prompt: bool, gaps: _Gaps
) -> tuple[list[Turn], list[tuple[int, int]]]:
    """Return the turns as they were marked, and where the answers that carry loss stand in `text`.

    Raises UnusableError where the template does not write one as it is.
    """
    learned = [index for index, turn in enumerate(turns) if turn.loss]
    # A template may strip an answer, and does not find the white space when a marker is outside.
    for wrap in (_wrap, _wrap_core):
        marked = [wrap(turn) for turn in turns]
        found = _marked_spans(chat.text(marked, prompt=prompt), text)
        if len(found) != len(learned):
            continue
        answers = [
            (_asked_at(text, end, chat, turns, index, gaps) if start < 0 else start, end)
            for index, (start, end) in zip(learned, found, strict=True)
        ]
        if _are_the_answers(answers, text, turns):
            return marked, answers
    raise UnusableError(
        "the template changes an answer",
        "the chat template does not write the assistant's answers as they are, so they cannot be "
        "found in its text (it may leave out the thoughts of earlier ones); use another template, "
        "or mend the answers",
    )


def _asked_at(
    text: str, end: int, chat: Renderer, turns: Sequence[Turn], index: int, gaps: _Gaps
) -> int:
    """Return where the answer of a turn, which ends at `end`, begins if the template writes it
    whole: where the model is asked for it, behind the prompt of the turns before it.

    A prompt may open a thought, with which the answer then begins, but not before the second line
    of the turn: the first is the template's own. Where the text before the answer is no such
    prompt, `end` is returned.
    """
    whole = len(text[:end].rstrip()) - len(turns[index].text.strip())

    def find() -> tuple[int, int] | None:
        """Find how far before `whole` the turn's second line and the end of the prompt are."""
        prompt = chat.prompt(turns[:index])
        if not prompt or not text.startswith(prompt):
            return None
        closed = chat.text(turns[:index], prompt=False)
        opening = prompt.removeprefix(closed)
        line = opening.find("\n", len(opening) - len(opening.lstrip())) + 1
        own = len(closed) + line if prompt.startswith(closed) and line else len(prompt)
        return whole - own, whole - len(prompt)

    found = gaps.before("asked", index, max(whole, 0), find)
    return end if found is None else max(whole - found[0], min(whole - found[1], whole))


def _starts(
    text: str,
    answers: Sequence[tuple[int, int]],
    chat: Renderer,
    turns: Sequence[Turn],
    gaps: _Gaps,
) -> list[int]:
    """Return where each answer begins to be learned: where the template's opening of its turn ends.

    At serving the prompt ends at that opening, so the model has to write the rest, most often one
    space, itself: it is learned with the answer. A template may write more before some answers
    than before others, such as an empty thought before the last alone. One that knows no such
    opening says nothing by leaving it out, so of that only white space counts.
    """
    learned = [index for index, turn in enumerate(turns) if turn.loss]
    first, before = answers[0][0], turns[: learned[0]]
    prompt = chat.prompt(before) if before else text[:first]
    if not text[:first].startswith(prompt):
        # It asks for the last answer otherwise than it shows those before, or has words for one
        # of the turns alone: each is looked at by itself.
        return [
            _behind_prompt(text, start, chat, turns, index, gaps)
            for index, (start, _) in zip(learned, answers, strict=True)
        ]
    lead, closed = text[len(prompt) : first], chat.text(before, prompt=False) if before else ""
    opening = prompt[len(closed) :] if prompt.startswith(closed) and before else ""
    if not opening:
        lead = "" if lead.strip() else lead
        return [
            start - len(lead) if text.endswith(lead, 0, start) else start for start, _ in answers
        ]
    starts, ended = [], 0
    for start, end in answers:
        opened = text.rfind(opening, ended, start)
        starts.append(start if opened < 0 else opened + len(opening))
        ended = end
    return starts


def _behind_prompt(
    text: str, start: int, chat: Renderer, turns: Sequence[Turn], index: int, gaps: _Gaps
) -> int:
    def find() -> int:
        """Find how far before `start` the prompt ends."""
        before = turns[:index]
        prompt = chat.prompt(before) if before else ""
        if not prompt or not text.startswith(prompt, 0, start):
            return 0
        opens = prompt != chat.text(before, prompt=False)
        return start - len(prompt) if opens or not text[len(prompt) : start].strip() else 0

    return start - gaps.before("opened", index, start, find)


def _end_of_turn(
    text: str, end: int, chat: Renderer, marked: Sequence[Turn], index: int, gaps: _Gaps
) -> int:
    """Return how many characters behind `end`, where the answer of a turn ends, end its turn.

    `marked` are the turns: rendered up to that answer they show what belongs to it and not to the
    turn that follows it.
    """
    if index + 1 == len(marked):
        after = text[end:]
    else:
        alone = gaps.after(
            index,
            end,
            lambda: chat.text(marked[: index + 1], prompt=False).rpartition(ANSWER_END)[2],
        )
        after = _common_start(text[end : end + len(alone)], alone)
    special = special_pattern(chat.tokenizer).search(after)
    return special.end() if special else len(after)


def only_words(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], bool]:
    """Return what says whether `render` lets a text through: nothing reserved, no special token."""
    special = special_pattern(tokenizer)
    return lambda text: not (_UNSAYABLE.search(text) or _special_words(text, special))


def _special_words(text: str, special: re.Pattern[str]) -> list[str]:
    """Return the special tokens in a text that would end the turn, or open another."""
    return [word for word in special.findall(text) if word != DEFAULT_IMAGE_TOKEN]


def _check_turns(
    turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, continue_as_assistant: bool
) -> None:
    if not turns:
        raise UnusableError("no turns", "the chat has no turns")
    if continue_as_assistant and turns[-1].role == "assistant":
        raise UnusableError(
            "nothing to answer", "the last turn is the assistant's: there is nothing to answer"
        )
    for number, turn in enumerate(turns, start=1):
        if turn.loss and turn.role != "assistant":
            raise UnusableError(
                "loss outside the assistant's turns",
                f"turn {number} ({turn.role}) carries loss; only the assistant's turns may",
            )
        if found := _UNSAYABLE.search(turn.text):
            raise UnusableError(
                "a reserved character in the text",
                f"turn {number} holds the character U+{ord(found.group()):04X}, which is "
                "reserved or not valid text; remove it",
            )
        if words := _special_words(turn.text, special_pattern(tokenizer)):
            raise UnusableError(
                "a special token in the text",
                f"turn {number} holds {words[0]!r}, a special token of the tokenizer; remove it",
            )


def _wrap(turn: Turn) -> Turn:
    if not turn.loss:
        return turn
    return structs.replace(turn, text=f"{ANSWER_START}{turn.text}{ANSWER_END}")


def _wrap_core(turn: Turn) -> Turn:
    if not turn.loss:
        return turn
    core = turn.text.strip()
    lead = turn.text[: len(turn.text) - len(turn.text.lstrip())]
    trail = turn.text[len(lead) + len(core) :]
    return structs.replace(turn, text=f"{lead}{ANSWER_START}{core}{ANSWER_END}{trail}")


def _marked_spans(marked: str, text: str) -> list[tuple[int, int]]:
    """Return where the marked answers stand in `text`; none if more than the markers differs.

    A template that takes an answer apart at its thought loses the marker at its beginning, for
    which -1 is returned.
    """
    if _MARKERS.sub("", marked) != text:
        return []
    spans, start = [], -1
    for before, match in enumerate(_MARKERS.finditer(marked)):
        place = match.start() - before
        if match.group() == ANSWER_END:
            spans.append((start, place))
        elif start >= 0:
            return []
        start = place if match.group() == ANSWER_START else -1
    return spans if start < 0 else []


def _are_the_answers(spans: list[tuple[int, int]], text: str, turns: Sequence[Turn]) -> bool:
    written = [text[start:end].strip() for start, end in spans]
    return written == [turn.text.strip() for turn in turns if turn.loss]


def _common_start(one: str, other: str) -> str:
    pairs = enumerate(zip(one, other, strict=False))
    return one[: next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))]
