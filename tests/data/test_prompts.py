"""The prompt that serving asks with is the beginning of what training showed, token for token."""

from __future__ import annotations

import random

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from laterna.data.chat import SHIPPED_TEMPLATES, UnusableError, load_template, render
from laterna.data.masking import SHARED, check_record, tokenize_prompt
from laterna.data.preparation.tokens import SampleTokenizer
from laterna.records import InstructionRecord, Sample, Turn

HEADERS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|im_end|>\\n\\n' + m['content'] }}"
    "{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_end|>\\n\\n' }}{% endif %}"
)
"""As Llama 3's, whose own rule keeps line breaks together; GPT-2's does not before a letter."""
RESPONSE = (
    "{% for m in messages %}{{ '### ' + m['role'] + ':\\n\\n' + (m['content'] | trim) }}"
    "{{ eos_token if m['role'] == 'assistant' else '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\\n\\n' }}{% endif %}"
)
"""As Alpaca's: line breaks that stand behind words."""
TABS = HEADERS.replace("\\n\\n", "\\t\\t")
MADE = {"headers": HEADERS, "response": RESPONSE, "tabs": TABS}
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
RULES = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
    "llama_3": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA_3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}
WHITE = ["a\n\n\n", "b\n\n\n\n", "assistant\n\n", "c\t\t", "d\n \n", "e\t\t\t"]
WORDS = [
    "The cat.",
    " a b",
    "\n",
    "\n\n",
    "x\n\n",
    "\n\nx",
    "  two\n",
    "1 2",
    "'s",
    "",
    "\ttab",
    "é",
]
WORDS += [" \n x", "No!\n\n", "日本"]


@pytest.fixture(scope="module", params=RULES)
def breaking(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """Byte-level by each rule, with tokens for runs of white space."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = RULES[request.param]
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|im_start|>", "<|im_end|>", "<|endofchunk|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator(WHITE * 9, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", name_or_path=request.param
    )


def chat(draw: random.Random, exchanges: int) -> tuple[Turn, ...]:
    def words() -> str:
        return draw.choice(WORDS) + draw.choice(["", draw.choice(WORDS)])

    turns = [Turn(role="system", text=words())] if draw.random() < 0.3 else []
    for number in range(exchanges):
        turns.append(Turn(role="user", text=words()))
        learned = number + 1 == exchanges or draw.random() < 0.8
        turns.append(Turn(role="assistant", text=words(), loss=learned))
    return tuple(turns)


@pytest.mark.parametrize("name", [*SHIPPED_TEMPLATES, *MADE])
def test_every_prompt_is_the_beginning_of_what_is_trained(
    name: str, breaking: PreTrainedTokenizerFast
) -> None:
    template = MADE.get(name) or load_template(name, breaking)
    draw = random.Random(name)
    # `plain` is for one answer: `laterna train` refuses others.
    most = 1 if name == "plain" else 3
    records = [
        InstructionRecord(id=str(n), images=(), turns=chat(draw, draw.randint(1, most)))
        for n in range(40)
    ]
    asked = 0
    together = SampleTokenizer(breaking, template).tokenize(records)
    for record, other in zip(records, together, strict=True):
        sample = check_record(record, breaking, template)
        if isinstance(sample, UnusableError):
            assert isinstance(other, UnusableError) and other.reason == sample.reason
            assert sample.reason in (SHARED, "no target tokens"), sample
            continue
        assert not isinstance(other, UnusableError)
        assert list(other.input_ids) == list(sample.input_ids)
        for place, turn in enumerate(record.turns):
            if turn.loss:
                prompt = tokenize_prompt(record.turns[:place], breaking, template)
                assert list(sample.input_ids[: len(prompt)]) == prompt, record
                asked += 1
    assert asked > 20  # most are not refused


@pytest.mark.parametrize("learned", [True, False])
def test_line_breaks_at_a_prompts_end_are_one_token_in_training_too(
    learned: bool, breaking: PreTrainedTokenizerFast
) -> None:
    turns = (
        Turn(role="user", text="What?"),
        Turn(role="assistant", text="A cup.", loss=learned),
        Turn(role="user", text="Red?"),
        Turn(role="assistant", text="Yes.", loss=True),
    )
    record = InstructionRecord(id="r", images=(), turns=turns)
    sample = check_record(record, breaking, HEADERS)
    assert isinstance(sample, Sample)
    # A program that asks with the prompt's text alone asks with the same tokens.
    text = render(turns[:1], breaking, HEADERS, continue_as_assistant=True).text
    alone = breaking.encode(text, add_special_tokens=False)
    assert breaking.convert_ids_to_tokens(alone[-1]) == "ĊĊ"
    assert list(sample.input_ids[: len(alone)]) == alone
    answer = breaking.encode("A cup.<|im_end|>", add_special_tokens=False)
    assert list(sample.input_ids[len(alone) : len(alone) + len(answer)]) == answer
    # What the user says is no border: there the text is cut as everywhere.
    whole = breaking.encode("<|im_start|>user<|im_end|>\n\nWhat?", add_special_tokens=False)
    assert list(sample.input_ids[: len(whole)]) == whole


def test_a_chat_that_hangs_on_no_border_keeps_the_tokens_of_its_text(
    breaking: PreTrainedTokenizerFast,
) -> None:
    template = load_template("vicuna_v1", breaking)
    turns = (Turn(role="user", text="What?\n\nNow"), Turn(role="assistant", text="A cup.\n\nRed."))
    shown = (turns[0], Turn(role="assistant", text=turns[1].text, loss=True))
    record = InstructionRecord(id="r", images=(), turns=shown)
    sample = check_record(record, breaking, template)
    assert isinstance(sample, Sample)
    whole = breaking.encode(render(shown, breaking, template).text, add_special_tokens=False)
    assert list(sample.input_ids) == whole
