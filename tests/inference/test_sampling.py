"""Choosing tokens, and text in pieces: stop texts, characters of several bytes, what is held."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laterna.errors import LaternaError
from laterna.inference.sampling import AnswerText, Decoding, Sampler, Token, choose, decode

CPU = torch.device("cpu")
LOGITS = torch.tensor([[0.0, 1.0, 2.0, 3.0, -1.0]])


def drawn(decoding: Decoding, count: int = 400) -> Counter[int]:
    sampler = Sampler(decoding, CPU)
    return Counter(choose(LOGITS, [sampler])[0].id for _ in range(count))


def asked(**options: Any) -> Decoding:
    return Decoding(max_new_tokens=1, seed=3, **options)


def test_tokens_are_drawn_as_their_probabilities_say() -> None:
    assert choose(LOGITS, [Sampler(asked(), CPU)]) == [Token(3)]
    shares = torch.tensor([drawn(asked(temperature=2.0), 4000)[id] / 4000 for id in range(5)])
    torch.testing.assert_close(shares, (LOGITS[0] / 2).softmax(-1), atol=0.03, rtol=0)
    assert set(drawn(asked(temperature=2.0, top_k=2))) == {2, 3}
    assert set(drawn(asked(temperature=1.0, top_k=9))) >= {1, 2, 3}
    # Of the probabilities .64, .23, .09 the first two are needed to have .7 of it.
    assert set(drawn(asked(temperature=1.0, top_p=0.7))) == {2, 3}
    assert set(drawn(asked(temperature=1.0, top_p=0.6))) == {3}
    assert drawn(asked(temperature=1.0)) == drawn(asked(temperature=1.0))


def test_rows_do_not_disturb_each_other() -> None:
    alone = [drawn(asked(temperature=1.0), 50)]
    samplers = [Sampler(asked(temperature=1.0), CPU) for _ in range(3)]
    samplers.insert(1, Sampler(asked(), CPU))
    rows = [choose(LOGITS.expand(4, -1), samplers) for _ in range(50)]
    for place in (0, 2, 3):
        assert Counter(row[place].id for row in rows) == alone[0]
    assert {row[1].id for row in rows} == {3}


def test_log_probabilities_are_those_before_temperature() -> None:
    sampler = Sampler(asked(temperature=9.0, top_k=1, logprobs=2), CPU)
    (token,) = choose(LOGITS, [sampler])
    logprobs = LOGITS[0].log_softmax(-1).tolist()
    assert token.logprob == pytest.approx(logprobs[3])
    assert token.top == ((3, pytest.approx(logprobs[3])), (2, pytest.approx(logprobs[2])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": -1}, "top_k = -1"),
        ({"stop": ("a", "")}, "stop: an empty text"),
        ({"logprobs": 21}, "logprobs = 21: give 0 to 20"),
        ({"seed": 2**63}, "seed = 9223372036854775808: give an integer of at most 64 bits"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LaternaError, match=message):
        Decoding(max_new_tokens=1, **options)


texts = st.text(st.sampled_from("ab €é日🍎\n"), max_size=40)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=texts, stop=st.lists(st.text(st.sampled_from("ab €日"), min_size=1, max_size=4)))
def test_pieces_are_the_text_up_to_its_first_stop(
    tiny_tokenizer: Any, text: str, stop: list[str]
) -> None:
    """Every token of these is a byte or a few: all borders fall within characters and stops."""
    ids = tiny_tokenizer(text, add_special_tokens=False).input_ids
    found = AnswerText(tiny_tokenizer, stop)
    pieces, given_back = [], []
    for id in ids:
        piece, tokens = found.push(Token(id))
        pieces.append(piece)
        given_back += tokens
        if found.stopped:
            break
    if not found.stopped:
        piece, tokens = found.end()
        pieces.append(piece)
        given_back += tokens
    ends = [text.index(one) for one in stop if one in text]
    wanted = text
    if ends:
        # The stop that is whole first ends it; of those, the one that begins first.
        whole = min(text.index(one) + len(one) for one in stop if one in text)
        wanted = text[
            : min(
                e
                for e, one in ((text.index(o), o) for o in stop if o in text)
                if e + len(one) <= _seen(tiny_tokenizer, ids, whole)
            )
        ]
    assert "".join(pieces) == found.text == wanted
    assert "\N{REPLACEMENT CHARACTER}" not in found.text
    assert found.stopped == bool(ends)
    assert given_back == [Token(id) for id in ids[: len(given_back)]]
    if not ends:
        assert len(given_back) == len(ids)


def _seen(tokenizer: Any, ids: list[int], least: int) -> int:
    """Return the characters that are decoded when `least` first are."""
    for count in range(len(ids) + 1):
        text = decode(tokenizer, ids[:count])
        if not text.endswith("\N{REPLACEMENT CHARACTER}") and len(text) >= least:
            return len(text)
    return least


def test_bytes_that_never_become_a_character_are_shown_at_the_end(tiny_tokenizer: Any) -> None:
    ids = tiny_tokenizer("é🍎", add_special_tokens=False).input_ids[:-1]
    text = AnswerText(tiny_tokenizer, ())
    pieces = [text.push(Token(id))[0] for id in ids]
    assert "".join(pieces) == "é"
    assert text.end()[0] == "\N{REPLACEMENT CHARACTER}"


def test_a_special_token_has_no_text(tiny_tokenizer: Any) -> None:
    text = AnswerText(tiny_tokenizer, ())
    (letter,) = tiny_tokenizer("a", add_special_tokens=False).input_ids
    assert text.push(Token(tiny_tokenizer.pad_token_id)) == ("", [])
    assert text.push(Token(letter)) == ("a", [Token(tiny_tokenizer.pad_token_id), Token(letter)])
    assert text.end() == ("", [])


def test_a_long_answer_is_decoded_a_window_at_a_time(tiny_tokenizer: Any) -> None:
    written = "How many 🍎 are there? Two é, one 日本.\n" * 20
    ids = tiny_tokenizer(written, add_special_tokens=False).input_ids
    text = AnswerText(tiny_tokenizer, ())
    pieces = [text.push(Token(id))[0] for id in ids]
    assert "".join([*pieces, text.end()[0]]) == written
    assert len(text._ids) < 60
