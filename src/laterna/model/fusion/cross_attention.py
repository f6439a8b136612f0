"""Flamingo's fusion: gated blocks before layers of the language model look at the image's tokens.

An image takes one position of the row, its mark, whatever its tokens. A text token sees the tokens
of the last image at or before it in its own sample, and none before the first. What was read about
earlier images still reaches it through the language model's own attention. Both gates of a block
start at 0, so the language model writes what it wrote without images, bit for bit.

The blocks stand in forward pre-hooks of the decoder's layers, so any causal model of transformers
can carry them, and its own weights keep their names.

Shapes: j images · m tokens an image · d width · r rows · t tokens of a row · n = r · t · q tokens
that see one image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from laterna.data.images.fitting import ImagePreparer
from laterna.data.images.tokens import SameTokens, TiledTokens
from laterna.errors import LaternaError
from laterna.model.attention.cross import (
    CrossAttention,
    GatedMlp,
    KeysValues,
    feed_forward,
    last_images,
)
from laterna.model.fusion.base import Fusion, device_of, padded_prompts
from laterna.model.language.causal import layers_of
from laterna.recipe import CrossAttentionSettings, FusionSettings
from laterna.records import IMAGE_TOKEN_INDEX, Batch


class Route(NamedTuple):
    """Which tokens ask which image: each asks one, so no pair is computed to be masked."""

    places_jq: Tensor
    """The tokens that see each image, counted along all rows; n where there are no more."""
    slots_n: Tensor
    """Where in (j, q), laid end to end, each token's answer stands; j · q for one that sees none.
    """


@dataclass(eq=False)
class Media:
    """What the rows of one forward pass look at."""

    tokens_jmd: Tensor
    """The images' tokens, padded on the right."""
    present_jm: Tensor | None
    """Which of them are tokens; None: all."""
    sees_rt: Tensor
    """The number of the image that each token of a row sees, from 1; 0: none. It lies on the CPU.
    """
    kept: dict[int, KeysValues] = field(default_factory=dict)
    """Keys and values by block, once they were computed without gradient."""
    routes: dict[int, Route] = field(default_factory=dict)
    """By the number of tokens of a row that are looked at."""

    def route(self, tokens: int) -> Route:
        """Return who asks whom where rows have so many tokens: the rows', or one that is written
        behind them and sees what their last sees.
        """
        if tokens not in self.routes:
            self.routes[tokens] = self._route(tokens)
        return self.routes[tokens]

    def _route(self, tokens: int) -> Route:
        if tokens not in (1, self.sees_rt.shape[1]):
            raise LaternaError(
                f"fusion.kind = 'cross_attention': {tokens} tokens came where "
                f"{self.sees_rt.shape[1]} or 1 were meant; this way to generate is not supported"
            )
        sees_n = self.sees_rt[:, -tokens:].flatten()
        images = len(self.tokens_jmd)
        order_n = sees_n.argsort(stable=True)
        counts = sees_n.bincount(minlength=images + 1)
        blind, most = int(counts[0]), max(1, int(counts[1:].max()))
        image_n = sees_n[order_n][blind:] - 1
        first = counts.cumsum(0)[image_n] - blind  # where each image's tokens begin among them
        slots = image_n * most + torch.arange(len(image_n)) - first
        places = torch.full((images * most,), len(sees_n))
        places[slots] = order_n[blind:]
        slots_n = torch.full_like(sees_n, images * most)
        slots_n[order_n[blind:]] = slots
        device = self.tokens_jmd.device
        return Route(places.view(images, most).to(device), slots_n.to(device))

    def in_one_row(self) -> Media:
        """Return the same for rows laid end to end."""
        return Media(self.tokens_jmd, self.present_jm, self.sees_rt.flatten()[None])


