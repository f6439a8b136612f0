"""What is said of a template before it is used, and that serving asks as training shows."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from laterna.data import chat
from laterna.data.chat import SHIPPED_TEMPLATES, UnusableError, load_template, render
from laterna.data.masking import SHARED, check_record, tokenize, tokenize_prompt
from laterna.data.preparation.tokens import SampleTokenizer
from laterna.data.remarks import remarks
from laterna.data.template import Renderer, image_first
from laterna.records import InstructionRecord, Sample, Turn

Tokenizers = dict[str, PreTrainedTokenizerFast]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] }}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# As Falcon's: a blank line before each turn but the first, none before the prompt's; no end.
FALCON = (
    "{% for m in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "{{ ('User: ' if m['role'] == 'user' else 'Falcon: ') + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\nFalcon:' }}{% endif %}"
)
# As ChatQA's: it opens the assistant's turn when asked, and writes no end.
NO_END = (
    "{% for m in messages %}{{ ('User: ' if m['role'] == 'user' else 'Assistant: ') }}"
    "{{ m['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
THINKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] }}"
    "{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)
LAST_END = NO_END + "{{ '' if add_generation_prompt else eos_token }}"


def breaking(pre_tokenizer: pre_tokenizers.PreTokenizer) -> PreTrainedTokenizerFast:
    """Byte-level, with a token for several line breaks."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|im_start|>", "<|im_end|>"]
    )
    backend.train_from_iterator(["a\n\n\n", "b\n\n\n\n", "assistant\n\n"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")


@pytest.fixture(scope="module")
def breaks() -> PreTrainedTokenizerFast:
    """Cut at nothing."""
    return breaking(pre_tokenizers.ByteLevel(add_prefix_space=False))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, []),
        (FALCON, ["asks for an answer otherwise than it shows", "writes no end of turn"]),
        (NO_END, ["writes no end of turn"]),
        (THINKS, ["asks for an answer otherwise than it shows"]),
        (LAST_END, ["an end of turn behind the last answer alone"]),
    ],
    ids=["chatml", "falcon", "no end", "thinks", "last end"],
)
def test_a_template_is_told_of_once(
    template: str, expected: list[str], tokenizers: Tokenizers
) -> None:
    said = remarks(tokenizers["byte_level"], template)
    assert len(said) == len(expected)
    assert all(part in one for part, one in zip(expected, said, strict=True))


@pytest.mark.parametrize("name", SHIPPED_TEMPLATES)
def test_nothing_is_said_of_the_shipped_ones(name: str, tokenizers: Tokenizers) -> None:
    tokenizer = copy.deepcopy(tokenizers["metaspace"])
    assert remarks(tokenizer, load_template(name, tokenizer)) == []
    if name == "openflamingo":  # with its own token
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|endofchunk|>"]})
        assert remarks(tokenizer, load_template(name, tokenizer)) == []


def record_of(answer: str) -> InstructionRecord:
    turns = (Turn(role="user", text="What?"), Turn(role="assistant", text=answer, loss=True))
    return InstructionRecord(id="r", images=(), turns=turns)


def test_an_answer_that_would_melt_into_the_template_is_cut_from_it(
    breaks: PreTrainedTokenizerFast,
) -> None:
    assert remarks(breaks, CHATML) == []
    alone = breaks.encode("<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n")
    for answer in ("A cup.", "\n\nA cup.", "A cup.\n\n"):
        record = record_of(answer)
        found = check_record(record, breaks, CHATML)
        assert isinstance(found, Sample)
        own = breaks.encode(f"{answer}<|im_end|>")
        assert list(found.input_ids[: len(alone) + len(own)]) == alone + own
        assert found.targets.index(True) == len(alone)
        assert tokenize_prompt(record.turns[:1], breaks, CHATML) == alone


def test_an_answer_that_melts_into_the_template_is_refused_by_name() -> None:
    # A space before every text: cut in two, its second half would begin with one.
    breaks = breaking(pre_tokenizers.ByteLevel(add_prefix_space=True))
    (said,) = remarks(breaks, CHATML)
    assert said.startswith("an answer that begins with a line break shares a token")
    for answer, kept in (("A cup.", True), ("\n\nA cup.", False), ("A cup.\n\n", True)):
        found = check_record(record_of(answer), breaks, CHATML)
        assert isinstance(found, Sample) == kept
        together = SampleTokenizer(breaks, CHATML).tokenize([record_of("A."), record_of(answer)])[1]
        if kept:
            assert not isinstance(together, UnusableError)
            continue
        assert isinstance(found, UnusableError) and found.reason == SHARED
        assert isinstance(together, UnusableError) and together.reason == SHARED
        with pytest.raises(UnusableError, match="record r: the tokenizer joins the first or last"):
            tokenize(record_of(answer), breaks, CHATML)


