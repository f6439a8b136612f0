"""Original LLaVA checkpoints, `liuhaotian/llava-*`: the layouts that LLaVA's own scripts write.

config.json                     the language model's, with `mm_*` keys for the rest
pytorch_model*.bin, *.safetensors
                                language model and projector, at times the encoder: a whole model
mm_projector.bin                the projector alone, of stage 1
adapter_config.json, adapter_model.*, non_lora_trainables.bin
                                adapters over a base, and what trained together with them

The encoder is named in the config and read from its own folder or hub id.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from laterna.errors import LaternaError, one_line
from laterna.model.connectors import Connector, build_connector
from laterna.model.importers.options import Options, Parts, assembled
from laterna.model.language.adapters import CONFIG_FILE, WEIGHTS_FILE, put_lora
from laterna.model.language.causal import load_language
from laterna.model.language.tokenizer import read_tokenizer
from laterna.model.pretrained import (
    adapters_unwrapped,
    found_in,
    json_of,
    load_weights,
    read_part,
    sharded_tensors_of,
    tensors_of,
    unwrapped,
)
from laterna.model.vision import VisionTower, load_vision
from laterna.model.vlm import VisionLanguageModel
from laterna.model.weight_files import other_weights
from laterna.recipe import ConnectorSettings, LanguageSettings, PartName, VisionSettings

LANGUAGES: dict[str, str] = {
    "llava": "llama",
    "llava_llama": "llama",
    "llava_mistral": "mistral",
    "llava_qwen": "qwen2",
}
"""The type of the language model, by the `model_type` that LLaVA gives the whole."""
PROJECTOR = "model.mm_projector."
ENCODER = "model.vision_tower.vision_tower."
BESIDE = [
    f"{name}.{ending}"
    for name in ("mm_projector", "non_lora_trainables")
    for ending in ("bin", "safetensors")
]
"""Files that hold the projector alone, or with what else trained beside adapters."""
_BARE = re.compile(r"^(?:mm_projector\.)?(?=(?:\d+\.)?(?:weight|bias)$)")
"""What a projector's weights may lack before them."""
_LORA_PREFIX = re.compile(r"^base_model\.(model\.)?(?=model\.|lm_head\.)")
_MLP = re.compile(r"mlp(\d+)x_gelu")


def load_original(source: str, options: Options) -> VisionLanguageModel:
    """Load an original LLaVA folder or hub id; raises LaternaError for what Laterna lacks."""
    config = json_of(source, "config.json")
    _refuse_marks(source, config)
    extra = _extra_weights(source)
    whole = {} if found_in(source, CONFIG_FILE) else unwrapped(sharded_tensors_of(source))
    weights = {**extra, **whole}  # as LLaVA: of a whole model what is in it
    changed: set[PartName] = {"connector"}
    language, tokenizer, base = _language(source, config, options, weights, changed)
    vision, tower = _encoder(source, config, options, weights, changed)
    width = int(language.get_input_embeddings().embedding_dim)
    settings, connector = _connector(source, config, weights, tower.width, width)
    own = tokenizer.chat_template and str(tokenizer.get_chat_template())
    assistant = assembled(
        source,
        Parts(tower, connector, language, tokenizer),
        template=options.template_or(own, tokenizer),
        vision=vision,
        connector=settings,
        language=base,
    )
    assistant.changed = changed
    if found_in(source, CONFIG_FILE):
        found = tensors_of(source, [WEIGHTS_FILE, "adapter_model.bin"])
        if not found:
            raise LaternaError(
                f"{source}: has an adapter_config.json, and no {WEIGHTS_FILE} or adapter_model.bin "
                "beside it; fetch the folder again"
            )
        put_lora(language, source, adapters_unwrapped(found))
    return assistant


def _refuse_marks(source: str, config: dict[str, Any]) -> None:
    if config.get("mm_use_im_start_end"):
        raise LaternaError(
            f"{source}: puts <im_start> and <im_end> around an image (LLaVA's first release); "
            "Laterna puts an image into the text alone"
        )


def _extra_weights(source: str) -> dict[str, Tensor]:
    """Read what is in a file of its own: a projector, or what trained together with adapters."""
    found = unwrapped(tensors_of(source, BESIDE))
    named = {_LORA_PREFIX.sub("", name): weight for name, weight in found.items()}
    return {_BARE.sub(PROJECTOR, name): weight for name, weight in named.items()}


def _language(
    source: str,
    config: dict[str, Any],
    options: Options,
    weights: dict[str, Tensor],
    changed: set[PartName],
) -> tuple[Any, Any, str]:
    """Return the language model, its tokenizer, and the source of the base."""
    own = {
        name: weight
        for name, weight in weights.items()
        if not name.startswith((PROJECTOR, ENCODER, "model.image_newline"))
    }
    inside = "model.embed_tokens.weight" in own and not found_in(source, CONFIG_FILE)
    if inside:
        changed.add("language")
        text = _text_config(source, config)
        model = load_weights(
            MODEL_FOR_CAUSAL_LM_MAPPING[type(text)],
            source,
            what="language model",
            weights=own,
            config=text,
        )
        return model, read_tokenizer(source), source
    base = options.language or _base(source, config)
    language = load_language(LanguageSettings(source=base))
    tokenizer = read_tokenizer(source) if _has_tokenizer(source) else language.tokenizer
    if language.grown:
        changed.add("language")
    if own:  # such as the embedding, trained together with the adapters
        changed.add("language")
        _take(language.model, own, source)
    return language.model, tokenizer, base


