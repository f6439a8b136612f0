"""Tokenizers of SentencePiece's kind (Llama, Vicuna, Mistral) in llama.cpp's terms.

The two merge by different words: tokenizers by a list of pairs in order, llama.cpp any two
neighbours that make a token, the best score first. They agree where the list has every pair that
makes a token, and all pairs of one token together; elsewhere a text could become other tokens,
and the tokenizer is refused.
"""

from __future__ import annotations

import warnings
from typing import Any

from laterna.errors import LaternaError

MARK = "▁"
"""Stands for a space."""
_PREPEND = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": MARK},
        {"type": "Replace", "pattern": {"String": " "}, "content": MARK},
    ],
}
_FIRST = {
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": MARK},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Metaspace", "replacement": mark, "prepend_scheme": scheme, "split": False}
            for mark, scheme in ((" ", "first"), (MARK, "never"))
        ],
    },
}
"""What `model.sentencepiece` writes for `legacy: false`: a space before a text's first piece."""


def prefixes_space(state: dict[str, Any], *, begins_with_bos: bool) -> bool:
    """Say whether llama.cpp is to put a space before text, also behind a special token.

    `state` is the tokenizer's JSON; `begins_with_bos`: whether every chat begins with BOS, so that
    no text stands first. Raises LaternaError for a rule that llama.cpp does not have.
    """
    normalizer, rule = state["normalizer"], state["pre_tokenizer"]
    if normalizer == _PREPEND and rule is None:
        return True
    if normalizer == _FIRST["normalizer"] and rule == _FIRST["pre_tokenizer"]:
        warnings.warn(
            "llama.cpp puts a space behind every special token, and this tokenizer (legacy: false) "
            "puts none behind an end of turn: from the second question on, llama.cpp reads a chat "
            "with other tokens than in training",
            stacklevel=2,
        )
        return True
    scheme = None
    if normalizer is None and rule and rule["type"] == "Metaspace" and not rule["split"]:
        scheme = rule["prepend_scheme"] if rule["replacement"] == MARK else None
    # `always` is none of llama.cpp's: it puts no space before one that is there, llama.cpp does.
    # What stands `first` is BOS, where every chat begins with it, and no space goes there.
    if scheme == "never" or (scheme == "first" and begins_with_bos):
        return False
    raise LaternaError(
        "the tokenizer cannot be exported to llama.cpp's text file: it marks spaces in a way that "
        f"llama.cpp does not have: {normalizer or ''} {rule or ''}".rstrip()
    )


def scores(state: dict[str, Any], rows: int) -> list[float]:
    """Return a score a token, by which llama.cpp merges as the tokenizer's list does.

    Raises LaternaError when no scores can.
    """
    vocabulary: dict[str, int] = state["model"]["vocab"]
    pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair)
             for pair in state["model"]["merges"]]  # fmt: skip
    special = {added["content"] for added in state["added_tokens"]}
    ranks = _ranks(pairs)
    _insist_on_every_pair(vocabulary.keys() - special, set(pairs))
    found = [0.0] * rows
    for text, number in vocabulary.items():
        found[number] = -float(ranks.get(text, len(ranks) + number))
    return found


def _ranks(pairs: list[tuple[str, ...]]) -> dict[str, int]:
    """Return the order in which tokens are made."""
    ranks: dict[str, int] = {}
    last = ""
    for left, right in pairs:
        made = left + right
        if made != last and made in ranks:
            raise _refusal(f"its pairs that make {made!r} do not stand together")
        ranks.setdefault(made, len(ranks))
        last = made
    return ranks


def _insist_on_every_pair(tokens: set[str], pairs: set[tuple[str, ...]]) -> None:
    for text in tokens:
        for cut in range(1, len(text)):
            pair = (text[:cut], text[cut:])
            if pair[0] in tokens and pair[1] in tokens and pair not in pairs:
                raise _refusal(f"it makes {text!r} of other pairs, but not of {pair}")


def _refusal(reason: str) -> LaternaError:
    return LaternaError(
        f"the tokenizer cannot be exported to llama.cpp's text file: {reason}, and llama.cpp, "
        "which merges by scores, would cut some texts otherwise"
    )
