"""Documents become rows: a description once, and behind it all that is said about it.

Each record attends to the description and to itself, never to its siblings, and its positions go
on from the description's. So sixteen questions cost little more than one.

Shapes: r rows · t tokens of a row · s target tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from laterna.data.masking import tokenise
from laterna.records import Record
from laterna.world.pretrain.corpus import Document

Words = tuple[int, ...]
"""The ids whose embeddings are summed into one token: one of text, several of a map's square."""


class Group(Record, frozen=True):
    """A shared opening with its description, and the records that go on from it."""

    opening: tuple[Words, ...]
    tails: tuple[tuple[tuple[int, ...], tuple[bool, ...]], ...]
    """Ids and targets of each record behind the opening."""

    @property
    def length(self) -> int:
        """Tokens of the whole group."""
        return len(self.opening) + sum(len(ids) for ids, _ in self.tails)


class TextBatch(Record, frozen=True):
    """Rows of groups, right-padded."""

    ids: Tensor
    """Ids of every token of every row, one after another."""
    offsets: Tensor
    """Where each token's ids begin in `ids` (r · t)."""
    position_ids_rt: Tensor
    group_rt: Tensor
    """Number of the token's group in its row; 0: padding."""
    record_rt: Tensor
    """Number of the token's record in its group; 0: the opening, which all of them see."""
    predicting_s: Tensor
    """Place, in rows laid end to end, of the token from which each target is predicted."""
    labels_s: Tensor


def groups_of(document: Document, tokenizer: PreTrainedTokenizerFast) -> list[Group]:
    """Tokenise a document's records and join those that begin alike."""
    description = _description(document, tokenizer)
    openings: dict[tuple[int, ...], list[tuple[tuple[int, ...], tuple[bool, ...]]]] = {}
    for record in document.records:
        sample = tokenise(record, tokenizer, document.template)
        (slot,) = sample.picture_slots
        tail = sample.input_ids[slot + 1 :], sample.targets[slot + 1 :]
        openings.setdefault(sample.input_ids[:slot], []).append(tail)
    return [
        Group(opening=(*((token,) for token in opening), *description), tails=tuple(tails))
        for opening, tails in openings.items()
    ]


def _description(document: Document, tokenizer: PreTrainedTokenizerFast) -> tuple[Words, ...]:
    words = document.description.words
    if not words:
        return ()
    encoded = [tuple(ids) for ids in tokenizer(list(words), add_special_tokens=False)["input_ids"]]
    return tuple(encoded) if document.description.is_map else tuple((one,) for one in encoded[0])


def collate_groups(groups: Iterable[Group], row_tokens: int) -> TextBatch:
    """Put groups into rows of about `row_tokens` tokens, the longest first, each where it fits."""
    rows: list[_Row] = []
    for group in sorted(groups, key=lambda one: -one.length):
        fitting = (row for row in rows if len(row.words) + group.length <= row_tokens)
        row = next(fitting, None)
        if row is None:
            row = _Row()
            rows.append(row)
        row.add(group)
    return _batch(rows)


class _Row:
    """A row as it grows: one entry a token in each list."""

    def __init__(self) -> None:
        self.words: list[Words] = []
        self.positions: list[int] = []
        self.groups: list[int] = []
        self.records: list[int] = []
        self.learned: list[tuple[int, int]] = []
        """(place of the token before, id to be predicted)."""

    def add(self, group: Group) -> None:
        """Append a group."""
        number = self.groups[-1] + 1 if self.groups else 1
        self._append(group.opening, 0, number, 0)
        last = len(self.words) - 1
        for record, (ids, targets) in enumerate(group.tails, start=1):
            start = len(self.words)
            for at, (token, is_target) in enumerate(zip(ids, targets, strict=True)):
                if is_target:
                    # What stands before a record's first token is the end of the opening.
                    self.learned.append((start + at - 1 if at else last, token))
            self._append([(token,) for token in ids], len(group.opening), number, record)

    def _append(self, words: Sequence[Words], position: int, group: int, record: int) -> None:
        self.words.extend(words)
        self.positions.extend(range(position, position + len(words)))
        self.groups.extend([group] * len(words))
        self.records.extend([record] * len(words))


def _batch(rows: Sequence[_Row]) -> TextBatch:
    width = max(len(row.words) for row in rows)
    for row in rows:
        padding = width - len(row.words)
        row.words.extend([(0,)] * padding)
        for numbers in (row.positions, row.groups, row.records):
            numbers.extend([0] * padding)
    words = [one for row in rows for one in row.words]
    lengths = torch.tensor([0] + [len(one) for one in words[:-1]])
    learned = [
        (number * width + place, token)
        for number, row in enumerate(rows)
        for place, token in row.learned
    ]
    return TextBatch(
        ids=torch.tensor([token for one in words for token in one]),
        offsets=lengths.cumsum(0),
        position_ids_rt=torch.tensor([row.positions for row in rows]),
        group_rt=torch.tensor([row.groups for row in rows]),
        record_rt=torch.tensor([row.records for row in rows]),
        predicting_s=torch.tensor([place for place, _ in learned]),
        labels_s=torch.tensor([token for _, token in learned]),
    )


def attention_mask(batch: TextBatch) -> Tensor:
    """Return the additive mask (r, 1, t, t): a token sees its group's opening and its record."""
    group, record = batch.group_rt, batch.record_rt
    same_group = group[:, :, None] == group[:, None, :]
    seen = (record[:, None, :] == 0) | (record[:, :, None] == record[:, None, :])
    width = group.shape[1]
    allowed = same_group & seen & torch.ones(width, width).tril().bool()
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)[:, None]
