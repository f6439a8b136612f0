"""What `laterna.load` returns: an assistant that answers questions about images."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict, Unpack, overload

import msgspec
from PIL import Image
from torch import Tensor

from laterna.data.images.opening import load_image
from laterna.errors import LaternaError
from laterna.inference.batching.pace import EngineSettings
from laterna.inference.engine import Engine
from laterna.inference.explain import explain
from laterna.inference.explanation import MAX_NEW_TOKENS as MOST_EXPLAINED
from laterna.inference.explanation import Asked, Explanation
from laterna.inference.generation import Prompt
from laterna.inference.sampling import Decoding
from laterna.model.build import place
from laterna.model.checkpoint import save_checkpoint
from laterna.model.exporters import export
from laterna.model.importers import read_model
from laterna.model.vlm import VisionLanguageModel
from laterna.records import DEFAULT_IMAGE_TOKEN, Turn

ImageLike = Image.Image | Path | str | None
"""An image: opened, or the path of its file; None: the question is asked without one."""
Question = str | Sequence[Turn]
"""A question, or the turns of a chat so far, a user's last."""
MAX_NEW_TOKENS = 256
"""Longest answer in tokens, unless told otherwise; a shorter one where no more fits."""


class DecodingOptions(TypedDict, total=False):
    """Keywords of `Assistant.answer`, as it explains them."""

    max_new_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: Sequence[str]


