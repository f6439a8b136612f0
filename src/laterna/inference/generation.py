"""Answers: prompts in, text out, by the language model's own `generate`.

Shapes: n features an image · b images · d width · r rows · t tokens.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteriaList, TextIteratorStreamer

from laterna.data.masking import tokenise_prompt
from laterna.errors import LaternaError
from laterna.model.language.causal import positions_of
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Batch, Record, Turn

Prompt = tuple[Sequence[Turn], Sequence[Image.Image]]
"""The turns so far, a user's last, and the images of their `<image>` marks in order."""


class Decoding(Record):
    """How tokens are chosen. Raises LaternaError for what cannot be meant."""

    max_new_tokens: int
    """Longest answer, in tokens."""
    temperature: float = 0.0
    """0: the likeliest token each time."""
    top_p: float = 1.0
    """Tokens are drawn among the likeliest that together have this probability."""
    seed: int | None = None
    """Of what is drawn; None: torch's own generator goes on."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise LaternaError(f"max_new_tokens = {self.max_new_tokens}: give at least 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise LaternaError(f"temperature = {self.temperature}: give 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise LaternaError(f"top_p = {self.top_p}: give a probability above 0, at most 1")


def generate_answers(
    model: VisionLanguageModel,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    *,
    features_bnd: Tensor | None = None,
) -> list[str]:
    """Answer a batch of prompts; an answer ends at the template's end of turn.

    `features_bnd` are the vision features of all the prompts' images in order, where they are
    already known; the images themselves are then not looked at, and may be left out unless they
    are tiled, when their sizes are needed.
    Raises LaternaError when marks and images differ in number.
    """
    if not prompts:
        return []
    tokens = generate_tokens(model, prompts, decoding, features_bnd=features_bnd)
    texts = model.tokenizer.batch_decode(
        tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return [text.strip() for text in texts]


def generate_tokens(
    model: VisionLanguageModel,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    *,
    features_bnd: Tensor | None = None,
) -> list[list[int]]:
    """Answer as `generate_answers` does, but return the answers' ids, their end of turn included.

    There must be a prompt. An answer that ran into `max_new_tokens` has no end of turn.
    """
    return _written(model, _inputs(model, prompts, features_bnd), decoding)


def continue_from(model: VisionLanguageModel, batch: Batch, *, max_new_tokens: int) -> list[int]:
    """Return the ids that the model goes on with, greedily, behind a batch of one row.

    They end as an answer does, its end of turn included, or run into `max_new_tokens`.
    """
    with torch.no_grad():
        embeds_rtd = model.embed(batch)
    mask_rt = torch.ones(embeds_rtd.shape[:2], dtype=torch.long, device=model.device)
    inputs = {"inputs_embeds": embeds_rtd, "attention_mask": mask_rt}
    return _written(model, inputs, Decoding(max_new_tokens=max_new_tokens))[0]


def stream_answer(
    model: VisionLanguageModel,
    turns: Sequence[Turn],
    images: Sequence[Image.Image],
    decoding: Decoding,
) -> Iterator[str]:
    """Yield one answer in pieces as it is written.

    Closing the iterator early stops the generation. Raises what the generation raises.
    """
    inputs = _inputs(model, [(turns, images)], None)
    config = _config(model, decoding, inputs)
    streamer = TextIteratorStreamer(model.tokenizer, skip_prompt=True, skip_special_tokens=True)
    closed = threading.Event()

    def stop(input_ids: Tensor, _scores: object, **_: object) -> Tensor:
        return torch.full((len(input_ids),), closed.is_set(), device=input_ids.device)

    def write() -> None:
        try:
            _generate(
                model,
                inputs,
                decoding,
                config,
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


def _written(
    model: VisionLanguageModel, inputs: dict[str, Tensor], decoding: Decoding
) -> list[list[int]]:
    """Return the ids that are written behind each row of inputs."""
    config = _config(model, decoding, inputs)
    ids_rt = _generate(model, inputs, decoding, config)
    ends = set(config.eos_token_id)
    return [_up_to_end(row, ends) for row in ids_rt.tolist()]


@torch.no_grad()
def _generate(
    model: VisionLanguageModel,
    inputs: dict[str, Tensor],
    decoding: Decoding,
    config: Any,
    **others: Any,
) -> Tensor:
    devices = [model.device] if model.device.type != "cpu" else []
    with torch.random.fork_rng(devices=devices, enabled=decoding.seed is not None):
        if decoding.seed is not None:
            torch.manual_seed(decoding.seed)
        ids_rt: Tensor = model.language.generate(**inputs, generation_config=config, **others)
    return ids_rt


def _config(model: VisionLanguageModel, decoding: Decoding, inputs: dict[str, Tensor]) -> Any:
    """Return the settings of an answer, which ends where the model's positions end.

    Raises LaternaError where they leave no room for one.
    """
    positions, length = positions_of(model.language.config), inputs["inputs_embeds"].shape[1]
    most = decoding.max_new_tokens
    if positions is not None and length > positions:
        raise LaternaError(
            f"the prompt is {length} tokens long, images included, and the language model has "
            f"{positions} positions; ask with fewer turns, shorter ones or fewer images"
        )
    if positions is not None:  # the last token of an answer is not read again
        most = min(most, positions - length + 1)
    ends = model.end_of_turn()
    pad = model.tokenizer.pad_token_id
    draws = decoding.temperature > 0
    # All that is unset here is taken from a model's own generation_config.json.
    return GenerationConfig(
        do_sample=draws,
        num_beams=1,
        max_new_tokens=most,
        eos_token_id=ends,
        pad_token_id=ends[0] if pad is None else pad,
        repetition_penalty=1.0,
        temperature=decoding.temperature if draws else 1.0,
        top_p=decoding.top_p if draws else 1.0,
        no_repeat_ngram_size=0,
        **({"top_k": 0} if draws else {}),
    )


def _up_to_end(ids: list[int], ends: set[int]) -> list[int]:
    """Cut the padding that a row got while longer answers went on."""
    for place, token in enumerate(ids):
        if token in ends:
            return ids[: place + 1]
    return ids


@torch.no_grad()
def _inputs(
    model: VisionLanguageModel, prompts: Sequence[Prompt], features_bnd: Tensor | None
) -> dict[str, Tensor]:
    """Return what `generate` takes for prompts of several lengths."""
    # Samples are tokenised by the same code and template, so a prompt is token for token what
    # training put before the answer.
    rows = [tokenise_prompt(turns, model.tokenizer, model.template) for turns, _ in prompts]
    shown = [image for _, images in prompts for image in images]
    if features_bnd is None:
        once = {id(image): image for image in shown}  # in several prompts: encoded once
        tokens = dict(zip(once, model.encode_images(list(once.values())), strict=True))
        seen: Sequence[Tensor] = [tokens[id(image)] for image in shown]
    else:
        seen = model.connect(features_bnd, model.prepare.tilings([image.size for image in shown]))
    return model.fusion.generation_inputs(model.language, rows, seen)
