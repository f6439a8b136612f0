"""Answers by the language model's own `generate`: for models that the engine cannot drive step by
step, for features that are known, and for what answers are held against.

Shapes: n features an image · b images · d width · r rows · t tokens · v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from laterna.data.masking import tokenize_prompt
from laterna.errors import LaternaError
from laterna.inference.sampling import Decoding as Decoding
from laterna.inference.sampling import Sampler, choose
from laterna.model.language.causal import encodes, positions_of
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Batch, Turn

Prompt = tuple[Sequence[Turn], Sequence[Image.Image]]
"""The turns so far, a user's last, and the images of their `<image>` marks in order."""
Chooser = Callable[[Tensor], list[int]]
"""Chooses an id a row from the logits (r, v)."""


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

    There must be a prompt. An answer that ran into `max_new_tokens` has no end of turn. Stop
    texts are the engine's to heed.
    """
    inputs = _inputs(model, prompts, features_bnd)
    if not decoding.temperature:
        return generate_rows(model, inputs, decoding.max_new_tokens)
    samplers = [Sampler(decoding, model.device) for _ in prompts]
    return generate_rows(
        model,
        inputs,
        decoding.max_new_tokens,
        lambda logits_rv: [token.id for token in choose(logits_rv, samplers)],
    )


def continue_from(model: VisionLanguageModel, batch: Batch, *, max_new_tokens: int) -> list[int]:
    """Return the ids that the model goes on with, greedily, behind a batch of one row.

    They end as an answer does, its end of turn included, or run into `max_new_tokens`.
    """
    with torch.no_grad():
        inputs = model.generation_inputs(batch)
    return generate_rows(model, inputs, max_new_tokens)[0]


@torch.no_grad()
def generate_rows(
    model: VisionLanguageModel,
    inputs: dict[str, Any],
    max_new_tokens: int,
    chooser: Chooser | None = None,
    ended: Callable[[], bool] | None = None,
) -> list[list[int]]:
    """Return the ids that are written behind each row of inputs, up to its end of turn.

    `chooser` chooses them, None: the likeliest; `ended` says after each step whether to stop.
    """
    positions, length = positions_of(model.language.config), inputs["attention_mask"].shape[1]
    if positions is not None and length > positions:
        raise LaternaError(
            f"the prompt is {length} tokens long, images included, and the language model has "
            f"{positions} positions; ask with fewer turns, shorter ones or fewer images"
        )
    if positions is not None:  # the last token of an answer is not read again
        max_new_tokens = min(max_new_tokens, positions - length + 1)
    ends = model.end_of_turn()
    pad = model.tokenizer.pad_token_id
    # All that is unset here is taken from a model's own generation_config.json.
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=ends[0] if pad is None else pad,
        repetition_penalty=1.0,
        temperature=1.0,
        top_p=1.0,
        no_repeat_ngram_size=0,
    )

    def pick(_: Tensor, logits_rv: Tensor) -> Tensor:
        ids_r1 = torch.tensor(chooser(logits_rv) if chooser else [])[:, None].to(logits_rv.device)
        return torch.full_like(logits_rv, -torch.inf).scatter(1, ids_r1, 0.0)

    def stop(input_ids: Tensor, _scores: object, **_: object) -> Tensor:
        return torch.full((len(input_ids),), bool(ended and ended()), device=input_ids.device)

    with model.fusion.beside(inputs.get("media")):
        ids_rt: Tensor = model.language.generate(
            **{name: one for name, one in inputs.items() if name != "media"},
            generation_config=config,
            logits_processor=LogitsProcessorList([pick] if chooser else []),
            stopping_criteria=StoppingCriteriaList([stop] if ended else []),
        )
    begin = int(encodes(model.language.config))  # behind the decoder's start, which nobody wrote
    return [_up_to_end(row, set(ends)) for row in ids_rt[:, begin:].tolist()]


def _up_to_end(ids: list[int], ends: set[int]) -> list[int]:
    """Cut the padding that a row got while longer answers went on."""
    for place, token in enumerate(ids):
        if token in ends:
            return ids[: place + 1]
    return ids


@torch.no_grad()
def _inputs(
    model: VisionLanguageModel, prompts: Sequence[Prompt], features_bnd: Tensor | None
) -> dict[str, Any]:
    """Return what `generate` takes for prompts of several lengths."""
    # Samples are tokenized by the same code and template, so a prompt is token for token what
    # training put before the answer.
    rows = [tokenize_prompt(turns, model.tokenizer, model.template) for turns, _ in prompts]
    shown = [image for _, images in prompts for image in images]
    if features_bnd is None:
        once = {id(image): image for image in shown}  # in several prompts: encoded once
        tokens = dict(zip(once, model.encode_images(list(once.values())), strict=True))
        seen: Sequence[Tensor] = [tokens[id(image)] for image in shown]
    else:
        seen = model.connect(features_bnd, model.prepare.tilings([image.size for image in shown]))
    inputs: dict[str, Any] = model.fusion.generation_inputs(model.language, rows, seen)
    return inputs
