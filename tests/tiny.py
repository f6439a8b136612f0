"""Small configurations of CLIP, Llama and T5, for random models, and a sample for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec.structs import replace
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    T5Config,
    T5ForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
)

from laterna.recipe import (
    ConnectorSettings,
    CrossAttentionSettings,
    FusionSettings,
    LanguageSettings,
    Recipe,
)
from laterna.records import IMAGE_TOKEN_INDEX, Sample


def flamingo(recipe: Recipe, **own: Any) -> Recipe:
    """A recipe with a small Flamingo in the place of LLaVA: 4 latents, a block before each layer;
    `own` are further settings of the blocks.
    """
    small = {"every": 1, "heads": 2, "head_width": 8, **own}
    return replace(
        recipe,
        connector=ConnectorSettings(kind="resampler", queries=4, blocks=1, heads=2, head_width=8),
        fusion=FusionSettings(
            kind="cross_attention", cross_attention=CrossAttentionSettings(**small)
        ),
    )


def encoder_decoder(recipe: Recipe, tokenizer: Any, folder: Path, kind: str = "t5") -> Recipe:
    """Return a recipe over a random T5 or T5Gemma of two layers, which is written into `folder`."""
    {"t5": _t5, "t5gemma": _t5gemma}[kind](tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return replace(
        recipe,
        language=LanguageSettings(source=str(folder)),
        fusion=FusionSettings(kind="encoder_decoder"),
    )


def _t5(tokenizer: Any) -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        initializer_factor=4.0,  # so that random answers differ with what they are asked
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return T5ForConditionalGeneration(config)


def _t5gemma(tokenizer: Any) -> T5GemmaForConditionalGeneration:
    """Its encoder looks 4 tokens around itself in one of two layers, and its logits are capped."""
    half = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.4,  # so that random answers differ with what they are asked
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = T5GemmaConfig(encoder=dict(half), decoder=dict(half), vocab_size=len(tokenizer))
    return T5GemmaForConditionalGeneration(config)


def clip_config(
    width: int = 24, inner: int = 48, layers: int = 3, heads: int = 2, side: int = 28
) -> CLIPVisionConfig:
    """A CLIP encoder with patches of 14 pixels; `side` is that of its images."""
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=side,
        patch_size=14,
    )


def save_clip(folder: Path, config: CLIPVisionConfig) -> Path:
    """Write a random encoder of a configuration, with its image processor."""
    CLIPVisionModel(config).save_pretrained(folder)
    square = {"height": config.image_size, "width": config.image_size}
    CLIPImageProcessorPil(size=square, crop_size=square).save_pretrained(folder)
    return folder


def llama_config(
    vocabulary: int, width: int = 32, inner: int = 64, layers: int = 2, heads: int = 4, **more: Any
) -> LlamaConfig:
    """A Llama; `more` are further arguments of its configuration."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        **more,
    )


def sample(number: int, text: int) -> Sample:
    """One image of four tokens, then `text` tokens whose last three are learned."""
    return Sample(
        id=str(number),
        input_ids=(1, IMAGE_TOKEN_INDEX, *range(10, 10 + text)),
        targets=(False,) * (text - 1) + (True,) * 3,
        image_slots=(1,),
        images=(f"{number}.png",),
        image_tokens=(4,),
    )
