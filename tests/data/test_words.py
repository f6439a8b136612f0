"""Words from the memo are the tokenizer's own."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from laterna.data import words
from laterna.data.words import WordMemo, word_memo

Tokenizers = dict[str, PreTrainedTokenizerFast]


@pytest.fixture(scope="module")
def backends(tokenizers: Tokenizers) -> dict[str, Tokenizer]:
    """GPT-2's kind, and SmolLM's, which takes every digit by itself."""
    made = {}
    for name in ("gpt2", "smollm"):
        backend = Tokenizer.from_str(tokenizers["byte_level"].backend_tokenizer.to_str())
        cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if name == "smollm":
            digits = pre_tokenizers.Digits(individual_digits=True)
            cut = pre_tokenizers.Sequence([digits, cut])
        backend.pre_tokenizer = cut
        made[name] = backend
    return made


@pytest.fixture(scope="module")
def memos(backends: dict[str, Tokenizer]) -> dict[str, WordMemo | None]:
    return {name: word_memo(backend) for name, backend in backends.items()}


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=st.text(st.characters(max_codepoint=0x7F), max_size=40)
    | st.text(st.sampled_from("ab1'stredlvm .\n\t,"), max_size=40),
    name=st.sampled_from(["gpt2", "smollm"]),
)
def test_ids_are_those_of_the_tokenizer(
    text: str, name: str, backends: dict[str, Tokenizer], memos: dict[str, WordMemo | None]
) -> None:
    memo = memos[name]
    assert memo is not None
    plain = all(" " <= character <= "~" or character in "\t\n\r" for character in text)
    expected = backends[name].encode(text, add_special_tokens=False).ids if plain else None
    assert memo.tokenise(text) == expected


def test_what_is_not_plain_is_left_to_the_tokenizer(backends: dict[str, Tokenizer]) -> None:
    memo = word_memo(backends["gpt2"])
    assert memo is not None
    for text in ("café", "a <|im_end|> b", "\x0b", "\x1c"):
        assert memo.tokenise(text) is None
    assert memo.tokenise("") == []


def test_memory_is_bounded(backends: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "KNOWN_WORDS", 3)
    memo = word_memo(backends["gpt2"])
    assert memo is not None
    memo.tokenise("one two three")
    assert sorted(memo) == [" three", " two", "one"]
    memo.tokenise("four")
    assert list(memo) == ["four"]


def test_another_way_to_cut_has_no_memo(tokenizers: Tokenizers) -> None:
    backend = Tokenizer.from_str(tokenizers["byte_level"].backend_tokenizer.to_str())
    for other in (
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
    ):
        backend.pre_tokenizer = other
        assert word_memo(backend) is None


def test_an_expression_that_cuts_otherwise_is_noticed(
    backends: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(word_memo(backends["smollm"]), WordMemo)
    monkeypatch.setattr(words, "_GPT2_DIGITS", words._GPT2)
    assert word_memo(backends["smollm"]) is None
