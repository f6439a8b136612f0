"""What an answer hangs on: the image as the model saw it, and which parts of it decided.

Occlusion covers a part of the image and looks how much less likely the answer becomes; relative
attention asks where the answer's tokens look, compared with a question about everything; the
nearest words say what each image token means to the language model.

Shapes: b covered images · c channels · h, w pixels · m image tokens of the map · n tokens of the
answer · t tokens of the row · d width · v vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor

from laterna.data.chat import render_prompt
from laterna.data.encoding import IMAGE_SENTINEL
from laterna.data.masking import tokenize, tokenize_prompt, with_sentinels
from laterna.errors import LaternaError
from laterna.inference.covering import Covering, Window, grid_of, windows_of
from laterna.inference.engine import Engine
from laterna.inference.explanation import (
    Asked,
    Attention,
    CellWords,
    Explanation,
    Lens,
    Map,
    Occlusion,
    ShownImage,
    TokenShown,
    TokenWords,
    View,
    Words,
)
from laterna.inference.inside import attention_rows, layer_words, nearest_words
from laterna.inference.sampling import AnswerText, Decoding, Token
from laterna.model.fusion import Fusion, PrefixFusion
from laterna.model.vlm import VisionLanguageModel
from laterna.records import (
    DEFAULT_IMAGE_TOKEN,
    IMAGE_TOKEN_INDEX,
    InstructionRecord,
    Record,
    Turn,
)

GENERIC_QUESTION = "Write a general description of the image."
"""What relative attention is relative to (Zhang et al. 2025, arXiv 2502.17422)."""
WORDS = 3
"""Words that are told of each cell."""
MAPS = ("occlusion", "attention", "words")
"""Methods whose maps a page shows where the model has them."""


def explain(
    engine: Engine, asked: Asked, proceed: Callable[[], None] = lambda: None
) -> Explanation:
    """Explain an answer. Every piece of work is done by the engine between two of its steps.

    `proceed` is called between the pieces; what it raises ends the work. Raises LaternaError for
    what cannot be explained, TooLongError where the chat and its answer are too long, and what the
    engine raises.
    """
    _require_explainable(engine.model, asked)
    prompt = tokenize_prompt(asked.turns, engine.model.tokenizer, engine.model.template)
    if asked.answer is None:
        answer = _written(engine, asked, proceed)
    elif own := engine.recall(prompt, asked.answer):
        answer = _without_end(engine.model, own)
    else:
        prompt, answer = _given(engine.model, asked)
    work = _Work(engine, asked, prompt, answer, proceed)
    found: dict[str, Any] = {name: METHODS[name](work) for name in dict.fromkeys(asked.methods)}
    return work.explanation(found)


def possible_methods(fusion: Fusion) -> tuple[str, ...]:
    """Return the methods that tell something where images are joined to the text in this way.

    Where the decoder does not read the image's tokens among its own, nothing in it is a look at
    one; and tokens as wide as the encoder's features are near no words.
    """
    if not isinstance(fusion, PrefixFusion):
        return ("occlusion",)
    return ("occlusion", "words") if fusion.encodes else tuple(METHODS)


def shown_methods(fusion: Fusion) -> tuple[str, ...]:
    """Return the methods whose maps a page shows, unless told otherwise."""
    return tuple(name for name in MAPS if name in possible_methods(fusion))


def _require_explainable(model: VisionLanguageModel, asked: Asked) -> None:
    unknown = [name for name in asked.methods if name not in METHODS]
    if unknown:
        raise LaternaError(f"{unknown[0]!r}: no such method; use {', '.join(METHODS)}")
    possible = possible_methods(model.fusion)
    for name in asked.methods:
        if name not in possible:
            raise LaternaError(
                f"{name}: the images of this model are joined to the text by "
                f"{type(model.fusion).__name__}, where it tells nothing; use {', '.join(possible)}"
            )
    if not asked.images:
        raise LaternaError("there is no image in this chat, so there is nothing to explain")
    if not 0 <= asked.which < len(asked.images):
        raise LaternaError(f"image {asked.which}: the chat has {len(asked.images)}, counted from 0")
    if asked.window < 1:
        raise LaternaError(f"window = {asked.window}: give at least 1")


def _written(engine: Engine, asked: Asked, proceed: Callable[[], None]) -> list[int]:
    """Let the model answer; return the answer's ids without its end."""
    decoding = Decoding(max_new_tokens=asked.max_new_tokens)
    request = engine.submit(asked.turns, asked.images, decoding, fit=True)
    try:
        for _ in request:
            proceed()
    finally:
        request.cancel()
    return _without_end(engine.model, [token.id for token in request.tokens])


