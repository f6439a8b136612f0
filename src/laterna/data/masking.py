"""Records become samples: rendered once, tokenized once, and learned where spans overlap.

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

from laterna.data.chat import (
    PROBE,
    Rendered,
    UnusableError,
    load_template,
    render,
    render_prompt,
)
from laterna.data.encoding import IMAGE_SENTINEL, Encoded, encoder_of, join_spans
from laterna.recipe import LossOn
from laterna.records import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX, InstructionRecord, Sample, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "IMAGE_SENTINEL",
    "check_record",
    "check_targets",
    "loss_mask",
    "opening_length",
    "render_record",
    "tokenize",
    "tokenize_prompt",
    "tokenize_rendered",
    "tokenize_text",
]
SHARED = "an answer shares a token with what stands beside it"
"""Reason of a record in which the tokenizer joins an answer and the template's words."""


def tokenize(
    record: InstructionRecord, tokenizer: PreTrainedTokenizerBase, template: str | None = None
) -> Sample:
    """Turn a record into token ids and targets; each image becomes one `IMAGE_TOKEN_INDEX`.

    `template` is the text of a Jinja chat template, None the tokenizer's own.

    Raises UnusableError (a LaternaError), naming the record, when it cannot be rendered or its
    targets are not its answers, and LaternaError when the tokenizer has no template or reports no
    offsets.
    """
    rendered = render_record(record, tokenizer, template)
    sample = tokenize_rendered(rendered, record, tokenizer, template)
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
    """Tokenize a record; return its sample, or why it cannot be trained on."""
    try:
        sample = tokenize(record, tokenizer, template)
    except UnusableError as error:
        return error
    # The first token has nothing before it to be predicted from.
    if not any(sample.targets[1:]):
        return UnusableError("no target tokens", f"record {record.id}: no token of it is learned")
    return sample


def tokenize_prompt(
    turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, template: str | None = None
) -> list[int]:
    """Turn a chat into the ids after which the assistant is to write; images as in `tokenize`.

    The same renderer and tokenizer as in training, so the model is asked as it was taught.
    Raises as `tokenize` does, and UnusableError when the last turn is the assistant's.
    """
    template = load_template("own", tokenizer) if template is None else template
    text = render_prompt(with_sentinels(turns), tokenizer, template, image_mark=IMAGE_SENTINEL)
    encoded = _encode(text, tokenizer, _starts_within(text, turns, tokenizer, template))
    _check_images_kept(encoded.ids, _image_marks(turns))
    return encoded.ids


