"""Export to BLIP-2 with a T5: transformers' `Blip2ForConditionalGeneration` with its tokenizer and
image processor.

Importing reads the same names the other way round (`importers.blip2`).
"""

from __future__ import annotations

import copy
from pathlib import Path

from torch import Tensor, nn
from transformers import Blip2Config, Blip2ForConditionalGeneration, BlipImageProcessorPil

from laterna.errors import LaternaError
from laterna.model.connectors.qformer import QFormerConnector
from laterna.model.exporters.parts import PRECISIONS, language_weights, vision_weights
from laterna.model.pretrained import quiet_transformers
from laterna.model.vlm import VisionLanguageModel
from laterna.records import DEFAULT_IMAGE_TOKEN

FORMAT = "BLIP-2"


def export_blip2(assistant: VisionLanguageModel, folder: Path, precision: str = "f32") -> None:
    """Write the model, its tokenizer and its image processor as a new folder, in `f32` (default),
    `f16` or `bf16`.

    The tokenizer gets the image's token, the embedding a row for it where it has none. Raises
    LaternaError for a network that BLIP-2 cannot express.
    """
    dtype = PRECISIONS[precision]
    connector = _require_theirs(assistant)
    tokenizer = copy.deepcopy(assistant.tokenizer)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [DEFAULT_IMAGE_TOKEN]}, replace_extra_special_tokens=False
    )
    config = Blip2Config(
        vision_config=assistant.vision.model.config.to_dict(),
        qformer_config=connector.config.to_dict(),
        text_config=assistant.language.config.to_dict(),
        num_query_tokens=connector.tokens(0),
        image_token_index=tokenizer.convert_tokens_to_ids(DEFAULT_IMAGE_TOKEN),
    )
    model = Blip2ForConditionalGeneration(config)
    language = assistant.language
    ends = (language.get_input_embeddings().weight, language.get_output_embeddings().weight)
    if ends[0] is not ends[1]:  # as in published files; from its configuration T5 has one matrix
        model.get_output_embeddings().weight = nn.Parameter(ends[1].detach().clone())
    found = model.load_state_dict(_weights(assistant, connector), strict=False)
    lacking = [name for name in found.missing_keys if not name.startswith("language_model.")]
    if lacking or found.unexpected_keys:
        raise LaternaError(f"{(lacking + found.unexpected_keys)[0]}: has no place in {FORMAT}")
    lacking_rows = len(tokenizer) - len(model.get_input_embeddings().weight)
    if lacking_rows > 0:
        model.language_model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.config.text_config.vocab_size = len(tokenizer)
    model.generation_config = assistant.language.generation_config
    said = assistant.prepare.processor
    folder.mkdir()
    with quiet_transformers():
        model.to(dtype).save_pretrained(folder)
        tokenizer.chat_template = assistant.template
        tokenizer.save_pretrained(folder)
        side = assistant.prepare.size
        BlipImageProcessorPil(
            size={"height": side, "width": side},
            image_mean=list(said.image_mean),
            image_std=list(said.image_std),
        ).save_pretrained(folder)


def _require_theirs(assistant: VisionLanguageModel) -> QFormerConnector:
    """Return the connector; raise LaternaError, naming what BLIP-2 has otherwise."""
    tower, connector = assistant.vision, assistant.connector
    wrong = {
        "fusion.kind": not assistant.fusion.encodes,
        "connector.kind": not isinstance(connector, QFormerConnector),
        "the encoder's type": tower.model.config.model_type != "blip_2_vision_model",
        "vision.layer": tower.layer
        not in (-1, getattr(tower.model.config, "num_hidden_layers", 0)),
        "vision.class_token": not tower.class_token,
        "vision.final_norm": not tower.final_norm,
        "vision.mixing": tower.mixing is not None,
        "vision.fit": assistant.prepare.fit != "resize",
    }
    differing = [name for name, differs in wrong.items() if differs]
    if differing or not isinstance(connector, QFormerConnector):
        raise LaternaError(
            f"this network cannot be exported: {differing[0]} is not as in {FORMAT}, which has "
            "BLIP-2's encoder whole, a `qformer`, and a T5 by `encoder_decoder`"
        )
    return connector


def _weights(assistant: VisionLanguageModel, connector: QFormerConnector) -> dict[str, Tensor]:
    parts = {
        "vision_model.": vision_weights(assistant),
        "qformer.": connector.qformer.state_dict(),
        "language_projection.": connector.project.state_dict(),
        "language_model.": language_weights(assistant),
    }
    named = {f"{before}{name}": one for before, part in parts.items() for name, one in part.items()}
    return {**named, "query_tokens": connector.queries.detach()}
