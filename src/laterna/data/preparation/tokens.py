"""Records become token ids and the runs that are learned, many at once, each one checked.

`check_record` is what a record's tokens are held to: rendered and tokenised alone, its targets
decoded. `Tokeniser` comes to the same by what many records have in common, and asks it for every
record of which it cannot prove that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from laterna.data.by_words import WordLevel
from laterna.data.byte_level import ByteLevel, is_byte_level
from laterna.data.chat import UnusableError, only_words
from laterna.data.masking import (
    PICTURE_SENTINEL,
    check_targets,
    render_record,
    sample_of,
    tokenise_rendered,
    with_picture_token,
    with_sentinels,
)
from laterna.data.shapes import Fitted, Shape, Shapes
from laterna.data.words import find_words
from laterna.records import PICTURE_TOKEN, InstructionRecord, Record, Sample, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Ids = Sequence[int] | NDArray[np.int32]
Pair = tuple[InstructionRecord, Fitted]

_TURN_END = "\0\n\0"
"""Stands between turns where they are looked through together; no special token holds it."""


class Tokens(Record, frozen=True):
    """A record's `Sample`, in the form in which it is written."""

    id: str
    input_ids: Ids
    runs: Sequence[int]
    """Where runs of learned tokens begin and end, in turn."""
    pictures: tuple[str, ...]


def runs_of(targets: Sequence[bool]) -> list[int]:
    """Return where runs of True begin and end, in turn."""
    edges = np.flatnonzero(np.diff(np.asarray(targets, np.int8), prepend=0, append=0))
    runs: list[int] = edges.tolist()
    return runs


def check_record(
    record: InstructionRecord, tokenizer: PreTrainedTokenizerBase, template: str
) -> Sample | UnusableError:
    """Tokenise a record; return its sample, or why it cannot be trained on."""
    try:
        rendered = render_record(record, tokenizer, template)
        sample = tokenise_rendered(rendered, record, tokenizer)
    except UnusableError as error:
        return error
    # The first token has nothing before it to be predicted from.
    if not any(sample.targets[1:]):
        return UnusableError("no target tokens", f"record {record.id}: no token of it is learned")
    if not check_targets(sample, rendered, record, tokenizer):
        return UnusableError(
            "targets do not decode to the answer",
            f"record {record.id}: the learned tokens do not decode to the answers; the tokenizer "
            "cannot write them, or joins them to the words of the template",
        )
    return sample


class Tokeniser:
    """Tokenises records with one tokenizer and one template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        """Raise LaternaError for a tokenizer that reports no offsets."""
        self.tokenizer = tokenizer
        self.template = template
        self._only_words = only_words(tokenizer)
        self._shapes = Shapes(tokenizer, template, PICTURE_SENTINEL)
        self._backend, self._sentinel = with_picture_token(tokenizer)
        said = json.loads(self._backend.to_str())
        self._bytes = ByteLevel(self._backend) if is_byte_level(said) else None
        self._word_level: WordLevel | None = None
        if (words := find_words(self._backend, said, PICTURE_SENTINEL)) is not None:
            self._word_level = WordLevel(words, PICTURE_SENTINEL, self._sentinel, PICTURE_TOKEN)
        self._proved: dict[Shape, bool] = {}

    def tokenise(self, records: Sequence[InstructionRecord]) -> list[Tokens | UnusableError]:
        """Return for each record its tokens, or why it cannot be trained on.

        Raises LaternaError for what is wrong with every record, such as a template that is no
        Jinja.
        """
        marked = [self._words(record) for record in records]
        found = iter(self._shapes.render([turns for turns in marked if turns is not None]))
        fitted = [None if turns is None else next(found) for turns in marked]
        pairs = [
            (record, chat) for record, chat in zip(records, fitted, strict=True) if chat is not None
        ]
        fast = self._fast(pairs)
        return [
            self._held(record, chat, None if chat is None else next(fast))
            for record, chat in zip(records, fitted, strict=True)
        ]

    def _fast(self, pairs: Sequence[Pair]) -> Iterator[Tokens | None]:
        """Yield what is proved without a look at each record alone; None for the others."""
        found = self._by_words(pairs)
        missing = [pair for pair, one in zip(pairs, found, strict=True) if one is None]
        left = self._by_bytes(missing) if self._bytes else self._by_offsets(missing)
        for one in found:
            yield next(left) if one is None else one

    def _words(self, record: InstructionRecord) -> list[Turn] | None:
        """Return a record's turns with sentinels; None where there is something to refuse."""
        try:
            turns = with_sentinels(record.turns)
        except UnusableError:
            return None
        words = _TURN_END.join([turn.text for turn in turns])
        whole = turns and words.count(PICTURE_SENTINEL) == len(record.pictures)
        return turns if whole and self._only_words(words) else None

    def _by_words(self, pairs: Sequence[Pair]) -> list[Tokens | None]:
        """Return the tokens whose words prove them; None for the others."""
        if self._word_level is None:
            return [None] * len(pairs)
        pictures = [len(record.pictures) for record, _ in pairs]
        found = self._word_level.tokenise([chat for _, chat in pairs], pictures)
        return [
            None if one is None else self._tokens(record, *one)
            for (record, _), one in zip(pairs, found, strict=True)
        ]

    def _by_bytes(self, pairs: Sequence[Pair]) -> Iterator[Tokens | None]:
        """Yield the tokens whose bytes prove them; None for what must be looked at alone."""
        assert self._bytes is not None
        chats = [chat for _, chat in pairs]
        encoded = self._bytes.encode(chats)
        runs_of_all = self._bytes.find_runs(encoded, chats)
        for (record, _), ids, runs in zip(pairs, encoded, runs_of_all, strict=True):
            shown = ids.count(self._sentinel) == len(record.pictures)
            ids = [PICTURE_TOKEN if token == self._sentinel else token for token in ids]
            yield self._tokens(record, ids, runs) if runs and shown else None

    def _by_offsets(self, pairs: Sequence[Pair]) -> Iterator[Tokens | None]:
        """Yield the tokens whose targets decode as they should, None for the others."""
        texts = [chat.rendered.text for _, chat in pairs]
        encoded = self._backend.encode_batch(texts, add_special_tokens=False)
        for (record, chat), encoding in zip(pairs, encoded, strict=True):
            try:
                sample = sample_of(encoding, chat.rendered, record, self._sentinel)
            except UnusableError:
                yield None
                continue
            held = check_targets(sample, chat.rendered, record, self.tokenizer)
            yield self._tokens(record, sample.input_ids, runs_of(sample.targets)) if held else None

    def _tokens(self, record: InstructionRecord, ids: Ids, runs: Sequence[int]) -> Tokens | None:
        if not runs or runs[-1] <= 1:
            return None  # nothing is learned behind the first token
        return Tokens(id=record.id, input_ids=ids, runs=runs, pictures=record.pictures)

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
