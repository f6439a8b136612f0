"""The language model: any causal one of transformers, or an encoder-decoder of T5's kind, run on
embeddings.

Shapes: r rows · t tokens of a row · d width · s target tokens · v vocabulary.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)

from laterna.errors import LaternaError, package
from laterna.model.language.quantize import quantize
from laterna.model.language.tokenizer import load_tokenizer
from laterna.model.pretrained import load_weights
from laterna.model.sources import gguf_file, resolve
from laterna.model.weight_files import require_finite
from laterna.recipe import LanguageSettings

ENCODER_DECODERS = ("t5", "mt5", "umt5", "t5gemma")
"""transformers' types of language models whose encoder reads what their decoder answers."""


class Language(NamedTuple):
    """A language model as it was read."""

    model: Any
    tokenizer: Any
    grown: int
    """Rows that were added to the embedding for tokens without one."""


def load_language(
    settings: LanguageSettings, folder: Path | None = None, tokenizer_folder: Path | None = None
) -> Language:
    """Load a causal language model and its tokenizer, from the source or from a checkpoint.

    A GGUF file is unpacked to ordinary weights that can be trained. An embedding with more rows
    than the tokenizer has tokens is left as it is; one with fewer is grown (`grow_embedding`),
    with a warning. Raises LaternaError when either is missing or incomplete, holds weights that are
    not finite, or cannot be quantized as the settings say.
    """
    source = str(folder) if folder else resolve(settings.source)
    packed = gguf_file(source)
    if packed:
        model = _unpack(packed)
    else:
        model = load_weights(auto_class(source), source, what="language model")
    if folder is None:
        require_finite(model, source)
    tokenizer = load_tokenizer(settings, tokenizer_folder)
    grown = grow_embedding(model, _tokens(tokenizer))
    if grown:
        warnings.warn(
            f"{source}: the tokenizer knows {grown} tokens that the embedding had no row for; "
            "they were given the mean of all rows, and only training gives them a meaning",
            stacklevel=2,
        )
    if settings.quantize:
        quantize(model)
    return Language(model, tokenizer, grown)


def encodes(config: Any) -> bool:
    """Say whether a language model of a configuration is an encoder-decoder known here."""
    return config.model_type in ENCODER_DECODERS


def auto_class(source: str) -> Any:
    """Return transformers' class that reads a source's language model.

    A source without a readable configuration is left to that class, which says what is wrong.
    """
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError):
        return AutoModelForCausalLM
    return AutoModelForSeq2SeqLM if encodes(config) else AutoModelForCausalLM


def positions_of(config: Any) -> int | None:
    """Return how many tokens a language model of a configuration can read at once, if it says so.

    Beyond that a model of learned positions fails, and one of rotary positions answers rubbish.
    """
    if encodes(config) and not hasattr(config, "encoder"):
        return None  # T5's positions are relative; T5Gemma's rotate
    text = config.encoder if encodes(config) else config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    found = (getattr(text, name, None) for name in names)
    said = next((number for number in found if isinstance(number, int) and number > 0), None)
    return None if said is None else max(said, _stretched(text, said))


def _stretched(config: Any, said: int) -> int:
    """Return to how many positions a configuration's scaling of rotary ones stretches them; 0: no
    more than it says.

    `max_position_embeddings` is the number before stretching in some configurations (Vicuna-16k,
    Qwen2.5 with YaRN), after it in others (Llama 3.1, DeepSeek, Gemma 3), so only a scaling that
    says from where it begins is taken at its word.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    kind, factor = rope.get("rope_type"), rope.get("factor") or 1
    if kind == "linear":
        return int(getattr(config, "max_sequence_length", None) or 0)
    begins = said if kind == "dynamic" else rope.get("original_max_position_embeddings") or 0
    return int(begins * factor) if kind in ("dynamic", "yarn") else 0


def layers_of(part: nn.Module) -> list[nn.Module]:
    """Return a language model's layers in order: the modules of its longest list of modules, as
    those of transformers keep them. Those of an encoder-decoder are its encoder's, then its
    decoder's.
    """
    if isinstance(part, PreTrainedModel) and encodes(part.config):
        stacks = (part.get_encoder(), part.get_decoder())
        children = (child for stack in stacks for child in stack.children())
        return [layer for one in children if isinstance(one, nn.ModuleList) for layer in one]
    lists = [list(module) for module in part.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


@torch.no_grad()
def grow_embedding(model: Any, tokens: int) -> int:
    """Give a language model's embedding (and head) a row for each of `tokens` ids.

    Each new row is the mean of the old ones. A token with that row in the head has the mean of
    all logits, so a greedy answer never holds it before it is trained. Returns the rows added.
    """
    before = int(model.get_input_embeddings().weight.shape[0])
    if tokens <= before:
        return 0
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    model.resize_token_embeddings(tokens, mean_resizing=False)
    ends = [model.get_input_embeddings()]
    if not tied:
        ends.append(model.get_output_embeddings())
    for end in ends:
        end.weight[before:] = mean_rows(end.weight[:before], tokens - before)
    return tokens - before


def mean_rows(weight: Tensor, rows: int) -> Tensor:
    """Return new rows for an embedding or a head (v, d): each the mean of those it has."""
    return weight.mean(dim=0, keepdim=True).expand(rows, -1)


@torch.no_grad()
def has_plain_head(model: Any) -> bool:
    """Say whether a model's logits are its head applied to the decoder's states, and no more.

    Gemma-2 caps them after the head, Granite and Cohere scale them; an encoder-decoder runs whole.
    """
    if encodes(model.config):
        return False
    embedding = model.get_input_embeddings().weight
    ids = torch.arange(8, device=embedding.device)[None]  # several: that of a padding id is zero
    with torch.autocast(embedding.device.type, enabled=False):
        states = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        by_parts = model.get_output_embeddings()(states)
        whole = model(input_ids=ids, use_cache=False).logits
    return torch.allclose(by_parts, whole, atol=1e-4, rtol=1e-4)


def _unpack(path: Path) -> Any:
    try:
        from transformers import GgufConfig
    except ImportError as error:
        raise LaternaError(
            f"{path}: reading a GGUF needs a transformers that has GgufConfig; "
            "run `pip install -U transformers`"
        ) from error
    package("gguf", "gguf", f"{path}: reading it")  # transformers reads the file by it
    return load_weights(
        AutoModelForCausalLM,
        str(path.parent),
        what="language model",
        gguf_file=path.name,
        quantization_config=GgufConfig(dequantize=True),
    )


def _tokens(tokenizer: Any) -> int:
    """Return one more than the highest id, which gaps in the ids put above their number."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1
