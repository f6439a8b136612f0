"""Flamingo's fusion: gated blocks before layers of the language model look at the image's tokens.

An image takes one position of the row, its mark, whatever its tokens. A text token sees the tokens
of the last image at or before it in its own sample, and none before the first. What was read about
earlier images still reaches it through the language model's own attention. Both gates of a block
are 0 at first, so the language model writes what it wrote without images, bit for bit.

The blocks stand in forward pre-hooks of the decoder's layers, so any causal model of transformers
can carry them, and its own weights keep their names.

Shapes: m tokens an image · k image tokens of a row · d width · r rows · t tokens of a row · h heads
· e width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu
from torch.nn.utils.rnn import pad_sequence

from laterna.data.images.fitting import ImagePreparer
from laterna.data.images.tokens import SameTokens, TiledTokens
from laterna.errors import LaternaError
from laterna.model.attention.cross import CrossAttention, KeysValues, feed_forward
from laterna.model.fusion.base import Fusion, device_of, padded_prompts
from laterna.model.language.causal import layers_of
from laterna.recipe import CrossAttentionSettings, FusionSettings
from laterna.records import IMAGE_TOKEN_INDEX, Batch, SharedPrefix


@dataclass(eq=False)
class Media:
    """What the rows of one forward pass look at."""

    tokens_rkd: Tensor
    """The tokens of each row's images, one after another, padded on the right."""
    owner_rk: Tensor
    """The number of the image that each belongs to, from 1; 0: padding."""
    sees_rt: Tensor
    """The number of the image that each token of the row sees; 0: none."""
    kept: dict[int, KeysValues] = field(default_factory=dict)
    """Keys and values by block, once they were computed without gradient."""

    def seen_by(self, tokens: int) -> Tensor:
        """Return the numbers (r, t) that so many tokens see: the row's, or of one that is written
        behind it the last.
        """
        if tokens == self.sees_rt.shape[1]:
            return self.sees_rt
        if tokens == 1:
            return self.sees_rt[:, -1:]
        raise LaternaError(
            f"fusion.kind = 'cross_attention': {tokens} tokens came where "
            f"{self.sees_rt.shape[1]} or 1 were meant; this way to generate is not supported"
        )

    def in_one_row(self) -> Media:
        """Return the same for rows laid end to end; numbers are those of a batch, not of a row."""
        return Media(
            self.tokens_rkd.flatten(0, 1)[None],
            self.owner_rk.flatten()[None],
            self.sees_rt.flatten()[None],
        )


class GatedBlock(nn.Module):
    """`x + tanh(a) · attention(norm(x), media)`, then `x + tanh(a') · feed_forward(norm(x))`."""

    def __init__(
        self, settings: CrossAttentionSettings, d_media: int, width: int, epsilon: float = 1e-6
    ) -> None:
        super().__init__()
        inner, idefics = settings.width or 4 * width, settings.form == "idefics"
        rms = partial(nn.RMSNorm, eps=epsilon)
        self.norm = rms(width) if idefics else nn.LayerNorm(width)
        self.attention = CrossAttention(
            width,
            d_media,
            heads=settings.heads,
            head_width=settings.head_width,
            qk_norm=rms if settings.qk_norm else None,
        )
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.ff = (
            nn.Sequential(rms(width), _GatedMlp(width, inner))
            if idefics
            else feed_forward(width, inner, settings.form)
        )
        self.ff_gate = nn.Parameter(torch.zeros(1))

    def forward(self, x_rtd: Tensor, kept: KeysValues, owner_rk: Tensor, sees_rt: Tensor) -> Tensor:
        """Return the states (r, t, d) behind the block; arguments as in `Media`."""
        blind_rt = sees_rt == 0
        mask_rtk = (owner_rk[:, None, :] == sees_rt[:, :, None]) | blind_rt[:, :, None]
        found_rtd = self.attention(self.norm(x_rtd), kept, mask_rtk[:, None])
        found_rtd = found_rtd.masked_fill(blind_rt[:, :, None], 0.0)
        after = x_rtd + self.attention_gate.tanh() * found_rtd
        after = after + self.ff_gate.tanh() * self.ff(after)
        states: Tensor = after.to(x_rtd.dtype)
        return states


