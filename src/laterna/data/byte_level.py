"""Byte-level tokenizers: every token is some bytes, and a text's tokens are its bytes, in order.

That says more cheaply than offsets and a decoder what preparation has to know of each token: where
it stands, and what it will be decoded to. It holds for byte-level BPE (GPT-2, Llama 3, Qwen,
SmolLM) as its `tokenizer.json` says, and is held against the text of every record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from laterna.data.runs import find_borders, join_runs
from laterna.data.shapes import Fitted


class ByteLevel:
    """The bytes of every token of a byte-level tokenizer."""

    def __init__(self, backend: Tokenizer) -> None:
        """Take a tokenizer that `is_byte_level`."""
        self.backend = backend
        by_id = {number: token for token, number in backend.get_vocab().items()}
        bytes_of = _bytes_of_characters()
        self._bytes = [_token_bytes(by_id.get(n, ""), bytes_of) for n in range(max(by_id) + 1)]
        self._lengths = np.array([len(content) for content in self._bytes], np.int64)

    def encode(self, chats: Sequence[Fitted]) -> list[list[int]]:
        """Return the ids of each chat's text."""
        texts = [chat.rendered.text for chat in chats]
        encoded = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [one.ids for one in encoded]

    def find_runs(
        self, ids: Sequence[list[int]], chats: Sequence[Fitted]
    ) -> Iterator[list[int] | None]:
        """Yield for each chat where the tokens of its spans begin and end, in turn.

        None is yielded where the tokens' bytes are not the text's, and where a token reaches over
        a span's border. Otherwise the tokens of a run decode to the text of its spans.
        """
        texts = [chat.rendered.text.encode() for chat in chats]
        whole = [
            b"".join(map(self._bytes.__getitem__, tokens)) == text
            for tokens, text in zip(ids, texts, strict=True)
        ]
        flat = np.fromiter(chain.from_iterable(ids), np.int64)
        ends: NDArray[np.int64] = np.concatenate([[0], np.cumsum(self._lengths[flat])])
        firsts = list(accumulate(map(len, ids), initial=0))
        borders = [_byte_borders(chat, text) for chat, text in zip(chats, texts, strict=True)]
        for good, places in zip(whole, find_borders(ends, firsts[:-1], borders), strict=True):
            yield join_runs(places) if good and places is not None else None


def is_byte_level(said: dict[str, Any]) -> bool:
    """Say of a `tokenizer.json` whether tokens are the bytes of their text, and decoded to them."""
    model = said["model"]
    return (
        (said["normalizer"] or {"type": "NFC"})["type"] == "NFC"
        and (said["decoder"] or {}).get("type") == "ByteLevel"
        and model["type"] == "BPE"
        and not any(
            model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
        )
        and _cuts_alone(said["pre_tokenizer"])
    )


def _cuts_alone(step: dict[str, Any] | None) -> bool:
    """Say whether a pre-tokenizer treats every part of a text as if it stood alone."""
    kind = (step or {}).get("type")
    if step is None or kind not in ("Sequence", "ByteLevel", "Digits", "Split"):
        return False
    if kind == "Sequence":
        steps = step["pretokenizers"]
        return all(map(_cuts_alone, steps)) and any(one["type"] == "ByteLevel" for one in steps)
    return not step.get("add_prefix_space", False)


def _bytes_of_characters() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for (GPT-2)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in shown]
    pairs = {chr(byte): byte for byte in shown}
    return pairs | {chr(256 + place): byte for place, byte in enumerate(others)}


def _token_bytes(token: str, bytes_of: dict[str, int]) -> bytes:
    """Return what the byte-level decoder makes of a token."""
    if all(character in bytes_of for character in token):
        return bytes(bytes_of[character] for character in token)
    return token.encode()


def _byte_borders(chat: Fitted, text: bytes) -> list[int]:
    borders = [border for span in chat.rendered.spans for border in span]
    if len(text) == len(chat.rendered.text):
        return borders
    return [len(chat.rendered.text[:border].encode()) for border in borders]
