"""The network: images and text in, logits out. The visible path of the whole model.

Shapes: b images · c channels · h, w pixels · n features an image · m tokens an image after the
connector · d width · r rows · t tokens of a row · s target tokens · v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from laterna.data.chat import UnusableError
from laterna.data.images.fitting import ImagePreparer
from laterna.data.images.tokens import SameTokens, TiledTokens
from laterna.data.masking import check_record, tokenize_text
from laterna.errors import LaternaError
from laterna.model.connectors import Connector
from laterna.model.connectors.tiles import join_tiles
from laterna.model.fusion import Fusion
from laterna.model.language.causal import has_plain_head
from laterna.model.vision import VisionTower
from laterna.recipe import PartName, Recipe, StageName
from laterna.records import IMAGE_TOKEN_INDEX, Batch, InstructionRecord, Tiling, Turn


class TrainedTogether(nn.ModuleList):
    """Modules that recipes know as one part."""

    def requires_grad_(self, requires_grad: bool = True) -> TrainedTogether:
        """Let each train, or not, as it can: some keep modules that never do."""
        for module in self:
            module.requires_grad_(requires_grad)
        return self


class VisionLanguageModel(nn.Module):
    """A vision tower, a connector, a fusion and a Hugging Face language model.

    It also has what turns a chat into its inputs: the `tokenizer`, the text of the chat `template`
    at serving, and `prepare`, which turns opened images into pixels (b, c, h, w). `changed` names
    the parts whose weights are no longer those of their source; adapters do not count. `recipe` is
    what it was made by, where that is known, and `stage` the last stage it was trained in.
    """

    def __init__(
        self,
        vision: VisionTower,
        connector: Connector,
        language: Any,
        *,
        fusion: Fusion,
        tokenizer: Any,
        template: str,
        prepare: ImagePreparer,
    ) -> None:
        super().__init__()
        self.vision = vision
        self.connector = connector
        self.fusion = fusion
        self.language = language
        fusion.attach(language)
        self.tokenizer = tokenizer
        self.template = template
        self.prepare = prepare
        self.changed: set[PartName] = set()
        self.recipe: Recipe | None = None
        self.stage: StageName | None = None

    @property
    def image_tokens(self) -> SameTokens | TiledTokens:
        """The counter of the positions that an image of a width and height takes in a row."""
        return self.fusion.counter(self.prepare, self.connector.tokens(self.vision.patches))

    @property
    def device(self) -> torch.device:
        """Where the language model's weights are."""
        device: torch.device = self.language.get_input_embeddings().weight.device
        return device

    @cached_property
    def plain_head(self) -> bool:
        """Whether the logits are the head applied to the decoder's states, and no more.

        The language model is run once to find out.
        """
        return has_plain_head(self.language)

    def parts(self) -> dict[PartName, nn.Module]:
        """Return the three parts by the names that recipes give them.

        What weights the fusion has train with the connector.
        """
        joins: nn.Module = self.connector
        if any(True for _ in self.fusion.parameters()):
            joins = TrainedTogether([self.connector, self.fusion])
        return {"vision": self.vision, "connector": joins, "language": self.language}

    def adaptable(self) -> dict[PartName, nn.Module]:
        """Return the modules that may carry adapters (`model.language.adapters`), by part."""
        return {"vision": self.vision.model, "language": self.language}

    def encode_images(self, images: Sequence[Image.Image]) -> Sequence[Tensor]:
        """Return the tokens (m, d) of each of the opened images."""
        if not images:
            return []
        tilings = self.prepare.tilings([image.size for image in images])
        return self.connect(self.vision(self.prepare(images).to(self.device)), tilings)

    def connect(self, features_bnd: Tensor, tilings: Sequence[Tiling] = ()) -> Sequence[Tensor]:
        """Return the tokens (m, d) of each image; with `tilings` the features are of tiles.

        Raises LaternaError when features and tilings differ in number.
        """
        weight = next(self.connector.parameters())
        tokens_bmd: Tensor = self.connector(
            features_bnd.to(weight.device, weight.dtype, non_blocking=True)
        )
        if not tilings:
            return tokens_bmd.unbind()
        return join_tiles(tokens_bmd, tilings, self.connector.image_newline)

    def embed(self, batch: Batch) -> Tensor:
        """Embed a batch: (r, t, d), as the language model takes it."""
        return self.fusion.embed(self.language, batch, self._images(batch))

    def generation_inputs(self, batch: Batch) -> dict[str, Any]:
        """Return what `generate` takes to continue a batch without padding."""
        return self.fusion.batch_inputs(self.language, batch, self._images(batch))

    def hidden_states(self, batch: Batch) -> Tensor:
        """Return the decoder's last hidden states (r, t, d)."""
        return self.fusion.hidden_states(self.language, batch, self._images(batch))

    def target_states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the hidden states (s, d) that the target tokens are predicted from, and those
        tokens' ids (s): where the head is plain, it turns the states into `target_logits`.
        """
        return self.fusion.target_states(self.language, batch, self._images(batch))

    def target_logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the logits (s, v) at the target tokens alone, and those tokens' ids (s).

        A token is predicted from the hidden state of the token before it.
        """
        if not self.plain_head:
            return self.fusion.target_logits(self.language, batch, self._images(batch))
        states_sd, labels_s = self.target_states(batch)
        logits_sv: Tensor = self.language.get_output_embeddings()(states_sd)
        return logits_sv, labels_s

    @torch.no_grad()
    def logits(self, images: Sequence[Image.Image], text: str) -> Tensor:
        """Return the logits (t, v) over a text as it stands, its `<image>` marks filled in order.

        For comparisons with other programs: no template is applied. Raises LaternaError when
        marks and images differ in number.
        """
        counts = [self.image_tokens(*image.size) for image in images]
        ids = self.fusion.expand(tokenize_text(text, self.tokenizer), counts)
        ids_rt = torch.tensor([ids])
        batch = Batch(
            ids=("the text",),
            input_ids_rt=ids_rt,
            position_ids_rt=torch.arange(ids_rt.shape[1])[None],
            loss_mask_rt=torch.zeros_like(ids_rt, dtype=torch.bool),
            image_mask_rt=ids_rt == IMAGE_TOKEN_INDEX,
            pixels_bchw=self.prepare(images) if images else None,
            tilings=self.prepare.tilings([image.size for image in images]),
        )
        everywhere = torch.ones_like(ids_rt, dtype=torch.bool, device=self.device)
        return self.fusion.logits_at(self.language, batch, self._images(batch), everywhere)

    def end_of_turn(self) -> list[int]:
        """Return the ids that end an answer: the model's own, and the template's that are trained.

        The latter are read from a rendered sample, so what stops an answer is what was trained.
        Raises LaternaError where there is none.
        """
        probe = InstructionRecord(
            id="end of turn",
            images=(),
            turns=(Turn(role="user", text="a"), Turn(role="assistant", text="b", loss=True)),
        )
        sample = check_record(probe, self.tokenizer, self.template)
        special = set(self.tokenizer.all_special_ids)
        learned: list[int] = []
        if not isinstance(sample, UnusableError):
            pairs = zip(sample.input_ids, sample.targets, strict=True)
            learned = [token for token, target in pairs if target and token in special]
        own = self.language.generation_config.eos_token_id
        named = own if isinstance(own, list) else [own]
        ends = {*learned, *named, self.tokenizer.eos_token_id} - {None}
        if not ends:
            raise LaternaError(
                "the tokenizer has no end-of-sequence token and the chat template ends an answer "
                "with no special token; set `eos_token` in tokenizer_config.json"
            )
        return sorted(ends)

    def _images(self, batch: Batch) -> Sequence[Tensor]:
        features_bnd = batch.features_bnd
        if features_bnd is None and batch.pixels_bchw is not None:
            features_bnd = self.vision(batch.pixels_bchw.to(self.device, non_blocking=True))
        return [] if features_bnd is None else self.connect(features_bnd, batch.tilings)