def _given(model: VisionLanguageModel, asked: Asked) -> tuple[list[int], list[int]]:
    """Return the ids of the prompt and of a given answer, as they would be trained on."""
    answer = Turn(role="assistant", text=asked.answer or "", loss=True)
    record = InstructionRecord(
        id="the answer",
        images=tuple(map(str, range(len(asked.images)))),
        turns=(*(replace(turn, loss=False) for turn in asked.turns), answer),
    )
    sample = tokenize(record, model.tokenizer, model.template)
    first = sample.targets.index(True) if True in sample.targets else len(sample.targets)
    pairs = zip(sample.input_ids, sample.targets, strict=True)
    learned = [token for token, is_target in pairs if is_target]
    return list(sample.input_ids[:first]), _without_end(model, learned)


def _without_end(model: VisionLanguageModel, ids: list[int]) -> list[int]:
    ends = {*model.end_of_turn(), *model.tokenizer.all_special_ids}
    kept = list(itertools.takewhile(lambda token: token not in ends, ids))
    if not model.tokenizer.decode(kept).strip():
        raise LaternaError("the answer is empty, so there is nothing to explain")
    return kept


class _Work:
    """One explanation on its way: the row, the grid, and what all methods need."""

    def __init__(
        self,
        engine: Engine,
        asked: Asked,
        prompt: list[int],
        answer: list[int],
        proceed: Callable[[], None],
    ) -> None:
        self.engine, self.asked, self.proceed = engine, asked, proceed
        self.model = engine.model
        self.prompt, self.answer = prompt, answer
        sizes = [self.model.image_tokens(*image.size) for image in asked.images]
        self.counts = sizes
        self.length = len(prompt) - len(sizes) + sum(sizes)
        engine.require_room(self.length, len(answer))
        self.side, self.lead = grid_of(self.model)
        self.covering = Covering(self.model.prepare, asked.images[asked.which], self.side)
        self.tokens: list[Tensor] = [
            self.call(partial(self.model.encode_images, [image]))[0] for image in asked.images
        ]
        """Of each image (m, d), none covered."""
        self.logprobs_n: Tensor
        (self.logprobs_n,) = self.call(lambda: self._logprobs([self.tokens]))

    def call(self, work: Callable[[], Any]) -> Any:
        """Run a piece of work in the engine's thread, if it is to go on."""
        self.proceed()

        def quietly() -> Any:
            with torch.no_grad():
                return work()

        return self.engine.call(quietly)

    def map_tokens(self, what: str) -> slice:
        """Return where the tokens of the grid's cells stand among those of the image.

        Raises LaternaError where the connector's tokens are no map of the image.
        """
        if self.lead is None:
            raise LaternaError(
                f"{what}: the connector's tokens are no map of the image, so none of them "
                "belongs to a part of it; use occlusion"
            )
        return slice(self.lead, self.lead + self.side**2)

    def covered(self) -> Iterator[tuple[list[Window], Tensor]]:
        """Yield windows of the grid, and the answer's log probabilities (b, n) while each is
        covered: one at a time while others are being answered, who wait for it; else as many as
        the engine takes tokens of prompts in a step.
        """
        settings = self.engine.settings
        rows = settings.chunk // (self.length + len(self.answer))
        tiles = settings.image_batch // len(self.covering.pixels_bchw)
        left = windows_of(self.side, self.asked.window)
        while left:
            most = 1 if self.engine.stats().running else max(1, min(rows, tiles))
            some, left = left[:most], left[most:]
            pixels_bchw = torch.cat([self.covering.cover(window) for window in some])
            yield some, self.call(partial(self._without, pixels_bchw, len(some)))

    def place(self, ids: list[int]) -> slice:
        """Return where the image's tokens stand in the row of these ids."""
        marks = [at for at, token in enumerate(ids) if token == IMAGE_TOKEN_INDEX]
        index = self.asked.which
        start = marks[index] + sum(self.counts[:index]) - index
        return slice(start, start + self.counts[index])

    def cells(self, words: Sequence[TokenWords]) -> CellWords:
        """Lay what is said of each cell out in rows."""
        side = self.side
        return tuple(tuple(words[at : at + side]) for at in range(0, side * side, side))

    def embeds(self, ids: list[int], images: Sequence[Sequence[Tensor]]) -> Tensor:
        """Embed a row of ids once for each set of images: (b, t, d)."""
        inputs = self.model.fusion.generation_inputs(
            self.model.language, [ids] * len(images), [one for row in images for one in row]
        )
        embeds_btd: Tensor = inputs["inputs_embeds"]
        return embeds_btd

    def _without(self, pixels_bchw: Tensor, count: int) -> Tensor:
        """Return the log probabilities (count, n) with each of `count` covered images."""
        asked, model = self.asked, self.model
        tilings = model.prepare.tilings([asked.images[asked.which].size] * count)
        before, after = self.tokens[: asked.which], self.tokens[asked.which + 1 :]
        seen = model.connect(model.vision(pixels_bchw.to(model.device)), tilings)
        return self._logprobs([[*before, tokens_md, *after] for tokens_md in seen])

    def _logprobs(self, images: Sequence[Sequence[Tensor]]) -> Tensor:
        """Return the log probabilities (b, n) of the answer's tokens for each set of images."""
        model = self.model
        logits_bnv = model.fusion.answer_logits(model.language, self.prompt, self.answer, images)
        ids_n = torch.tensor(self.answer, device=logits_bnv.device)
        logprobs_bnv = logits_bnv.float().log_softmax(-1)
        places_n = torch.arange(len(ids_n), device=ids_n.device)
        found: Tensor = logprobs_bnv[:, places_n, ids_n].cpu()
        return found

    def explanation(self, found: dict[str, Any]) -> Explanation:
        """Return what was found, with the chat as the model read it."""
        asked, tokenizer = self.asked, self.model.tokenizer
        prompt = render_prompt(
            with_sentinels(asked.turns), tokenizer, self.model.template, image_mark=IMAGE_SENTINEL
        )
        return Explanation(
            prompt=prompt.replace(IMAGE_SENTINEL, DEFAULT_IMAGE_TOKEN),
            prompt_tokens=self.length,
            answer=tokenizer.decode(self.answer, skip_special_tokens=True).strip(),
            tokens=tuple(
                TokenShown(text=text, logprob=logprob)
                for text, logprob in zip(
                    _pieces(tokenizer, self.answer), self.logprobs_n.tolist(), strict=True
                )
            ),
            image=ShownImage(
                index=asked.which,
                views=tuple(
                    View(image=image, rows=self.side, columns=self.side)
                    for image in self.covering.shown()
                ),
                tokens=self.counts[asked.which],
            ),
            **found,
        )


