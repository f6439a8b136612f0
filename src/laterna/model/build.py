"""A recipe's parts become a network: built from their sources, joined, and put on a device.

Checkpoints and foreign layouts read their weights elsewhere (`checkpoint`, `importers`) and are
joined here as well. The dtype that a machine computes fast in is chosen here too: on a CPU without
instructions for bfloat16 its matrix products take many times as long as those in float32.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from laterna.data.chat import load_template
from laterna.data.images.fitting import ImagePreparer
from laterna.data.images.tokens import SameTokens, TiledTokens
from laterna.errors import LaternaError, one_line
from laterna.model.connectors import Connector, build_connector
from laterna.model.fusion import Fusion, build_fusion, fusion_kind
from laterna.model.language.causal import encodes, load_language, positions_of
from laterna.model.pretrained import no_config, quiet_transformers
from laterna.model.sources import gguf_file, resolve
from laterna.model.vision import VisionTower, load_vision
from laterna.model.vision.tower import blank_vision
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import LanguageSettings, Recipe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""`--dtype` to the dtype of the weights."""
INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16")
"""Of `torch.cpu.get_capabilities`: instructions that multiply bfloat16; the last is ARM's."""
WIDE = "AVX512"
"""What torch's own kernels must use on x86 for that; `ATEN_CPU_CAPABILITY` can forbid it."""
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that limit the instructions of oneDNN, which computes torch's products."""
TOO_LOW = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"})
"""Their values that exclude bfloat16."""


def build_from_recipe(recipe: Recipe) -> VisionLanguageModel:
    """Build an untrained network from a recipe's sources, the connector seeded by the recipe.

    It lies on the CPU in float32. Raises LaternaError when a source is missing, incomplete or not
    supported.
    """
    vision = load_vision(recipe.vision)
    language, tokenizer, grown = load_language(recipe.language)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = join(
            recipe,
            vision,
            language,
            tokenizer=tokenizer,
            template=load_template(recipe.language.template, tokenizer, recipe.image_position),
            fresh=True,
        )
    if grown:
        model.changed.add("language")
    return model


def build_on_meta(recipe: Recipe) -> VisionLanguageModel:
    """Build the network that a recipe names from configurations alone: shapes, and no weights.

    It lies on torch's meta device, so a model of any size is there at once and takes no memory.
    It has no tokenizer and no template, and its embedding has the rows that its configuration
    says, without those that loading might add. Raises LaternaError when a configuration is missing
    or of a kind that is not supported.
    """
    return build_random(recipe, torch.device("meta"))


def build_random(recipe: Recipe, device: torch.device) -> VisionLanguageModel:
    """Build the network of `build_on_meta` on a device, with random weights, for measurements."""
    with device:
        vision = blank_vision(recipe.vision)
        language = _blank_language(recipe.language)
        return join(recipe, vision, language, tokenizer=None, template="")


def join(
    recipe: Recipe,
    vision: VisionTower,
    language: Any,
    *,
    tokenizer: Any,
    template: str,
    connector: Connector | None = None,
    fusion: Fusion | None = None,
    fresh: bool = False,
) -> VisionLanguageModel:
    """Join parts to the network of a recipe, in evaluation mode.

    Without a `connector` or `fusion` the recipe's is built for the widths of both sides, with
    weights drawn by torch's generator, or, unless `fresh`, to be replaced.
    """
    prepare = _prepare(recipe, vision)
    if connector is None:
        width = int(language.get_input_embeddings().embedding_dim)
        connector = _connector(recipe, vision, prepare, width, fresh=fresh)
    if fusion is None:
        fusion = build_fusion(recipe.fusion, vision.width, language)
    model = VisionLanguageModel(
        vision,
        connector.eval(),
        language.eval(),
        fusion=fusion.eval(),
        tokenizer=tokenizer,
        template=template,
        prepare=prepare,
    )
    model.recipe = recipe
    return model


def image_counter(recipe: Recipe) -> SameTokens | TiledTokens:
    """Return the counter of the positions that an image takes in the rows of a recipe's network.

    Only the encoder's configuration is read: the language model's width changes no count. Raises
    LaternaError as `build_on_meta` does.
    """
    with torch.device("meta"):
        vision = blank_vision(recipe.vision)
        prepare = _prepare(recipe, vision)
        connector = _connector(recipe, vision, prepare, vision.width, fresh=False)
    return fusion_kind(recipe.fusion).counter(prepare, connector.tokens(vision.patches))


