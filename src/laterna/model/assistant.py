"""The assistant: pictures and text in, logits out. The visible path of the whole model.

Shapes: b pictures · c channels · h, w pixels · n features a picture · m tokens a picture after
the connector · d width · r rows · t tokens of a row · s target tokens · v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from laterna.data.chat import load_template
from laterna.data.masking import tokenise_text
from laterna.data.picture_tokens import SameTokens
from laterna.data.pictures import PicturePreparer, load_picture
from laterna.errors import LaternaError
from laterna.model.builtin import resolve
from laterna.model.connectors import Connector, build_connector
from laterna.model.generation import Prompt, generate_answers, stream_answer
from laterna.model.pretrained import load_weights, read_part
from laterna.model.vision import VisionTower, load_vision
from laterna.recipe import LanguageSettings, PartName, Recipe
from laterna.records import PICTURE_MARK, PICTURE_TOKEN, Batch, Turn

MAX_NEW_TOKENS = 256
"""Longest answer in tokens, unless told otherwise."""


class Assistant(nn.Module):
    """A vision tower, a connector and any Hugging Face causal language model, side by side.

    `template` is the chat template at serving, whole; `prepare` turns opened pictures into pixels
    (b, c, h, w). `changed` names the parts whose weights are no longer those of their source.
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

    @property
    def picture_tokens(self) -> SameTokens:
        """Says how many tokens a picture of a width and height takes in the context (m)."""
        return SameTokens(tokens=self.connector.tokens(self.vision.patches))

    @property
    def device(self) -> torch.device:
        """Where the language model's weights lie."""
        device: torch.device = self.language.get_input_embeddings().weight.device
        return device

    def parts(self) -> dict[PartName, nn.Module]:
        """Return the three parts by the names that recipes give them."""
        return {"vision": self.vision, "connector": self.connector, "language": self.language}

    def embed(self, batch: Batch) -> Tensor:
        """Embed a batch: (r, t, d), connector outputs in the picture places.

        Raises LaternaError when picture places and connector outputs differ in number.
        """
        tokens_bmd = None
        if batch.features_bnd is not None:
            tokens_bmd = self.connector(batch.features_bnd.to(self.device))
        elif batch.pixels_bchw is not None:
            tokens_bmd = self.connector(self.vision(batch.pixels_bchw.to(self.device)))
        return self.fill_pictures(
            batch.input_ids_rt, batch.picture_mask_rt, tokens_bmd, names=batch.ids
        )

    def fill_pictures(
        self,
        input_ids_rt: Tensor,
        picture_mask_rt: Tensor,
        tokens_bmd: Tensor | None,
        *,
        names: Sequence[str],
    ) -> Tensor:
        """Embed the ids and put the pictures' tokens, in reading order, into their places.

        `names` say in the error whose rows they are. Raises LaternaError on a difference between
        the number of places and of tokens, so no picture is ever shifted or left out silently.
        """
        places = int(picture_mask_rt.sum())
        given = 0 if tokens_bmd is None else tokens_bmd.shape[0] * tokens_bmd.shape[1]
        if places != given:
            raise LaternaError(
                f"{', '.join(names)}: {places} picture places but {given} picture tokens; "
                "each `<image>` mark needs one picture"
            )
        mask = picture_mask_rt.to(self.device)
        # Whatever id stands in a picture place lies outside the vocabulary or means nothing.
        ids = input_ids_rt.to(self.device).masked_fill(mask, 0)
        embedded: Tensor = self.language.get_input_embeddings()(ids)
        if tokens_bmd is None:
            return embedded
        return embedded.masked_scatter(mask.unsqueeze(-1), tokens_bmd.to(embedded.dtype))

    def hidden(self, batch: Batch) -> Tensor:
        """Return the decoder's last hidden states (r, t, d).

        The restarted positions keep packed samples apart, but transformers builds its
        block-diagonal mask from them only without attention mask and without cache.
        """
        states: Tensor = self.language.get_decoder()(
            inputs_embeds=self.embed(batch),
            position_ids=batch.position_ids_rt.to(self.device),
            attention_mask=None,
            use_cache=False,
        ).last_hidden_state
        return states

    def target_logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the logits (s, v) at the target tokens alone, and those tokens' ids (s).

        A token is predicted from the hidden state of the token before it.
        """
        targets = batch.targets_rt[:, 1:].to(self.device)
        states_sd = self.hidden(batch)[:, :-1][targets]
        labels_s = batch.input_ids_rt[:, 1:].to(self.device)[targets]
        logits_sv: Tensor = self.language.get_output_embeddings()(states_sd)
        return logits_sv, labels_s

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
        )
        logits: Tensor = self.language.get_output_embeddings()(self.hidden(batch)[0])
        return logits

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
    language, tokenizer = load_language(recipe.language)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        width = int(language.get_input_embeddings().embedding_dim)
        connector = build_connector(recipe.connector, vision.width, width)
    return Assistant(
        vision,
        connector.eval(),
        language,
        tokenizer=tokenizer,
        template=load_template(recipe.language.template, tokenizer),
        prepare=PicturePreparer(vision.processor, recipe.vision.fit),
    )


def load_language(
    settings: LanguageSettings, folder: Path | None = None, tokenizer_folder: Path | None = None
) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer, from the source or from a checkpoint.

    Raises LaternaError when either is missing or incomplete, or when the model changes its logits
    after the head, which logits at the targets alone would miss.
    """
    source = str(folder) if folder else resolve(settings.source)
    names = str(tokenizer_folder) if tokenizer_folder else resolve(settings.source)
    language = load_weights(AutoModelForCausalLM, source, what="language model")
    tokenizer = read_part(
        lambda: AutoTokenizer.from_pretrained(names), source=names, what="tokenizer"
    )
    _check_head(language, source)
    return language, tokenizer


@torch.no_grad()
def _check_head(language: Any, source: str) -> None:
    ids = torch.arange(8)[None]  # several, for the embedding of a padding id is zero
    states = language.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    by_parts = language.get_output_embeddings()(states)
    whole = language(input_ids=ids, use_cache=False).logits
    if not torch.allclose(by_parts, whole, atol=1e-4, rtol=1e-4):
        raise LaternaError(
            f"{source}: this language model scales or caps its logits after the head, which "
            "Laterna does not do; choose a model of another family"
        )
