"""Chats of one shape are rendered alike: the template's own words around the turns' words.

A shape is the roles of a chat's turns, and which of them carry loss. To find the answers of one
chat, `chat.render` renders it four times or more. Here that is done once a shape, with probes; each
chat is then rendered once and held, letter for letter, against what its shape says. A template that
looks at the words, and writes others for them, is so noticed by the very chat it does it to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from laterna.data.chat import Rendered, render
from laterna.data.template import Renderer, UnusableError, image_first, special_pattern
from laterna.records import Record, Role, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST = 16
"""Turns of a chat that is rendered by its shape. Of longer ones few have one shape, and to learn it
would cost more than it saves."""

Key = tuple[tuple[Role, bool], ...]


class Shape(Record, frozen=True):
    """What a template writes for every chat of one shape."""

    pieces: tuple[str, ...]
    """Its own words: before the first turn's, between them, and behind the last's."""
    writings: tuple[int, ...]
    """How it writes each turn's words: places in `_writings`."""
    learned: tuple[int, ...]
    """Numbers of the turns that carry loss, from 0."""
    lead: int
    """Characters that are learned before every such turn's words."""
    tails: tuple[int, ...]
    """Characters that are learned behind the words of each such turn."""


class Fitted(Record, frozen=True):
    """A chat as its shape says that it is rendered."""

    shape: Shape
    rendered: Rendered
    starts: tuple[int, ...]
    """Where each of the shape's pieces begins in the text."""


class Shapes:
    """The shapes that one template gives to chats, learned when they are first met."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: str, picture_mark: str
    ) -> None:
        self._renderer = Renderer(tokenizer, template, picture_mark)
        self._writings = _writings(picture_mark)
        self._known: dict[Key, Shape | None] = {}

    def render(self, chats: Sequence[Sequence[Turn]]) -> list[Fitted | None]:
        """Render chats whose words hold nothing that `chat.render` refuses, each once.

        None stands for a chat that only `chat.render` can judge. Raises LaternaError for what is
        wrong with every chat, such as a template that is no Jinja.
        """
        fitted = [self._fit(chat) if len(chat) <= LONGEST else None for chat in chats]
        fitting = [chat for chat, one in zip(chats, fitted, strict=True) if one is not None]
        try:
            left = iter(self._renderer.texts(fitting, prompt=False))
        except UnusableError:
            return [None] * len(chats)
        return [
            one if one is not None and next(left) == one.rendered.text else None for one in fitted
        ]

    def _fit(self, chat: Sequence[Turn]) -> Fitted | None:
        key = tuple([(turn.role, turn.loss) for turn in chat])
        if key not in self._known:
            self._known[key] = self._learn(key)
        shape = self._known[key]
        return None if shape is None else self._expected(shape, [turn.text for turn in chat])

    def _expected(self, shape: Shape, words: Sequence[str]) -> Fitted:
        parts = [shape.pieces[0]]
        at = len(shape.pieces[0])
        starts, ends = [0], []
        for writing, said, piece in zip(shape.writings, words, shape.pieces[1:], strict=True):
            written = self._writings[writing](said) if writing else said
            parts += (written, piece)
            ends.append(at)
            at += len(written)
            starts.append(at)
            at += len(piece)
        spans = [
            (ends[turn] - shape.lead, starts[turn + 1] + tail)
            for turn, tail in zip(shape.learned, shape.tails, strict=True)
        ]
        rendered = Rendered(text="".join(parts), spans=tuple(spans))
        return Fitted(shape=shape, rendered=rendered, starts=tuple(starts))

    def _learn(self, key: Key) -> Shape | None:
        """Learn a shape from probes; None where the template does not write it in pieces."""
        words = [
            f" \n{self._mark(role)}word{turn}of{len(key)}\n " for turn, (role, _) in enumerate(key)
        ]
        rendered = self._rendered(key, words)
        shape = rendered and _shape_of(rendered, key, words, self._writings)
        if not shape or self._expected(shape, words).rendered != rendered:
            return None
        # What stands beside the words may not depend on them: white space, none, the template's own
        own = special_pattern(self._renderer.tokenizer).sub("", " ".join(shape.pieces))
        for probe in ("plain", "", "\n", "  a b ", "é日本🧑‍🚀\u0301", own, f"\n{own}\n"):
            words = [f"{self._mark(role)}{probe}" for role, _ in key]
            said = self._rendered(key, words)
            expected = self._expected(shape, words).rendered
            if said is not None and said.text == expected.text and said.spans != expected.spans:
                return None
        return shape

    def _mark(self, role: Role) -> str:
        return self._renderer.picture_mark if role == "user" else ""

    def _rendered(self, key: Key, words: Sequence[str]) -> Rendered | None:
        turns = [
            Turn(role=role, text=said, loss=loss)
            for (role, loss), said in zip(key, words, strict=True)
        ]
        by = self._renderer
        try:
            return render(turns, by.tokenizer, by.template, picture_mark=by.picture_mark)
        except UnusableError:
            return None


def _writings(picture_mark: str) -> tuple[Callable[[str], str], ...]:
    """Return the ways in which templates write a turn's words; the first is as they are."""
    return (
        str,
        str.strip,
        lambda said: image_first(said, picture_mark),
        lambda said: picture_mark * said.count(picture_mark),
        lambda _: "",
    )


def _shape_of(
    rendered: Rendered,
    key: Key,
    words: Sequence[str],
    writings: Sequence[Callable[[str], str]],
) -> Shape | None:
    """Cut a rendered probe, no two turns of which say the same, at its turns' words."""
    text, at = rendered.text, 0
    pieces, used, begins, ends = [], [], [], []
    for said in words:
        found = ((text.find(write(said), at), number) for number, write in enumerate(writings))
        start, writing = next(pair for pair in found if pair[0] >= 0)  # nothing is found anywhere
        pieces.append(text[at:start])
        begins.append(start)
        at = start + len(writings[writing](said))
        ends.append(at)
        used.append(writing)
    pieces.append(text[at:])
    learned = [turn for turn, (_, loss) in enumerate(key) if loss]
    if not learned or len(learned) != len(rendered.spans):
        return None
    pairs = list(zip(learned, rendered.spans, strict=True))
    leads = {text[start : begins[turn]] for turn, (start, _) in pairs}
    # With one lead for all, no answer's beginning hangs on the words before it.
    if len(leads) != 1 or any(
        begins[t] - s > len(pieces[t]) or begins[t] < s for t, (s, _) in pairs
    ):
        return None
    tails = [end - ends[turn] for turn, (_, end) in pairs]
    # An end of turn that reaches to the next turn's words may be one that hangs on them.
    reach = [len(pieces[turn + 1]) - (turn + 1 < len(key)) for turn in learned]
    if any(not 0 <= tail <= most for tail, most in zip(tails, reach, strict=True)):
        return None
    return Shape(
        pieces=tuple(pieces),
        writings=tuple(used),
        learned=tuple(learned),
        lead=len(leads.pop()),
        tails=tuple(tails),
    )