def tokenize_text(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Turn a text into ids as it stands: no template, no BOS, special tokens read as such.

    Every `<image>` becomes a `IMAGE_TOKEN_INDEX`.
    """
    return _encode(text.replace(DEFAULT_IMAGE_TOKEN, IMAGE_SENTINEL), tokenizer).ids


def render_record(
    record: InstructionRecord, tokenizer: PreTrainedTokenizerBase, template: str | None = None
) -> Rendered:
    """Render a record's turns with `IMAGE_SENTINEL` for each image mark of the user.

    A mark in anyone else's words is words. Raises as `tokenize` does.
    """
    marks = _image_marks(record.turns)
    if marks != len(record.images):
        raise UnusableError(
            "image marks do not match the images",
            f"record {record.id}: {marks} {DEFAULT_IMAGE_TOKEN} marks for "
            f"{len(record.images)} images",
        )
    try:
        return render(
            with_sentinels(record.turns),
            tokenizer,
            load_template("own", tokenizer) if template is None else template,
            image_mark=IMAGE_SENTINEL,
        )
    except UnusableError as error:
        raise UnusableError(error.reason, f"record {record.id}: {error}") from error


def tokenize_rendered(
    rendered: Rendered,
    record: InstructionRecord,
    tokenizer: PreTrainedTokenizerBase,
    template: str | None = None,
) -> Sample:
    """Tokenize what `render_record` made, its targets unchecked. Raises as `tokenize` does."""
    starts: Sequence[int] = [start for start, _ in rendered.spans]
    if any(turn.role == "assistant" and not turn.loss for turn in record.turns):
        template = load_template("own", tokenizer) if template is None else template
        starts = _starts_within(rendered.text, record.turns, tokenizer, template) or starts
    encoded = _encode(rendered.text, tokenizer, starts)
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
        _check_images_kept(ids, len(record.images))
    except UnusableError as error:
        raise UnusableError(error.reason, f"record {record.id}: {error}") from error
    return Sample(
        id=record.id,
        input_ids=tuple(ids),
        targets=targets_of(runs, len(ids)),
        image_slots=tuple(place for place, token in enumerate(ids) if token == IMAGE_TOKEN_INDEX),
        images=record.images,
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


def loss_mask(
    answers: Sequence[bool], ids: Sequence[int], loss_on: LossOn, opening: int
) -> tuple[bool, ...]:
    """Return what a stage learns of a sample, from the tokens of its answers and all its `ids`.

    `opening` is the number of tokens that the template writes before the first user's words
    (`opening_length`). Images are never learned, nor is the first token.
    """
    if loss_on == "answers":
        return tuple(answers)
    if loss_on == "answers-no-end":
        ends = runs_of(answers)[1::2]
        return tuple(yes and place + 1 not in ends for place, yes in enumerate(answers))
    start = opening if loss_on == "chat" else 1
    return tuple(
        place >= max(start, 1) and token != IMAGE_TOKEN_INDEX for place, token in enumerate(ids)
    )


def opening_length(tokenizer: PreTrainedTokenizerBase, template: str) -> int:
    """Return how many tokens a template writes before the first user's words.

    Found from two chats that differ in these words alone. Raises as `tokenize_prompt` does.
    """
    one, two = (
        tokenize_prompt([Turn(role="user", text=text)], tokenizer, template) for text in "a7"
    )
    same = (place for place, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    return next(same, min(len(one), len(two)))


def _image_marks(turns: Sequence[Turn]) -> int:
    return sum(turn.text.count(DEFAULT_IMAGE_TOKEN) for turn in turns if turn.role == "user")


def with_sentinels(turns: Sequence[Turn]) -> list[Turn]:
    """Return turns with the sentinel in the place of the user's image marks.

    Raises UnusableError where a turn holds the sentinel already.
    """
    if any(IMAGE_SENTINEL in turn.text for turn in turns):
        raise UnusableError(
            "a reserved character in the text",
            f"a turn holds the reserved character U+{ord(IMAGE_SENTINEL):X}; remove it",
        )
    return [
        structs.replace(turn, text=turn.text.replace(DEFAULT_IMAGE_TOKEN, IMAGE_SENTINEL))
        if turn.role == "user"
        else turn
        for turn in turns
    ]


def _encode(text: str, tokenizer: PreTrainedTokenizerBase, starts: Sequence[int] = ()) -> Encoded:
    return encoder_of(tokenizer).encode([text], [starts])[0]


def _starts_within(
    text: str, turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, template: str
) -> list[int]:
    """Return where the answers of a rendered chat begin, learned or not, if that can matter.

    None are returned where the template shows them otherwise in a chat that goes on.
    """
    answers = [turn.role == "assistant" for turn in turns]
    if not (any(answers) and encoder_of(tokenizer).can_part):
        return []
    shown = [
        structs.replace(turn, loss=answer)
        for turn, answer in zip(with_sentinels(turns), answers, strict=True)
    ]
    more = [] if answers[-1] else [PROBE[1]]
    try:
        rendered = render([*shown, *more], tokenizer, template, image_mark=IMAGE_SENTINEL)
    except UnusableError:
        return []
    if not rendered.text.startswith(text):
        return []
    return [start for start, _ in rendered.spans if start < len(text)]


def _check_images_kept(ids: list[int], images: int) -> None:
    written = ids.count(IMAGE_TOKEN_INDEX)
    if written != images:
        raise UnusableError(
            "the template does not keep the images",
            f"the chat template wrote {written} images for {images} marks",
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
        all(
            # An answer may begin as the template opens others, as an unclosed thought does.
            text.startswith(answer) or text.removeprefix(lead).lstrip().startswith(answer)
            for text, answer in pairs
        )
        for lead in leads
    )
