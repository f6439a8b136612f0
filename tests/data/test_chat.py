"""Rendering: the shipped templates to the letter, and the answers found in any template."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from laterna.data.chat import SHIPPED_TEMPLATES, Rendered, UnusableError, load_template, render
from laterna.data.masking import tokenize, tokenize_prompt
from laterna.data.preparation.tokens import check_record
from laterna.errors import LaternaError
from laterna.records import InstructionRecord, Sample, Turn

Tokenizers = dict[str, PreTrainedTokenizerFast]

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. "
)
TURNS = [
    Turn(role="user", text="<image>\nWhat is it?"),
    Turn(role="assistant", text="A cup.", loss=True),
    Turn(role="user", text="Red?"),
    Turn(role="assistant", text="Yes.", loss=True),
]


def learned(rendered: Rendered) -> list[str]:
    return [rendered.text[start:end] for start, end in rendered.spans]


def shipped(name: str, tokenizer: PreTrainedTokenizerFast, turns: list[Turn]) -> Rendered:
    return render(turns, tokenizer, load_template(name, tokenizer))


def test_vicuna_v1_is_llavas(tokenizers: Tokenizers) -> None:
    rendered = shipped("vicuna_v1", tokenizers["metaspace"], TURNS)
    assert rendered.text == (
        f"<s>{VICUNA_SYSTEM}USER: <image>\nWhat is it? ASSISTANT: A cup.</s>"
        "USER: Red? ASSISTANT: Yes.</s>"
    )
    assert learned(rendered) == [" A cup.</s>", " Yes.</s>"]


def test_llama_2_is_llavas(tokenizers: Tokenizers) -> None:
    system = Turn(role="system", text="Be brief.")
    rendered = shipped("llama_2", tokenizers["metaspace"], [system, *TURNS])
    assert rendered.text == (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n<image>\nWhat is it? [/INST] A cup. </s>"
        "<s>[INST] Red? [/INST] Yes. </s>"
    )
    assert learned(rendered) == [" A cup. </s>", " Yes. </s>"]


def test_plain_is_the_image_the_caption_and_a_newline(tokenizers: Tokenizers) -> None:
    rendered = shipped("plain", tokenizers["metaspace"], TURNS[:2])
    assert rendered.text == "<s><image>A cup.\n"
    assert learned(rendered) == ["A cup.\n"]
    assert shipped("plain", tokenizers["byte_level"], TURNS[:2]).text == "<image>A cup.\n"


@pytest.mark.parametrize("name", ["vicuna_v1", "llama_2"])
def test_an_empty_system_turn_leaves_the_prompt_out(name: str, tokenizers: Tokenizers) -> None:
    turns = [Turn(role="system", text=""), *TURNS[:2]]
    expected = {
        "vicuna_v1": "<s> USER: <image>\nWhat is it? ASSISTANT: A cup.</s>",  # LLaVA's space stays
        "llama_2": "<s>[INST] <image>\nWhat is it? [/INST] A cup. </s>",
    }
    assert shipped(name, tokenizers["metaspace"], turns).text == expected[name]


@pytest.mark.parametrize("name", ["own", *SHIPPED_TEMPLATES])
def test_a_prompt_is_the_beginning_of_what_was_trained(name: str, tokenizers: Tokenizers) -> None:
    for tokenizer in tokenizers.values():
        template = load_template(name, tokenizer)
        prompt = render(TURNS[:3], tokenizer, template, continue_as_assistant=True).text
        trained = render(TURNS, tokenizer, template).text
        assert trained.startswith(prompt)
        assert trained[len(prompt) :].lstrip().startswith("Yes.")


def test_only_turns_that_carry_loss_have_spans(tokenizers: Tokenizers) -> None:
    turns = [*TURNS[:3], Turn(role="assistant", text="Yes.")]
    assert learned(shipped("own", tokenizers["byte_level"], turns)) == ["A cup.<|im_end|>"]
    assert shipped("own", tokenizers["byte_level"], TURNS[:1]).spans == ()


THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_what_follows_the_generation_prompt_is_learned(tokenizers: Tokenizers) -> None:
    """At serving the model is left alone where the prompt ends: it has to write the rest itself."""
    lead = "<think>\n\n</think>\n\n"
    rendered = render(TURNS, tokenizers["byte_level"], THINKING)
    assert learned(rendered) == [f"{lead}A cup.<|im_end|>", f"{lead}Yes.<|im_end|>"]
    for upto, (start, _) in zip((1, 3), rendered.spans, strict=True):
        prompt = render(
            TURNS[:upto], tokenizers["byte_level"], THINKING, continue_as_assistant=True
        )
        assert rendered.text[:start] == prompt.text


@pytest.mark.parametrize(
    "answers", [("A cup.", "Yes."), ("", "Yes."), ("  A cup. ", "think"), ("think", "\n")]
)
def test_a_record_whose_answers_open_with_a_lead_is_kept(
    answers: tuple[str, str], tokenizers: Tokenizers
) -> None:
    tokenizer = tokenizers["byte_level"]
    texts = zip(TURNS, ("What is it?", answers[0], "Red?", answers[1]), strict=True)
    turns = tuple(Turn(role=turn.role, text=text, loss=turn.loss) for turn, text in texts)
    record = InstructionRecord(id="r1", images=(), turns=turns)
    sample = check_record(record, tokenizer, THINKING)
    assert isinstance(sample, Sample)
    said = [token for token, wanted in zip(sample.input_ids, sample.targets, strict=True) if wanted]
    lead = "<think>\n\n</think>\n\n"
    assert tokenizer.decode(said) == "".join(f"{lead}{answer}<|im_end|>" for answer in answers)


def test_a_space_that_is_a_token_of_its_own_is_learned(tokenizers: Tokenizers) -> None:
    """`ASSISTANT:` ends the prompt; before an answer in Japanese the space stays alone."""
    for family, space in (("byte_level", "Ġ"), ("metaspace", "▁")):
        tokenizer = tokenizers[family]
        template = load_template("vicuna_v1", tokenizer)
        turns = (Turn(role="user", text="Hi."), Turn(role="assistant", text="日", loss=True))
        rendered = render(turns, tokenizer, template)
        assert learned(rendered)[0].startswith(" 日")
        record = InstructionRecord(id="r1", images=(), turns=turns)
        sample = tokenize(record, tokenizer, template)
        at = sample.targets.index(True)
        assert tokenizer.convert_ids_to_tokens(sample.input_ids[at]) == space
        assert sample.input_ids[:at] == tuple(tokenize_prompt(turns[:1], tokenizer, template))
        assert all(sample.targets[at:])


def test_words_before_an_answer_are_no_lead_without_a_generation_prompt(
    tokenizers: Tokenizers,
) -> None:
    """A template that leaves the opening out at the end of a prompt says nothing by that."""
    template = "{% for m in messages %}{{ m['role'] + ':\\n' + m['content'] + ' ' }}{% endfor %}"
    assert learned(render(TURNS, tokenizers["byte_level"], template)) == ["A cup. ", "Yes. "]
    template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    assert learned(render(TURNS, tokenizers["byte_level"], template)) == ["A cup. ", "Yes. "]


def test_a_template_that_strips_still_shows_its_answers(tokenizers: Tokenizers) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    )
    turns = [Turn(role="user", text=" a "), Turn(role="assistant", text="\n b  c \n", loss=True)]
    rendered = render(turns, tokenizers["byte_level"], template)
    assert rendered.text == "<|im_start|>a<|im_end|>\n<|im_start|>b  c<|im_end|>\n"
    assert learned(rendered) == ["b  c<|im_end|>"]


def test_an_end_of_turn_without_special_token_stops_at_the_next_turn(
    tokenizers: Tokenizers,
) -> None:
    template = (
        "{% for m in messages %}{{ '# ' + m['role'] + '\\n' + m['content'] + '\\n--\\n' }}"
        "{% endfor %}"
    )
    assert learned(render(TURNS, tokenizers["byte_level"], template)) == [
        "A cup.\n--\n",
        "Yes.\n--\n",
    ]


def test_a_template_that_ends_only_the_chat_teaches_no_other_end(tokenizers: Tokenizers) -> None:
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' ' }}{% endfor %}</s>"
    assert learned(render(TURNS, tokenizers["metaspace"], template)) == ["A cup. ", "Yes. </s>"]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] + m['content'] }}{% endfor %}",
        "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ m['content'].split('.')[0] }}{% endfor %}",
    ],
    ids=["upper", "twice", "left out", "cut"],
)
def test_a_template_that_changes_answers_is_refused(template: str, tokenizers: Tokenizers) -> None:
    with pytest.raises(UnusableError, match="does not write the assistant's answers as they are"):
        render(TURNS, tokenizers["byte_level"], template)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "the chat has no turns"),
        ([Turn(role="user", text="a\U000f1a70")], r"turn 1 holds the character U\+F1A70"),
        ([Turn(role="user", text="a\ud800")], r"turn 1 holds the character U\+D800"),
        ([Turn(role="user", text="a</s>b")], "turn 1 holds '</s>', a special token"),
        ([Turn(role="user", text="a", loss=True)], r"turn 1 \(user\) carries loss"),
        ([*TURNS, Turn(role="system", text="a")], "only as the first"),
    ],
)
def test_turns_that_cannot_be_passed_on_are_refused(
    turns: list[Turn], message: str, tokenizers: Tokenizers
) -> None:
    with pytest.raises(UnusableError, match=message):
        shipped("vicuna_v1", tokenizers["metaspace"], turns)


def test_llama_2_refuses_turns_out_of_order(tokenizers: Tokenizers) -> None:
    with pytest.raises(UnusableError, match="takes user and assistant in turn"):
        shipped("llama_2", tokenizers["metaspace"], [TURNS[0], TURNS[2]])


def test_there_is_nothing_to_answer_after_the_assistant(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["metaspace"]
    with pytest.raises(UnusableError, match="nothing to answer"):
        render(TURNS, tokenizer, load_template("own", tokenizer), continue_as_assistant=True)


def test_bad_templates_are_said(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["byte_level"]
    with pytest.raises(LaternaError, match="not valid Jinja"):
        render(TURNS, tokenizer, "{% for %}")
    with pytest.raises(LaternaError, match="known are: own, plain, vicuna_v1, llama_2"):
        load_template("vicuna", tokenizer)
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(LaternaError, match="has no chat template; set `template` to one of: plain"):
        load_template("own", bare)
    with pytest.raises(UnusableError, match="which this tokenizer lacks"):
        render(TURNS, bare, load_template("vicuna_v1", bare))


LAST_THOUGHT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_a_thought_before_the_last_answer_alone_is_learned_with_it(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["byte_level"]
    rendered = render(TURNS, tokenizer, LAST_THOUGHT)
    assert learned(rendered) == ["A cup.<|im_end|>", "<think>\n\n</think>\n\nYes.<|im_end|>"]
    words = [Turn(role=t.role, text=t.text.replace("<image>", ""), loss=t.loss) for t in TURNS]
    record = InstructionRecord(id="r1", images=(), turns=tuple(words))
    sample = check_record(record, tokenizer, LAST_THOUGHT)
    assert isinstance(sample, Sample)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for i in range(10000000) %}x{% endfor %}", "Range too big"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages + 1 }}", "can only concatenate"),
    ],
)
def test_a_template_that_fails_refuses_the_record(
    template: str, words: str, tokenizers: Tokenizers
) -> None:
    turns = (Turn(role="user", text="a"), Turn(role="assistant", text="b", loss=True))
    record = InstructionRecord(id="1", images=(), turns=turns)
    with pytest.raises(
        LaternaError, match=f"record 1: the chat template refuses the turns.*{words}"
    ):
        tokenize(record, next(iter(tokenizers.values())), template)
