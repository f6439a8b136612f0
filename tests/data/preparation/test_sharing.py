"""What can share an image is counted over a set as `share_key` says it of each sample."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from laterna.data.images.tokens import SameTokens
from laterna.data.packing import share_key
from laterna.data.preparation import prepare
from laterna.data.preparation.samples import MappedSamples
from laterna.data.preparation.sharing import (
    LATER_IMAGES,
    LEARNED_FIRST,
    NO_IMAGE,
    ONLY_ONE,
    OTHER_WORDS,
    shared_images,
)
from laterna.recipe import SourceSettings
from laterna.records import InstructionRecord, Turn

Tokenizers = dict[str, PreTrainedTokenizerFast]


def record_of(name: str, *turns: str, images: tuple[str, ...] = ("a.png",)) -> InstructionRecord:
    """A chat whose turns are the user's and the assistant's, one after the other."""
    said = tuple(
        Turn(role="assistant" if number % 2 else "user", text=text, loss=bool(number % 2))
        for number, text in enumerate(turns)
    )
    return InstructionRecord(id=name, images=images, turns=said)


def samples_of(
    records: list[InstructionRecord],
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    weight: float = 1,
) -> MappedSamples:
    content = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
    path = folder / "records.jsonl"
    path.write_bytes(content)
    return prepare(
        [SourceSettings(data=str(path), weight=weight)],
        tokenizer,
        template=str(tokenizer.chat_template),
        image_tokens=SameTokens(tokens=4),
        max_tokens=400,
        folder=folder / "prepared",
        workers=1,
    ).samples


RECORDS = [
    record_of("one", "<image>\nWhat?", "A cup."),
    record_of("two", "<image>\nWhich?", "A dog."),
    record_of("late", "What is <image>?", "A cup."),
    record_of("learned", "Hello.", "Hello.", "<image> What?", "A cup."),
    record_of("words", "Hello.", "Hello.", images=()),
    record_of("alone", "<image>\nWhat?", "A cat.", images=("b.png",)),
    record_of("pair", "<image>\nLike <image>?", "No.", images=("a.png", "c.png")),
]


def test_what_cannot_share_is_counted_by_reason(tokenizers: Tokenizers, tmp_path: Path) -> None:
    found = shared_images(samples_of(RECORDS, tokenizers["byte_level"], tmp_path))
    assert (found.records, found.groups) == (3, 1)
    assert found.reasons == dict.fromkeys(
        [NO_IMAGE, LEARNED_FIRST, OTHER_WORDS, ONLY_ONE, LATER_IMAGES], 1
    )
    assert found.examples == {
        NO_IMAGE: "words",
        LEARNED_FIRST: "learned",
        OTHER_WORDS: "late",
        ONLY_ONE: "alone",
        LATER_IMAGES: "pair",
    }


def test_records_that_come_twice_share_with_themselves(
    tokenizers: Tokenizers, tmp_path: Path
) -> None:
    twice = samples_of(RECORDS[5:6], tokenizers["byte_level"], tmp_path, weight=2)
    found = shared_images(twice)
    assert (found.records, found.groups, found.reasons) == (2, 1, {})


CHATS = st.sampled_from(
    [
        ("<image>\nWhat?", "A cup."),
        ("<image>\nWhich?", "-"),
        ("Is <image> it?", "No."),
        ("Is <image> not?", "No."),
        ("Hello.", "Hi.", "<image>", "A cup."),
        ("Hello.", "Hi."),
    ]
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    chats=st.lists(st.tuples(CHATS, st.sampled_from("ab")), min_size=1, max_size=12),
    family=st.sampled_from(["byte_level", "metaspace"]),
)
def test_it_is_what_share_key_says_of_each(
    chats: list[tuple[tuple[str, ...], str]],
    family: str,
    tokenizers: Tokenizers,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    records = [
        record_of(f"r{number}", *turns, images=(name,) * ("<image>" in "".join(turns)))
        for number, (turns, name) in enumerate(chats)
    ]
    samples = samples_of(records, tokenizers[family], tmp_path_factory.mktemp("set"))
    keys = Counter(key for sample in samples if (key := share_key(sample)) is not None)
    found = shared_images(samples)
    shared = [count for count in keys.values() if count > 1]
    assert (found.records, found.groups) == (sum(shared), len(shared))
    none = [sample for sample in samples if share_key(sample) is None]
    assert found.reasons.get(NO_IMAGE, 0) == sum(not sample.images for sample in none)
    assert found.reasons.get(LEARNED_FIRST, 0) == sum(bool(sample.images) for sample in none)
    left = [found.reasons.get(reason, 0) for reason in (OTHER_WORDS, ONLY_ONE)]
    assert sum(left) == list(keys.values()).count(1)