def place(
    model: VisionLanguageModel, device: str | None = None, dtype: str | None = None
) -> VisionLanguageModel:
    """Put a network where it is to answer, and return it.

    `device` is torch's name of one; None: an accelerator where there is one, else the CPU.
    `dtype` is a key of `DTYPES`; None: bfloat16 on an accelerator, float32 on a CPU.
    Raises LaternaError for a device or dtype that this machine or torch does not have.
    """
    where = choose_device(device)
    if dtype is not None and dtype not in DTYPES:
        raise LaternaError(f"dtype = {dtype!r}: use one of {', '.join(DTYPES)}")
    default = "float32" if where.type == "cpu" else "bfloat16"
    if getattr(model.language, "is_quantized", False):  # its packed weights keep their format
        return model.to(where)
    return model.to(where, DTYPES[dtype or default])


def choose_device(device: str | None) -> torch.device:
    """Return the device of that name, or the best of this machine.

    Raises LaternaError when torch does not know it, or cannot use it here.
    """
    if device is None:
        found = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        return found or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = one_line(error, 120)
        raise LaternaError(
            f"device = {device!r}: cannot be used here ({reason}); use cpu, or cuda on a machine "
            "with an NVIDIA GPU and a torch built for it"
        ) from error
    return chosen


def _prepare(recipe: Recipe, vision: VisionTower) -> ImagePreparer:
    return ImagePreparer(vision.processor, recipe.vision.fit, recipe.vision.grids)


def _connector(
    recipe: Recipe, vision: VisionTower, prepare: ImagePreparer, width: int, *, fresh: bool
) -> Connector:
    width = fusion_kind(recipe.fusion).token_width(vision.width, width)
    return build_connector(
        recipe.connector, vision.width, width, fresh=fresh, newline=bool(prepare.grids)
    )


def language_positions(recipe: Recipe) -> int | None:
    """Return how many tokens a recipe's language model can read at once, if its configuration says.

    Raises LaternaError as `build_on_meta` does.
    """
    return positions_of(_language_config(recipe.language))


def _blank_language(settings: LanguageSettings) -> Any:
    config = _language_config(settings)
    try:
        with quiet_transformers():
            auto = AutoModelForSeq2SeqLM if encodes(config) else AutoModelForCausalLM
            return auto.from_config(config, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise no_config(settings.source, "language model", error) from error


def _language_config(settings: LanguageSettings) -> Any:
    source = resolve(settings.source)
    packed = gguf_file(source)
    where, options = source, {}
    if packed:
        where, options = str(packed.parent), {"gguf_file": packed.name}
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(where, **options)
    except (OSError, ValueError, KeyError) as error:
        raise no_config(source, "language model", error) from error


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device computes fast in it, else float32."""
    return torch.bfloat16 if device.type != "cpu" else _cpu_dtype()


def cpu_dtype(level: str, has: Mapping[str, object], limit: str = "") -> torch.dtype:
    """Return a CPU's fast dtype: `level` is what torch's kernels use, `has` what the CPU has,
    `limit` what the environment limits oneDNN to.
    """
    x86 = has.get("architecture") == "x86_64"
    limited = x86 and (not level.startswith(WIDE) or limit.upper() in TOO_LOW)
    fast = any(has.get(name) for name in INSTRUCTIONS) and not limited
    return torch.bfloat16 if fast else torch.float32


def slow_half_line(device: torch.device, *what: str) -> str:
    """Return a line that `what` computes in float32 here; empty where it does not."""
    if not what or fast_dtype(device) is torch.bfloat16:
        return ""
    level = torch.backends.cpu.get_cpu_capability()
    return (
        f"this CPU ({level}) has no fast bfloat16: {' and '.join(what)} of the recipe "
        f"compute{'s' if len(what) == 1 else ''} in float32"
    )


@lru_cache
def _cpu_dtype() -> torch.dtype:
    read = getattr(torch.cpu, "get_capabilities", dict)  # torch 2.10 and older lack it
    limit = next((os.environ[name] for name in LIMITS if os.environ.get(name)), "")
    return cpu_dtype(torch.backends.cpu.get_cpu_capability(), read(), limit)
