"""BLIP-2 folders with a T5: Hugging Face's `Blip2ForConditionalGeneration`."""

from __future__ import annotations

from typing import Any

from transformers import Blip2ForConditionalGeneration, BlipImageProcessorPil

from laterna.errors import LaternaError
from laterna.model.connectors import build_connector
from laterna.model.connectors.qformer import QFormerConnector
from laterna.model.importers.options import Options, Parts, assembled
from laterna.model.language.causal import ENCODER_DECODERS
from laterna.model.language.tokenizer import read_tokenizer
from laterna.model.pretrained import found_in, json_of, load_weights
from laterna.model.vision import VisionTower
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import ConnectorSettings, FusionSettings, VisionSettings

TYPE = "blip-2"
TEMPLATE = (
    "{% for turn in messages %}{% if turn['role'] == 'user' %}"
    "{% set marks = turn['content'].count(image_mark) %}{{ image_mark * marks }}"
    "{{ 'Question: ' + turn['content'] | replace(image_mark, '') | trim + ' Answer:' + eos_token }}"
    "{% else %}{{ turn['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""How BLIP-2's paper asks a T5, for folders without a template; T5's tokenizer ends what is read
with its end of sequence."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's, which BLIP-2's processor has unless the folder says otherwise."""


def load_blip2(source: str, options: Options) -> VisionLanguageModel:
    """Load a BLIP-2 folder or hub id; raises LaternaError for what Laterna does not have."""
    if options.language or options.vision:
        raise LaternaError(
            f"{source}: contains its language model and encoder; leave --language and --vision out"
        )
    said = json_of(source, "config.json")
    kind = said.get("text_config", {}).get("model_type", "opt")  # transformers' default
    if kind not in ENCODER_DECODERS:
        raise LaternaError(
            f"{source}: a BLIP-2 with a language model of type {kind!r}; Laterna reads those with "
            f"an encoder and a decoder ({', '.join(ENCODER_DECODERS)})"
        )
    model = load_weights(Blip2ForConditionalGeneration, source, what="BLIP-2 model")
    tokenizer = read_tokenizer(source)
    settings, connector = _connector(source, model)
    own = str(tokenizer.get_chat_template()) if tokenizer.chat_template else TEMPLATE
    vision = VisionSettings(
        source=source, layer=-1, class_token=True, final_norm=True, fit=options.fit_or("resize")
    )
    assistant = assembled(
        source,
        Parts(_tower(source, model), connector, model.language_model, tokenizer),
        template=options.template_or(own, tokenizer),
        vision=vision,
        connector=settings,
        language=source,
        fusion=FusionSettings(kind="encoder_decoder"),
    )
    assistant.changed = {"vision", "connector", "language"}
    return assistant


def _tower(source: str, model: Any) -> VisionTower:
    read = "preprocessor_config.json"
    found = json_of(source, read) if found_in(source, read) else {}
    side = model.config.vision_config.image_size
    processor = BlipImageProcessorPil(
        size={"height": side, "width": side},
        image_mean=list(found.get("image_mean", MEAN)),
        image_std=list(found.get("image_std", STD)),
    )
    return VisionTower(
        model.vision_model.eval(), processor, layer=-1, class_token=True, final_norm=True
    )


def _connector(source: str, model: Any) -> tuple[ConnectorSettings, QFormerConnector]:
    said = model.config.qformer_config
    settings = ConnectorSettings(
        kind="qformer",
        queries=model.config.num_query_tokens,
        blocks=said.num_hidden_layers,
        width=said.hidden_size,
    )
    width = model.language_model.get_input_embeddings().embedding_dim
    connector = build_connector(
        settings, model.config.vision_config.hidden_size, width, fresh=False
    )
    assert isinstance(connector, QFormerConnector)
    connector.check_shape(model.config, source)
    connector.qformer.load_state_dict(model.qformer.state_dict())
    connector.queries.data.copy_(model.query_tokens.data)
    connector.project.load_state_dict(model.language_projection.state_dict())
    return settings, connector
