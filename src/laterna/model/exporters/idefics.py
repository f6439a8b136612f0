"""Export to IDEFICS (v1), the model of transformers that has Flamingo's fusion: its
`IdeficsForVisionText2Text` with tokenizer and image processor.

Importing reads the same names the other way round (`importers.idefics`).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import IdeficsConfig, IdeficsForVisionText2Text, IdeficsImageProcessorPil

from laterna.errors import LaternaError
from laterna.model.connectors.resampler import ResamplerConnector
from laterna.model.exporters.parts import PRECISIONS, language_weights, vision_weights
from laterna.model.fusion.cross_attention import CrossAttentionFusion
from laterna.model.pretrained import quiet_transformers
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import ConnectorSettings
from laterna.records import DEFAULT_IMAGE_TOKEN

FORMAT = "IDEFICS"
AROUND_IMAGE = "<fake_token_around_image>"
"""The token that IDEFICS puts on both sides of an image."""
RESAMPLER = {
    "latents": "latents",
    "norm": "layer_norm",
    "features_norm": "0.context_layer_norm",
    "latents_norm": "0.latents_layer_norm",
    "attention.q_proj": "0.q_proj",
    "attention.k_proj": "0.k_proj",
    "attention.v_proj": "0.v_proj",
    "attention.o_proj": "0.output_proj",
    "attention.q_norm": "0.q_layer_norm",
    "attention.k_norm": "0.k_layer_norm",
    "ff.0": "1.ln",
    "ff.1": "1.fc",
    "ff.3": "1.c_proj",
}
"""Our names in the resampler, or in one of its layers, to IDEFICS's."""
BLOCK = {
    "norm": "input_layernorm",
    "attention.q_proj": "cross_attn.q_proj",
    "attention.k_proj": "cross_attn.k_proj",
    "attention.v_proj": "cross_attn.v_proj",
    "attention.o_proj": "cross_attn.o_proj",
    "attention.q_norm": "cross_attn.q_layer_norm",
    "attention.k_norm": "cross_attn.k_layer_norm",
    "attention_gate": "alpha_cross_attn",
    "ff.0": "post_attention_layernorm",
    "ff.1.gate_proj": "mlp.gate_proj",
    "ff.1.up_proj": "mlp.up_proj",
    "ff.1.down_proj": "mlp.down_proj",
    "ff_gate": "alpha_dense",
}
"""The same in a gated block."""


def their_resampler_name(name: str) -> str:
    """Return IDEFICS's name of a weight of the resampler."""
    if not name.startswith("layers."):
        return f"model.perceiver_resampler.{_renamed(name, RESAMPLER)}"
    _, number, rest = name.split(".", 2)
    return f"model.perceiver_resampler.blocks.{number}.{_renamed(rest, RESAMPLER)}"


def their_block_name(name: str) -> str:
    """Return IDEFICS's name of a weight of the fusion's blocks."""
    _, number, rest = name.split(".", 2)
    return f"model.gated_cross_attn_layers.{number}.{_renamed(rest, BLOCK)}"


def _renamed(name: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name[len(ours) :]
    raise LaternaError(f"{name}: {FORMAT} has no such weight")


def export_idefics(assistant: VisionLanguageModel, folder: Path, precision: str = "f32") -> None:
    """Write the model, its tokenizer and its image processor as a new folder, in `f32` (default),
    `f16` or `bf16`.

    The tokenizer gets IDEFICS's two tokens, the embedding a row for each. Raises LaternaError for a
    network that IDEFICS cannot express.
    """
    _require_theirs(assistant)
    tokenizer = copy.deepcopy(assistant.tokenizer)
    # In IDEFICS's order: its rows follow those of the language model.
    rows = len(assistant.language.get_input_embeddings().weight)
    added = [one for one in (AROUND_IMAGE, DEFAULT_IMAGE_TOKEN) if one not in tokenizer.get_vocab()]
    if len(added) == 2 and len(tokenizer) != rows:
        raise LaternaError(
            f"the tokenizer knows {len(tokenizer):,} tokens and the embedding has {rows:,} rows, "
            f"but {FORMAT} numbers its two tokens right after both; grow or cut the embedding"
        )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": added}, replace_extra_special_tokens=False
    )
    model = IdeficsForVisionText2Text(_config(assistant, tokenizer))
    weights = _weights(assistant, model.config.vocab_size)
    result = model.load_state_dict(weights, strict=False)
    missing = [name for name in result.missing_keys if "rotary_emb" not in name]
    if missing or result.unexpected_keys:
        raise LaternaError(f"{(missing + result.unexpected_keys)[0]}: has no place in {FORMAT}")
    folder.mkdir()
    processor = assistant.prepare.processor
    with quiet_transformers():
        model.to(PRECISIONS[precision]).save_pretrained(folder)
        tokenizer.chat_template = assistant.template
        tokenizer.save_pretrained(folder)
        IdeficsImageProcessorPil(
            image_size=assistant.prepare.size,
            image_mean=list(processor.image_mean),
            image_std=list(processor.image_std),
        ).save_pretrained(folder)


