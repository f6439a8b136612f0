"""IDEFICS (v1) folders: Hugging Face's `IdeficsForVisionText2Text`, an open Flamingo."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    IdeficsForVisionText2Text,
    LlamaConfig,
    LlamaForCausalLM,
)

from laterna.errors import LaternaError
from laterna.model.connectors import Connector, build_connector
from laterna.model.exporters.idefics import AROUND_IMAGE, their_block_name, their_resampler_name
from laterna.model.fusion import Fusion, build_fusion
from laterna.model.importers.options import Options, Parts, assembled
from laterna.model.language.tokenizer import read_tokenizer
from laterna.model.pretrained import found_in, json_of, load_weights
from laterna.model.vision import VisionTower
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import (
    ConnectorSettings,
    CrossAttentionSettings,
    FusionSettings,
    VisionSettings,
)
from laterna.records import DEFAULT_IMAGE_TOKEN

TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}"
    "{{ 'User: ' if turn['role'] == 'user' else 'Assistant: ' if turn['role'] == 'assistant' "
    "else '' }}"
    "{{ turn['content'] | replace(image_mark, AROUND + image_mark + AROUND)"
    " | replace(AROUND + AROUND, AROUND) }}"
    "{{ eos_token if turn['role'] == 'assistant' else '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
).replace("AROUND", f"'{AROUND_IMAGE}'")
"""The prompts of IDEFICS's card, for folders without a template: its token is around each image."""
SAME = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
TEXT = (*SAME, "hidden_act", "rms_norm_eps", "max_position_embeddings", "rope_parameters")
VISION = ("intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")


def load_idefics(source: str, options: Options) -> VisionLanguageModel:
    """Load an IDEFICS folder or hub id; raises LaternaError for what Laterna does not have."""
    options.require_no_parts(source)
    model = load_weights(IdeficsForVisionText2Text, source, what="IDEFICS model")
    _require_ours(source, model.config)
    weights = model.state_dict()
    tokenizer = read_tokenizer(source)
    vision = VisionSettings(source=source, layer=-1, class_token=True, fit=options.fit_or("resize"))
    tower = _tower(source, model, weights)
    language = _language(model, weights)
    settings, connector = _connector(model.config, weights)
    joins, fusion = _fusion(model.config, weights, language, tokenizer)
    own = str(tokenizer.get_chat_template()) if tokenizer.chat_template else TEMPLATE
    assistant = assembled(
        source,
        Parts(tower, connector, language, tokenizer, fusion),
        template=options.template_or(own, tokenizer),
        vision=vision,
        connector=settings,
        language=source,
        fusion=joins,
    )
    assistant.changed = {"vision", "connector", "language"}
    return assistant


def _require_ours(source: str, config: Any) -> None:
    wrong = {
        "use_resampler = false": not config.use_resampler,
        f"alpha_type = {config.alpha_type!r}": config.alpha_type != "float",
        "qk_layer_norms = false": not config.qk_layer_norms,
        "qk_layer_norms_perceiver = false": not config.perceiver_config.qk_layer_norms_perceiver,
        f"additional_vocab_size = {config.additional_vocab_size}": config.additional_vocab_size < 2,
    }
    for said, differs in wrong.items():
        if differs:
            raise LaternaError(f"{source}: its config.json says {said}, which Laterna lacks")


def _tower(source: str, model: Any, weights: dict[str, Tensor]) -> VisionTower:
    said = model.config.vision_config
    config = CLIPVisionConfig(
        hidden_size=said.embed_dim,
        image_size=said.image_size,
        patch_size=said.patch_size,
        layer_norm_eps=said.layer_norm_eps,
        **{name: getattr(said, name) for name in VISION},
    )
    clip = _filled(CLIPVisionModel(config), weights, "model.vision_model.")
    read = "preprocessor_config.json"
    found = json_of(source, read) if found_in(source, read) else {}
    square = {"height": said.image_size, "width": said.image_size}
    processor = CLIPImageProcessorPil(
        size=square,
        crop_size=square,
        do_center_crop=False,
        **{key: found[key] for key in ("image_mean", "image_std") if key in found},  # else CLIP's
    )
    return VisionTower(clip, processor, layer=-1, class_token=True)


def _language(model: Any, weights: dict[str, Tensor]) -> Any:
    """Return the language model as a Llama, the rows of added tokens after its own."""
    said = model.config
    config = LlamaConfig(
        vocab_size=said.vocab_size + said.additional_vocab_size,
        num_key_value_heads=said.num_attention_heads,
        tie_word_embeddings=False,
        bos_token_id=said.bos_token_id,
        eos_token_id=said.eos_token_id,
        pad_token_id=said.pad_token_id,
        **{name: getattr(said, name) for name in TEXT},
    )
    ends = {
        "model.embed_tokens.weight": "model.embed_tokens.additional_embedding.weight",
        "lm_head.weight": "lm_head.additional_fc.weight",
    }
    joined = {name: torch.cat([weights[name], weights[added]]) for name, added in ends.items()}
    language = _filled(LlamaForCausalLM(config), {**weights, **joined}, "")
    language.generation_config = model.generation_config
    return language


def _connector(config: Any, weights: dict[str, Tensor]) -> tuple[ConnectorSettings, Connector]:
    said = config.perceiver_config
    settings = ConnectorSettings(
        kind="resampler",
        queries=said.resampler_n_latents,
        blocks=said.resampler_depth,
        heads=said.resampler_n_heads,
        head_width=said.resampler_head_dim,
        form="idefics",
    )
    width = config.vision_config.embed_dim
    connector = build_connector(settings, width, width, fresh=False)
    names = connector.state_dict()
    connector.load_state_dict({name: weights[their_resampler_name(name)] for name in names})
    return settings, connector


def _fusion(
    config: Any, weights: dict[str, Tensor], language: Any, tokenizer: Any
) -> tuple[FusionSettings, Fusion]:
    settings = FusionSettings(
        kind="cross_attention",
        cross_attention=CrossAttentionSettings(
            every=config.cross_layer_interval,
            before="first",
            heads=config.num_attention_heads,
            head_width=config.hidden_size // config.num_attention_heads,
            form="idefics",
        ),
    )
    fusion = build_fusion(settings, config.vision_config.embed_dim, language)
    image = tokenizer.convert_tokens_to_ids(DEFAULT_IMAGE_TOKEN)
    rows = language.get_input_embeddings().weight.detach()
    state = {
        name: rows[image] if name == "mark" else weights[their_block_name(name)]
        for name in fusion.state_dict()
    }
    fusion.load_state_dict(state)
    return settings, fusion


def _filled(module: Any, weights: dict[str, Tensor], before: str) -> Any:
    """Load the weights of a module's names with the prefix `before`."""
    module.load_state_dict({name: weights[before + name] for name in module.state_dict()})
    return module.eval()
