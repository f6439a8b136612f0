"""What stands inside the language model: where it looks, and what words its states are near.

Shapes: n tokens that look · t tokens of the row · m tokens looked at · d width · v vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from laterna.errors import LaternaError
from laterna.inference.explanation import TokenWords
from laterna.model.vlm import VisionLanguageModel

FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f")
"""Names under which decoders of transformers keep the norm before their head."""


def attention_rows(language: Any, embeds_1td: Tensor, n: int) -> Tensor:
    """Return the attention (n, t) of the last `n` tokens of a row, mean of all layers and heads.

    Each row sums to 1. Raises LaternaError, naming the model, where it gives no such weights.
    """
    before = embeds_1td.shape[1] - n
    kept = None
    if before:
        kept = language(
            inputs_embeds=embeds_1td[:, :before], use_cache=True, logits_to_keep=1
        ).past_key_values
    found = _eager(language)(
        inputs_embeds=embeds_1td[:, before:],
        past_key_values=kept,
        use_cache=True,
        output_attentions=True,
        logits_to_keep=1,
    ).attentions
    layers = [layer[0] for layer in found or () if layer is not None]
    if not layers or any(layer.shape[-2:] != (n, embeds_1td.shape[1]) for layer in layers):
        raise _no_attention(language)
    return torch.stack([layer.float().mean(0) for layer in layers]).mean(0).cpu()


def _eager(language: Any) -> Any:
    """Return the same model, its weights not copied, that computes attention in the plain way.

    The others give no weights, and switching the model itself would switch it for everyone.
    """
    shared = {id(one): one for one in (*language.parameters(), *language.buffers())}
    twin = copy.deepcopy(language, shared)
    try:
        twin.set_attn_implementation("eager")
    except (ValueError, NotImplementedError) as error:
        raise _no_attention(language) from error
    return twin


def _no_attention(language: Any) -> LaternaError:
    return LaternaError(
        f"attention cannot be had from a language model of type {language.config.model_type!r}: it "
        "does not give the weights over all tokens of the text; use occlusion"
    )


def nearest_words(model: VisionLanguageModel, tokens_md: Tensor, count: int) -> list[TokenWords]:
    """Return the words whose embeddings are nearest to each token, with their cosines."""
    table_vd = model.language.get_input_embeddings().weight
    lengths_v = torch.linalg.vector_norm(table_vd, dim=1, dtype=torch.float32).clamp_min(1e-12)
    unit_md = torch.nn.functional.normalize(tokens_md.to(table_vd), dim=1)
    return _best(model, (unit_md @ table_vd.T).float() / lengths_v, count)


def layer_words(
    model: VisionLanguageModel, embeds_1td: Tensor, places: slice, count: int
) -> Iterator[list[TokenWords]]:
    """Yield for each layer the likeliest words at some places of a row, with their probabilities.

    The states behind a layer go through the final norm and the head, as the last ones do (the
    logit lens). Raises LaternaError, naming the model, whose norm or head is not found.
    """
    decoder, head = model.language.get_decoder(), model.language.get_output_embeddings()
    norm = next((getattr(decoder, name) for name in FINAL_NORMS if hasattr(decoder, name)), None)
    if norm is None or head is None or not model.plain_head:
        raise LaternaError(
            f"a language model of type {model.language.config.model_type!r} has no norm and head "
            "that can be put behind each layer; use `words`"
        )
    states = decoder(
        inputs_embeds=embeds_1td, use_cache=False, output_hidden_states=True
    ).hidden_states
    for layer, states_1td in enumerate(states[1:], start=1):
        last = layer == len(states) - 1  # its norm is behind it already
        states_md = states_1td[0, places]
        logits_mv = head(states_md if last else norm(states_md))
        yield _best(model, logits_mv.float().softmax(-1), count)


def _best(model: VisionLanguageModel, scores_mv: Tensor, count: int) -> list[TokenWords]:
    tokenizer = model.tokenizer
    hidden = [token for token in tokenizer.all_special_ids if token < scores_mv.shape[1]]
    scores_mv[:, hidden] = -torch.inf
    scores_mv[:, len(tokenizer) :] = -torch.inf  # rows beyond the vocabulary
    values, ids = scores_mv.topk(min(count, scores_mv.shape[1]))
    return [
        tuple((_word(tokenizer, token), score) for token, score in zip(*pair, strict=True))
        for pair in zip(ids.tolist(), values.tolist(), strict=True)
    ]


def _word(tokenizer: Any, token: int) -> str:
    """Return a token's text; of a piece of a character, or a blank, its name."""
    text: str = tokenizer.decode([token])
    if text.strip() and "\N{REPLACEMENT CHARACTER}" not in text:
        return text.strip()
    return str(tokenizer.convert_ids_to_tokens(token))
