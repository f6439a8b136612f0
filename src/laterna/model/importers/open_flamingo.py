"""OpenFlamingo's `checkpoint.pt`: resampler, gated blocks and the embedding with its new tokens.

Encoder and language model are not inside, so the user names them. A block is named by the layer
that it stands before: `lang_encoder.gated_cross_attn_layers.3.…`, or inside that layer,
`lang_encoder.transformer.blocks.3.gated_cross_attn_layer.…`, as in the published files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from laterna.data.chat import load_template
from laterna.errors import LaternaError, one_line
from laterna.model.connectors import Connector, build_connector
from laterna.model.fusion import Fusion, build_fusion
from laterna.model.importers.options import Options, Parts, assembled
from laterna.model.language.causal import layers_of, load_language
from laterna.model.pretrained import tensors_of, unwrapped
from laterna.model.vision import load_vision
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import (
    ConnectorSettings,
    CrossAttentionSettings,
    FusionSettings,
    LanguageSettings,
    VisionSettings,
)

FILE = "checkpoint.pt"
HEAD_WIDTH = 64
"""Of resampler and blocks, in all of its models."""
ADDED = ("<|endofchunk|>", "<image>")
"""The tokens that it adds to a tokenizer, in this order."""
TEMPLATE = "openflamingo"
"""Its prompts are what the user writes; a text ends with its token."""
_BLOCK = re.compile(
    r"lang_encoder\.(?:.*\.)?(?:gated_cross_attn_layers\.(\d+)|(\d+)\.gated_cross_attn_layer)\.(.+)"
)
_EMBEDDING = re.compile(r"lang_encoder\..*(?:wte|embed_in|embed_tokens|word_embeddings)\.weight")
RESAMPLER = {
    "attention.q_proj.weight": "0.to_q.weight",
    "attention.o_proj.weight": "0.to_out.weight",
    "features_norm": "0.norm_media",
    "latents_norm": "0.norm_latents",
    "ff": "1",
}
"""Our names in a layer of the resampler to OpenFlamingo's; keys and values are one matrix there."""
BLOCK = {
    "norm": "attn.norm",
    "attention.q_proj.weight": "attn.to_q.weight",
    "attention.o_proj.weight": "attn.to_out.weight",
    "attention_gate": "attn_gate",
    "ff_gate": "ff_gate",
    "ff": "ff",
}
"""The same in a gated block."""


def load_open_flamingo(source: str, options: Options) -> VisionLanguageModel:
    """Load a folder or hub id with OpenFlamingo's checkpoint.

    Raises LaternaError unless encoder and language model are named, and for weights that are not
    there or of another shape.
    """
    if not options.language or not options.vision:
        raise LaternaError(
            f"{source}: an OpenFlamingo checkpoint holds neither encoder nor language model; name "
            "both with --vision and --language (its card tells which)"
        )
    weights = unwrapped(tensors_of(source, [FILE]))
    vision = VisionSettings(source=options.vision, layer=-1, fit=options.fit_or("crop"))
    tower = load_vision(vision)
    language, tokenizer, _ = load_language(LanguageSettings(source=options.language))
    settings, connector = _connector(source, weights)
    if connector.norm.normalized_shape != (tower.width,):
        raise LaternaError(
            f"{source}: its resampler reads features of width {connector.norm.normalized_shape[0]}"
            f", but those of {options.vision} have {tower.width}; name the encoder that it was "
            "trained with"
        )
    mark = _new_tokens(source, weights, language, tokenizer)
    joins, fusion = _fusion(source, weights, language, tower.width, mark)
    assistant = assembled(
        source,
        Parts(tower, connector, language, tokenizer, fusion),
        template=options.template_or(load_template(TEMPLATE, tokenizer), tokenizer),
        vision=vision,
        connector=settings,
        language=options.language,
        fusion=joins,
    )
    assistant.changed = {"connector", "language"}  # its new token is in the embedding
    return assistant


