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


def encoder_decoder(recipe: Recipe, tokenizer: Any, folder: Path) -> Recipe:
    """Return a recipe over a random T5 of two layers, which is written into `folder`."""
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
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return replace(
        recipe,
        language=LanguageSettings(source=str(folder)),
        fusion=FusionSettings(kind="encoder_decoder"),
    )


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
