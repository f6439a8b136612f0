"""A tokenizer as the keys of a GGUF text file: byte-level BPE, and Llama's own kind.

llama.cpp holds a table of rules by which text is cut before merging; a tokenizer is written only
where its rule is one of them, for another rule would give other tokens without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE

from laterna.data.masking import tokenise_prompt
from laterna.errors import LaternaError
from laterna.model.exporters.gguf_sentencepiece import prefixes_space, scores
from laterna.model.packaged import PRE_TOKENIZERS
from laterna.records import Turn

FORMAT = "llama.cpp's text file"
_BYTE = re.compile("<0x[0-9A-F]{2}>")


class TokenType(IntEnum):
    """What kind of token an entry is (llama.cpp's numbers)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def add_tokenizer(
    writer: Any, tokenizer: Any, *, rows: int, template: str, ends: Sequence[int]
) -> None:
    """Add a tokenizer, its chat template and the ids that end an answer.

    `rows` is the size of the embedding: ids without a token are written as unused. Raises
    LaternaError for a tokenizer of a kind, or with a rule, that llama.cpp does not have.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if state["model"]["type"] != "BPE":
        raise _refusal(f"its model is {state['model']['type']}, not BPE")
    # Programs that bring their own template rely on the key; those that use ours, which writes
    # the BOS itself, leave the second one out.
    chat = tokenise_prompt([Turn(role="user", text="a")], tokenizer, template)
    bos = tokenizer.bos_token_id is not None and chat[:1] == [tokenizer.bos_token_id]
    tokens, types = _entries(state, rows, tokenizer.unk_token)
    if state["model"]["byte_fallback"]:
        writer.add_string("tokenizer.ggml.model", "llama")
        writer.add_string("tokenizer.ggml.pre", "default")
        writer.add_array("tokenizer.ggml.scores", scores(state, rows))
        prefix = prefixes_space(state, begins_with_bos=bos)
    else:
        writer.add_string("tokenizer.ggml.model", "gpt2")
        writer.add_string("tokenizer.ggml.pre", _rule(state))
        writer.add_array("tokenizer.ggml.merges", _merges(state))
        prefix = False
    writer.add_array("tokenizer.ggml.tokens", tokens)
    writer.add_array("tokenizer.ggml.token_type", [int(kind) for kind in types])
    for name, holds in (("add_bos_token", bos), ("add_eos_token", False)):
        writer.add_bool(f"tokenizer.ggml.{name}", holds)
    writer.add_bool("tokenizer.ggml.add_space_prefix", prefix)
    _add_ids(writer, tokenizer, ends)
    writer.add_string("tokenizer.chat_template", template)


def _merges(state: dict[str, Any]) -> list[str]:
    merges = state["model"]["merges"]
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]


def _rule(state: dict[str, Any]) -> str:
    """Return llama.cpp's name for the rule by which text is cut before merging."""
    if state["normalizer"] is not None:
        raise _refusal(f"it changes text first, by {state['normalizer']['type']}")
    rules = {name: _cutting(build()) for name, build in PRE_TOKENIZERS.items()}
    own = _without_offsets(state["pre_tokenizer"])
    found = [name for name, rule in rules.items() if rule == own]
    if not found:
        raise _refusal(f"it cuts text by {json.dumps(own)}, and known rules are {', '.join(rules)}")
    return found[0]


def _cutting(pre_tokenizer: Any) -> Any:
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizer
    return _without_offsets(json.loads(backend.to_str())["pre_tokenizer"])


def _without_offsets(rule: Any) -> Any:
    """Drop what does not decide where text is cut."""
    if isinstance(rule, dict):
        return {key: _without_offsets(part) for key, part in rule.items() if key != "trim_offsets"}
    if isinstance(rule, list):
        return [_without_offsets(part) for part in rule]
    return rule


def _entries(
    state: dict[str, Any], rows: int, unknown: str | None
) -> tuple[list[str], list[TokenType]]:
    tokens = [f"[unused {number}]" for number in range(rows)]
    types = [TokenType.UNUSED] * rows
    for text, number in state["model"]["vocab"].items():
        is_byte = state["model"]["byte_fallback"] and _BYTE.fullmatch(text)
        tokens[number], types[number] = text, TokenType.BYTE if is_byte else TokenType.NORMAL
    for added in state["added_tokens"]:
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], kind
    if state["model"]["byte_fallback"] and unknown in tokens:
        types[tokens.index(unknown)] = TokenType.UNKNOWN
    return tokens, types


def _add_ids(writer: Any, tokenizer: Any, ends: Sequence[int]) -> None:
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id in ends else ends[0]
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": eos,
        "eot": next((end for end in ends if end != eos), None),
        "padding": tokenizer.pad_token_id,
        "unknown": tokenizer.unk_token_id,
    }
    for name, number in ids.items():
        if number is not None:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)


def _refusal(reason: str) -> LaternaError:
    return LaternaError(f"the tokenizer cannot be exported to {FORMAT}: {reason}")
