"""Masks, token by token: the answers and their ends of turn, whatever stands in them."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from laterna.data.chat import Rendered, UnusableError, load_template
from laterna.data.masking import (
    IMAGE_SENTINEL,
    check_targets,
    render_record,
    tokenize,
    tokenize_prompt,
    tokenize_rendered,
    tokenize_text,
)
from laterna.errors import LaternaError
from laterna.records import IMAGE_TOKEN_INDEX, InstructionRecord, Sample, Turn

Tokenizers = dict[str, PreTrainedTokenizerFast]

LOSSLESS = ["byte_level", "metaspace"]
TEMPLATES = ["own", "plain", "vicuna_v1", "llama_2"]
TRICKY = [
    "The cat.",
    " leading space",
    "trailing space ",
    "two  spaces\n\nand lines\n",
    "a role ASSISTANT: USER: [/INST] and <image> in it",
    "café 日本語 🧑‍🚀 ﬁ e\u0301",
    "\n",
    "",
    '"quoted"',
    ") x",
    "<0x0A>",
]


def record_of(*answers: str) -> InstructionRecord:
    turns: list[Turn] = []
    for number, answer in enumerate(answers):
        mark = "" if number else "<image>\n"
        turns.append(Turn(role="user", text=f"{mark}What is there?"))
        turns.append(Turn(role="assistant", text=answer, loss=True))
    return InstructionRecord(id="r1", images=("a.png",), turns=tuple(turns))


def said(sample: Sample, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Decode each run of targets."""
    runs = groupby(zip(sample.input_ids, sample.targets, strict=True), key=lambda pair: pair[1])
    return [tokenizer.decode([token for token, _ in run]) for learned, run in runs if learned]


def end_of(template: str, tokenizer: PreTrainedTokenizerFast) -> str:
    ends = {"own": "", "vicuna_v1": "", "llama_2": " "}
    return "\n" if template == "plain" else ends[template] + tokenizer.eos_token


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("family", LOSSLESS)
@pytest.mark.parametrize("answer", TRICKY)
def test_targets_are_the_answer_and_its_end(
    answer: str, family: str, template: str, tokenizers: Tokenizers
) -> None:
    tokenizer = tokenizers[family]
    text = load_template(template, tokenizer)
    record = record_of(answer)
    sample = tokenize(record, tokenizer, text)
    (run,) = said(sample, tokenizer)
    assert run.strip() == (answer + end_of(template, tokenizer)).strip()
    assert check_targets(sample, render_record(record, tokenizer, text), record, tokenizer)


# No surrogates (not text), no U+2581 (a space to the metaspace tokenizer), nothing that the
# renderer reserves; special tokens are tried in test_chat.
WORDS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="▁\U000f1a70\U000f1a71\U000f1a72"),
    max_size=30,
) | st.sampled_from(TRICKY)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    answers=st.lists(WORDS, min_size=1, max_size=3),
    family=st.sampled_from(LOSSLESS),
    template=st.sampled_from(["own", "vicuna_v1", "llama_2"]),
)
def test_decoded_targets_equal_the_answers_and_their_ends(
    answers: list[str], family: str, template: str, tokenizers: Tokenizers
) -> None:
    tokenizer = tokenizers[family]
    text = load_template(template, tokenizer)
    record = record_of(*answers)
    rendered = render_record(record, tokenizer, text)
    sample = tokenize_rendered(rendered, record, tokenizer)
    end = end_of(template, tokenizer)
    assert [run.strip() for run in said(sample, tokenizer)] == [
        (answer + end).strip() for answer in answers
    ]
    assert check_targets(sample, rendered, record, tokenizer)


