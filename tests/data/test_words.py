"""Tokens from the memo are the tokenizer's own: ids, characters, and what they are decoded to."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from laterna.data import cutting, words
from laterna.data.cutting import Cutting, find_cutting
from laterna.data.masking import PICTURE_SENTINEL, with_picture_token
from laterna.data.words import AFTER_TOKEN, INSIDE, OPENING, UnprovedError, Words, find_words

Tokenizers = dict[str, PreTrainedTokenizerFast]
KINDS = [
    "gpt2",
    "smollm",
    "llama_3",
    "qwen_2",
    "llama_2",
    "llama_2 in transformers 5",
    "llama_2 without legacy",
    "no space of its own",
    "split at spaces",
    "t5",
]


@pytest.fixture(scope="module")
def backends(word_kinds: Tokenizers) -> dict[str, Tokenizer]:
    """One of each kind, with the token that stands for a picture."""
    return {name: with_picture_token(one)[0] for name, one in word_kinds.items()}


@pytest.fixture(scope="module")
def memos(backends: dict[str, Tokenizer]) -> dict[str, Words | None]:
    return {name: words_of(backend) for name, backend in backends.items()}


def words_of(backend: Tokenizer) -> Words | None:
    return find_words(backend, json.loads(backend.to_str()), PICTURE_SENTINEL)


def cutting_of(backend: Tokenizer) -> Cutting | None:
    return find_cutting(backend, json.loads(backend.to_str()))


def ends_of(packed: bytes) -> tuple[list[int], list[int]]:
    """Return ids, and where the tokens end."""
    pairs = np.frombuffer(packed, np.int32).reshape(-1, 2)
    return pairs[:, 0].tolist(), np.cumsum(pairs[:, 1] % words.SPACED).tolist()


TEXTS = (
    st.text(st.characters(max_codepoint=0x7F), max_size=40)
    | st.text(st.sampled_from("ab1'StredlVm .\n\t,"), max_size=40)
    | st.text(st.sampled_from("the cat  ▁é日🧑\u0301"), max_size=30)
    | st.text(st.sampled_from("aB1é²“ДºΣſ'Stre .\nŉß"), max_size=30)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
)
OPENINGS = {OPENING: "", AFTER_TOKEN: PICTURE_SENTINEL, INSIDE: "the cat"}


@settings(
    max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=TEXTS, where=st.sampled_from([OPENING, AFTER_TOKEN, INSIDE]), name=st.sampled_from(KINDS)
)
def test_tokens_are_those_of_the_tokenizer(
    text: str,
    where: int,
    name: str,
    backends: dict[str, Tokenizer],
    memos: dict[str, Words | None],
) -> None:
    memo, backend = memos[name], backends[name]
    assert memo is not None
    before = OPENINGS[where]
    if where == INSIDE:
        text = f" a{text}"  # as is where a shape is cut
    try:
        ids, ends = ends_of(memo.tokenise(text, where))
    except UnprovedError:
        return
    whole = backend.encode(before + text, add_special_tokens=False)
    opening = backend.encode(before, add_special_tokens=False).ids
    assert whole.ids == opening + ids
    offsets = [(a - len(before), b - len(before)) for a, b in whole.offsets[len(opening) :]]
    begins = [0, *ends][:-1]
    assert begins == [start for start, _ in offsets]
    assert ends[-1:] == [end for _, end in offsets[-1:]]
    # all that is remembered is decoded to what it was made from, but for spaces before the first
    said = backend.decode(opening + ids, skip_special_tokens=False)
    assert said in (before + text, f"{before} {text}", before + text[1:])


@pytest.mark.parametrize("name", KINDS)
def test_plain_words_are_proved(name: str, memos: dict[str, Words | None]) -> None:
    memo = memos[name]
    assert memo is not None
    for where in OPENINGS:
        assert memo.tokenise(" the cat is on the table.", where)
    assert memo.tokenise("The picture", OPENING)
    assert memo.tokenise("", OPENING) == b""


@pytest.mark.parametrize("name", KINDS[:4])
def test_what_is_not_plain_is_left_to_the_tokenizer(
    name: str, memos: dict[str, Words | None]
) -> None:
    memo = memos[name]
    assert memo is not None
    for text in ("cafe\u0301", "日本", "\u00a0", "\x0b", "\x1c"):
        with pytest.raises(UnprovedError):
            memo.tokenise(text, OPENING)


@pytest.mark.parametrize("name", KINDS[:4])
def test_scripts_that_write_words_apart_are_plain(
    name: str, backends: dict[str, Tokenizer], memos: dict[str, Words | None]
) -> None:
    memo = memos[name]
    assert memo is not None
    text = "“Café”, l’été… Größe – ½ × 2² €3; Тигр’s Αθήνα Việt ſ 'ſ"
    ids, ends = ends_of(memo.tokenise(text, OPENING))
    assert ids == backends[name].encode(text, add_special_tokens=False).ids
    assert ends[-1] == len(text)


def test_other_characters_are_words_where_only_spaces_cut(
    backends: dict[str, Tokenizer], memos: dict[str, Words | None]
) -> None:
    memo = memos["llama_2"]
    assert memo is not None
    text = "café 日本語\n  🧑‍🚀"
    ids, ends = ends_of(memo.tokenise(text, OPENING))
    assert ids == backends["llama_2"].encode(text, add_special_tokens=False).ids
    assert ends[-1] == len(text)
    with pytest.raises(UnprovedError):
        memo.tokenise("a▁b", OPENING)  # it would be written back as a space


def test_a_space_that_no_text_has_is_marked(memos: dict[str, Words | None]) -> None:
    spaces = {
        "llama_2": [True, True],  # normalised: whatever the text begins with
        "llama_2 in transformers 5": [True, False],
        "no space of its own": [False, False],
        "gpt2": [False, False],
    }
    for name, expected in spaces.items():
        memo = memos[name]
        assert memo is not None
        for where in (OPENING, AFTER_TOKEN):
            found = [
                np.frombuffer(memo.tokenise(text, where), np.int32)[1::2] >= words.SPACED
                for text in ("the cat", " the cat")
            ]
            assert [bool(one[0]) for one in found] == expected
            assert not any(one[1:].any() for one in found)


def test_an_unknown_token_proves_nothing(memos: dict[str, Words | None]) -> None:
    memo = memos["t5"]
    assert memo is not None
    with pytest.raises(UnprovedError):
        memo.tokenise("the \N{SNOWMAN}", OPENING)


def test_added_tokens_are_found_as_the_tokenizer_finds_them(tokenizers: Tokenizers) -> None:
    backend = Tokenizer.from_str(with_picture_token(tokenizers["byte_level"])[0].to_str())
    added = ("[a]", "]b[", "<think>", "\n", "\n\n", "\n\n\n")
    backend.add_tokens([AddedToken(text, normalized=False) for text in added])
    memo = words_of(backend)
    assert memo is not None
    assert [memo.stands_apart(text) for text in added] == [False, False, True, False, False, False]
    for text in (
        f"one<think>two{PICTURE_SENTINEL}three<|im_end|>",
        "x[a]b[c]b[a]",
        "one\n\n\n\n\ntwo\n three",
    ):
        ids, ends = ends_of(memo.tokenise(text, OPENING))
        assert ids == backend.encode(text, add_special_tokens=False).ids
        assert ends[-1] == len(text)


def test_added_tokens_that_reach_over_a_cut_leave_no_words(tokenizers: Tokenizers) -> None:
    for how in ({"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True}):
        backend = Tokenizer.from_str(with_picture_token(tokenizers["byte_level"])[0].to_str())
        assert words_of(backend) is not None
        backend.add_tokens([AddedToken("<tok>", **({"normalized": False} | how))])
        assert words_of(backend) is None


def test_memory_is_bounded(backends: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "KNOWN_WORDS", 3)
    memo = words_of(backends["gpt2"])
    assert memo is not None
    memo.tokenise("one two three", OPENING)
    (known,) = {id(one): one for one in memo._memos}.values()
    assert sorted(known) == [" three", " two", "one"]
    memo.tokenise("four", OPENING)
    assert list(known) == ["four"]
    memo.tokenise("long" * 100, OPENING)
    assert list(known) == ["four"]


def test_another_way_to_cut_has_no_memo(tokenizers: Tokenizers) -> None:
    backend = Tokenizer.from_str(tokenizers["byte_level"].backend_tokenizer.to_str())
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for other in (
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        whole,
        pre_tokenizers.Sequence([pre_tokenizers.Digits(), plain]),
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{Greek}+|."), "isolated"), whole]),
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{L}+"), "removed"), whole]),
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{L}+"), "isolated"), whole]),
    ):
        backend.pre_tokenizer = other
        assert cutting_of(backend) is None
    backend.pre_tokenizer = plain
    assert cutting_of(backend) is not None
    backend.normalizer = normalizers.Lowercase()
    assert cutting_of(backend) is None


def test_added_tokens_may_be_sought_in_normalised_text_where_nothing_normalises(
    word_kinds: Tokenizers,
) -> None:
    said = json.loads(word_kinds["llama_2 in transformers 5"].backend_tokenizer.to_str())
    for token in said["added_tokens"]:
        token["normalized"] = True
    backend = Tokenizer.from_str(json.dumps(said))
    backend.add_special_tokens([AddedToken(PICTURE_SENTINEL, normalized=False)])
    memo = words_of(backend)
    assert memo is not None
    text = f"<s>the cat{PICTURE_SENTINEL} is</s>here <s>"
    ids, ends = ends_of(memo.tokenise(text, OPENING))
    assert ids == backend.encode(text, add_special_tokens=False).ids
    assert ends[-1] == len(text)


def with_merges(tokenizer: PreTrainedTokenizerFast, *merges: tuple[str, str]) -> Tokenizer:
    said = json.loads(tokenizer.backend_tokenizer.to_str())
    for merge in merges:
        for token in (*merge, "".join(merge)):
            said["model"]["vocab"].setdefault(token, len(said["model"]["vocab"]))
        said["model"]["merges"].append(list(merge))
    return Tokenizer.from_str(json.dumps(said))


def test_merges_over_a_space_between_letters_leave_no_words(tokenizers: Tokenizers) -> None:
    for merges in ([("t", "▁a")], [("t", "▁"), ("t▁", "a")]):
        assert cutting_of(with_merges(tokenizers["metaspace"], *merges)) is None


def test_a_text_that_a_merge_joins_over_a_space_is_not_cut(tokenizers: Tokenizers) -> None:
    like = tokenizers["metaspace"]
    backend = with_merges(like, ("▁", "("), (")", "▁("))
    backend.add_special_tokens([AddedToken(PICTURE_SENTINEL, normalized=False)])
    memo = words_of(backend)
    assert memo is not None
    ids, _ = ends_of(memo.tokenise("a) b (c)", OPENING))
    assert ids == backend.encode("a) b (c)", add_special_tokens=False).ids
    with pytest.raises(UnprovedError):
        memo.tokenise("a) (c)", OPENING)
    joined = backend.token_to_id(")▁(")
    assert joined in backend.encode("a) (c)", add_special_tokens=False).ids


def test_an_expression_that_cuts_otherwise_is_noticed(
    backends: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cutting_of(backends["smollm"]) is not None
    monkeypatch.setattr(cutting, "_domains", {})
    monkeypatch.setattr(cutting, "_GPT2_DIGITS", cutting._GPT2)
    assert cutting_of(backends["smollm"]) is None
