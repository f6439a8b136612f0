"""What a set asks about and what its proxies supported, counted by value."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from laterna.analysis.coverage import Coverage, CoverageCounter, PropertyCount, exchanges_of
from laterna.analysis.properties import PROPERTIES
from laterna.records import InstructionRecord, Kind, Proxy, Turn

SHOWN = Proxy(text="A red cup.\n\ncup: [0.1, 0.1, 0.5, 0.5]", channels=("caption", "", "box"))


def coverage(
    records: Iterable[InstructionRecord],
    proxies: Callable[[InstructionRecord], Proxy | None] = lambda _: None,
) -> Coverage:
    """Count a whole set."""
    counter = CoverageCounter()
    for record in records:
        counter.add(record, proxies(record))
    return counter.result()


def record(name: str, kind: Kind | None, *exchanges: tuple[str, str]) -> InstructionRecord:
    turns = [
        Turn(role=role, text=text, loss=role == "assistant")
        for question, answer in exchanges
        for role, text in (("user", question), ("assistant", answer))
    ]
    return InstructionRecord(id=name, images=("1.png",), turns=tuple(turns), kind=kind)


SET = [
    record(
        "1",
        "conversation",
        ("What colour is the cup?\n<image>", "It is red."),
        ("Is it bright?", "Yes, it is."),
        ("Is there a cup to the left of a red dog?", "No."),
    ),
    record("2", "reasoning", ("<image>\nWhy is it there?", "Someone put it there.")),
    record("3", None, ("<image>\nWhat colour is the dog?", "Brown.")),
]


def test_properties_are_counted_by_question_and_support_where_the_proxy_is_known() -> None:
    found = coverage(SET, lambda record: None if record.id == "3" else SHOWN)
    counts = {row.name: row for row in found.properties}
    assert list(counts) == list(PROPERTIES)
    assert (found.records, found.questions, found.with_proxy) == (3, 5, 2)
    assert counts["colour"] == PropertyCount(
        name="colour", questions=2, supported=1, unsupported=0, declined=0
    )
    assert counts["colour"].unjudged == 1
    assert counts["lighting"] == PropertyCount(
        name="lighting", questions=1, supported=0, unsupported=1, declined=0
    )
    # One question of two properties counts in each.
    assert (counts["existence"].questions, counts["relation"].questions) == (1, 1)
    assert counts["background"].unjudged == 1
    assert found.share("colour") == 0.4


def test_an_answer_that_declines_is_neither_supported_nor_without_support() -> None:
    refused = record(
        "1",
        "refusal",
        ("Where was the cup bought?\n<image>", "I am sorry, but I cannot tell you that."),
        ("How many cups are there?", "It is not possible to say from the picture."),
        ("How many cups are there?", "One."),
        ("Is there a dog?", "No, a dog cannot be seen."),
        ("Is it dark?", "Hard to tell, but it looks bright."),
        ("Why is it there?", "The picture does not say."),
    )
    counts = {row.name: row for row in coverage([refused], lambda _: SHOWN).properties}

    def figures(name: str) -> tuple[int, int, int, int, int]:
        row = counts[name]
        return row.questions, row.supported, row.unsupported, row.declined, row.unjudged

    assert figures("place") == (1, 0, 0, 1, 0)
    assert figures("count") == (2, 1, 0, 1, 0)
    assert figures("existence") == (1, 1, 0, 0, 0), "a denial is an answer"
    assert figures("lighting") == (1, 0, 1, 0, 0), "a caution before an answer declines nothing"
    assert figures("background") == (1, 0, 0, 1, 0)
    unknown = coverage([refused]).properties
    assert sum(row.declined for row in unknown) == 3, "it takes no proxy to see that one declines"


def test_kinds_lengths_and_first_words() -> None:
    found = coverage(SET)
    assert found.kinds == (("conversation", 1), ("not said", 1), ("reasoning", 1))
    assert found.answer_words == ((1, 2), (3, 2), (4, 1))
    assert found.first_words == (("is", 2), ("what", 2), ("why", 1))
    assert found.with_proxy == 0
    assert all(row.supported == row.unsupported == 0 for row in found.properties)


def test_an_empty_set_has_no_shares() -> None:
    found = coverage([])
    assert (found.records, found.share("count")) == (0, 0.0)


def test_exchanges_pair_a_question_with_the_answer_that_follows() -> None:
    turns = (
        Turn(role="system", text="Be brief."),
        Turn(role="assistant", text="Hello.", loss=True),
        Turn(role="user", text="<image>\nWhat is it?"),
        Turn(role="assistant", text=" A cup. ", loss=True),
        Turn(role="user", text="Unanswered?"),
    )
    chat = InstructionRecord(id="1", images=("1.png",), turns=turns)
    assert list(exchanges_of(chat)) == [("What is it?", "A cup.")]
