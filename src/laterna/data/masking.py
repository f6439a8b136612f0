"""Records become samples: rendered once, tokenised once, and learned where spans overlap.

A token is a target when its characters lie in a span that carries loss. No separator is counted,
so every tokenizer that reports offsets is masked exactly; a token that reaches over a span's border
makes its record unusable, for at serving the prompt ends at that border.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs

from laterna.data.chat import Rendered, UnusableError, load_template, render, render_prompt
from laterna.data.encoding import PICTURE_SENTINEL, Encoded, encoder_of, join_spans
from laterna.records import PICTURE_MARK, PICTURE_TOKEN, InstructionRecord, Sample, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "PICTURE_SENTINEL",
    "check_record",
    "check_targets",
    "render_record",
    "tokenise",
    "tokenise_prompt",
    "tokenise_rendered",
    "tokenise_text",
]
SHARED = "an answer shares a token with what stands beside it"
"""Reason of a record in which the tokenizer joins an answer and the template's words."""


def tokenise(
    record: InstructionRecord, tokenizer: PreTrainedTokenizerBase, template: str | None = None
) -> Sample:
    """Turn a record into token ids and targets; each picture becomes one `PICTURE_TOKEN`.

    `template` is the text of a Jinja chat template, None the tokenizer's own.

    Raises UnusableError (a LaternaError), naming the record, when it cannot be rendered or its
    targets are not its answers, and LaternaError when the tokenizer has no template or reports no
    offsets.
    """
    rendered = render_record(record, tokenizer, template)
    sample = tokenise_rendered(rendered, record, tokenizer)
    if not check_targets(sample, rendered, record, tokenizer):
        raise UnusableError(
            "targets do not decode to the answer",
            f"record {record.id}: the learned tokens do not decode to the answers; the tokenizer "
            "cannot write them, or joins them to the words of the template",
        )
    return sample


def check_record(
    record: InstructionRecord, tokenizer: PreTrainedTokenizerBase, template: str
) -> Sample | UnusableError:
    """Tokenise a record; return its sample, or why it cannot be trained on."""
    try:
        sample = tokenise(record, tokenizer, template)
    except UnusableError as error:
        return error
    # The first token has nothing before it to be predicted from.
    if not any(sample.targets[1:]):
        return UnusableError("no target tokens", f"record {record.id}: no token of it is learned")
    return sample


def tokenise_prompt(
    turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, template: str | None = None
) -> list[int]:
    """Turn a chat into the ids after which the assistant is to write; pictures as in `tokenise`.

    The same renderer and tokenizer as in training, so the model is asked as it was taught.
    Raises as `tokenise` does, and UnusableError when the last turn is the assistant's.
    """
    text = render_prompt(
        with_sentinels(turns),
        tokenizer,
        load_template("own", tokenizer) if template is None else template,
        picture_mark=PICTURE_SENTINEL,
    )
    ids = _encode(text, tokenizer).ids
    _check_pictures_kept(ids, _picture_marks(turns))
    return ids


