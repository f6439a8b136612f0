"""The language model as llama.cpp's text file: models of the Llama family, and their tokenizer.

Keys and names of tensors are those of llama.cpp's architecture `llama`. llama.cpp has a table of
rules by which text is cut before merging; a tokenizer is written only where its rule is one of
them, for another rule would silently give other tokens.

Tokenizers of SentencePiece's kind merge by a list of pairs, in its order; llama.cpp merges any two
neighbors that make a token, the best score first. They agree where the list has every pair that
makes a token, and all pairs of one token together; others are refused.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import Tensor

from laterna.data.masking import tokenize_prompt
from laterna.errors import LaternaError
from laterna.model.exporters.parts import language_weights
from laterna.model.exporters.template import for_llama_cpp
from laterna.model.language.tokenizer import PRE_TOKENIZERS, SPACE
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Turn

FORMAT = "llama.cpp's text file"
FILE_TYPES = {torch.float32: 0, torch.float16: 1}
"""`general.file_type`: what most of the tensors are."""
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_PREPEND = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ],
}
_FIRST = {
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Metaspace", "replacement": mark, "prepend_scheme": scheme, "split": False}
            for mark, scheme in ((" ", "first"), (SPACE, "never"))
        ],
    },
}
"""What `language.tokenizer` sets for `legacy: false`: a space before a text's first piece."""


def write_text_half(assistant: VisionLanguageModel, path: Path, dtype: torch.dtype) -> None:
    """Write language model, tokenizer and template.

    Raises LaternaError for what the format cannot hold.
    """
    config = assistant.language.config
    _require_llama(config)
    with gguf_writer(path, "llama", dtype) as writer:
        writer.add_string("general.name", "Laterna: language model")
        _add_settings(writer, config)
        add_tokenizer(
            writer,
            assistant.tokenizer,
            rows=int(assistant.language.get_input_embeddings().weight.shape[0]),
            template=assistant.template,
            ends=assistant.end_of_turn(),
        )
        for name, weight in _tensors(assistant):
            add_tensor(writer, name, weight, dtype)


def _require_llama(config: Any) -> None:
    reason = ""
    rope = config.rope_parameters["rope_type"] if config.model_type == "llama" else ""
    if config.model_type != "llama":
        reason = f"a language model of type {config.model_type}: Laterna writes type llama only"
    elif config.attention_bias or config.mlp_bias:
        reason = "a language model with biases in its layers: type llama has none in the file"
    elif config.hidden_act != "silu":
        reason = f"a language model with {config.hidden_act}: type llama has silu"
    elif rope != "default":
        reason = f"positions scaled by {rope!r}: Laterna writes unscaled positions only"
    if reason:
        raise LaternaError(f"cannot be exported to {FORMAT}: {reason}")


def _add_settings(writer: Any, config: Any) -> None:
    head = int(config.head_dim)
    for name, number in {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": head,
        "vocab_size": config.vocab_size,
    }.items():
        writer.add_uint32(f"llama.{name}", int(number))
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", float(config.rms_norm_eps))
    writer.add_float32("llama.rope.freq_base", float(config.rope_parameters["rope_theta"]))


def _tensors(assistant: VisionLanguageModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors by the names that the package `gguf` knows for them."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    config = assistant.language.config
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for own, weight in language_weights(assistant).items():
        name = names.get_name(own, (".weight",))
        if name == "output.weight" and config.tie_word_embeddings:
            continue
        part = name.split(".")[-2]
        yield name, _interleaved(weight, heads[part]) if part in heads else weight


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """Reorder each head's rows from transformers' halves to llama.cpp's neighboring pairs.

    Both rotate pairs of numbers by the position: in a head of width d, transformers rotates number
    i with number i + d/2, llama.cpp number 2i with number 2i + 1.
    """
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)


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
    # Programs with a template of their own rely on `add_bos_token`; those that use ours, which
    # writes the BOS itself, leave out the second one.
    chat = tokenize_prompt([Turn(role="user", text="a")], tokenizer, template)
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
    writer.add_array("tokenizer.ggml.token_type", types)
    for name, holds in (("add_bos_token", bos), ("add_eos_token", False)):
        writer.add_bool(f"tokenizer.ggml.{name}", holds)
    writer.add_bool("tokenizer.ggml.add_space_prefix", prefix)
    _add_ids(writer, tokenizer, ends)
    writer.add_string("tokenizer.chat_template", for_llama_cpp(template, tokenizer.eos_token or ""))


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
    """Return a rule without what does not decide where text is cut."""
    if isinstance(rule, dict):
        return {key: _without_offsets(part) for key, part in rule.items() if key != "trim_offsets"}
    if isinstance(rule, list):
        return [_without_offsets(part) for part in rule]
    return rule