class GatedBlock(nn.Module):
    """`x + tanh(a) · attention(norm(x), media)`, then `x + tanh(a') · feed_forward(norm(x))`."""

    def __init__(
        self,
        settings: CrossAttentionSettings,
        d_media: int,
        width: int,
        *,
        inner: int,
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__()
        idefics = settings.form == "idefics"
        rms = partial(nn.RMSNorm, eps=epsilon)
        self.norm = rms(width) if idefics else nn.LayerNorm(width)
        self.attention = CrossAttention(
            width,
            d_media,
            heads=settings.heads,
            head_width=settings.head_width,
            qk_norm=rms if idefics else None,
        )
        self.attention_gate = nn.Parameter(torch.full((1,), settings.gate))
        self.ff = (
            nn.Sequential(rms(width), GatedMlp(width, inner))
            if idefics
            else feed_forward(width, inner, settings.form)
        )
        self.ff_gate = nn.Parameter(torch.full((1,), settings.gate))

    def forward(
        self, x_rtd: Tensor, kept: KeysValues, route: Route, present_jm: Tensor | None = None
    ) -> Tensor:
        """Return the states (r, t, d) behind the block; arguments as in `Media`."""
        asking_nd = nn.functional.pad(self.norm(x_rtd).flatten(0, 1), (0, 0, 0, 1))
        places_jq, slots_n = route
        asking_jqd = asking_nd.index_select(0, places_jq.flatten()).view(*places_jq.shape, -1)
        mask = None if present_jm is None else present_jm[:, None, None, :]
        found = self.attention(asking_jqd, kept, mask).flatten(0, 1)
        found_nd = nn.functional.pad(found, (0, 0, 0, 1)).index_select(0, slots_n)
        after = x_rtd + self.attention_gate.tanh() * found_nd.view_as(x_rtd)
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
        text, width = language.config.get_text_config(), embedding.embedding_dim
        epsilon = getattr(text, "rms_norm_eps", 1e-6)
        inner = 4 * width if own.form == "flamingo" else getattr(text, "intermediate_size", 0)
        if not inner:
            raise LaternaError(
                "fusion.cross_attention.form = 'idefics': the language model's configuration does "
                "not say how wide its feed-forward layers are (intermediate_size); use 'flamingo'"
            )
        self.blocks = nn.ModuleList(
            GatedBlock(own, self.media_width, width, inner=inner, epsilon=epsilon)
            for _ in self.places
        )
        self.mark = nn.Parameter(embedding.weight.detach().float().mean(dim=0))
        self._media: Media | None = None
        self._joined: tuple[object, list[Media], Media] | None = None

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
    def beside(self, media: Media | None) -> Iterator[None]:
        """Let the blocks look at `media` meanwhile."""
        before, self._media = self._media, media
        try:
            yield
        finally:
            self._media = before

    def again(self) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
        """Return what a layer runs in, and what it runs in again in the backward pass: beside what
        it looks at now.
        """
        return nullcontext(), self.beside(self._media)

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
        return self._collect(images, last_images(marks_rt, batch.position_ids_rt, batch.sharing))

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
        media = self._collect(images, last_images(marks_rt, positions_rt, None))
        mask_rt = mask_rt.to(embeds_rtd.device)
        return {"inputs_embeds": embeds_rtd, "attention_mask": mask_rt, "media": media}

    @torch.no_grad()
    def together(
        self, rows: Sequence[Media], written: Sequence[int], new: Sequence[int], width: int
    ) -> Media:
        """Join what rows look at, that `generation_inputs` gave one by one, for a forward pass that
        takes each row's `new` tokens, aligned on the right of `width`, behind `written` ones.

        A row's keys and values are computed once, and put side by side anew only when other rows
        take part.
        """
        first = 0
        sees, chosen = [], []
        for row, begin, count in zip(rows, written, new, strict=True):
            known = row.sees_rt[0]
            own = known[torch.arange(begin, begin + count).clamp_max(len(known) - 1)]
            seen = torch.unique(own[own > 0])
            numbers = torch.where(own > 0, torch.searchsorted(seen, own) + 1 + first, 0)
            sees.append(pad(numbers, (width - count, 0)))
            chosen.append(seen - 1)
            first += len(seen)
        key = [*map(id, rows)], [one.tolist() for one in chosen], torch.stack(sees).tolist()
        if self._joined is None or self._joined[0] != key:
            joined = Media(rows[0].tokens_jmd[:0], None, torch.stack(sees))
            self._side_by_side(joined, rows, chosen)
            self._joined = key, list(rows), joined  # the rows stay, so that no other has their id
        return self._joined[2]

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
        written: int = 0,
    ) -> Any:
        """Run the decoder over rows of `images` marks and `text` tokens, by shapes alone."""
        del written
        device = images_rmd.device
        rows, given = images_rmd.shape[:2]
        ids_rt = torch.zeros(rows, images + text, dtype=torch.long, device=device)
        embeds_rtd = self._marked(language, ids_rt, torch.ones_like(ids_rt, dtype=torch.bool))
        tokens_jmd = images_rmd.reshape(rows * images, given // images, -1)
        media = Media(tokens_jmd, None, ids_rt)
        most = -(-(images + text) // images)
        places_jq = torch.zeros(rows * images, most, dtype=torch.long, device=device)
        media.routes[images + text] = Route(places_jq, ids_rt.flatten())
        with self.beside(media):
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

    def _collect(self, images: Sequence[Tensor], sees_rt: Tensor) -> Media:
        """Put images side by side. There is one at least: without any, nobody sees it, and yet all
        weights take part, which ranks wait for.
        """
        if not images:
            images = [self.mark.new_zeros(1, self.media_width)]
        lengths = torch.tensor([len(image) for image in images])
        present_jm = None
        if int(lengths.min()) < int(lengths.max()):
            present_jm = torch.arange(int(lengths.max())) < lengths[:, None]
            present_jm = present_jm.to(self.mark.device)
        tokens_jmd = pad_sequence(list(images), batch_first=True)
        return Media(tokens_jmd, present_jm, sees_rt.cpu())

    def _side_by_side(self, joined: Media, rows: Sequence[Media], chosen: Sequence[Tensor]) -> None:
        """Give joined rows the keys and values of the images that they chose of each."""
        longest = max(row.tokens_jmd.shape[1] for row in rows)
        shorts = [longest - row.tokens_jmd.shape[1] for row in rows]
        picked = list(zip(rows, chosen, shorts, strict=True))
        present_jm = torch.cat([pad(_present(row)[one], (0, less)) for row, one, less in picked])
        if not len(present_jm):  # nobody sees anything: an image stands there all the same
            present_jm, picked = (
                present_jm.new_ones(1, longest),
                [(rows[0], chosen[0].new_zeros(1), shorts[0])],
            )
        joined.tokens_jmd = present_jm[:, :, None]  # their keys and values are known
        joined.present_jm = None if bool(present_jm.all()) else present_jm
        for number in range(len(self.blocks)):
            pairs = [
                [pad(kept[one], (0, 0, 0, less)) for kept in self._keys_values(number, row)]
                for row, one, less in picked
            ]
            keys, values = (torch.cat(ones) for ones in zip(*pairs, strict=True))
            joined.kept[number] = keys, values

    def _keys_values(self, number: int, media: Media) -> KeysValues:
        if number in media.kept:
            return media.kept[number]
        attention: CrossAttention = self.blocks[number].attention  # type: ignore[assignment]
        made = attention.keys_values(media.tokens_jmd)
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
            states, self._keys_values(number, media), media.route(states.shape[1]), media.present_jm
        )
        return ((states, *args[1:]), named) if args else (args, {**named, "hidden_states": states})


def _present(media: Media) -> Tensor:
    """Return which of a row's images' tokens are none of the padding (j, m)."""
    if media.present_jm is not None:
        return media.present_jm
    tokens_jmd = media.tokens_jmd
    return torch.ones(tokens_jmd.shape[:2], dtype=torch.bool, device=tokens_jmd.device)
