"""What every fusion is, and what those share whose decoder reads image and text in one row.

Shapes: b images · m tokens an image · d width · r rows · t tokens of a row · s target tokens ·
v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from laterna.data.images.fitting import ImagePreparer
from laterna.data.images.tokens import SameTokens, TiledTokens
from laterna.errors import LaternaError
from laterna.model.attention.shared_prefix import before_targets, shared_prefix_mask, wants_one_row
from laterna.recipe import FusionSettings
from laterna.records import IMAGE_TOKEN_INDEX, Batch


class Fusion(nn.Module):
    """Joins image tokens and text for a causal language model, and runs it.

    A fusion is built from `(settings, d_vision, language)`; what weights it has train and are saved
    with the connector. It says what stands in a row (`counter`, `embed`), and what the decoder
    looks at besides (`media`, `beside`): nothing, unless it says otherwise.
    """

    table: ClassVar[str | None] = None
    """The field of `FusionSettings` that holds its settings; None: it has none."""
    beside_row: ClassVar[bool] = False
    """Whether an image takes one position of a row, and its tokens are looked at beside it."""
    encodes: ClassVar[bool] = False
    """Whether it is for language models of an encoder and a decoder, and not for causal ones."""
    compiles: ClassVar[bool] = True
    """Whether the language model's layers may be compiled beneath it."""

    def __init__(self, settings: FusionSettings, d_vision: int, language: Any) -> None:
        super().__init__()
        del settings, d_vision, language

    @staticmethod
    def counter(prepare: ImagePreparer, tokens: int) -> SameTokens | TiledTokens:
        """Return what says how many positions of a row an image takes, of which one square becomes
        `tokens`. Raises LaternaError where tiles are no square maps.
        """
        raise NotImplementedError

    @staticmethod
    def token_width(d_vision: int, d_language: int) -> int:
        """Return how wide the connector's tokens are."""
        raise NotImplementedError

    def attach(self, language: Any) -> None:
        """Take a place in a language model, which is then run through this fusion's methods."""
        del language

    def embed(self, language: Any, batch: Batch, images: Sequence[Tensor]) -> Tensor:
        """Embed a batch: (r, t, d), with the images' tokens (m, d) or marks in their places.

        Raises LaternaError when an image has other places than it needs.
        """
        raise NotImplementedError

    def media(self, batch: Batch, images: Sequence[Tensor]) -> Any:
        """Return what the decoder looks at beside the rows of a batch; None: nothing."""
        del batch, images

    def beside(self, media: Any) -> AbstractContextManager[object]:
        """Let the decoder look at `media` meanwhile."""
        del media
        return nullcontext()

    def again(self) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
        """Return what a layer runs in, and what it runs in again: torch's `context_fn` of
        activation checkpointing, for by the backward pass `beside` has ended.
        """
        return nullcontext(), nullcontext()

    def together(
        self, rows: Sequence[Any], written: Sequence[int], new: Sequence[int], width: int
    ) -> Any:
        """Join what rows look at that `generation_inputs` gave one by one, for a forward pass that
        takes each row's `new` tokens, aligned on the right of `width`, behind `written` ones.
        """
        del rows, written, new, width

    def beside_numbers(self) -> int:
        """Return how many numbers are kept of an image's token beside the cache of a chat."""
        return 0

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
        """Run the decoder over rows of `images` images' tokens and `text` tokens more, by shapes
        alone: on the meta device, where no number says which token is an image's.

        It costs what `hidden_states` costs, with a `mask` as rows of several samples need one.
        An encoder-decoder writes the last `written` of the text, and reads the rest.
        Returns the states (r, t, d), or with `cache` the keys and values left behind.
        """
        raise NotImplementedError

    @torch.no_grad()
    def generation_inputs(
        self, language: Any, prompts: Sequence[Sequence[int]], images: Sequence[Tensor]
    ) -> dict[str, Any]:
        """Return what `generate` takes: embedded prompts, padded on the left; and as `media`, where
        there is any, what `beside` takes meanwhile.

        All prompts then end where answers begin. `prompts` are token ids with one
        `IMAGE_TOKEN_INDEX` an image, `images` those of all prompts in order.
        Raises LaternaError when marks and images differ in number.
        """
        raise NotImplementedError

    def expand(self, ids: Sequence[int], positions: Sequence[int]) -> list[int]:
        """Repeat each `IMAGE_TOKEN_INDEX` as often as its image takes `positions`, in order.

        Raises LaternaError when marks and images differ in number.
        """
        _require_marks(ids.count(IMAGE_TOKEN_INDEX), len(positions))
        left = iter(positions)
        expanded: list[int] = []
        for token in ids:
            expanded.extend([token] * (next(left) if token == IMAGE_TOKEN_INDEX else 1))
        return expanded

    def hidden_states(self, language: Any, batch: Batch, images: Sequence[Tensor]) -> Tensor:
        """Return the decoder's last hidden states (r, t, d).

        Samples that share an image see it and themselves, by a mask of their own. The restarted
        positions keep packed samples apart, but transformers builds its block-diagonal mask from
        them only without attention mask and without cache, and FlashAttention's only for one row.
        """
        embeds_rtd = self.embed(language, batch, images)
        media = self.media(batch, images)
        positions_rt = batch.position_ids_rt.to(device_of(language), non_blocking=True)
        shape = embeds_rtd.shape
        if wants_one_row(language):
            embeds_rtd, positions_rt = embeds_rtd.flatten(0, 1)[None], positions_rt.flatten()[None]
            media = media and media.in_one_row()
        with self.beside(media):
            states: Tensor = language.get_decoder()(
                inputs_embeds=embeds_rtd,
                position_ids=positions_rt,
                attention_mask=shared_prefix_mask(batch.sharing, batch.position_ids_rt, language),
                use_cache=False,
            ).last_hidden_state
        return states.reshape(*shape[:2], -1)

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
        places_rt, labels_s = (one.to(device_of(language)) for one in _targets(batch))
        return self.logits_at(language, batch, images, places_rt), labels_s

    def logits_at(
        self, language: Any, batch: Batch, images: Sequence[Tensor], places_rt: Tensor
    ) -> Tensor:
        """Return the logits (s, v) at the marked places by the model's own forward.

        The head runs at every column that a row marks.
        """
        columns = places_rt.any(dim=0).nonzero()[:, 0]
        with self.beside(self.media(batch, images)):
            logits_rkv: Tensor = language(
                inputs_embeds=self.embed(language, batch, images),
                position_ids=batch.position_ids_rt.to(device_of(language)),
                attention_mask=None,
                use_cache=False,
                logits_to_keep=columns,
            ).logits
        return logits_rkv[places_rt[:, columns]]

    def answer_logits(
        self,
        language: Any,
        prompt: Sequence[int],
        answer: Sequence[int],
        images: Sequence[Sequence[Tensor]],
    ) -> Tensor:
        """Return the logits (b, n, v) that the n tokens of an answer are chosen from behind a
        prompt, for each of b sets of images; the prompt has a mark for each image of a set.
        """
        flat = [one for row in images for one in row]
        inputs = self.generation_inputs(language, [[*prompt, *answer]] * len(images), flat)
        embeds_btd, n = inputs["inputs_embeds"], len(answer)
        t = embeds_btd.shape[1]
        places = torch.arange(t - n - 1, t - 1, device=embeds_btd.device)
        with self.beside(inputs.get("media")):
            logits_bnv: Tensor = language(
                inputs_embeds=embeds_btd, use_cache=False, logits_to_keep=places
            ).logits
        return logits_bnv

    def batch_inputs(self, language: Any, batch: Batch, images: Sequence[Tensor]) -> dict[str, Any]:
        """Return what `generate` takes to go on behind a batch without padding."""
        embeds_rtd = self.embed(language, batch, images)
        mask_rt = torch.ones(embeds_rtd.shape[:2], dtype=torch.long, device=embeds_rtd.device)
        media = self.media(batch, images)
        beside = {} if media is None else {"media": media}
        return {"inputs_embeds": embeds_rtd, "attention_mask": mask_rt, **beside}


