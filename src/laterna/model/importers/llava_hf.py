"""`llava-hf` checkpoints: Hugging Face's `LlavaForConditionalGeneration`, old and new key names."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from laterna.errors import LaternaError
from laterna.model.connectors import Connector, build_connector
from laterna.model.exporters.hf import LEADING
from laterna.model.importers.options import Options, Parts, assembled
from laterna.model.language.tokenizer import read_tokenizer
from laterna.model.pretrained import found_in, json_of, load_weights, read_part
from laterna.model.vision import VisionTower
from laterna.model.vision.families import family_of
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import ConnectorSettings, VisionSettings


def load_llava_hf(source: str, options: Options) -> VisionLanguageModel:
    """Load a `llava-hf` folder or hub id; raises LaternaError for what Laterna does not have."""
    options.require_no_parts(source)
    _require_parts(source)
    model = load_weights(LlavaForConditionalGeneration, source, what="LLaVA model")
    config = model.config
    said, processor = _image_processor(source, str(config.vision_config.model_type))
    vision = VisionSettings(
        source=source,
        layer=config.vision_feature_layer,
        class_token=_keeps_class_token(source, config),
        fit=options.fit_or(said),
    )
    tower = VisionTower(
        model.model.vision_tower, processor, layer=vision.layer, class_token=vision.class_token
    )
    settings, connector = _connector(source, model)
    tokenizer = read_tokenizer(source)
    assistant = assembled(
        source,
        Parts(tower, connector, _language(model), tokenizer),
        template=options.template_or(_own_template(source, tokenizer), tokenizer),
        vision=vision,
        connector=settings,
        language=source,
    )
    assistant.changed = {"vision", "connector", "language"}
    return assistant


def _require_parts(source: str) -> None:
    """Raise LaternaError, before anything is built, for a configuration that lacks a part: of such
    transformers would make a model of 7 billion random weights.
    """
    config = json_of(source, "config.json")
    for name in ("vision_config", "text_config"):
        if not isinstance(config.get(name), dict) or not config[name]:
            raise LaternaError(
                f"{source}: its config.json has no `{name}`, which says what the model is made of; "
                "fetch the folder again"
            )
    layer = config.get("vision_feature_layer", -2)
    if isinstance(layer, list):
        raise LaternaError(
            f"{source}: takes features of several layers ({layer}); Laterna takes one"
        )


def _keeps_class_token(source: str, config: Any) -> bool:
    """Say whether the class token is kept: the strategy drops the first token, or does not."""
    kind = str(config.vision_config.model_type)
    if kind not in LEADING:
        raise LaternaError(f"{source}: an encoder of type {kind}; known are {', '.join(LEADING)}")
    drops = config.vision_feature_select_strategy == "default"
    if drops and not LEADING[kind]:
        raise LaternaError(
            f"{source}: drops the first token of an encoder without class token ({kind}), which "
            "is a patch; Laterna keeps all patches"
        )
    return bool(LEADING[kind]) and not drops


def _image_processor(source: str, kind: str) -> tuple[str, Any]:
    """Return how images become square, and the encoder's own processor, without that step."""
    family = family_of(kind, source)
    said = read_part(
        lambda: family.processor.from_pretrained(source), source=source, what="image processor"
    ).to_dict()
    fit = "pad" if said.get("do_pad") else "crop" if said.get("do_center_crop") else "resize"
    size = said["crop_size"] if fit == "crop" else said["size"]
    side = int(size.get("height") or size["shortest_edge"])
    square = {"height": side, "width": side}
    processor = family.processor(
        size=square,
        crop_size=square,
        do_center_crop=False,
        resample=said["resample"],
        rescale_factor=said["rescale_factor"],
        image_mean=said["image_mean"],
        image_std=said["image_std"],
    )
    return fit, processor


@torch.no_grad()
def _connector(source: str, model: Any) -> tuple[ConnectorSettings, Connector]:
    """Return the projector as an `mlp`; as `linear` where it is one layer and the identity."""
    projector, act = model.model.multi_modal_projector, model.config.projector_hidden_act
    first, second = projector.linear_1, projector.linear_2
    straight = act in ("linear", "identity") and _is_identity(second)
    if act != "gelu" and not straight:
        raise LaternaError(
            f"{source}: its projector has {act!r} between the layers, and Laterna's mlp has GELU"
        )
    settings = ConnectorSettings(kind="linear") if straight else ConnectorSettings(depth=2)
    connector = build_connector(settings, first.in_features, first.out_features, fresh=False)
    layers = [first] if straight else [first, second]
    state = connector.state_dict()
    for (weight, bias), layer in zip(_pairs(list(state)), layers, strict=True):
        state[weight] = layer.weight
        state[bias] = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
    connector.load_state_dict(state)
    return settings, connector


def _pairs(names: list[str]) -> list[tuple[str, str]]:
    """Return the names of each layer's weight and bias, in order."""
    return list(zip(names[::2], names[1::2], strict=True))


def _is_identity(layer: Any) -> bool:
    same = torch.eye(layer.out_features, layer.in_features)
    plain = layer.bias is None or not bool(layer.bias.any())
    return plain and torch.equal(layer.weight, same)


def _language(model: Any) -> Any:
    """Return the language model of a LLaVA model, with its own tensors."""
    config = model.config.text_config
    with torch.device("meta"):
        language = AutoModelForCausalLM.from_config(config)
    setattr(language, language.base_model_prefix, model.model.language_model)
    language.set_output_embeddings(model.lm_head)
    head, embedding = model.lm_head.weight, model.get_input_embeddings().weight
    language.config.tie_word_embeddings = head is embedding
    language.generation_config = model.generation_config
    return language


def _own_template(source: str, tokenizer: Any) -> str | None:
    """Return the chat template, which older folders have in a file of its own."""
    if tokenizer.chat_template:
        return str(tokenizer.get_chat_template())
    if found_in(source, "chat_template.json"):
        template = json_of(source, "chat_template.json").get("chat_template")
        return str(template) if template else None
    return None
