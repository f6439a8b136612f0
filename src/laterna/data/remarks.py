"""What is to be said of a chat template, once, before records are rendered by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laterna.data.chat import (
    PROBE,
    Rendered,
    UnusableError,
    asks_as_it_shows,
    render,
    render_prompt,
    special_pattern,
)
from laterna.data.encoding import encoder_of
from laterna.data.masking import SHARED, check_record, tokenize_prompt
from laterna.data.template import is_plain
from laterna.records import InstructionRecord, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LINE_BREAK = "\n\nA cup."


def remarks(tokenizer: PreTrainedTokenizerBase, template: str) -> list[str]:
    """Return a sentence for each way in which a template teaches otherwise than one would think.

    Nothing is returned for a template that refuses a chat of two exchanges: its records say why.
    """
    try:
        rendered = render(PROBE, tokenizer, template)
        asked = render(PROBE[:1], tokenizer, template, continue_as_assistant=True).text
        shows = asks_as_it_shows(tokenizer, template)
    except UnusableError:
        return []
    said = []
    if not shows:
        said.append(
            "it asks for an answer otherwise than it shows one; Laterna asks as it shows, so that "
            "serving agrees with training, and an export is refused where other programs would not"
        )
    elif rendered.text[: rendered.spans[0][0]] != asked:
        said.append(
            "it shows earlier answers otherwise than it asks for them; they are learned as shown"
        )
    if "strftime_now" in template:
        said.append(
            "it writes the day on which it is rendered: prepared records keep theirs, and serving "
            "asks with another"
        )
    ends = [] if is_plain(template) else _of_ends(rendered, tokenizer)
    return said + ends + _of_beginnings(tokenizer, template) + _of_others(tokenizer, template)


def _of_ends(rendered: Rendered, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return what follows from what stands behind the answers: an end of turn, or none."""
    special = special_pattern(tokenizer)
    answers = [turn.text for turn in PROBE if turn.loss]
    tails = [
        rendered.text[start:end].partition(answer)[2]
        for (start, end), answer in zip(rendered.spans, answers, strict=True)
    ]
    ends = [bool(tail.strip(" ") or special.search(tail)) for tail in tails]
    if not any(ends):
        return [
            "it writes no end of turn behind an answer; a model trained with it is not taught to "
            "stop, so use another template for training"
        ]
    if not any(map(special.search, tails)):
        return [
            f"it ends an answer with {tails[-1]!r}, which is no special token of the tokenizer, so "
            "that at serving no answer stops there; use another template for training"
        ]
    if not all(ends):
        return ["it writes an end of turn behind the last answer alone; only that teaches to stop"]
    return []


def _of_beginnings(tokenizer: PreTrainedTokenizerBase, template: str) -> list[str]:
    turns = (PROBE[0], Turn(role="assistant", text=_LINE_BREAK, loss=True))
    found = check_record(InstructionRecord(id="probe", images=(), turns=turns), tokenizer, template)
    if not isinstance(found, UnusableError) or found.reason != SHARED:
        return []
    return [
        "an answer that begins with a line break shares a token with the template's own; such "
        "records are refused and counted"
    ]


def _of_others(tokenizer: PreTrainedTokenizerBase, template: str) -> list[str]:
    """Return whether other programs, which tokenize a chat whole, ask with other tokens."""
    text = render_prompt(PROBE[:3], tokenizer, template)
    if (
        tokenize_prompt(PROBE[:3], tokenizer, template)
        == encoder_of(tokenizer).encode([text])[0].ids
    ):
        return []
    return [
        "the tokenizer reads the white space before an answer otherwise than that at a prompt's "
        "end; Laterna trains and asks with the prompt's tokens, other programs do so for a chat's "
        "last answer alone"
    ]
