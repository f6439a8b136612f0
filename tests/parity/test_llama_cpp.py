"""llama.cpp itself reads the exported pair and says what Laterna says (`make test-gguf`).

llama.cpp's LLaVA graph, as built into llama-cpp-python 0.3.36, puts the class token behind the
patches but its position before theirs, and hands on rows 1 to n (its issue #25814). A file cannot
mend that, so images are compared in the order that the reader turns out to have: `first` is
CLIP's own, and what a mended reader has.
"""

from __future__ import annotations

import base64
import ctypes
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from laterna.inference.assistant import Assistant
from laterna.inference.generation import Decoding, generate_tokens
from laterna.model.build import build_from_recipe
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import load_recipe
from laterna.records import Turn

llama_cpp = pytest.importorskip(
    "llama_cpp", reason="llama-cpp-python is not installed; `make test-gguf` builds it"
)
mtmd = pytest.importorskip("llama_cpp.mtmd_cpp")
chat_format = pytest.importorskip("llama_cpp.llama_chat_format")

pytestmark = pytest.mark.slow
QUESTIONS = ("What is on the table?", "How many toys are there?", "Describe what you see.")


class Pair(NamedTuple):
    assistant: VisionLanguageModel
    folder: Path
    llama: Any


@pytest.fixture(scope="module")
def nano() -> VisionLanguageModel:
    """The shipped base models with a seeded connector: untaught, but it speaks."""
    return build_from_recipe(load_recipe("nano"))


