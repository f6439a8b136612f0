"""Answers: prompts in, text out, by the language model's own `generate`.

Shapes: b pictures · n features a picture · m tokens a picture · d width · r rows · t tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteriaList, TextIteratorStreamer

from laterna.data.chat import UnusableError
from laterna.data.masking import check_record, tokenise_prompt
from laterna.data.picture_tokens import SameTokens
from laterna.errors import LaternaError
from laterna.model.language import positions_of
from laterna.records import PICTURE_TOKEN, Batch, InstructionRecord, Turn

if TYPE_CHECKING:
    from laterna.model.assistant import Assistant

Prompt = tuple[Sequence[Turn], Sequence[Image.Image]]
"""The turns so far, a user's last, and the pictures of their `<image>` marks in order."""


def generate_answers(
    assistant: Assistant,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    features_bnd: Tensor | None = None,
) -> list[str]:
    """Answer a batch of prompts greedily; an answer ends at the template's end of turn.

    `features_bnd` are the vision features of all the prompts' pictures in order, where they are
    already known; the pictures themselves are then not looked at, and may be left out unless
    they are tiled, when their sizes are needed.
    Raises LaternaError when marks and pictures differ in number.
    """
    if not prompts:
        return []
    tokens = generate_tokens(
        assistant, prompts, max_new_tokens=max_new_tokens, features_bnd=features_bnd
    )
    texts = assistant.tokenizer.batch_decode(
        tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return [text.strip() for text in texts]


def generate_tokens(
    assistant: Assistant,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    features_bnd: Tensor | None = None,
) -> list[list[int]]:
    """Answer as `generate_answers` does, but return the answers' ids, their end of turn included.

    There must be a prompt. An answer that ran into `max_new_tokens` has no end of turn.
    """
    return _written(assistant, _left_padded(assistant, prompts, features_bnd), max_new_tokens)


def go_on_from(assistant: Assistant, batch: Batch, *, max_new_tokens: int) -> list[int]:
    """Return the ids that the assistant goes on with, greedily, behind a batch of one row.

    They end as an answer does, its end of turn included, or run into `max_new_tokens`.
    """
    with torch.no_grad():
        embeds_rtd = assistant.embed(batch)
    mask_rt = torch.ones(embeds_rtd.shape[:2], dtype=torch.long, device=assistant.device)
    inputs = {"inputs_embeds": embeds_rtd, "attention_mask": mask_rt}
    return _written(assistant, inputs, max_new_tokens)[0]


def stream_answer(
    assistant: Assistant,
    turns: Sequence[Turn],
    pictures: Sequence[Image.Image],
    max_new_tokens: int,
) -> Iterator[str]:
    """Yield one greedy answer in pieces as it is written.

    Closing the iterator early stops the generation. Raises what the generation raises.
    """
    inputs = _left_padded(assistant, [(turns, pictures)], None)
    settings = _greedy(assistant, max_new_tokens, inputs)
    streamer = TextIteratorStreamer(assistant.tokenizer, skip_prompt=True, skip_special_tokens=True)
    closed = threading.Event()

    def stop(input_ids: Tensor, _scores: object, **_: object) -> Tensor:
        return torch.full((len(input_ids),), closed.is_set(), device=input_ids.device)

    def write() -> None:
        try:
            with torch.no_grad():
                assistant.language.generate(
                    **inputs,
                    generation_config=settings,
                    stopping_criteria=StoppingCriteriaList([stop]),
                    streamer=streamer,
                )
        finally:
            streamer.end()  # on an error too, or the reader would wait for ever

    with ThreadPoolExecutor(max_workers=1) as pool:
        writing = pool.submit(write)
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            closed.set()
        writing.result()


def end_of_turn(assistant: Assistant) -> list[int]:
    """Return the ids that end an answer: the model's own, and what the template learns as one.

    The latter is read from a rendered sample, so what stops at serving is what was trained.
    """
    probe = InstructionRecord(
        id="end of turn",
        pictures=(),
        turns=(Turn(role="user", text="a"), Turn(role="assistant", text="b", loss=True)),
    )
    sample = check_record(probe, assistant.tokenizer, assistant.template)
    special = set(assistant.tokenizer.all_special_ids)
    learned: list[int] = []
    if not isinstance(sample, UnusableError):
        pairs = zip(sample.input_ids, sample.targets, strict=True)
        learned = [token for token, target in pairs if target and token in special]
    own = assistant.language.generation_config.eos_token_id
    named = own if isinstance(own, list) else [own]
    ends = {*learned, *named, assistant.tokenizer.eos_token_id} - {None}
    if not ends:
        raise LaternaError(
            "the tokenizer has no end-of-sequence token and the chat template ends an answer with "
            "no special token; set `eos_token` in tokenizer_config.json"
        )
    return sorted(ends)


def _written(
    assistant: Assistant, inputs: dict[str, Tensor], max_new_tokens: int
) -> list[list[int]]:
    """Return the ids that are written, greedily, behind each row of inputs."""
    settings = _greedy(assistant, max_new_tokens, inputs)
    with torch.no_grad():
        ids_rt = assistant.language.generate(**inputs, generation_config=settings)
    ends = set(settings.eos_token_id)
    return [_up_to_end(row, ends) for row in ids_rt.tolist()]


def _greedy(assistant: Assistant, max_new_tokens: int, inputs: dict[str, Tensor]) -> Any:
    """Return the settings of a greedy answer, which ends where the model's positions end.

    Raises LaternaError where they leave no room for one.
    """
    positions, length = positions_of(assistant.language.config), inputs["inputs_embeds"].shape[1]
    if positions is not None and length > positions:
        raise LaternaError(
            f"the prompt is {length} tokens long, images included, and the language model has "
            f"{positions} positions; ask with fewer turns, shorter ones or fewer images"
        )
    if positions is not None:  # the last token of an answer is not read again
        max_new_tokens = min(max_new_tokens, positions - length + 1)
    ends = end_of_turn(assistant)
    pad = assistant.tokenizer.pad_token_id
    # The last three undo what a model's own generation_config.json may ask for: all that is unset
    # here is taken from it.
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=ends[0] if pad is None else pad,
        repetition_penalty=1.0,
        temperature=1.0,
        no_repeat_ngram_size=0,
    )