class FusionKind(Protocol):
    """A fusion's class: what it needs before it is made, and how one is made."""

    table: str | None
    encodes: bool
    compiles: bool

    def __call__(self, settings: FusionSettings, d_vision: int, language: Any, /) -> Fusion:
        """Build one, its weights drawn from torch's generator."""
        ...

    def counter(self, prepare: ImagePreparer, tokens: int) -> SameTokens | TiledTokens:
        """As `Fusion.counter`, which needs no language model."""
        ...

    def token_width(self, d_vision: int, d_language: int) -> int:
        """As `Fusion.token_width`."""
        ...


def padded_prompts(
    prompts: Sequence[Sequence[int]], images: Sequence[Tensor], positions: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return ids (r, t) of prompts, padded on the left, each image in its positions, and which of
    them are tokens (r, t), not padding. Raises LaternaError when marks and images differ in number.
    """
    left = iter(positions)
    _require_marks(sum(list(row).count(IMAGE_TOKEN_INDEX) for row in prompts), len(images))
    rows = [
        [one for token in row for one in [token] * (next(left) if token < 0 else 1)]
        for row in prompts
    ]
    width = max(len(row) for row in rows)
    ids_rt = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask_rt = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids_rt, mask_rt


def _require_marks(marks: int, images: int) -> None:
    if marks != images:
        raise LaternaError(
            f"{marks} `<image>` marks but {images} images; each mark needs one image"
        )


def _targets(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return which places (r, t) predict a target token, and the targets' ids (s).

    Chosen where the batch lies, on the CPU: a GPU would have to be waited for to count them.
    """
    loss_mask_rt = batch.loss_mask_rt[:, 1:]
    labels_s = batch.input_ids_rt[:, 1:][loss_mask_rt]
    return nn.functional.pad(loss_mask_rt, (0, 1)), labels_s


def device_of(language: Any) -> torch.device:
    """Return where a language model's embedding lies."""
    device: torch.device = language.get_input_embeddings().weight.device
    return device