def _entries(state: dict[str, Any], rows: int, unknown: str | None) -> tuple[list[str], list[int]]:
    from gguf import TokenType

    tokens = [f"[unused {number}]" for number in range(rows)]
    types = [int(TokenType.UNUSED)] * rows
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


def _cut_otherwise(reason: str) -> LaternaError:
    merges = "and llama.cpp, which merges by scores, would cut some texts otherwise"
    return _refusal(f"{reason}, {merges}")


def prefixes_space(state: dict[str, Any], *, begins_with_bos: bool) -> bool:
    """Say whether llama.cpp has to put a space before text, also after a special token.

    `state` is the tokenizer's JSON; `begins_with_bos`: whether every chat begins with BOS, so that
    no text comes first. Raises LaternaError for a rule that llama.cpp does not have.
    """
    normalizer, rule = state["normalizer"], state["pre_tokenizer"]
    if normalizer == _PREPEND and rule is None:
        return True
    if normalizer == _FIRST["normalizer"] and rule == _FIRST["pre_tokenizer"]:
        warnings.warn(
            "llama.cpp puts a space after every special token, and this tokenizer (legacy: false) "
            "puts none after an end of turn: from the second question on, llama.cpp reads a chat "
            "with other tokens than in training",
            stacklevel=2,
        )
        return True
    scheme = None
    if normalizer is None and rule and rule["type"] == "Metaspace" and not rule["split"]:
        scheme = rule["prepend_scheme"] if rule["replacement"] == SPACE else None
    # llama.cpp has no `always`, which adds no space before a space; llama.cpp does. `first` is BOS
    # where every chat begins with it, and BOS gets no space.
    if scheme == "never" or (scheme == "first" and begins_with_bos):
        return False
    said = f"{normalizer or ''} {rule or ''}".rstrip()
    raise _refusal(f"it marks spaces in a way that llama.cpp does not have: {said}")


def scores(state: dict[str, Any], rows: int) -> list[float]:
    """Return a score for each token, by which llama.cpp merges as the tokenizer's list does.

    Raises LaternaError when no scores do.
    """
    vocabulary: dict[str, int] = state["model"]["vocab"]
    pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair)
             for pair in state["model"]["merges"]]  # fmt: skip
    special = {added["content"] for added in state["added_tokens"]}
    ranks = _ranks(pairs)
    _require_every_pair(vocabulary.keys() - special, set(pairs))
    found = [0.0] * rows
    for text, number in vocabulary.items():
        found[number] = -float(ranks.get(text, len(ranks) + number))
    return found


def _ranks(pairs: list[tuple[str, ...]]) -> dict[str, int]:
    """Return the order in which the pairs make their tokens."""
    ranks: dict[str, int] = {}
    last = ""
    for left, right in pairs:
        made = left + right
        if made != last and made in ranks:
            raise _cut_otherwise(f"its pairs that make {made!r} do not stand together")
        ranks.setdefault(made, len(ranks))
        last = made
    return ranks


def _require_every_pair(tokens: set[str], pairs: set[tuple[str, ...]]) -> None:
    for text in tokens:
        for cut in range(1, len(text)):
            pair = (text[:cut], text[cut:])
            if pair[0] in tokens and pair[1] in tokens and pair not in pairs:
                raise _cut_otherwise(f"it makes {text!r} of other pairs, but not of {pair}")


@contextmanager
def gguf_writer(path: Path, architecture: str, dtype: torch.dtype) -> Iterator[Any]:
    """Yield a writer of the `gguf` package; the file is written when the block succeeds."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    writer.add_uint32("general.file_type", FILE_TYPES[dtype])
    try:
        yield writer
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def add_tensor(writer: Any, name: str, weight: Tensor, dtype: torch.dtype) -> None:
    """Add a tensor: matrices in the precision asked for, vectors in float32."""
    kept = dtype if weight.ndim > 1 else torch.float32
    writer.add_tensor(name, weight.detach().to("cpu", kept).contiguous().numpy())