def _require_theirs(assistant: VisionLanguageModel) -> None:
    """Raise LaternaError, naming the setting, for what IDEFICS cannot express."""
    tower, language, fusion = assistant.vision, assistant.language, assistant.fusion
    if not isinstance(fusion, CrossAttentionFusion):
        raise LaternaError(
            f"only fusion.kind = 'cross_attention' can be exported to {FORMAT}, which reads images "
            "by gated cross-attention; use --to hf"
        )
    config, own = language.config, fusion.settings
    heads, width = int(config.num_attention_heads), int(config.hidden_size)
    connector = assistant.connector
    wrong = {
        "vision.layer": tower.layer not in (-1, len(tower.model.encoder.layers)),
        "vision.class_token": not tower.class_token,
        "vision.final_norm": tower.final_norm,
        "vision.fit": assistant.prepare.fit != "resize",
        "the encoder's type": tower.model.config.model_type != "clip_vision_model",
        "the language model's type": config.model_type != "llama",
        "the language model's key heads": int(config.num_key_value_heads) != heads,
        "connector.kind": not isinstance(connector, ResamplerConnector),
        "connector.form": _said(connector, "form") != "idefics",
        "fusion.cross_attention.form": own.form != "idefics",
        "fusion.cross_attention.before": own.before != "first" and own.every > 1,
        "fusion.cross_attention.heads": own.heads != heads,
        "fusion.cross_attention.head_width": own.head_width * heads != width,
    }
    names = [name for name, differs in wrong.items() if differs]
    if names:
        raise LaternaError(f"cannot be exported to {FORMAT}, which has other {', '.join(names)}")


def _said(connector: Any, name: str) -> Any:
    return getattr(connector.settings, name) if hasattr(connector, "settings") else None


def _config(assistant: VisionLanguageModel, tokenizer: Any) -> IdeficsConfig:
    text, seen = assistant.language.config, assistant.vision.model.config
    fusion = cast(CrossAttentionFusion, assistant.fusion)
    connector = cast(ResamplerConnector, assistant.connector)
    resampler: ConnectorSettings = connector.settings
    rows = len(assistant.language.get_input_embeddings().weight)
    image = tokenizer.convert_tokens_to_ids(DEFAULT_IMAGE_TOKEN)
    return IdeficsConfig(
        vocab_size=min(rows, image - 1),
        additional_vocab_size=2,
        **{
            name: getattr(text, name)
            for name in (
                *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
                *("hidden_act", "rms_norm_eps", "max_position_embeddings"),
                *("bos_token_id", "eos_token_id", "pad_token_id"),
            )
        },
        tie_word_embeddings=False,
        cross_layer_interval=fusion.settings.every,
        qk_layer_norms=True,
        freeze_text_layers=False,
        freeze_vision_layers=False,
        use_resampler=True,
        vision_config={
            "embed_dim": seen.hidden_size,
            **{
                name: getattr(seen, name)
                for name in (
                    *("image_size", "intermediate_size", "patch_size", "num_hidden_layers"),
                    *("num_attention_heads", "hidden_act", "layer_norm_eps"),
                )
            },
        },
        perceiver_config={
            "use_resampler": True,
            "resampler_n_latents": len(connector.latents),
            "resampler_depth": len(connector.layers),
            "resampler_n_heads": resampler.heads,
            "resampler_head_dim": resampler.head_width,
            "qk_layer_norms_perceiver": True,
        },
    )


@torch.no_grad()
def _weights(assistant: VisionLanguageModel, vocabulary: int) -> dict[str, Tensor]:
    """Return every weight by IDEFICS's name; rows from `vocabulary` on are the added tokens'."""
    weights = {f"model.vision_model.{k}": v for k, v in vision_weights(assistant).items()}
    text = language_weights(assistant)
    mark = cast(CrossAttentionFusion, assistant.fusion).mark
    embedding = text.pop("model.embed_tokens.weight")
    head = text.pop("lm_head.weight", embedding)
    mean = embedding.mean(dim=0, keepdim=True)
    around = embedding[vocabulary : vocabulary + 1] if len(embedding) > vocabulary else mean
    weights["model.embed_tokens.weight"] = embedding[:vocabulary]
    weights["model.embed_tokens.additional_embedding.weight"] = torch.cat([around, mark[None]])
    weights["lm_head.weight"] = head[:vocabulary]
    added = head[vocabulary : vocabulary + 2]
    mean = head.mean(dim=0, keepdim=True).expand(2 - len(added), -1)
    weights["lm_head.additional_fc.weight"] = torch.cat([added, mean])
    for name, weight in assistant.connector.state_dict().items():
        weights[their_resampler_name(name)] = weight
    for name, weight in assistant.fusion.state_dict().items():
        if name != "mark":
            weights[their_block_name(name)] = weight
    return {**text, **weights}
