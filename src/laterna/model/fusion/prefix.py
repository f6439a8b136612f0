"""LLaVA's fusion: connector outputs stand in the row, in the places of the image marks.

Shapes: b images · m tokens an image · d width · r rows · t tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from laterna.data.images.fitting import ImagePreparer
from laterna.data.images.tokens import SameTokens, TiledTokens
from laterna.errors import LaternaError
from laterna.model.connectors.tiles import token_counter
from laterna.model.fusion.base import Fusion, device_of, padded_prompts
from laterna.records import IMAGE_TOKEN_INDEX, Batch


class PrefixFusion(Fusion):
    """Puts every image's tokens into the embedded sequence. It has no weights of its own."""

    @staticmethod
    def counter(prepare: ImagePreparer, tokens: int) -> SameTokens | TiledTokens:
        """Return what says how many positions an image takes: as many as it has tokens."""
        return token_counter(prepare, tokens)

    @staticmethod
    def token_width(d_vision: int, d_language: int) -> int:
        """Return how wide the connector's tokens are: as the language model's."""
        del d_vision
        return d_language

    def embed(self, language: Any, batch: Batch, images: Sequence[Tensor]) -> Tensor:
        """Embed a batch: (r, t, d), the images' tokens (m, d) in their places.

        Raises LaternaError when an image has other places than it has tokens.
        """
        _check_counts(batch, images)
        return _merge(language, batch.input_ids_rt, batch.image_mask_rt, images, batch.ids)

    def rehearse(
        self,
        language: Any,
        images_rmd: Tensor,
        text: int,
        *,
        images: int = 1,
        mask: Tensor | None = None,
        cache: bool = False,
        written: int = 0,
    ) -> Any:
        """Run the decoder over rows of images' tokens and `text` tokens more, by shapes alone."""
        del images, written  # all stands side by side
        rows, given = images_rmd.shape[:2]
        embedding = language.get_input_embeddings()
        # Every place has an embedding; one new tensor and a gradient, as `masked_scatter` has.
        ids_rt = torch.zeros(rows, given + text, dtype=torch.long, device=images_rmd.device)
        embeds_rtd = embedding(ids_rt)
        embeds_rtd = torch.cat([images_rmd.to(embeds_rtd.dtype), embeds_rtd[:, given:]], dim=1)
        output = language.get_decoder()(
            inputs_embeds=embeds_rtd,
            position_ids=torch.zeros_like(ids_rt),
            attention_mask=mask,
            use_cache=cache,
        )
        return output.past_key_values if cache else output.last_hidden_state

    @torch.no_grad()
    def generation_inputs(
        self, language: Any, prompts: Sequence[Sequence[int]], images: Sequence[Tensor]
    ) -> dict[str, Any]:
        """Return what `generate` takes: embedded prompts, padded on the left.

        Raises LaternaError when marks and images differ in number.
        """
        ids_rt, mask_rt = padded_prompts(prompts, images, [len(image) for image in images])
        embeds_rtd = _merge(language, ids_rt, ids_rt == IMAGE_TOKEN_INDEX, images, ["the prompts"])
        return {"inputs_embeds": embeds_rtd, "attention_mask": mask_rt.to(embeds_rtd.device)}


def _merge(
    language: Any,
    input_ids_rt: Tensor,
    image_mask_rt: Tensor,
    images: Sequence[Tensor],
    names: Sequence[str],
) -> Tensor:
    """Embed the ids and put the images' tokens, in reading order, into their places.

    Raises LaternaError on a difference between the number of places and of tokens, so no image is
    ever shifted or dropped silently; `names` say in the error whose rows they are.
    """
    places, given = int(image_mask_rt.sum()), sum(len(image) for image in images)
    if places != given:
        raise LaternaError(
            f"{', '.join(names)}: {places} image places but {given} image tokens; "
            "each `<image>` mark needs one image"
        )
    mask_rt = image_mask_rt.to(device_of(language), non_blocking=True)
    # Whatever id stands in an image's place lies outside the vocabulary or means nothing.
    ids_rt = input_ids_rt.to(device_of(language), non_blocking=True).masked_fill(mask_rt, 0)
    embeds_rtd: Tensor = language.get_input_embeddings()(ids_rt)
    if not images:
        return embeds_rtd
    tokens = torch.cat(list(images)).to(embeds_rtd.dtype)
    return embeds_rtd.masked_scatter(mask_rt.unsqueeze(-1), tokens)


def _check_counts(batch: Batch, images: Sequence[Tensor]) -> None:
    """Raise LaternaError for an image that became other than the tokens it has places for.

    Their total is not enough to look at: two errors in a batch may cancel out in it.
    """
    for name, counted, tokens in zip(batch.images, batch.image_tokens, images, strict=False):
        if counted != len(tokens):
            raise LaternaError(
                f"{name}: has {counted} places in the text but became {len(tokens)} tokens; it "
                "was prepared with other settings or has changed since, so prepare the data again"
            )
