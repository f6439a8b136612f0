"""The language model as llama.cpp's text file: models of the Llama family.

Keys and names of tensors are those of llama.cpp's architecture `llama`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laterna.errors import LaternaError
from laterna.model.exporters.gguf_tokenizer import add_tokenizer
from laterna.model.exporters.gguf_writing import add_tensor, gguf_writer
from laterna.model.exporters.parts import end_names, language_weights
from laterna.model.vlm import VisionLanguageModel

FORMAT = "llama.cpp's text file"
MODULES: dict[str, str] = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""A Llama layer's modules by their names in the file."""


def write_text_half(assistant: VisionLanguageModel, path: Path, dtype: torch.dtype) -> None:
    """Write language model, tokenizer and template.

    Raises LaternaError for what the format cannot hold.
    """
    config = assistant.language.config
    _insist_on_llama(config)
    with gguf_writer(path, "llama", dtype) as writer:
        writer.add_string("general.name", "Laterna: language model")
        _add_settings(writer, config)
        add_tokenizer(
            writer,
            assistant.tokenizer,
            rows=int(assistant.language.get_input_embeddings().weight.shape[0]),
            template=assistant.template,
            ends=assistant.end_of_turn(),
        )
        for name, weight in _tensors(assistant).items():
            add_tensor(writer, name, weight, dtype)


def _insist_on_llama(config: Any) -> None:
    reason = ""
    rope = config.rope_parameters["rope_type"] if config.model_type == "llama" else ""
    if config.model_type != "llama":
        reason = f"a language model of type {config.model_type}: Laterna writes type llama only"
    elif config.attention_bias or config.mlp_bias:
        reason = "a language model with biases in its layers: type llama has none in the file"
    elif config.hidden_act != "silu":
        reason = f"a language model with {config.hidden_act}: type llama has silu"
    elif rope != "default":
        reason = f"positions scaled by {rope!r}: Laterna writes unscaled positions only"
    if reason:
        raise LaternaError(f"cannot be exported to {FORMAT}: {reason}")


def _add_settings(writer: Any, config: Any) -> None:
    head = int(config.head_dim)
    for name, number in {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": head,
        "vocab_size": config.vocab_size,
    }.items():
        writer.add_uint32(f"llama.{name}", int(number))
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", float(config.rms_norm_eps))
    writer.add_float32("llama.rope.freq_base", float(config.rope_parameters["rope_theta"]))


def _tensors(assistant: VisionLanguageModel) -> dict[str, Tensor]:
    language, weights = assistant.language, language_weights(assistant)
    config = language.config
    embedding, head = end_names(language)
    tensors = {
        "token_embd.weight": weights[embedding],
        "output_norm.weight": weights["model.norm.weight"],
    }
    if not config.tie_word_embeddings:
        tensors["output.weight"] = weights[head]
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for module, name in MODULES.items():
            weight = weights[f"model.layers.{layer}.{module}.weight"]
            if name in heads:
                weight = _interleaved(weight, heads[name])
            tensors[f"blk.{layer}.{name}.weight"] = weight
    return tensors


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """Reorder each head's rows from transformers' halves to llama.cpp's neighbouring pairs.

    Both rotate pairs of numbers by the position: transformers number i with number i + d/2 of a
    head d wide, llama.cpp number 2i with number 2i + 1.
    """
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)
