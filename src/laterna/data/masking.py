"""Records become samples: rendered once, tokenised once, and learned where spans overlap.

A token is a target when its characters overlap a span that carries loss. Nothing is tokenised in
pieces and no separator is counted, so every tokenizer that reports offsets is masked exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from msgspec import structs
from tokenizers import AddedToken, Encoding, Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.processors import TemplateProcessing

from laterna.data.chat import Rendered, UnusableError, load_template, render
from laterna.errors import LaternaError
from laterna.records import PICTURE_MARK, PICTURE_TOKEN, InstructionRecord, Sample, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PICTURE_SENTINEL = "\U000f1a72"
"""Stands for a picture in rendered text; a private character that no words may hold."""


def tokenise(
    record: InstructionRecord, tokenizer: PreTrainedTokenizerBase, template: str | None = None
) -> Sample:
    """Turn a record into token ids and targets; each picture becomes one `PICTURE_TOKEN`.

    `template` is the text of a Jinja chat template, None the tokenizer's own.

    Raises UnusableError (a LaternaError), naming the record, when it cannot be rendered, and
    LaternaError when the tokenizer has no template or reports no offsets.
    """
    return tokenise_rendered(render_record(record, tokenizer, template), record, tokenizer)


def tokenise_prompt(
    turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, template: str | None = None
) -> list[int]:
    """Turn a chat into the ids after which the assistant is to write; pictures as in `tokenise`.

    The same renderer and tokenizer as in training, so the model is asked as it was taught.
    Raises as `tokenise` does, and UnusableError when the last turn is the assistant's.
    """
    rendered = _render_pictures(turns, tokenizer, template, continue_as_assistant=True)
    ids = _encode(rendered.text, tokenizer)
    _check_pictures_kept(ids, _picture_marks(turns))
    return ids


def tokenise_text(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Turn a text into ids as it stands: no template, no BOS, special tokens read as such.

    Every `<image>` becomes a `PICTURE_TOKEN`.
    """
    return _encode(text.replace(PICTURE_MARK, PICTURE_SENTINEL), tokenizer)


def with_image_first(record: InstructionRecord) -> InstructionRecord:
    """Return a record in which the mark of each user's turn that has one stands before its words,
    on a line of its own, as LLaVA's `preprocess_multimodal` puts it. Turns with several stay.
    """
    turns = [
        structs.replace(turn, text=f"{PICTURE_MARK}\n{turn.text.replace(PICTURE_MARK, '').strip()}")
        if turn.role == "user" and turn.text.count(PICTURE_MARK) == 1
        else turn
        for turn in record.turns
    ]
    return structs.replace(record, turns=tuple(turns))


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
        return _render_pictures(record.turns, tokenizer, template, continue_as_assistant=False)
    except UnusableError as error:
        raise UnusableError(error.reason, f"record {record.id}: {error}") from error


def tokenise_rendered(
    rendered: Rendered, record: InstructionRecord, tokenizer: PreTrainedTokenizerBase
) -> Sample:
    """Tokenise what `render_record` made, in one piece. Raises as `tokenise` does."""
    backend, sentinel = with_picture_token(tokenizer)
    encoding = backend.encode(rendered.text, add_special_tokens=False)
    return sample_of(encoding, rendered, record, sentinel)


def sample_of(
    encoding: Encoding, rendered: Rendered, record: InstructionRecord, sentinel: int
) -> Sample:
    """Make the sample of a record from the encoding of its text; `sentinel` is the sentinel's id.

    Raises UnusableError, naming the record, where the text lacks pictures.
    """
    ids = [PICTURE_TOKEN if token == sentinel else token for token in encoding.ids]
    try:
        _check_pictures_kept(ids, len(record.pictures))
    except UnusableError as error:
        raise UnusableError(error.reason, f"record {record.id}: {error}") from error
    return Sample(
        id=record.id,
        input_ids=tuple(ids),
        targets=tuple(_overlaps(encoding.offsets, rendered.spans)),
        picture_slots=tuple(place for place, token in enumerate(ids) if token == PICTURE_TOKEN),
        pictures=record.pictures,
    )


