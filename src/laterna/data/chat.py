"""Turns become the one text that the language model reads, with the spans it learns to write."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from jinja2 import TemplateError, TemplateSyntaxError
from msgspec import structs

from laterna.errors import LaternaError
from laterna.records import PICTURE_MARK, Record, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FOLDER = Path(__file__).parent / "templates"
SHIPPED_TEMPLATES: dict[str, Path] = {
    "plain": _FOLDER / "plain.jinja",
    "vicuna_v1": _FOLDER / "vicuna_v1.jinja",
    "llama_2": _FOLDER / "llama_2.jinja",
}

# Characters of Unicode's private plane: no text that means anything holds them, and none that
# does is let through.
ANSWER_START = "\U000f1a70"
ANSWER_END = "\U000f1a71"
_MARKERS = re.compile(f"[{ANSWER_START}{ANSWER_END}]")
_UNSAYABLE = re.compile(f"[{ANSWER_START}{ANSWER_END}\ud800-\udfff]")


class UnusableError(LaternaError):
    """One record that cannot be used. `reason` is the same for every record with that fault."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Rendered(Record, frozen=True):
    """A chat as text, and the character ranges (start, end) that carry loss, in order."""

    text: str
    spans: tuple[tuple[int, int], ...]


def load_template(name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the Jinja text of a chat template: `own` (the tokenizer's) or a shipped one.

    Of several of a tokenizer's, `own` is the one that it calls default, which has no tools. Raises
    LaternaError for an unknown name, and for `own` where the tokenizer has none.
    """
    if name in SHIPPED_TEMPLATES:
        return SHIPPED_TEMPLATES[name].read_text(encoding="utf-8")
    known = ", ".join(SHIPPED_TEMPLATES)
    if name != "own":
        raise LaternaError(f"unknown chat template {name!r}; known are: own, {known}")
    if not tokenizer.chat_template:
        raise LaternaError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template; "
            f"set `template` to one of: {known}"
        )
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        names = ", ".join(sorted(tokenizer.chat_template))
        raise LaternaError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has several chat "
            f"templates, {names}, and no default; set `template` to one of: {known}"
        )
    return str(tokenizer.get_chat_template())


def render(
    turns: Sequence[Turn],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    *,
    continue_as_assistant: bool = False,
    picture_mark: str = PICTURE_MARK,
) -> Rendered:
    """Render a chat by a Jinja template (its text) and find what is to be learned in it.

    A span covers the text of an assistant turn that carries loss, from where the template's
    opening of the turn ends, and its end-of-turn: what the template writes after the answer up to
    the first special token, or, where none follows, all that it writes there when the chat ends
    with that answer. `continue_as_assistant` ends the
    text where the assistant is to write. `picture_mark` is told to the template, since some
    templates keep nothing else of the user's words.

    The answers are found by rendering a second time with marker characters around them; the two
    renders must agree but for the markers.

    Raises UnusableError when the turns hold characters that cannot be passed on or the text of a
    special token, or when the template refuses the turns, or changes an answer, as those do that
    leave out the thought of an earlier one.
    """
    _check_turns(turns, tokenizer, continue_as_assistant)
    chat = Renderer(tokenizer, template, picture_mark)
    text = chat.text(turns, prompt=continue_as_assistant)
    learned = [index for index, turn in enumerate(turns) if turn.loss]
    if not learned:
        return Rendered(text=text, spans=())
    marked, answers = _find_answers(text, chat, turns, continue_as_assistant)
    ends = [
        end + _end_of_turn(text[end:], chat, marked[: index + 1], last=index + 1 == len(turns))
        for index, (_, end) in zip(learned, answers, strict=True)
    ]
    starts = _starts(text, answers, chat, [turns[:index] for index in learned])
    return Rendered(text=text, spans=tuple(zip(starts, ends, strict=True)))


def _find_answers(
    text: str, chat: Renderer, turns: Sequence[Turn], prompt: bool
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
            (_asked_at(text, end, chat, turns[: index + 1]) if start < 0 else start, end)
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


def _asked_at(text: str, end: int, chat: Renderer, turns: Sequence[Turn]) -> int:
    """Return where the last turn's answer, which ends at `end`, begins if the template writes it
    whole: where the model is asked for it, behind the prompt of the turns before it.

    A prompt may open a thought, with which the answer then begins, but not before the second line
    of the turn: the first is the template's own. Where the text before the answer is no such
    prompt, `end` is returned.
    """
    before, answer = turns[:-1], turns[-1].text.strip()
    prompt = chat.text(before, prompt=True) if before else ""
    if not prompt or not text.startswith(prompt):
        return end
    closed = chat.text(before, prompt=False)
    opening = prompt.removeprefix(closed)
    line = opening.find("\n", len(opening) - len(opening.lstrip())) + 1
    own = len(closed) + line if prompt.startswith(closed) and line else len(prompt)
    return max(own, min(len(prompt), len(text[:end].rstrip()) - len(answer)))


def _starts(
    text: str,
    answers: Sequence[tuple[int, int]],
    chat: Renderer,
    before: Sequence[Sequence[Turn]],
) -> list[int]:
    """Return where each answer begins to be learned: where the template's opening of its turn ends.

    At serving the prompt ends at that opening, so the model has to write the rest, most often one
    space, itself: it is learned with the answer. A template may write more before some answers
    than before others, such as an empty thought before the last alone. One that knows no such
    opening says nothing by leaving it out, so of that only white space counts. `before` are the
    turns before each answer.
    """
    first, turns = answers[0][0], before[0]
    prompt = chat.text(turns, prompt=True) if turns else text[:first]
    if not text[:first].startswith(prompt):
        # It asks for the last answer otherwise than it shows those before, or has words for one
        # of the turns alone: each is looked at by itself.
        spans = zip(answers, before, strict=True)
        return [_behind_prompt(text, start, chat, turns) for (start, _), turns in spans]
    lead, closed = text[len(prompt) : first], chat.text(turns, prompt=False) if turns else ""
    opening = prompt[len(closed) :] if prompt.startswith(closed) and turns else ""
    if not opening:
        lead = "" if lead.strip() else lead
        return [start - len(lead) if text[:start].endswith(lead) else start for start, _ in answers]
    starts, ended = [], 0
    for start, end in answers:
        opened = text.rfind(opening, ended, start)
        starts.append(start if opened < 0 else opened + len(opening))
        ended = end
    return starts


def _behind_prompt(text: str, start: int, chat: Renderer, before: Sequence[Turn]) -> int:
    prompt = chat.text(before, prompt=True) if before else ""
    if not prompt or not text[:start].startswith(prompt):
        return start
    opens = prompt != chat.text(before, prompt=False)
    return len(prompt) if opens or not text[len(prompt) : start].strip() else start


def _end_of_turn(after: str, chat: Renderer, marked: Sequence[Turn], *, last: bool) -> int:
    """Return how many characters of `after`, the text behind an answer, end its turn.

    `marked` are the turns up to that answer: rendered alone they show what belongs to the answer
    and not to the turn that follows it.
    """
    if not last:
        ended_here = chat.text(marked, prompt=False).rpartition(ANSWER_END)[2]
        after = _common_start(after, ended_here)
    special = special_pattern(chat.tokenizer).search(after)
    return special.end() if special else len(after)


class Renderer:
    """A tokenizer's renderer with one template; it checks nothing and looks for no answer."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: str, picture_mark: str
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.picture_mark = picture_mark

    def text(self, turns: Sequence[Turn], *, prompt: bool) -> str:
        """Render turns; `prompt` asks for the opening of an assistant's turn at the end."""
        return self.texts([turns], prompt=prompt)[0]

    def texts(self, chats: Sequence[Sequence[Turn]], *, prompt: bool) -> list[str]:
        """Render several chats at once, which is a little faster.

        Raises UnusableError where the template refuses one of them, and LaternaError for a template
        that is no Jinja.
        """
        if not chats:
            return []
        messages = [[{"role": turn.role, "content": turn.text} for turn in chat] for chat in chats]
        try:
            return list(
                self.tokenizer.apply_chat_template(
                    messages,
                    tokenize=False,
                    chat_template=self.template,
                    add_generation_prompt=prompt,
                    picture_mark=self.picture_mark,
                )
            )
        except TemplateSyntaxError as error:
            raise LaternaError(f"the chat template is not valid Jinja: {error}") from error
        except TemplateError as error:
            message = f"the chat template refuses the turns: {error}"
            raise UnusableError("the template refuses the turns", message) from error


def only_words(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], bool]:
    """Return what says whether `render` lets a text through: nothing reserved, no special token."""
    special = special_pattern(tokenizer)
    return lambda text: not (_UNSAYABLE.search(text) or _special_words(text, special))


def _special_words(text: str, special: re.Pattern[str]) -> list[str]:
    """Return the special tokens in a text that would end the turn, or open another."""
    return [word for word in special.findall(text) if word != PICTURE_MARK]


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


_patterns: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, re.Pattern[str]]] = (
    WeakKeyDictionary()
)


def special_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Return a pattern that matches any special token of a tokenizer, the longest first."""
    size, pattern = _patterns.get(tokenizer, (-1, re.compile("")))
    if size != len(tokenizer):
        added = tokenizer.added_tokens_decoder.values()
        tokens = {token.content for token in added if token.special}
        tokens.update(tokenizer.all_special_tokens)
        pattern = any_of(tokens)
        _patterns[tokenizer] = (len(tokenizer), pattern)
    return pattern


def any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of the tokens, the longest first; of none, nothing."""
    by_first: dict[str, list[str]] = {}  # some tokenizers have thousands
    for token in sorted(filter(None, tokens), key=lambda token: (-len(token), token)):
        by_first.setdefault(token[0], []).append(re.escape(token[1:]))
    groups = (f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in by_first.items())
    return re.compile("|".join(groups) or "(?!)")