@pytest.mark.parametrize("family", ["byte_level", "metaspace", "unigram"])
def test_ids_are_those_of_the_whole_text(family: str, tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers[family]
    turns = record_of("The  cat.", "No.").turns
    words = tuple(Turn(role=t.role, text=t.text.replace("<image>", ""), loss=t.loss) for t in turns)
    record = InstructionRecord(id="r1", images=(), turns=words)
    text = render_record(record, tokenizer).text
    assert list(tokenize(record, tokenizer).input_ids) == tokenizer.encode(
        text, add_special_tokens=False
    )


def test_a_token_that_straddles_the_border_is_a_target(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["byte_level"]
    sample = tokenize(record_of("The cat."), tokenizer, load_template("vicuna_v1", tokenizer))
    first = sample.input_ids[sample.targets.index(True)]
    assert tokenizer.convert_ids_to_tokens(first) == "ĠThe"


def test_a_image_is_one_token_and_its_neighbors_are_as_beside_a_special_token(
    tokenizers: Tokenizers,
) -> None:
    tokenizer = tokenizers["byte_level"]
    before = tokenizer.get_vocab()
    record = InstructionRecord(
        id="r1",
        images=("a.png", "b.png"),
        turns=(
            Turn(role="user", text="Is <image> like<image>?"),
            Turn(role="assistant", text="An <image>", loss=True),
        ),
    )
    sample = tokenize(record, tokenizer)
    assert sample.images == ("a.png", "b.png")
    assert [sample.input_ids[slot] for slot in sample.image_slots] == [IMAGE_TOKEN_INDEX] * 2
    assert sample.input_ids.count(IMAGE_TOKEN_INDEX) == 2
    pieces = "<|im_start|>user\nIs ", " like", "?<|im_end|>\n<|im_start|>assistant\nAn <image>"
    ids = [tokenizer.encode(piece, add_special_tokens=False) for piece in pieces]
    end = tokenizer.encode("<|im_end|>\n", add_special_tokens=False)
    expected = [*ids[0], IMAGE_TOKEN_INDEX, *ids[1], IMAGE_TOKEN_INDEX, *ids[2], *end]
    assert list(sample.input_ids) == expected
    assert tokenizer.get_vocab() == before, "the user's tokenizer must stay as it was"


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("family", LOSSLESS)
def test_a_prompt_is_the_beginning_of_the_sample(
    family: str, template: str, tokenizers: Tokenizers
) -> None:
    tokenizer = tokenizers[family]
    text = load_template(template, tokenizer)
    record = record_of("The cat.")
    ids = tokenize_prompt(record.turns[:1], tokenizer, text)
    sample = tokenize(record, tokenizer, text)
    assert ids.count(IMAGE_TOKEN_INDEX) == 1
    assert sample.input_ids[: len(ids)] == tuple(ids)
    # what follows the prompt is what is learned: the model is asked as it was taught
    assert sample.targets.index(True) == len(ids)


def test_a_text_is_tokenized_as_it_stands(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["metaspace"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = tokenize_text("<s><image>The cat</s>", tokenizer)
    assert [ids[0], ids[1], ids[-1]] == [bos, IMAGE_TOKEN_INDEX, eos]
    assert bos not in tokenize_text("The cat", tokenizer)


def test_a_wrong_mask_is_noticed(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["byte_level"]
    record = record_of("The cat.", "No.")
    rendered = render_record(record, tokenizer)
    sample = tokenize_rendered(rendered, record, tokenizer)
    at = sample.targets.index(True)
    for wrong in (at - 4, at, at + 1):
        targets = tuple(t != (place == wrong) for place, t in enumerate(sample.targets))
        changed = Sample(
            id="r1", input_ids=sample.input_ids, targets=targets, image_slots=sample.image_slots
        )
        assert not check_targets(changed, rendered, record, tokenizer), wrong
    moved = Rendered(text=rendered.text, spans=rendered.spans[:1])
    assert not check_targets(sample, moved, record, tokenizer)


def test_a_tokenizer_that_cannot_write_back_is_held_to_what_it_can(
    tokenizers: Tokenizers,
) -> None:
    tokenizer = tokenizers["unigram"]
    for answer, right in [("The cat.", True), ("The ﬁve  cats", True), ("The 日", False)]:
        record = record_of(answer)
        rendered = render_record(record, tokenizer)
        sample = tokenize_rendered(rendered, record, tokenizer)
        assert check_targets(sample, rendered, record, tokenizer) == right, answer


def test_answers_that_touch_are_one_run(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["metaspace"]
    plain = load_template("plain", tokenizer)
    record = record_of("One.", "Two.")
    rendered = render_record(record, tokenizer, plain)
    sample = tokenize_rendered(rendered, record, tokenizer)
    assert said(sample, tokenizer) == ["One.\nTwo.\n"]
    assert check_targets(sample, rendered, record, tokenizer)


def test_what_cannot_be_used_is_named(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["metaspace"]
    user = Turn(role="user", text="<image>")
    with pytest.raises(UnusableError, match="record x: 1 <image> marks for 0 images"):
        tokenize(InstructionRecord(id="x", images=(), turns=(user,)), tokenizer)
    with pytest.raises(UnusableError, match=r"record r1: .*reserved character U\+F1A72"):
        tokenize(record_of(f"a{IMAGE_SENTINEL}"), tokenizer)
    with pytest.raises(UnusableError, match="record r1: turn 2 holds '</s>'"):
        tokenize(record_of("a</s>"), tokenizer)
    words = "{% for m in messages if m['role'] == 'assistant' %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(UnusableError, match=r"record r1: .* wrote 0 images for 1 marks"):
        tokenize(record_of("a"), tokenizer, words)
    with pytest.raises(UnusableError, match="nothing to answer"):
        tokenize_prompt(record_of("a").turns, tokenizer)


def test_a_tokenizer_without_template_or_offsets_is_named(tokenizers: Tokenizers) -> None:
    backend = tokenizers["metaspace"].backend_tokenizer
    bare = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(LaternaError, match="has no chat template"):
        tokenize(record_of("a"), bare)