def _connector(source: str, weights: Mapping[str, Tensor]) -> tuple[ConnectorSettings, Any]:
    found = {
        name.removeprefix("perceiver."): weight
        for name, weight in weights.items()
        if name.startswith("perceiver.")
    }
    if "latents" not in found:
        raise LaternaError(f"{source}: {FILE} has no perceiver.latents, so it is no OpenFlamingo")
    queries, width = found["latents"].shape
    depth = 1 + max(int(name.split(".")[1]) for name in found if name.startswith("layers."))
    settings = ConnectorSettings(
        kind="resampler",
        queries=queries,
        blocks=depth,
        heads=_wanted(source, found, "layers.0.0.to_q.weight").shape[0] // HEAD_WIDTH,
        head_width=HEAD_WIDTH,
    )
    connector: Connector = build_connector(settings, width, width, fresh=False)
    state = {}
    for name in connector.state_dict():
        layer = re.fullmatch(r"(layers\.\d+\.)(.+)", name)
        before, rest = layer.groups() if layer else ("", name)
        state[name] = _part(source, found, before, rest, RESAMPLER, "0.to_kv.weight")
    _take(source, connector, state)
    return settings, connector


def _fusion(
    source: str, weights: Mapping[str, Tensor], language: Any, d_vision: int, mark: Tensor
) -> tuple[FusionSettings, Fusion]:
    found: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, weight in weights.items():
        if (match := _BLOCK.fullmatch(name)) is not None:
            inside, outside, rest = match.groups()
            places.add(int(inside or outside))
            found[f"{inside or outside}.{rest}"] = weight
    every = min(places, default=0) + 1
    wanted = range(every - 1, len(layers_of(language)), every)
    if sorted(places) != list(wanted):
        raise LaternaError(
            f"{source}: has blocks before the layers {sorted(places)}, counted from 0, which do "
            f"not stand evenly in the {len(layers_of(language))} layers of the language model; "
            "name the one that it was trained with"
        )
    query = _wanted(source, found, f"{every - 1}.attn.to_q.weight")
    own = CrossAttentionSettings(
        every=every, heads=query.shape[0] // HEAD_WIDTH, head_width=HEAD_WIDTH
    )
    settings = FusionSettings(kind="cross_attention", cross_attention=own)
    fusion = build_fusion(settings, d_vision, language)
    state = {"mark": mark}
    for name in fusion.state_dict():
        if name != "mark":
            _, number, rest = name.split(".", 2)
            before = f"{wanted[int(number)]}."
            state[name] = _part(source, found, before, rest, BLOCK, "attn.to_kv.weight")
    _take(source, fusion, state)
    return settings, fusion


@torch.no_grad()
def _new_tokens(
    source: str, weights: Mapping[str, Tensor], language: Any, tokenizer: Any
) -> Tensor:
    """Add the token that ends a text to tokenizer and embedding; return the mark's embedding."""
    name = next(filter(_EMBEDDING.fullmatch, weights), None)
    known = len(tokenizer)
    if name is None or len(weights[name]) < known + len(ADDED):
        raise LaternaError(
            f"{source}: the embedding with its tokens {' and '.join(ADDED)} is not there, or is "
            f"one of another tokenizer than the {known:,} tokens of the language model"
        )
    rows = weights[name]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [ADDED[0]]}, replace_extra_special_tokens=False
    )
    if len(language.get_input_embeddings().weight) <= known:
        language.resize_token_embeddings(known + 1, mean_resizing=False)
    language.get_input_embeddings().weight[: known + 1] = rows[: known + 1]
    language.generation_config.eos_token_id = known
    return rows[known + 1]


def _part(
    source: str,
    found: Mapping[str, Tensor],
    before: str,
    name: str,
    names: Mapping[str, str],
    both: str,
) -> Tensor:
    """Return the weight of our `name`; keys and values are the halves of the matrix `both`."""
    if name in ("attention.k_proj.weight", "attention.v_proj.weight"):
        halves = _wanted(source, found, before + both).chunk(2)
        return halves["v_proj" in name]
    for ours, theirs in names.items():
        if name == ours or name.startswith(f"{ours}."):
            return _wanted(source, found, before + theirs + name[len(ours) :])
    return _wanted(source, found, before + name)


def _wanted(source: str, found: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in found:
        raise LaternaError(f"{source}: {FILE} lacks …{name}; fetch it again")
    return found[name]


def _take(source: str, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        raise LaternaError(
            f"{source}: {FILE} does not fit these models: {one_line(error)}"
        ) from error
