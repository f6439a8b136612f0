"""Records become token ids and the runs that are learned, many at once, each one checked.

There are two routes. `masking.check_record` renders and tokenizes a record alone. `SampleTokenizer`
renders by what chats of one shape have in common and tokenizes many records in one call; the first
record of each shape goes both ways and must come to the same, and whatever the fast route does not
find good is asked of the plain one.

A shape is the roles of a chat's turns, and which of them carry loss. To find the answers of one
chat, `chat.render` renders it four times or more. Here that is done once a shape, with probes; each
chat is then rendered once and held, letter for letter, against what its shape says. A template that
looks at the words, and writes others for them, is so noticed by the very chat it does it to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from laterna.data.chat import Rendered, UnusableError, only_words, render
from laterna.data.encoding import IMAGE_SENTINEL, encoder_of, join_spans
from laterna.data.masking import check_record, runs_of, with_sentinels
from laterna.data.template import Renderer, image_first, special_pattern
from laterna.records import IMAGE_TOKEN_INDEX, InstructionRecord, Record, Role, Turn

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


class Shapes:
    """The shapes that one template gives to chats, learned when they are first met."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, image_mark: str) -> None:
        self._renderer = Renderer(tokenizer, template, image_mark)
        self._writings = _writings(image_mark)
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
        return Fitted(shape=shape, rendered=rendered)

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
        return self._renderer.image_mark if role == "user" else ""

    def _rendered(self, key: Key, words: Sequence[str]) -> Rendered | None:
        turns = [
            Turn(role=role, text=said, loss=loss)
            for (role, loss), said in zip(key, words, strict=True)
        ]
        by = self._renderer
        try:
            return render(turns, by.tokenizer, by.template, image_mark=by.image_mark)
        except UnusableError:
            return None


def _writings(image_mark: str) -> tuple[Callable[[str], str], ...]:
    """Return the ways in which templates write a turn's words; the first is as they are."""
    return (
        str,
        str.strip,
        lambda said: image_first(said, image_mark),
        lambda said: image_mark * said.count(image_mark),
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


__all__ = ["SampleTokenizer", "Tokens", "check_record", "runs_of"]

Ids = Sequence[int]
_TURN_END = "\0\n\0"
"""Stands between turns where they are looked through together; no special token holds it."""


class Tokens(Record, frozen=True):
    """A record's `Sample`, in the form in which it is written."""

    id: str
    input_ids: Ids
    runs: Sequence[int]
    """Where runs of learned tokens begin and end, in turn."""
    images: tuple[str, ...]


class SampleTokenizer:
    """Tokenizes records with one tokenizer and one template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        """Raise LaternaError for a tokenizer that reports no offsets."""
        self.tokenizer = tokenizer
        self.template = template
        self._only_words = only_words(tokenizer)
        self._shapes = Shapes(tokenizer, template, IMAGE_SENTINEL)
        self._encoder = encoder_of(tokenizer)
        self._proved: dict[Shape, bool] = {}

    def tokenize(self, records: Sequence[InstructionRecord]) -> list[Tokens | UnusableError]:
        """Return for each record its tokens, or why it cannot be trained on.

        Raises LaternaError for what is wrong with every record, such as a template that is no
        Jinja.
        """
        marked = [self._words(record) for record in records]
        rendered = iter(self._shapes.render([turns for turns in marked if turns is not None]))
        chats = [None if turns is None else next(rendered) for turns in marked]
        fitting = [
            (record, chat) for record, chat in zip(records, chats, strict=True) if chat is not None
        ]
        fast = iter(self._fast(fitting))
        return [
            self._held(record, chat, None if chat is None else next(fast))
            for record, chat in zip(records, chats, strict=True)
        ]

    def _words(self, record: InstructionRecord) -> list[Turn] | None:
        """Return a record's turns with sentinels; None where there is something to refuse."""
        try:
            turns = with_sentinels(record.turns)
        except UnusableError:
            return None
        words = _TURN_END.join([turn.text for turn in turns])
        whole = turns and words.count(IMAGE_SENTINEL) == len(record.images)
        if self._encoder.can_part and any(t.role == "assistant" and not t.loss for t in turns):
            return None  # where they begin is to be found too
        return turns if whole and self._only_words(words) else None

    def _fast(self, fitting: Sequence[tuple[InstructionRecord, Fitted]]) -> list[Tokens | None]:
        """Return the tokens whose targets decode as they should; None for the others."""
        encoded = self._encoder.encode(
            [chat.rendered.text for _, chat in fitting],
            [[start for start, _ in chat.rendered.spans] for _, chat in fitting],
        )
        found: list[Tokens | None] = []
        learned: list[tuple[list[int], str]] = []
        for (record, chat), one in zip(fitting, encoded, strict=True):
            text, spans = chat.rendered.text, join_spans(chat.rendered.spans)
            runs = one.runs(spans)
            pairs = [] if runs is None else list(zip(runs[::2], runs[1::2], strict=True))
            shown = one.ids.count(IMAGE_TOKEN_INDEX) == len(record.images)
            # Nothing may be learned but behind a token, and each span is a run of its own.
            good = shown and len(pairs) == len(spans) and runs and runs[-1] > 1
            found.append(
                Tokens(id=record.id, input_ids=one.ids, runs=runs, images=record.images)
                if good and runs
                else None
            )
            ids = [token for start, stop in pairs for token in one.ids[start:stop]] if good else []
            learned.append((ids, "".join(text[start:end] for start, end in spans)))
        return [
            one if said else None
            for one, said in zip(found, self._encoder.say(learned), strict=True)
        ]

    def _held(
        self, record: InstructionRecord, chat: Fitted | None, tokens: Tokens | None
    ) -> Tokens | UnusableError:
        """Return the tokens where they are proved, else what `check_record` says."""
        if chat is not None and tokens is not None and self._proved.get(chat.shape):
            return tokens
        alone = check_record(record, self.tokenizer, self.template)
        if isinstance(alone, UnusableError):
            return alone
        slow = Tokens(
            id=alone.id,
            input_ids=alone.input_ids,
            runs=runs_of(alone.targets),
            images=alone.images,
        )
        if chat is not None and tokens is not None and chat.shape not in self._proved:
            same = (list(tokens.input_ids), list(tokens.runs)) == (list(slow.input_ids), slow.runs)
            self._proved[chat.shape] = same
        return slow