def _pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return the text that each token adds; a character is added by the last of its bytes."""
    text = AnswerText(tokenizer, ())
    pieces = [text.push(Token(token))[0] for token in ids]
    pieces[-1] += text.end()[0]
    return pieces


def _occlusion(work: _Work) -> Occlusion:
    drops_nyx = torch.zeros(len(work.answer), work.side, work.side)
    for windows, logprobs_bn in work.covered():
        for (rows, columns), logprobs_n in zip(windows, logprobs_bn, strict=True):
            drops_nyx[:, rows, columns] = (work.logprobs_n - logprobs_n)[:, None, None]
    return Occlusion(
        window=work.asked.window,
        overall=_map(drops_nyx.sum(0)),
        tokens=tuple(map(_map, drops_nyx)),
    )


def _attention(work: _Work) -> Attention:
    cells = work.map_tokens("attention")
    generic = _about_everything(work.asked.turns)
    other = tokenize_prompt(generic, work.model.tokenizer, work.model.template)

    def seen(ids: list[int], n: int) -> Tensor:
        """Return the attention (n, tokens of the image) of the last `n` tokens of a row."""
        rows_nt = attention_rows(work.model.language, work.embeds(ids, [work.tokens]), n)
        return rows_nt[:, work.place(ids)]

    # A token is written from where the one before it stands.
    found = work.call(lambda: seen(work.prompt + work.answer[:-1], len(work.answer)))
    usual = work.call(lambda: seen(other, 1))
    relative_nyx = (found[:, cells] / usual[:, cells].clamp_min(1e-12)).unflatten(
        1, (work.side, work.side)
    )
    note = (
        "attention from where each token of the answer is written to the image's tokens, mean of "
        f"all layers and heads, divided by that for the question {GENERIC_QUESTION!r}"
    )
    if work.model.prepare.grids:
        share = float(found[:, cells].sum() / found.sum())
        note += f"; of the whole view alone, which gets {share:.0%} of the attention to the image"
    return Attention(
        overall=_map(relative_nyx.mean(0)), tokens=tuple(map(_map, relative_nyx)), note=note
    )


def _about_everything(turns: Sequence[Turn]) -> list[Turn]:
    """Return the chat with a general question in the place of the last, its images kept."""
    marks = f"{DEFAULT_IMAGE_TOKEN}\n" * turns[-1].text.count(DEFAULT_IMAGE_TOKEN)
    return [*turns[:-1], replace(turns[-1], text=marks + GENERIC_QUESTION)]


def _words(work: _Work) -> Words:
    tokens_md = work.tokens[work.asked.which][work.map_tokens("words")]
    return Words(words=work.cells(work.call(lambda: nearest_words(work.model, tokens_md, WORDS))))


def _lens(work: _Work) -> Lens:
    cells = work.map_tokens("lens")
    image = work.place(work.prompt)
    places = slice(image.start + cells.start, image.start + cells.stop)

    def layers() -> list[list[TokenWords]]:
        embeds_1td = work.embeds(work.prompt, [work.tokens])
        return list(layer_words(work.model, embeds_1td, places, WORDS))

    return Lens(layers=tuple(map(work.cells, work.call(layers))))


def _map(values_yx: Tensor) -> Map:
    return tuple(map(tuple, values_yx.tolist()))


METHODS: dict[str, Callable[[_Work], Record]] = {
    "occlusion": _occlusion,
    "attention": _attention,
    "words": _words,
    "lens": _lens,
}
"""Name of a method, and of its field of `Explanation`, to what does it."""