def check_targets(
    sample: Sample,
    rendered: Rendered,
    record: InstructionRecord,
    tokenizer: PreTrainedTokenizerBase,
) -> bool:
    """Say whether the targets, decoded, are the record's answers and their ends of turn.

    White space at either end of an answer is not compared, for it may share a token with what
    stands beside it. A tokenizer that cannot write some text back (one that lowers case, say) is
    held to what it makes of the expected text, unless that has unknown tokens.
    """
    answers = [turn.text for turn in record.turns if turn.loss]
    if not _start_with(rendered, answers):
        return False
    expected = [rendered.text[start:end].strip() for start, end in _joined(rendered.spans)]
    runs = groupby(zip(sample.input_ids, sample.targets, strict=True), key=lambda pair: pair[1])
    said = "".join(
        _decode([token for token, _ in run], tokenizer) for is_target, run in runs if is_target
    )
    if said == "".join(expected):
        return True
    backend, _ = with_picture_token(tokenizer)
    if backend.normalizer is None and isinstance(backend.decoder, ByteLevel):
        return False  # it writes back all but bytes that it lacks, which it leaves out unsaid
    sayable = "".join(
        _decode(backend.encode(text, add_special_tokens=False).ids, tokenizer) for text in expected
    )
    return said == sayable and not (tokenizer.unk_token and tokenizer.unk_token in said)


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


def _render_pictures(
    turns: Sequence[Turn],
    tokenizer: PreTrainedTokenizerBase,
    template: str | None,
    *,
    continue_as_assistant: bool,
) -> Rendered:
    """Render turns with the sentinel in the place of the user's picture marks."""
    return render(
        with_sentinels(turns),
        tokenizer,
        load_template("own", tokenizer) if template is None else template,
        continue_as_assistant=continue_as_assistant,
        picture_mark=PICTURE_SENTINEL,
    )


def _encode(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of a text, `PICTURE_TOKEN` for each sentinel."""
    backend, sentinel = with_picture_token(tokenizer)
    ids = backend.encode(text, add_special_tokens=False).ids
    return [PICTURE_TOKEN if token == sentinel else token for token in ids]


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


def _joined(spans: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """Join spans that touch, whose tokens are one run."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _overlaps(offsets: list[tuple[int, int]], spans: tuple[tuple[int, int], ...]) -> Iterator[bool]:
    """Yield for each token whether its characters overlap a span; both come in text order."""
    current = 0
    for start, end in offsets:
        while current < len(spans) and spans[current][1] <= start:
            current += 1
        yield current < len(spans) and spans[current][0] < end


def _decode(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text).strip()


_backends: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, Tokenizer, int]] = (
    WeakKeyDictionary()
)


def with_picture_token(tokenizer: PreTrainedTokenizerBase) -> tuple[Tokenizer, int]:
    """Return a private copy of a tokenizer that knows the sentinel, and the sentinel's id."""
    known = _backends.get(tokenizer)
    if known is not None and known[0] == len(tokenizer):
        return known[1:]
    if not tokenizer.is_fast:
        raise LaternaError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} reports no character "
            "offsets, which masking needs; use one with a tokenizer.json"
        )
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    # Special tokens stand in the rendered text, so a post-processor has nothing to add; but
    # byte-level ones cut spaces from the offsets, which would leave a lone space no span.
    backend.post_processor = TemplateProcessing(single="$A", pair="$A $B:1")
    backend.add_special_tokens([AddedToken(PICTURE_SENTINEL, normalized=False)])
    (sentinel,) = backend.encode(PICTURE_SENTINEL, add_special_tokens=False).ids
    _backends[tokenizer] = (len(tokenizer), backend, sentinel)
    return backend, sentinel