def _up_to_end(ids: list[int], ends: set[int]) -> list[int]:
    """Cut the padding that a row got while longer answers went on."""
    for place, token in enumerate(ids):
        if token in ends:
            return ids[: place + 1]
    return ids


@torch.no_grad()
def _left_padded(
    assistant: Assistant, prompts: Sequence[Prompt], features_bnd: Tensor | None
) -> dict[str, Tensor]:
    """Embed prompts of several lengths, padded on the left so that all end where answers begin."""
    # Samples are tokenised by the same code and template, so a prompt is token for token what
    # training put before the answer.
    rows = [
        _expanded(assistant, turns, pictures, known=features_bnd is not None)
        for turns, pictures in prompts
    ]
    width = max(len(row) for row in rows)
    ids_rt = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask_rt = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    shown = [picture for _, pictures in prompts for picture in pictures]
    if features_bnd is None:
        once = {id(picture): picture for picture in shown}  # in several prompts: encoded once
        tokens = dict(zip(once, assistant.see(list(once.values())), strict=True))
        seen: Sequence[Tensor] = [tokens[id(picture)] for picture in shown]
    else:
        tilings = assistant.prepare.tilings([picture.size for picture in shown])
        seen = assistant.connect(features_bnd, tilings)
    embeds_rtd = assistant.fill_pictures(
        ids_rt, ids_rt == PICTURE_TOKEN, seen, names=["the prompts"]
    )
    return {"inputs_embeds": embeds_rtd, "attention_mask": mask_rt.to(assistant.device)}


def _expanded(
    assistant: Assistant, turns: Sequence[Turn], pictures: Sequence[Image.Image], *, known: bool
) -> list[int]:
    """Tokenise a prompt with places for its pictures; `known`: these may have been left out."""
    ids = tokenise_prompt(turns, assistant.tokenizer, assistant.template)
    counter = assistant.picture_tokens
    counts = [counter(*picture.size) for picture in pictures]
    if known and isinstance(counter, SameTokens):
        counts = [counter.tokens] * ids.count(PICTURE_TOKEN)
    return assistant.expand(ids, counts)