def tokenise_text(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Turn a text into ids as it stands: no template, no BOS, special tokens read as such.

    Every `<image>` becomes a `PICTURE_TOKEN`.
    """
    return _encode(text.replace(PICTURE_MARK, PICTURE_SENTINEL), tokenizer).ids


def render_record(
    record: InstructionRecord, tokenizer: PreTrainedTokenizerBase, template: str | None = None
) -> Rendered:
    """Render a record's turns with `PICTURE_SENTINEL` for each picture mark of the user.

    A mark in anyone else's words is words. Raises as `tokenise` does.
    """
    marks = _picture_marks(record.turns)
    if marks != len(record.pictures):
        raise UnusableError(
            "picture marks do not match the pictures",
            f"record {record.id}: {marks} {PICTURE_MARK} marks for {len(record.pictures)} pictures",
        )
    try:
        return render(
            with_sentinels(record.turns),
            tokenizer,
            load_template("own", tokenizer) if template is None else template,
            picture_mark=PICTURE_SENTINEL,
        )
    except UnusableError as error:
        raise UnusableError(error.reason, f"record {record.id}: {error}") from error


def tokenise_rendered(
    rendered: Rendered, record: InstructionRecord, tokenizer: PreTrainedTokenizerBase
) -> Sample:
    """Tokenise what `render_record` made, its targets unchecked. Raises as `tokenise` does."""
    encoded = _encode(rendered.text, tokenizer)
    runs = encoded.runs(rendered.spans)
    if runs is None:
        raise UnusableError(
            SHARED,
            f"record {record.id}: the tokenizer joins the first or last characters of an answer to "
            "the template's words, so at serving the model would be asked with other tokens; begin "
            "and end the answer with a word, or use another template",
        )
    ids = encoded.ids
    try:
        _check_pictures_kept(ids, len(record.pictures))
    except UnusableError as error:
        raise UnusableError(error.reason, f"record {record.id}: {error}") from error
    return Sample(
        id=record.id,
        input_ids=tuple(ids),
        targets=targets_of(runs, len(ids)),
        picture_slots=tuple(place for place, token in enumerate(ids) if token == PICTURE_TOKEN),
        pictures=record.pictures,
    )


def runs_of(targets: Sequence[bool]) -> list[int]:
    """Return where runs of True begin and end, in turn."""
    edges = np.flatnonzero(np.diff(np.asarray(targets, np.int8), prepend=0, append=0))
    runs: list[int] = edges.tolist()
    return runs


def targets_of(runs: Sequence[int], length: int) -> tuple[bool, ...]:
    """Return the targets whose runs these are: the inverse of `runs_of`."""
    targets = [False] * length
    for start, stop in zip(runs[::2], runs[1::2], strict=True):
        targets[start:stop] = [True] * (stop - start)
    return tuple(targets)


def check_targets(
    sample: Sample,
    rendered: Rendered,
    record: InstructionRecord,
    tokenizer: PreTrainedTokenizerBase,
) -> bool:
    """Say whether the targets, decoded, are the record's answers and their ends of turn.

    White space counts, as `Encoder.say` has it.
    """
    answers = [turn.text for turn in record.turns if turn.loss]
    if not _start_with(rendered, answers):
        return False
    runs = groupby(zip(sample.input_ids, sample.targets, strict=True), key=lambda pair: pair[1])
    learned = [[token for token, _ in run] for is_target, run in runs if is_target]
    expected = [rendered.text[start:end] for start, end in join_spans(rendered.spans)]
    if len(learned) != len(expected):
        expected, learned = ["".join(expected)], [[token for run in learned for token in run]]
    return all(encoder_of(tokenizer).say(list(zip(learned, expected, strict=True))))


def _picture_marks(turns: Sequence[Turn]) -> int:
    return sum(turn.text.count(PICTURE_MARK) for turn in turns if turn.role == "user")


def with_sentinels(turns: Sequence[Turn]) -> list[Turn]:
    """Return turns with the sentinel in the place of the user's picture marks.

    Raises UnusableError where a turn holds the sentinel already.
    """
    if any(PICTURE_SENTINEL in turn.text for turn in turns):
        raise UnusableError(
            "a reserved character in the text",
            f"a turn holds the reserved character U+{ord(PICTURE_SENTINEL):X}; remove it",
        )
    return [
        structs.replace(turn, text=turn.text.replace(PICTURE_MARK, PICTURE_SENTINEL))
        if turn.role == "user"
        else turn
        for turn in turns
    ]


def _encode(text: str, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    return encoder_of(tokenizer).encode([text])[0]


def _check_pictures_kept(ids: list[int], pictures: int) -> None:
    written = ids.count(PICTURE_TOKEN)
    if written != pictures:
        raise UnusableError(
            "the template does not keep the pictures",
            f"the chat template wrote {written} pictures for {pictures} marks",
        )


def _start_with(rendered: Rendered, answers: list[str]) -> bool:
    """Say whether the spans are one an answer, each its answer behind what opens them all.

    A template may open answers with words of its own, an empty thought say, which are learned
    with them; they must be the same before every answer that has them.
    """
    if not answers or len(rendered.spans) != len(answers):
        return len(rendered.spans) == len(answers)
    texts = [rendered.text[start:end].lstrip() for start, end in rendered.spans]
    pairs = list(zip(texts, (answer.strip() for answer in answers), strict=True))
    leads = {
        text[:at].rstrip()
        for text, answer in pairs
        for at in range(len(text) + 1)
        if text.startswith(answer, at)
    }
    return any(
        all(text.removeprefix(lead).lstrip().startswith(answer) for text, answer in pairs)
        for lead in leads
    )
