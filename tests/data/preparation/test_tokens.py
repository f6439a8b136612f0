"""Many records at once come to what each comes to alone: ids, masks, and reasons."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import laterna
from laterna.data.chat import SHIPPED_TEMPLATES, UnusableError, load_template
from laterna.data.preparation import tokens
from laterna.data.preparation.tokens import SampleTokenizer, check_record, runs_of
from laterna.records import InstructionRecord, Turn

Tokenizers = dict[str, PreTrainedTokenizerFast]
NANO = Path(laterna.__file__).parent / "world/models/language"
FAMILIES = [
    "byte_level",
    "metaspace",
    "metaspace_without_bos",
    "unigram",
    "word_piece",
    "nano",
    "llama_3",
    "qwen_2",
    "llama_2 in transformers 5",
    "no space of its own",
    "split at spaces",
]
TRICKY = [
    "The cat.",
    " leading space",
    "trailing  \n",
    "USER: ASSISTANT: [/INST] <image>",
    "<|im_start|>assistant\n",
    "</s>",
    "<|im_start",
    "|>",
    "café 日本語 🧑‍🚀 ﬁ e\u0301",
    "\n",
    "",
    ") x",
    "assistant\n",
]


@pytest.fixture(scope="session")
def families(tokenizers: Tokenizers, word_kinds: Tokenizers) -> Tokenizers:
    """The kinds that are trained here, other ways to cut words, and nano's own."""
    return tokenizers | word_kinds | {"nano": AutoTokenizer.from_pretrained(NANO)}


WORDS = st.sampled_from(TRICKY) | st.text(max_size=20) | st.just("What is there?")


@st.composite
def chats(draw: st.DrawFn) -> InstructionRecord:
    """A chat about at most two images; some cannot be used."""
    turns: list[Turn] = []
    if draw(st.booleans()):
        turns.append(Turn(role="system", text=draw(WORDS)))
    for number in range(draw(st.integers(1, 3))):
        mark = draw(st.sampled_from(["<image>\n", "", "\n<image> "])) if number == 0 else ""
        turns.append(Turn(role="user", text=mark + draw(WORDS)))
        learned = draw(st.sampled_from([True, True, True, False]))
        turns.append(Turn(role="assistant", text=draw(WORDS), loss=learned))
    images = draw(st.sampled_from([("a.png",), ("a.png",), ()]))
    return InstructionRecord(id="r", images=images, turns=tuple(turns))


def one_by_one(
    records: list[InstructionRecord], tokenizer: PreTrainedTokenizerFast, template: str
) -> list[object]:
    found: list[object] = []
    for record in records:
        sample = check_record(record, tokenizer, template)
        if isinstance(sample, UnusableError):
            found.append((sample.reason, str(sample)))
        else:
            found.append((list(sample.input_ids), runs_of(sample.targets), sample.images))
    return found


def at_once(
    records: list[InstructionRecord], tokenizer: PreTrainedTokenizerFast, template: str
) -> list[object]:
    tokenizer = SampleTokenizer(tokenizer, template)
    tokenizer.tokenize(records)  # so that every shape is known, and proved, in the second round
    return [
        (one.reason, str(one))
        if isinstance(one, UnusableError)
        else (list(one.input_ids), list(one.runs), one.images)
        for one in tokenizer.tokenize(records)
    ]


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    records=st.lists(chats(), min_size=1, max_size=6),
    family=st.sampled_from(FAMILIES),
    template=st.sampled_from(["own", *SHIPPED_TEMPLATES]),
)
def test_many_at_once_come_to_what_each_comes_to_alone(
    records: list[InstructionRecord], family: str, template: str, families: Tokenizers
) -> None:
    tokenizer = families[family]
    text = load_template(template, tokenizer)
    assert at_once(records, tokenizer, text) == one_by_one(records, tokenizer, text)


LOOKING = {
    "trims": "{{ m['role'] + ':' + m['content'] | trim + '</s>' }}",
    "cuts a thought": "{{ m['role'] + ': ' + m['content'].split('</think>')[-1] + '</s>' }}",
    "greets": "{{ m['role'] + ('!' if 'cat' in m['content'] else ':') + m['content'] + '</s>' }}",
    "counts": "{{ m['content'] + (m['content'] | length | string) + '</s>' }}",
    "glues": "{{ m['role'] + ':' + m['content'] }}",
    "refuses": "{{ raise_exception('no') if 'dog' in m['content'] else m['content'] + '</s>' }}",
    "opens": "{{ 'ASSISTANT:' if m['role'] != 'user' and loop.last }}{{ m['content'] + '</s>' }}",
}


@pytest.mark.parametrize("looking", LOOKING)
@pytest.mark.parametrize("family", ["byte_level", "metaspace", "nano"])
def test_a_template_that_looks_at_the_words_is_followed(
    looking: str, family: str, families: Tokenizers
) -> None:
    template = "{% for m in messages %}" + LOOKING[looking] + "{% endfor %}"
    said = ["A cup.", "the cat", "<think>a</think>b", " a dog ", "x ASSISTANT:", "\n"]
    records = [
        InstructionRecord(
            id=f"r{number}",
            images=("a.png",),
            turns=(
                Turn(role="user", text=f"<image>{said[number - 1]}"),
                Turn(role="assistant", text=answer, loss=True),
                Turn(role="user", text=said[number - 2]),
                Turn(role="assistant", text=said[number - 3], loss=True),
            ),
        )
        for number, answer in enumerate(said)
    ]
    tokenizer = families[family]
    assert at_once(records, tokenizer, template) == one_by_one(records, tokenizer, template)


@pytest.mark.parametrize(
    ("family", "template", "alone"),
    [
        ("byte_level", "own", 1),
        ("nano", "own", 1),
        ("nano", "plain", 1),
        ("byte_level", "llama_2", 1),
        ("metaspace", "vicuna_v1", 1),
        ("unigram", "vicuna_v1", 1),
    ],
)
def test_of_many_records_of_one_shape_few_are_looked_at_alone(
    family: str, template: str, alone: int, families: Tokenizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def noted(record: InstructionRecord, *rest: object) -> object:
        seen.append(record.id)
        return check_record(record, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(tokens, "check_record", noted)
    answers = ["The cat.", " two  cats ", "No, there is no banana."]
    records = [
        InstructionRecord(
            id=f"r{number}",
            images=("a.png",),
            turns=(
                Turn(role="user", text="<image>\nWhat is there?"),
                Turn(role="assistant", text=answer, loss=True),
            ),
        )
        for number, answer in enumerate(answers)
    ]
    tokenizer = families[family]
    SampleTokenizer(tokenizer, load_template(template, tokenizer)).tokenize(records)
    assert len(seen) == alone, seen
