"""LLaVA's fusion: connector outputs stand in the row, in the places of the image marks.

Shapes: b images · m tokens an image · d width · r rows · t tokens of a row · s target tokens ·
v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from laterna.errors import LaternaError
from laterna.model.attention.shared_prefix import before_targets, shared_prefix_mask, wants_one_row
from laterna.records import IMAGE_TOKEN_INDEX, Batch


class PrefixFusion(nn.Module):
    """Puts every image's tokens into the embedded sequence. It has no weights of its own."""

    def positions(self, image_tokens: int) -> int:
        """Return how many positions of a row an image takes: as many as it has tokens."""
        return image_tokens

    def expand(self, ids: Sequence[int], positions: Sequence[int]) -> list[int]:
        """Repeat each `IMAGE_TOKEN_INDEX` as often as its image takes `positions`, in order.

        Raises LaternaError when marks and images differ in number.
        """
        marks = ids.count(IMAGE_TOKEN_INDEX)
        if marks != len(positions):
            raise LaternaError(
                f"{marks} `<image>` marks but {len(positions)} images; each mark needs one image"
            )
        left = iter(positions)
        expanded: list[int] = []
        for token in ids:
            expanded.extend([token] * (next(left) if token == IMAGE_TOKEN_INDEX else 1))
        return expanded

    def embed(self, language: Any, batch: Batch, images: Sequence[Tensor]) -> Tensor:
        """Embed a batch: (r, t, d), the images' tokens (m, d) in their places.

        Raises LaternaError when an image has other places than it has tokens.
        """
        _check_counts(batch, images)
        return _merge(language, batch.input_ids_rt, batch.image_mask_rt, images, batch.ids)

    def hidden_states(self, language: Any, batch: Batch, images: Sequence[Tensor]) -> Tensor:
        """Return the decoder's last hidden states (r, t, d).

        Samples that share an image see it and themselves, by a mask of their own. The restarted
        positions keep packed samples apart, but transformers builds its block-diagonal mask from
        them only without attention mask and without cache, and FlashAttention's only for one row.
        """
        embeds_rtd = self.embed(language, batch, images)
        positions_rt = batch.position_ids_rt.to(_device(language), non_blocking=True)
        shape = embeds_rtd.shape
        if wants_one_row(language):
            embeds_rtd, positions_rt = embeds_rtd.flatten(0, 1)[None], positions_rt.flatten()[None]
        states: Tensor = language.get_decoder()(
            inputs_embeds=embeds_rtd,
            position_ids=positions_rt,
            attention_mask=shared_prefix_mask(batch.sharing, batch.position_ids_rt, language),
            use_cache=False,
        ).last_hidden_state
        return states.reshape(*shape[:2], -1)

    def rehearse(
        self,
        language: Any,
        images_rmd: Tensor,
        text: int,
        *,
        mask: Tensor | None = None,
        cache: bool = False,
    ) -> Any:
        """Run the decoder over rows of images' tokens and `text` tokens more, by shapes alone.

        For plans and counts on the meta device, where no number says which token is an image's. It
        costs what `hidden_states` costs, with a `mask` as rows of several samples need one.
        Returns the states (r, m + text, d), or with `cache` the keys and values left behind.
        """
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

    def target_states(
        self, language: Any, batch: Batch, images: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the states (s, d) that the target tokens are predicted from, and their ids (s)."""
        states_rtd = self.hidden_states(language, batch, images)
        before_s = before_targets(batch).to(states_rtd.device, non_blocking=True)
        labels_s = _targets(batch)[1].to(states_rtd.device, non_blocking=True)
        return states_rtd.flatten(0, 1).index_select(0, before_s), labels_s

    def target_logits(
        self, language: Any, batch: Batch, images: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the logits (s, v) at the target tokens by the model's own forward, and their ids.

        For models whose logits are more than their head on the states (`VisionLanguageModel`).
        """
        places_rt, labels_s = (one.to(_device(language)) for one in _targets(batch))
        return self.logits_at(language, batch, images, places_rt), labels_s

    def logits_at(
        self, language: Any, batch: Batch, images: Sequence[Tensor], places_rt: Tensor
    ) -> Tensor:
        """Return the logits (s, v) at the marked places by the model's own forward.

        The head runs at every column that a row marks.
        """
        columns = places_rt.any(dim=0).nonzero()[:, 0]
        logits_rkv: Tensor = language(
            inputs_embeds=self.embed(language, batch, images),
            position_ids=batch.position_ids_rt.to(_device(language)),
            attention_mask=None,
            use_cache=False,
            logits_to_keep=columns,
        ).logits
        return logits_rkv[places_rt[:, columns]]

    @torch.no_grad()
    def generation_inputs(
        self, language: Any, prompts: Sequence[Sequence[int]], images: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Return what `generate` takes: embedded prompts, padded on the left.

        All prompts then end where answers begin. `prompts` are token ids with one
        `IMAGE_TOKEN_INDEX` an image, `images` those of all prompts in order.
        Raises LaternaError when marks and images differ in number.
        """
        left = iter([len(image) for image in images])
        marks = [list(row).count(IMAGE_TOKEN_INDEX) for row in prompts]
        if sum(marks) != len(images):
            raise LaternaError(
                f"{sum(marks)} `<image>` marks but {len(images)} images; each mark needs one image"
            )
        rows = [
            self.expand(row, [next(left) for _ in range(count)])
            for row, count in zip(prompts, marks, strict=True)
        ]
        width = max(len(row) for row in rows)
        ids_rt = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask_rt = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
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
    mask_rt = image_mask_rt.to(_device(language), non_blocking=True)
    # Whatever id stands in an image's place lies outside the vocabulary or means nothing.
    ids_rt = input_ids_rt.to(_device(language), non_blocking=True).masked_fill(mask_rt, 0)
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


def _targets(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return which places (r, t) predict a target token, and the targets' ids (s).

    Chosen where the batch lies, on the CPU: a GPU would have to be waited for to count them.
    """
    loss_mask_rt = batch.loss_mask_rt[:, 1:]
    labels_s = batch.input_ids_rt[:, 1:][loss_mask_rt]
    return nn.functional.pad(loss_mask_rt, (0, 1)), labels_s


def _device(language: Any) -> torch.device:
    device: torch.device = language.get_input_embeddings().weight.device
    return device
