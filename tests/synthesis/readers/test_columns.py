from __future__ import annotations

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from laterna.synthesis.readers.columns import Groups, Texts


# no deadline: a busy machine is no failure
@settings(deadline=None)
@given(st.lists(st.text(max_size=5)))
def test_texts_are_what_was_put_in(texts: list[str]) -> None:
    column = Texts()
    for text in texts:
        column.append(text)
    assert list(column) == texts
    assert [column[index] for index in range(len(column))] == texts


@settings(deadline=None)
@given(st.lists(st.sampled_from(["", "a", "b", "ä", "1", "10"])))
def test_repeats_are_all_but_the_first(texts: list[str]) -> None:
    column = Texts()
    for text in texts:
        column.append(text)
    assert column.repeats() == [i for i, text in enumerate(texts) if text in texts[:i]]


@settings(deadline=None)
@given(st.lists(st.integers(0, 6)))
def test_groups_keep_the_order_of_rows(numbers: list[int]) -> None:
    groups = Groups(array("q", numbers), 7)
    wanted = [[row for row, number in enumerate(numbers) if number == g] for g in range(7)]
    assert [groups[group] for group in range(7)] == wanted