class CrossAttentionFusion(Fusion):
    """Gated blocks, and an embedding of the mark that stands in an image's position."""

    table: ClassVar[str | None] = "cross_attention"
    beside_row: ClassVar[bool] = True
    compiles: ClassVar[bool] = False
    """What the blocks look at changes with every batch, for which each layer would be compiled
    anew."""

    def __init__(self, settings: FusionSettings, d_vision: int, language: Any) -> None:
        """Raise LaternaError for a language model with too few layers."""
        super().__init__(settings, d_vision, language)
        self.settings = own = settings.cross_attention
        embedding = language.get_input_embeddings()
        layers = len(layers_of(language))
        first = own.every - 1 if own.before == "last" else 0
        # As IDEFICS does, no block is left for layers that are fewer than `every`.
        self.places = range(first, layers // own.every * own.every, own.every)
        if not self.places:
            raise LaternaError(
                f"fusion.cross_attention.every = {own.every}: the language model has {layers} "
                "layers; give at most as many"
            )
        self.media_width = self.token_width(d_vision, embedding.embedding_dim)
        epsilon = getattr(language.config.get_text_config(), "rms_norm_eps", 1e-6)
        self.blocks = nn.ModuleList(
            GatedBlock(own, self.media_width, embedding.embedding_dim, epsilon) for _ in self.places
        )
        self.mark = nn.Parameter(embedding.weight.detach().float().mean(dim=0))
        self._media: Media | None = None
        self._joined: tuple[list[Media], Media] | None = None

    @staticmethod
    def counter(prepare: ImagePreparer, tokens: int) -> SameTokens | TiledTokens:
        """Return what says how many positions an image takes: one."""
        del prepare, tokens
        return SameTokens(tokens=1)

    @staticmethod
    def token_width(d_vision: int, d_language: int) -> int:
        """Return how wide the connector's tokens are: as the encoder's features."""
        del d_language
        return d_vision

    def attach(self, language: Any) -> None:
        """Put the blocks before the language model's layers, by hooks."""
        layers = layers_of(language)
        for number, place in enumerate(self.places):
            layers[place].register_forward_pre_hook(
                partial(self._before_layer, number), with_kwargs=True
            )

    @contextmanager
    def beside(self, media: Media | None, *, stays: bool = False) -> Iterator[None]:
        """Let the blocks look at `media` meanwhile.

        With `stays` they go on until something else is looked at: activation checkpointing runs
        the layers again in the backward pass.
        """
        self._media = media
        try:
            yield
        finally:
            if not stays:
                self._media = None

    def embed(self, language: Any, batch: Batch, images: Sequence[Tensor]) -> Tensor:
        """Embed a batch: (r, t, d), with the mark in the places of images.

        Raises LaternaError when marks and images differ in number.
        """
        places = int(batch.image_mask_rt.sum())
        if places != len(images):
            raise LaternaError(
                f"{', '.join(batch.ids)}: {places} image places but {len(images)} images, each of "
                "which takes one; prepare the data again if it was prepared for another fusion"
            )
        return self._marked(language, batch.input_ids_rt, batch.image_mask_rt)

    def media(self, batch: Batch, images: Sequence[Tensor]) -> Media:
        """Return what the rows of a batch look at."""
        marks_rt = batch.image_mask_rt
        return self._collect(
            images, marks_rt, last_images(marks_rt, batch.position_ids_rt, batch.sharing)
        )

    @torch.no_grad()
    def generation_inputs(
        self, language: Any, prompts: Sequence[Sequence[int]], images: Sequence[Tensor]
    ) -> dict[str, Any]:
        """Return what `generate` takes: embedded prompts, padded on the left, and their `media`.

        Raises LaternaError when marks and images differ in number.
        """
        ids_rt, mask_rt = padded_prompts(prompts, images, [1] * len(images))
        marks_rt = ids_rt == IMAGE_TOKEN_INDEX
        embeds_rtd = self._marked(language, ids_rt, marks_rt)
        # A prompt is one sample, whose padding stands before it and has no marks.
        positions_rt = torch.arange(ids_rt.shape[1]).expand_as(ids_rt)
        media = self._collect(images, marks_rt, last_images(marks_rt, positions_rt, None))
        mask_rt = mask_rt.to(embeds_rtd.device)
        return {"inputs_embeds": embeds_rtd, "attention_mask": mask_rt, "media": media}

    @torch.no_grad()
    def together(self, rows: Sequence[Media], written: Sequence[int], new: Sequence[int]) -> Media:
        """Join what rows look at, that `generation_inputs` gave one by one, for a forward pass that
        takes each row's `new` tokens, aligned on the right, behind `written` ones.

        A row's keys and values are computed once, and put side by side anew only when other rows
        take part.
        """
        width = max(new)
        sees = []
        for row, begin, count in zip(rows, written, new, strict=True):
            known = row.sees_rt[0]
            places = torch.arange(begin, begin + count).clamp_max(len(known) - 1)
            sees.append(pad(known[places.to(known.device)], (width - count, 0)))
        sees_rt = torch.stack(sees)
        before = self._joined
        if before and len(before[0]) == len(rows) and all(map(_same, before[0], rows)):
            return replace(before[1], sees_rt=sees_rt)
        for row in rows:
            for number in range(len(self.blocks)):
                self._keys_values(number, row)
        joined = Media(
            rows[0].tokens_rkd[:0],
            pad_sequence([row.owner_rk[0] for row in rows], batch_first=True),
            sees_rt,
            {number: _side_by_side(number, rows) for number in range(len(self.blocks))},
        )
        self._joined = list(rows), joined
        return joined

    def beside_numbers(self) -> int:
        """Return how many numbers are kept of an image's token: a key and a value in each block."""
        own = self.settings
        return len(self.blocks) * 2 * own.heads * own.head_width

    def rehearse(
        self,
        language: Any,
        images_rmd: Tensor,
        text: int,
        *,
        images: int = 1,
        mask: Tensor | None = None,
        cache: bool = False,
    ) -> Any:
        """Run the decoder over rows of `images` marks and `text` tokens, by shapes alone."""
        device = images_rmd.device
        ids_rt = torch.zeros(len(images_rmd), images + text, dtype=torch.long, device=device)
        owner_rk = torch.ones(images_rmd.shape[:2], dtype=torch.long, device=device)
        embeds_rtd = self._marked(language, ids_rt, torch.ones_like(ids_rt, dtype=torch.bool))
        with self.beside(Media(images_rmd, owner_rk, torch.ones_like(ids_rt)), stays=not cache):
            output = language.get_decoder()(
                inputs_embeds=embeds_rtd,
                position_ids=torch.zeros_like(ids_rt),
                attention_mask=mask,
                use_cache=cache,
            )
        return output.past_key_values if cache else output.last_hidden_state

    def _marked(self, language: Any, ids_rt: Tensor, marks_rt: Tensor) -> Tensor:
        marks_rt = marks_rt.to(device_of(language), non_blocking=True)
        ids_rt = ids_rt.to(device_of(language), non_blocking=True).masked_fill(marks_rt, 0)
        embeds_rtd: Tensor = language.get_input_embeddings()(ids_rt)
        return torch.where(marks_rt[:, :, None], self.mark.to(embeds_rtd.dtype), embeds_rtd)

    def _collect(self, images: Sequence[Tensor], marks_rt: Tensor, sees_rt: Tensor) -> Media:
        """Lay each row's images one after another. A row has one token at least: without images
        nobody sees it, and yet all weights take part, which ranks wait for.
        """
        weight = self.mark
        owners = [
            torch.full((len(image),), number, dtype=torch.long)
            for number, image in enumerate(images, start=1)
        ]
        left, tokens, owner = 0, [], []
        for count in marks_rt.sum(dim=1).tolist():
            own = slice(left, left + count)
            nothing = weight.new_zeros(1, self.media_width)
            tokens.append(torch.cat(list(images[own])) if count else nothing)
            owner.append(torch.cat(owners[own]) if count else torch.zeros(1, dtype=torch.long))
            left += count
        return Media(
            pad_sequence(tokens, batch_first=True),
            pad_sequence(owner, batch_first=True).to(weight.device),
            sees_rt.to(weight.device),
        )

    def _keys_values(self, number: int, media: Media) -> KeysValues:
        if number in media.kept:
            return media.kept[number]
        attention: CrossAttention = self.blocks[number].attention  # type: ignore[assignment]
        made = attention.keys_values(media.tokens_rkd)
        if not torch.is_grad_enabled():
            media.kept[number] = made
        return made

    def _before_layer(
        self, number: int, _layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Change the states that a layer is given; a hook of torch's."""
        media = self._media
        if media is None:
            return None
        states = args[0] if args else named["hidden_states"]
        states = self.blocks[number](
            states, self._keys_values(number, media), media.owner_rk, media.seen_by(states.shape[1])
        )
        return ((states, *args[1:]), named) if args else (args, {**named, "hidden_states": states})


class _GatedMlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        mapped: Tensor = self.down_proj(silu(self.gate_proj(states)) * self.up_proj(states))
        return mapped


def last_images(marks_rt: Tensor, position_ids_rt: Tensor, sharing: SharedPrefix | None) -> Tensor:
    """Return the number of the image that each token sees (r, t): the last at or before it.

    `marks_rt` are the images' positions, numbered through the batch from 1; 0 is none. A token sees
    no image of another sample of its row, and where samples share an image, that one or a later
    one of its own.
    """
    if sharing is None:
        blocks_rt = (position_ids_rt == 0).cumsum(dim=1)
        shared_rt = blocks_rt
    else:
        blocks_rt, shared_rt = sharing.segment_ids_rt, sharing.attends_to_rt
    numbers_rt = marks_rt.flatten().cumsum(dim=0).view_as(marks_rt) * marks_rt
    latest_rt = numbers_rt.cummax(dim=1).values
    # The last image of each block; numbers rise along a row, so what exceeds all that stood before
    # a block is its own.
    count = int(blocks_rt.max()) + 1
    of_block = numbers_rt.new_zeros(len(numbers_rt), count)
    of_block = of_block.scatter_reduce(1, blocks_rt, numbers_rt, "amax")
    before_block = pad(of_block, (1, 0))[:, :-1].cummax(dim=1).values
    own_rt = latest_rt * (latest_rt > before_block.gather(1, blocks_rt))
    foreign_rt = of_block.gather(1, shared_rt) * (shared_rt != blocks_rt)
    return torch.where(own_rt > 0, own_rt, foreign_rt)


def _same(one: Media, other: Media) -> bool:
    return one is other


def _side_by_side(number: int, rows: Sequence[Media]) -> KeysValues:
    """Stack the rows' keys and values (r, h, k, e), padded on the right."""
    longest = max(row.owner_rk.shape[1] for row in rows)
    keys, values = (
        torch.cat([pad(one, (0, 0, 0, longest - one.shape[2])) for one in kept])
        for kept in zip(*(row.kept[number] for row in rows), strict=True)
    )
    return keys, values