class Assistant:
    """A trained network with its tokenizer and template: images and questions in, words out."""

    def __init__(self, model: VisionLanguageModel, settings: EngineSettings | None = None) -> None:
        self.model = model
        self.settings = settings
        self._engine: Engine | None = None
        self._making = threading.Lock()

    @property
    def engine(self) -> Engine:
        """What answers: made when it is first asked for, and anew where the last one failed.

        A server keeps the one that it was given, and sees by `alive` that it has failed.
        """
        with self._making:
            if self._engine is None or not self._engine.alive:
                self._engine = Engine(self.model, self.settings)
            return self._engine

    @overload
    def answer(
        self, image: ImageLike, question: Question, **decoding: Unpack[DecodingOptions]
    ) -> str: ...

    @overload
    def answer(
        self, image: Sequence[tuple[ImageLike, Question]], **decoding: Unpack[DecodingOptions]
    ) -> list[str]: ...

    def answer(
        self,
        image: ImageLike | Sequence[tuple[ImageLike, Question]],
        question: Question | None = None,
        **decoding: Unpack[DecodingOptions],
    ) -> str | list[str]:
        """Answer a question about an image; a list of (image, question) pairs gives a list.

        An image stands before the first question, unless a turn has its `<image>` mark. With a
        `temperature` of 0 the likeliest token is taken each time; above, tokens are drawn among
        the `top_k` likeliest (0: all) and the likeliest that together have the probability
        `top_p`, the same ones for one `seed`. A text of `stop` ends the answer and is no part of
        it. Raises LaternaError when an image cannot be read, an argument cannot be meant, or more
        is asked than the model has positions for.
        """
        if question is not None:
            prompts = [_prompt(image, question)]
        elif isinstance(image, str | Path | Image.Image | None):
            raise LaternaError(
                "answer(image, question): a question is missing; a batch is one list of "
                "(image, question) pairs"
            )
        else:
            prompts = [_prompt(*_pair(pair)) for pair in image]
        texts = list(self.answer_prompts(prompts, **decoding))
        return texts if question is None else texts[0]

    def answer_prompts(
        self, prompts: Iterable[Prompt], **decoding: Unpack[DecodingOptions]
    ) -> Iterator[str]:
        """Yield the answers to prompts (turns and their opened images), in order, as `answer`.

        Prompts are taken from their iterator a few at a time, so there may be any number of them.
        """
        asked, fit = _decoding(**decoding)
        for answer in self.engine.answers(prompts, asked, fit=fit):
            yield answer.text.strip()

    def stream(
        self, image: ImageLike, question: Question, **decoding: Unpack[DecodingOptions]
    ) -> Iterator[str]:
        """Yield the answer that `answer` gives, in pieces as it is written.

        Closing the iterator early ends the writing.
        """
        turns, images = _prompt(image, question)
        return self.stream_prompt(turns, images, **decoding)

    def stream_prompt(
        self,
        turns: Sequence[Turn],
        images: Sequence[Image.Image],
        **decoding: Unpack[DecodingOptions],
    ) -> Iterator[str]:
        """Yield the answer to a chat whose `<image>` marks stand for opened images, in pieces."""
        asked, fit = _decoding(**decoding)
        request = self.engine.submit(turns, images, asked, fit=fit)
        try:
            yield from (event.text for event in request if event.text)
        finally:
            request.cancel()

    def explain(
        self,
        image: ImageLike,
        question: Question,
        answer: str | None = None,
        methods: Sequence[str] = ("occlusion",),
        *,
        window: int = 1,
        max_new_tokens: int = MOST_EXPLAINED,
    ) -> Explanation:
        """Say what in the image an answer hangs on; without `answer`, the one that is given.

        `methods` are of `occlusion` (parts of the image are covered in turn: how much less likely
        is the answer?), `attention` (where its tokens look, relative to a general question),
        `words` (the words nearest to each image token) and `lens` (the same behind each layer).
        `window` is the side of what is covered, in cells of the grid. Raises LaternaError for what
        cannot be explained: a chat without an image, images that do not stand in the text.
        """
        turns, images = _prompt(image, question)
        asked = Asked(
            turns, images, answer, 0, methods, window=window, max_new_tokens=max_new_tokens
        )
        return explain(self.engine, asked)

    def logits(self, images: Sequence[Image.Image], text: str) -> Tensor:
        """Return the logits (tokens, vocabulary) over a text as it stands, without a template.

        Its `<image>` marks are filled with the images in order. Raises LaternaError when marks
        and images differ in number.
        """
        return self.model.logits(images, text)

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
        if self.model.recipe is None:
            raise LaternaError("this assistant has no recipe to save; set `assistant.model.recipe`")
        return save_checkpoint(
            Path(folder),
            self.model,
            self.model.recipe,
            stage=self.model.stage,
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
        return export(self.model, Path(folder), to, precision, overwrite=overwrite, of=of)


def load(
    source: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    language: str = "",
    vision: str = "",
    template: str = "",
    fit: str = "",
) -> Assistant:
    """Load an assistant from a Laterna checkpoint, a `llava-hf` or an original LLaVA folder.

    Folders and hub ids are read alike. `device` and `dtype` say where it answers and in which
    numbers (`cpu`, `cuda`; `float32`, `bfloat16`, `float16`); None: an accelerator in bfloat16
    where there is one, else the CPU in float32. The other arguments say what foreign files leave
    open, or overrule them: the base `language` model of a projector or adapters alone, the folder
    or hub id of the `vision` encoder, the chat `template` (`own` or a shipped one), and how images
    `fit`. Raises LaternaError when the source is none of these, or lacks a file.
    """
    model = read_model(source, language=language, vision=vision, template=template, fit=fit)
    return Assistant(place(model, device, dtype))


def _decoding(
    *,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int | None = None,
    stop: Sequence[str] = (),
) -> tuple[Decoding, bool]:
    """Return how to choose tokens, and whether the longest answer may be shortened to fit."""
    asked = Decoding(
        max_new_tokens=MAX_NEW_TOKENS if max_new_tokens is None else max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
    )
    return asked, max_new_tokens is None


def _pair(pair: object) -> tuple[ImageLike, Question]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise LaternaError(
            f"answer: {str(pair)[:60]!r} is not an (image, question) pair; "
            "a batch is one list of them"
        )
    return pair[0], pair[1]


def _prompt(image: object, question: Question) -> Prompt:
    if not isinstance(question, str | list | tuple) or not question:
        raise LaternaError("a question is a text that is not empty, or a list of turns")
    turns = [Turn(role="user", text=question)] if isinstance(question, str) else list(question)
    if image is None:
        return turns, []
    if not isinstance(image, str | Path | Image.Image):
        raise LaternaError(
            f"an image of type {type(image).__name__}: give the path of a file or an opened "
            "PIL image (an array becomes one by `Image.fromarray`)"
        )
    opened = image if isinstance(image, Image.Image) else load_image(Path(image))
    if not any(DEFAULT_IMAGE_TOKEN in turn.text for turn in turns):
        first = next(number for number, turn in enumerate(turns) if turn.role == "user")
        marked = f"{DEFAULT_IMAGE_TOKEN}\n{turns[first].text}"
        turns[first] = msgspec.structs.replace(turns[first], text=marked)
    return turns, [opened.convert("RGB")]
