"""The assistant: pictures and text in, logits out. The visible path of the whole model.

Shapes: b pictures · c channels · h, w pixels · n features a picture · m tokens a picture after
the connector · d width · r rows · t tokens of a row · s target tokens · v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from PIL import Image
from torch import Tensor, nn

from laterna.data.chat import load_template
from laterna.data.masking import tokenise_text
from laterna.data.picture_tokens import SameTokens, TiledTokens
from laterna.data.pictures import PicturePreparer, load_picture
from laterna.errors import LaternaError
from laterna.model.connectors import Connector, build_connector
from laterna.model.generation import Prompt, generate_answers, stream_answer
from laterna.model.language import has_plain_head, load_language, logits_at
from laterna.model.sharing import before_targets, sharing_mask
from laterna.model.tiles import check_counts, join_tiles, token_counter
from laterna.model.vision import VisionTower, load_vision
from laterna.recipe import PartName, Recipe, StageName
from laterna.records import PICTURE_MARK, PICTURE_TOKEN, Batch, Tiling, Turn

MAX_NEW_TOKENS = 256
"""Longest answer in tokens, unless told otherwise."""


class Assistant(nn.Module):
    """A vision tower, a connector and any Hugging Face causal language model, side by side.

    `template` is the chat template at serving, whole; `prepare` turns opened pictures into pixels
    (b, c, h, w). `changed` names the parts whose weights are no longer those of their source; that
    a part carries adapters does not change it. `recipe` is what it was made by, where that is
    known, and `stage` the last stage it was trained in.
    """

    def __init__(
        self,
        vision: VisionTower,
        connector: Connector,
        language: Any,
        *,
        tokenizer: Any,
        template: str,
        prepare: PicturePreparer,
    ) -> None:
        super().__init__()
        self.vision = vision
        self.connector = connector
        self.language = language
        self.tokenizer = tokenizer
        self.template = template
        self.prepare = prepare
        self.changed: set[PartName] = set()
        self.plain_head = has_plain_head(language)
        self.recipe: Recipe | None = None
        self.stage: StageName | None = None

    @property
    def picture_tokens(self) -> SameTokens | TiledTokens:
        """Says how many tokens a picture of a width and height takes in the context (m)."""
        return token_counter(self.prepare, self.connector.tokens(self.vision.patches))

    @property
    def device(self) -> torch.device:
        """Where the language model's weights lie."""
        device: torch.device = self.language.get_input_embeddings().weight.device
        return device

    def parts(self) -> dict[PartName, nn.Module]:
        """Return the three parts by the names that recipes give them."""
        return {"vision": self.vision, "connector": self.connector, "language": self.language}

    def adaptable(self) -> dict[PartName, nn.Module]:
        """Return the modules that may carry adapters (`model.adapters`), by part."""
        return {"vision": self.vision.model, "language": self.language}

    def embed(self, batch: Batch) -> Tensor:
        """Embed a batch: (r, t, d), connector outputs in the picture places.

        Raises LaternaError when picture places and connector outputs differ in number.
        """
        features_bnd = batch.features_bnd
        if features_bnd is None and batch.pixels_bchw is not None:
            features_bnd = self.vision(batch.pixels_bchw.to(self.device))
        pictures = [] if features_bnd is None else self.connect(features_bnd, batch.tilings)
        check_counts(batch, pictures)
        return self.fill_pictures(
            batch.input_ids_rt, batch.picture_mask_rt, pictures, names=batch.ids
        )

    def connect(self, features_bnd: Tensor, tilings: Sequence[Tiling] = ()) -> Sequence[Tensor]:
        """Return the tokens (m, d) of each picture; with `tilings` the features are of tiles.

        Raises LaternaError when features and tilings differ in number.
        """
        tokens_bmd: Tensor = self.connector(features_bnd.to(self.device))
        if not tilings:
            return tokens_bmd.unbind()
        return join_tiles(tokens_bmd, tilings, self.connector.image_newline)

    def see(self, pictures: Sequence[Image.Image]) -> Sequence[Tensor]:
        """Return the tokens (m, d) of each of the opened pictures."""
        if not pictures:
            return []
        tilings = self.prepare.tilings([picture.size for picture in pictures])
        return self.connect(self.vision(self.prepare(pictures).to(self.device)), tilings)

    def fill_pictures(
        self,
        input_ids_rt: Tensor,
        picture_mask_rt: Tensor,
        pictures: Sequence[Tensor],
        *,
        names: Sequence[str],
    ) -> Tensor:
        """Embed the ids and put the pictures' tokens (m, d), in reading order, into their places.

        `names` say in the error whose rows they are. Raises LaternaError on a difference between
        the number of places and of tokens, so no picture is ever shifted or left out silently.
        """
        places = int(picture_mask_rt.sum())
        given = sum(len(picture) for picture in pictures)
        if places != given:
            raise LaternaError(
                f"{', '.join(names)}: {places} picture places but {given} picture tokens; "
                "each `<image>` mark needs one picture"
            )
        mask = picture_mask_rt.to(self.device)
        # Whatever id stands in a picture place lies outside the vocabulary or means nothing.
        ids = input_ids_rt.to(self.device).masked_fill(mask, 0)
        embedded: Tensor = self.language.get_input_embeddings()(ids)
        if not pictures:
            return embedded
        tokens = torch.cat(list(pictures)).to(embedded.dtype)
        return embedded.masked_scatter(mask.unsqueeze(-1), tokens)

    def hidden(self, batch: Batch) -> Tensor:
        """Return the decoder's last hidden states (r, t, d).

        Samples that share a picture see it and themselves, by a mask of their own.

        The restarted positions keep packed samples apart, but transformers builds its
        block-diagonal mask from them only without attention mask and without cache.
        """
        states: Tensor = self.language.get_decoder()(
            inputs_embeds=self.embed(batch),
            position_ids=batch.position_ids_rt.to(self.device),
            attention_mask=sharing_mask(batch.sharing, batch.position_ids_rt, self.language),
            use_cache=False,
        ).last_hidden_state
        return states

    def target_logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the logits (s, v) at the target tokens alone, and those tokens' ids (s).

        A token is predicted from the hidden state of the token before it.
        """
        if self.plain_head:
            states_sd, labels_s = self.target_states(batch)
            logits_sv: Tensor = self.language.get_output_embeddings()(states_sd)
            return logits_sv, labels_s
        places_rt, labels_s = self._targets(batch)
        return self._logits_at(batch, places_rt), labels_s

    def target_states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the hidden states (s, d) that the target tokens are predicted from, and those
        tokens' ids (s): where the head is plain, it turns the states into `target_logits`.
        """
        _, labels_s = self._targets(batch)
        states_rtd = self.hidden(batch)
        before_s = before_targets(batch).to(self.device)
        return states_rtd.flatten(0, 1).index_select(0, before_s), labels_s

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        targets = batch.targets_rt[:, 1:].to(self.device)
        labels_s = batch.input_ids_rt[:, 1:].to(self.device)[targets]
        return nn.functional.pad(targets, (0, 1)), labels_s

    def _logits_at(self, batch: Batch, places_rt: Tensor) -> Tensor:
        if not self.plain_head:
            positions = batch.position_ids_rt.to(self.device)
            return logits_at(self.language, self.embed(batch), positions, places_rt)
        logits_sv: Tensor = self.language.get_output_embeddings()(self.hidden(batch)[places_rt])
        return logits_sv

    @torch.no_grad()
    def logits(self, pictures: Sequence[Image.Image], text: str) -> Tensor:
        """Return the logits (t, v) over a text as it stands, its `<image>` marks filled in order.

        For comparisons with other programs: no template is applied. Raises LaternaError when
        marks and pictures differ in number.
        """
        counts = [self.picture_tokens(*picture.size) for picture in pictures]
        ids = torch.tensor([self.expand(tokenise_text(text, self.tokenizer), counts)])
        batch = Batch(
            ids=("the text",),
            input_ids_rt=ids,
            position_ids_rt=torch.arange(ids.shape[1])[None],
            targets_rt=torch.zeros_like(ids, dtype=torch.bool),
            picture_mask_rt=ids == PICTURE_TOKEN,
            pixels_bchw=self.prepare(pictures) if pictures else None,
            tilings=self.prepare.tilings([picture.size for picture in pictures]),
        )
        return self._logits_at(batch, torch.ones_like(ids, dtype=torch.bool, device=self.device))

    def answer(
        self,
        picture: Image.Image | Path | None,
        question: str | Sequence[Turn],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> str:
        """Answer a question about a picture greedily; several turns go in as a list of turns.

        The picture stands before the first question, unless a turn has its `<image>` mark.
        Raises LaternaError when the picture cannot be read.
        """
        prompt = _prompt(picture, question)
        return generate_answers(self, [prompt], max_new_tokens=max_new_tokens)[0]

    def stream(
        self,
        picture: Image.Image | Path | None,
        question: str | Sequence[Turn],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> Iterator[str]:
        """Yield the answer that `answer` gives, in pieces as it is written."""
        turns, pictures = _prompt(picture, question)
        yield from stream_answer(self, turns, pictures, max_new_tokens)

    def save(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        of: Mapping[str, str] | None = None,
    ) -> Path:
        """Write a checkpoint of this assistant, whole or not at all; return its folder.

        `overwrite` replaces a checkpoint that stands there; without it that is done only where
        both were made `of` the same. Raises LaternaError when no recipe says what it was made by,
        and where anything else stands there.
        """
        from laterna.model.checkpoint import save_checkpoint

        if self.recipe is None:
            raise LaternaError("this assistant has no recipe to save; set `assistant.recipe`")
        return save_checkpoint(
            Path(folder),
            self,
            self.recipe,
            stage=self.stage,
            figures={},
            of=of,
            overwrite=overwrite,
        )

    def export(
        self,
        folder: str | Path,
        to: str,
        precision: str = "",
        *,
        overwrite: bool = False,
        of: Mapping[str, str] | None = None,
    ) -> Path:
        """Write this assistant for another engine: `hf` or `gguf`; return the folder.

        `precision` is `f32`, `f16` or (`hf` alone) `bf16`; empty: `f32` for `hf`, `f16` for
        `gguf`. `overwrite` and `of` are as in `save`. Raises LaternaError for what the format
        cannot hold, and where anything else stands there.
        """
        from laterna.model.export import export

        return export(self, Path(folder), to, precision, overwrite=overwrite, of=of)

    def expand(self, ids: Sequence[int], counts: Sequence[int]) -> list[int]:
        """Repeat each `PICTURE_TOKEN` as often as its picture has tokens: `counts`, in order.

        Raises LaternaError when marks and counts differ in number.
        """
        marks = ids.count(PICTURE_TOKEN)
        if marks != len(counts):
            raise LaternaError(
                f"{marks} `<image>` marks but {len(counts)} pictures; each mark needs one picture"
            )
        left = iter(counts)
        expanded: list[int] = []
        for token in ids:
            expanded.extend([token] * (next(left) if token == PICTURE_TOKEN else 1))
        return expanded


def _prompt(picture: Image.Image | Path | None, question: str | Sequence[Turn]) -> Prompt:
    turns = [Turn(role="user", text=question)] if isinstance(question, str) else list(question)
    if picture is None:
        return turns, []
    opened = load_picture(picture) if isinstance(picture, Path) else picture
    if not any(PICTURE_MARK in turn.text for turn in turns):
        first = next(number for number, turn in enumerate(turns) if turn.role == "user")
        marked = f"{PICTURE_MARK}\n{turns[first].text}"
        turns[first] = msgspec.structs.replace(turns[first], text=marked)
    return turns, [opened]


def load_assistant_from(recipe: Recipe) -> Assistant:
    """Build an untrained assistant from a recipe's sources, the connector seeded by the recipe.

    Raises LaternaError when a source is missing, incomplete or not supported.
    """
    vision = load_vision(recipe.vision)
    language, tokenizer, grown = load_language(recipe.language)
    prepare = PicturePreparer(vision.processor, recipe.vision.fit, recipe.vision.grids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        width = int(language.get_input_embeddings().embedding_dim)
        connector = build_connector(
            recipe.connector, vision.width, width, newline=bool(prepare.grids)
        )
    assistant = Assistant(
        vision,
        connector.eval(),
        language,
        tokenizer=tokenizer,
        template=load_template(recipe.language.template, tokenizer, recipe.image_position),
        prepare=prepare,
    )
    assistant.recipe = recipe
    if grown:
        assistant.changed.add("language")
    return assistant