def _text_config(source: str, config: dict[str, Any]) -> Any:
    kind = str(config.get("model_type"))
    if kind not in LANGUAGES:
        raise LaternaError(
            f"{source}: a language model of type {kind!r}; known are {', '.join(LANGUAGES)}"
        )
    config_class = CONFIG_MAPPING[LANGUAGES[kind]]
    known = {*config_class().to_dict(), "rope_theta", "rope_scaling"} - {"model_type"}
    said = {key: value for key, value in config.items() if key in known and value is not None}
    return read_part(lambda: config_class(**said), source=source, what="configuration")


def _base(source: str, config: dict[str, Any]) -> str:
    if found_in(source, CONFIG_FILE):
        base = json_of(source, CONFIG_FILE).get("base_model_name_or_path")
    else:
        base = config.get("_name_or_path")
    if not base:
        raise LaternaError(
            f"{source}: holds no language model and does not say which it belongs to; name it as "
            "`language`"
        )
    return str(base)


def _has_tokenizer(source: str) -> bool:
    return any(found_in(source, name) for name in ("tokenizer.json", "tokenizer.model"))


def _take(model: Any, weights: dict[str, Tensor], source: str) -> None:
    state = model.state_dict()
    for name, weight in weights.items():
        if name not in state or state[name].shape != weight.shape:
            raise LaternaError(f"{source}: {name} has no place in the language model")
        state[name].copy_(weight)


def _encoder(
    source: str,
    config: dict[str, Any],
    options: Options,
    weights: dict[str, Tensor],
    changed: set[PartName],
) -> tuple[VisionSettings, VisionTower]:
    feature = config.get("mm_vision_select_feature", "patch")
    if feature not in ("patch", "cls_patch"):
        raise LaternaError(f"{source}: mm_vision_select_feature = {feature!r} is not known")
    # Without the key, and under "square", LLaVA lets the encoder's processor crop the middle.
    aspect = str(config.get("image_aspect_ratio") or "")
    said = {"pad": "pad", "anyres": "anyres"}.get(aspect, "crop")
    if said == "anyres":
        raise LaternaError(f"{source}: reads images in tiles (LLaVA-NeXT), which is not imported")
    encoder = options.vision or config.get("mm_vision_tower")
    if not encoder:
        raise LaternaError(
            f"{source}: its config.json names no vision encoder (mm_vision_tower is null, as a "
            "language model before LLaVA's training has it); name the one it was trained with as "
            "`vision`"
        )
    if not isinstance(encoder, str):
        raise LaternaError(
            f"{source}: mm_vision_tower = {encoder!r} in its config.json is no name of a vision "
            "encoder; name the one it was trained with as `vision`"
        )
    settings = VisionSettings(
        source=encoder,
        layer=_layer(source, config.get("mm_vision_select_layer", -2)),
        class_token=feature == "cls_patch",
        fit=options.fit_or(said),
    )
    tower = load_vision(settings)
    found = _under(ENCODER, weights).items()
    inside = {name.removeprefix("vision_model."): weight for name, weight in found}
    inside.pop("embeddings.position_ids", None)
    if inside:
        changed.add("vision")
        tower.replace_weights(inside)
    return settings, tower


def _layer(source: str, said: object) -> int:
    """Return the layer whose features are taken, also where a number is written as text."""
    try:
        return int(said) if isinstance(said, int | str) else int("")
    except ValueError as error:
        raise LaternaError(
            f"{source}: mm_vision_select_layer = {said!r} in its config.json is no single layer; "
            "Laterna takes the features of one, as LLaVA's -2"
        ) from error


def _under(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}


def _no_projector(source: str) -> LaternaError:
    if found_in(source, CONFIG_FILE):
        return LaternaError(
            f"{source}: holds adapters and no non_lora_trainables.bin, so its projector is not "
            "there: a LoRA run leaves such folders (checkpoint-N) on its way; give the one that it "
            "wrote at its end"
        )
    lacking = other_weights(Path(source)) if Path(source).is_dir() else ""
    return LaternaError(
        f"{source}: holds no projector: no mm_projector.bin, and no whole model with one"
        + (f" ({lacking})" if lacking else "")
        + "; give the folder that LLaVA's training wrote at its end"
    )


def _connector(
    source: str, config: dict[str, Any], weights: dict[str, Tensor], d_vision: int, d_language: int
) -> tuple[ConnectorSettings, Connector]:
    """Build the projector; its layers are numbered with the GELUs between them."""
    kind = str(config.get("mm_projector_type") or "linear")
    mlp = _MLP.fullmatch(kind)
    if kind != "linear" and not mlp:
        raise LaternaError(f"{source}: a projector of type {kind!r}; known are linear, mlpNx_gelu")
    depth = int(mlp.group(1)) if mlp else 1
    settings = ConnectorSettings(depth=depth) if mlp else ConnectorSettings(kind="linear")
    found = _under(PROJECTOR, weights)
    # Before anything is built: the number may be any.
    theirs = [f"{2 * layer}." if mlp else "" for layer in range(min(depth, len(found) + 1))]
    expected = [f"{prefix}{part}" for prefix in theirs for part in ("weight", "bias")]
    if not found:
        raise _no_projector(source)
    if sorted(found) != sorted(expected):
        raise LaternaError(
            f"{source}: a {kind} projector has the weights {', '.join(expected)}, found are "
            f"{', '.join(sorted(found)) or 'none'}"
        )
    connector = build_connector(settings, d_vision, d_language, fresh=False)
    state = dict(zip(connector.state_dict(), (found[name] for name in expected), strict=True))
    try:
        connector.load_state_dict(state)
    except RuntimeError as error:
        raise LaternaError(
            f"{source}: its projector does not fit its parts: {one_line(error)}"
        ) from error
    return settings, connector