@pytest.fixture(scope="module", params=["f32", "f16"])
def pair(
    request: Any, nano: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp(request.param) / "gguf"
    Assistant(nano).export(folder, to="gguf", precision=request.param)
    llama = llama_cpp.Llama(
        str(folder / "model.gguf"),
        n_ctx=512,
        n_threads=1,
        logits_all=True,
        verbose=False,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
    )
    yield Pair(nano, folder, llama)
    llama.close()


def scenes(side: int) -> list[Image.Image]:
    """Images of the encoder's own size, so that nothing is resized: noise, and large squares."""
    random = np.random.default_rng(0)
    fine = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
    coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    coarse = coarse.repeat(side // 4, axis=0).repeat(side // 4, axis=1)
    return [Image.fromarray(fine), Image.fromarray(coarse)]


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@torch.no_grad()
def features_in_order(assistant: VisionLanguageModel, image: Image.Image, order: str) -> Tensor:
    """Return the encoder's features (1, n, d) with the class token `first` or `last` in the row."""
    model = assistant.vision.model
    embedded = model.embeddings(assistant.prepare([image]))
    positions = model.embeddings.position_embedding.weight
    tokens = embedded - positions
    if order == "last":
        tokens = tokens.roll(-1, dims=1)
    hidden = model.pre_layrnorm(tokens + positions)
    hidden = model.encoder(inputs_embeds=hidden).last_hidden_state
    return hidden[:, 1:]


def encoded(pair: Pair, image: Image.Image) -> Tensor:
    """Return what the reader makes of an image: embeddings (n, d_language)."""
    settings = mtmd.mtmd_context_params_default()
    settings.use_gpu, settings.n_threads, settings.warmup_ratio = False, 1, False
    context = mtmd.mtmd_init_from_file(
        str(pair.folder / "mmproj.gguf").encode(), pair.llama.model, settings
    )
    data = bytearray(png(image))
    buffer = (ctypes.c_uint8 * len(data)).from_buffer(data)
    bitmap = mtmd.mtmd_helper_bitmap_init_from_buf(context, buffer, len(data), False)
    text = mtmd.mtmd_input_text()
    text.text = mtmd.mtmd_default_marker()
    text.text_len = len(text.text)
    chunks = mtmd.mtmd_input_chunks_init()
    bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
    assert mtmd.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1) == 0
    parts = [mtmd.mtmd_input_chunks_get(chunks, i)
             for i in range(mtmd.mtmd_input_chunks_size(chunks))]  # fmt: skip
    (shown,) = [
        part
        for part in parts
        if mtmd.mtmd_input_chunk_get_type(part) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE
    ]
    assert mtmd.mtmd_encode_chunk(context, shown) == 0
    shape = (
        mtmd.mtmd_input_chunk_get_n_tokens(shown),
        pair.assistant.language.get_input_embeddings().embedding_dim,
    )
    address = mtmd.mtmd_get_output_embd(context)
    found = np.ctypeslib.as_array(address, shape=(shape[0] * shape[1],)).reshape(shape).copy()
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_bitmap_free(bitmap)
    mtmd.mtmd_free(context)
    return torch.from_numpy(found)


@torch.no_grad()
def gaps(pair: Pair, image: Image.Image) -> dict[str, float]:
    """Return the largest difference of the reader's embeddings from ours, by order."""
    theirs = encoded(pair, image)
    ours = {
        order: pair.assistant.connector(features_in_order(pair.assistant, image, order))[0]
        for order in ("first", "last")
    }
    return {order: float((theirs - embeddings).abs().max()) for order, embeddings in ours.items()}


def test_the_order_first_is_the_encoders_own(nano: VisionLanguageModel) -> None:
    (image, _) = scenes(nano.prepare.size)
    with torch.no_grad():
        own = nano.vision(nano.prepare([image]))
    torch.testing.assert_close(features_in_order(nano, image, "first"), own, atol=1e-5, rtol=0)


def test_text_is_tokenized_and_continued_as_by_laterna(pair: Pair) -> None:
    text = "<s>USER: What is on the table, are there 23 red apples? ASSISTANT: There are"
    ids = pair.assistant.tokenizer(text, add_special_tokens=False).input_ids
    assert pair.llama.tokenize(text.encode(), add_bos=False, special=True) == ids
    pair.llama.reset()
    pair.llama.eval(ids)
    ours = pair.assistant.logits([], text).numpy()
    theirs = pair.llama.scores[: len(ids), : ours.shape[1]]
    precise = pair.folder.parent.name.startswith("f32")
    assert np.abs(theirs - ours).max() < (1e-4 if precise else 2e-2)


def test_a_image_becomes_the_same_embeddings(pair: Pair) -> None:
    precise = pair.folder.parent.name.startswith("f32")
    for image in scenes(pair.assistant.prepare.size):
        found = gaps(pair, image)
        nearest = min(found, key=lambda order: found[order])
        assert found[nearest] < (5e-3 if precise else 2e-2), found
        assert max(found.values()) > 0.5, found  # the test can tell them apart


def test_the_chat_handler_describes_a_image_token_for_token(pair: Pair) -> None:
    assistant = pair.assistant
    handler = Handler(str(pair.folder / "mmproj.gguf"), verbose=False)
    pair.llama.chat_handler = handler
    for image in scenes(assistant.prepare.size):
        found = gaps(pair, image)
        order = min(found, key=lambda name: found[name])
        features = features_in_order(assistant, image, order)
        for question in QUESTIONS:
            turns = [Turn(role="user", text=f"<image>\n{question}")]
            (ours,) = generate_tokens(
                assistant, [(turns, [])], Decoding(max_new_tokens=24), features_bnd=features
            )
            theirs = described(pair.llama, image, question)
            text = assistant.tokenizer.decode(ours, skip_special_tokens=True)
            assert theirs == text
            assert text.strip()


class Handler(chat_format.Llava15ChatHandler):  # type: ignore[misc,name-defined]
    """llama-cpp-python's LLaVA-1.5 handler with the nano models' own way to write a chat."""

    DEFAULT_SYSTEM_MESSAGE = None
    CHAT_FORMAT = (
        "{% for message in messages %}{{ 'USER: ' }}"
        "{% for piece in message.content %}"
        "{% if piece.type == 'image_url' %}{{ piece.image_url.url + '\n' }}{% endif %}"
        "{% if piece.type == 'text' %}{{ piece.text }}{% endif %}"
        "{% endfor %}{{ ' ' }}{% endfor %}ASSISTANT:"
    )


def described(llama: Any, image: Image.Image, question: str) -> str:
    url = "data:image/png;base64," + base64.b64encode(png(image)).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": question},
    ]
    reply = llama.create_chat_completion(
        messages=[{"role": "user", "content": content}],
        temperature=0.0,
        repeat_penalty=1.0,
        max_tokens=24,
    )
    return str(reply["choices"][0]["message"]["content"])
