"""Records become token ids and the runs that are learned, many at once, each one checked.

There are two routes. `masking.check_record` renders and tokenises a record alone. `Tokeniser`
renders by what chats of one shape have in common (`data.shapes`) and tokenises many records in one
call; the first record of each shape goes both ways and must come to the same, and whatever the
fast route does not find good is asked of the plain one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from laterna.data.chat import UnusableError, only_words
from laterna.data.encoding import PICTURE_SENTINEL, encoder_of, join_spans
from laterna.data.masking import check_record, runs_of, with_sentinels
from laterna.data.shapes import Fitted, Shape, Shapes
from laterna.records import PICTURE_TOKEN, InstructionRecord, Record, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Tokeniser", "Tokens", "check_record", "runs_of"]

Ids = Sequence[int]
_TURN_END = "\0\n\0"
"""Stands between turns where they are looked through together; no special token holds it."""


class Tokens(Record, frozen=True):
    """A record's `Sample`, in the form in which it is written."""

    id: str
    input_ids: Ids
    runs: Sequence[int]
    """Where runs of learned tokens begin and end, in turn."""
    pictures: tuple[str, ...]


class Tokeniser:
    """Tokenises records with one tokenizer and one template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        """Raise LaternaError for a tokenizer that reports no offsets."""
        self.tokenizer = tokenizer
        self.template = template
        self._only_words = only_words(tokenizer)
        self._shapes = Shapes(tokenizer, template, PICTURE_SENTINEL)
        self._encoder = encoder_of(tokenizer)
        self._proved: dict[Shape, bool] = {}

    def tokenise(self, records: Sequence[InstructionRecord]) -> list[Tokens | UnusableError]:
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
        whole = turns and words.count(PICTURE_SENTINEL) == len(record.pictures)
        return turns if whole and self._only_words(words) else None

    def _fast(self, fitting: Sequence[tuple[InstructionRecord, Fitted]]) -> list[Tokens | None]:
        """Return the tokens whose targets decode as they should; None for the others."""
        encoded = self._encoder.encode([chat.rendered.text for _, chat in fitting])
        found: list[Tokens | None] = []
        learned: list[tuple[list[int], str]] = []
        for (record, chat), one in zip(fitting, encoded, strict=True):
            text, spans = chat.rendered.text, join_spans(chat.rendered.spans)
            runs = one.runs(spans)
            pairs = [] if runs is None else list(zip(runs[::2], runs[1::2], strict=True))
            shown = one.ids.count(PICTURE_TOKEN) == len(record.pictures)
            # Nothing may be learned but behind a token, and each span is a run of its own.
            good = shown and len(pairs) == len(spans) and runs and runs[-1] > 1
            found.append(
                Tokens(id=record.id, input_ids=one.ids, runs=runs, pictures=record.pictures)
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
            pictures=alone.pictures,
        )
        if chat is not None and tokens is not None and chat.shape not in self._proved:
            same = (list(tokens.input_ids), list(tokens.runs)) == (list(slow.input_ids), slow.runs)
            self._proved[chat.shape] = same
        return slow