def test_other_tokens_in_other_programs_are_told(breaks: PreTrainedTokenizerFast) -> None:
    opened = CHATML.replace("'\\n'", "'<|im_end|>\\n\\n'").replace("t\\n'", "t<|im_end|>\\n\\n'")
    (said,) = remarks(breaks, opened)
    assert said.startswith("the tokenizer reads the white space before an answer otherwise")


@pytest.mark.parametrize("template", [CHATML, FALCON, NO_END, THINKS, LAST_END])
@pytest.mark.parametrize("family", ["byte_level", "metaspace"])
def test_the_prompt_is_the_beginning_of_what_is_trained(
    family: str, template: str, tokenizers: Tokenizers
) -> None:
    tokenizer = tokenizers[family]
    turns: tuple[Turn, ...] = ()
    for asked, answer in (("What?", "A cup."), ("Red?", "Yes, it is."), ("Big?", "No.")):
        turns += (Turn(role="user", text=asked),)
        prompt = tokenize_prompt(turns, tokenizer, template)
        turns += (Turn(role="assistant", text=answer, loss=True),)
        record = InstructionRecord(id="r", images=(), turns=turns)
        sample = check_record(record, tokenizer, template)
        if isinstance(sample, Sample):
            assert list(sample.input_ids[: len(prompt)]) == prompt
            first = len(sample.targets) - sample.targets[::-1].index(True) - 1
            assert len(prompt) <= first
        else:
            assert sample.reason == SHARED


Count = Callable[[], int]


@pytest.mark.parametrize("template", [*SHIPPED_TEMPLATES, "chatml", "thinks", "falcon"])
def test_a_long_chat_costs_as_much_an_exchange_as_a_short_one(
    template: str, tokenizers: Tokenizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizers["metaspace"]
    made = {"chatml": CHATML, "thinks": THINKS, "falcon": FALCON}
    text = made.get(template) or load_template(template, tokenizer)
    counted = [0]
    own = Renderer.texts

    def texts(self: Renderer, chats: list[list[Turn]], *, prompt: bool) -> list[str]:
        counted[0] += sum(len(turns) for turns in chats)
        return own(self, chats, prompt=prompt)

    monkeypatch.setattr(Renderer, "texts", texts)
    rendered: dict[int, int] = {}
    for exchanges in (40, 160):
        turns = []
        for number in range(exchanges):
            turns.append(Turn(role="user", text=f"How many cups in row {number}?"))
            turns.append(Turn(role="assistant", text=f"There are {number % 7}.", loss=True))
        record = InstructionRecord(id="r", images=(), turns=tuple(turns))
        together = SampleTokenizer(tokenizer, text)
        together.tokenize([record_of("A cup.")])
        counted[0] = 0
        (found,) = together.tokenize([record])
        assert not isinstance(found, UnusableError) or found.reason == SHARED
        rendered[exchanges] = counted[0]
    assert rendered[160] < 5 * rendered[40]
    assert rendered[160] < 160 * 2 * 12


@pytest.mark.parametrize("moved", ["a", "<image>", "<image>\na", "a\n<image>", "a <image> b"])
def test_a_template_moves_an_image_to_the_front(moved: str, tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["byte_level"]
    template = load_template("own", tokenizer, "first")
    several = "<image> and <image>"
    turns = [Turn(role="user", text=moved), chat.PROBE[1], Turn(role="user", text=several)]
    expected = [turns[0].text, several]
    if "<image>" in moved:
        words = moved.replace("<image>", "").strip()
        expected[0] = f"<image>\n{words}".strip()
    assert image_first(moved, "<image>") == expected[0]
    kept = [Turn(role="user", text=expected[0]), *turns[1:]]
    plain = load_template("own", tokenizer)
    for prompt in (True, False):
        found, wanted = (
            render(some, tokenizer, how, continue_as_assistant=prompt)
            for some, how in ((turns, template), (kept, plain))
        )
        assert found == wanted
    asked = [Turn(role="user", text=moved)]
    assert tokenize_prompt(asked, tokenizer, template) == tokenize_prompt(
        [kept[0]], tokenizer, plain
    )


def test_an_end_that_is_no_special_token_and_a_day_are_told(tokenizers: Tokenizers) -> None:
    turns = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    asking = "{% if add_generation_prompt %}assistant:{% endif %}"
    tokenizer = tokenizers["byte_level"]
    assert remarks(tokenizer, turns + asking) == [
        "it ends an answer with '\\n', which is no special token of the tokenizer, so that at "
        "serving no answer stops there; use another template for training"
    ]
    assert remarks(tokenizer, load_template("plain", tokenizer, "first")) == []
    dated = "{{ strftime_now('%d %b %Y') }}" + turns.replace("\n", "{{ eos_token }}") + asking
    assert remarks(tokenizer, dated) == [
        "it writes the day on which it is rendered: prepared records keep theirs, and serving asks "
        "with another"
    ]
