"""Preparation: what stays, what goes, and that every loss has a name and a number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from laterna.data import fingerprints, preparation
from laterna.data.images.tokens import SameTokens
from laterna.data.masking import tokenize
from laterna.data.preparation.cache import MANIFEST, part_path
from laterna.data.preparation.workers import Done
from laterna.data.sources import rows
from laterna.errors import LaternaError
from laterna.recipe import SourceSettings
from laterna.records import InstructionRecord, Turn

Tokenizers = dict[str, PreTrainedTokenizerFast]


def record_of(name: str, answer: str = "A cup.", image: str = "good.jpg") -> InstructionRecord:
    turns = (
        Turn(role="user", text="<image>\nWhat?"),
        Turn(role="assistant", text=answer, loss=True),
    )
    return InstructionRecord(id=name, images=(image,), turns=turns)


@pytest.fixture
def images(tmp_path: Path) -> str:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.effect_noise((64, 48), 80).convert("RGB").save(folder / "good.jpg")
    Image.new("RGB", (90, 30)).save(folder / "wide.png")
    whole = (folder / "good.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "words.jpg").write_text("this is not an image")
    return str(folder)


def test_what_is_dropped_is_counted_by_reason(maker: Any, images: str) -> None:
    silent = InstructionRecord(id="silent", images=(), turns=(Turn(role="user", text="Hello"),))
    unmarked = InstructionRecord(id="unmarked", images=("good.jpg",), turns=silent.turns)
    records = [
        record_of("first"),
        record_of("cut", image="cut.jpg"),
        record_of("words", image="words.jpg"),
        record_of("gone", image="gone.jpg"),
        record_of("gone too", image="gone.jpg"),
        record_of("gone again", image="gone.jpg"),
        record_of("long", answer="cup " * 500),
        record_of("control", answer="a <|im_end|> b"),
        silent,
        unmarked,
        record_of("last"),
    ]
    source = maker.source(records, images)
    with Path(source.data).open("a") as file:
        file.write('{"id": "odd"}\nno json\n')
    with Path(source.data).open("ab") as file:
        turn = b'{"role": "user", "text": "caf\xe9"}'
        file.write(b'{"id": "latin", "images": [], "turns": [' + turn + b"]}\n")
    result = maker.prepare(source)
    assert [sample.id for sample in result.samples] == ["first", "last"]
    assert result.dropped == {
        "image missing": 3,
        "image cannot be read": 2,
        "a special token in the text": 1,
        "no target tokens": 1,
        "image marks do not match the images": 1,
        "not a row of the form turns": 1,
        "not JSON": 1,
        "not UTF-8": 1,
        "longer than 200 tokens": 1,
    }
    assert next(iter(result.dropped)) == "image missing"
    assert result.examples["image missing"].startswith(f"record gone: {images}/gone.jpg: no such")
    assert result.examples["not JSON"].startswith("row 13 (line 13): not JSON: JSON is malf")


def test_an_empty_image_name_is_no_image(maker: Any, images: str) -> None:
    answer = {"from": "gpt", "value": "A cup."}
    rows = [
        {"id": 1, "image": "", "conversations": [{"from": "human", "value": "What?"}, answer]},
        {"id": 2, "image": "", "conversations": [{"from": "human", "value": "<image>?"}, answer]},
    ]
    path = Path(maker.folder, "llava.json")
    path.write_text(json.dumps(rows))
    result = maker.prepare(SourceSettings(data=str(path), images=images))
    assert [(sample.id, sample.images) for sample in result.samples] == [("1", ())]
    assert result.dropped == {"image marks do not match the images": 1}
    (said,) = result.examples.values()
    assert said.startswith("record 2 (line 1): its words mark an image, and none of its keys (id, ")


def test_an_answer_that_the_tokenizer_cannot_write_is_dropped(
    maker: Any, tokenizers: Tokenizers
) -> None:
    maker.tokenizer = tokenizers["unigram"]
    result = maker.prepare(maker.source([record_of("a"), record_of("b", "日本")]))
    assert [sample.id for sample in result.samples] == ["a"]
    assert result.dropped == {"targets do not decode to the answer": 1}


def test_an_answer_joined_to_the_templates_words_is_dropped(maker: Any) -> None:
    glued = "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '\\n' }}{% endfor %}"
    # a tokenizer that joins ":" and ")" makes one token of the template's word and the answer's
    joining = PreTrainedTokenizerFast(tokenizer_object=maker.tokenizer.backend_tokenizer)
    joining.add_tokens([":)"])
    maker.tokenizer = joining
    for answer, kept in [("A cup.", 1), (") cup", 0)]:
        source = maker.source([record_of("other"), record_of("asked", answer)])
        assert len(maker.prepare(source, template=glued).samples) == 1 + kept


def test_samples_come_back_as_they_were_made(maker: Any, images: str) -> None:
    two = InstructionRecord(
        id="two",
        images=("good.jpg", "wide.png"),
        turns=(
            Turn(role="system", text="Be brief."),
            Turn(role="user", text="Is <image> like <image>?"),
            Turn(role="assistant", text="No."),
            Turn(role="user", text="No?"),
            Turn(role="assistant", text="Yes: café.", loss=True),
        ),
    )
    none = InstructionRecord(
        id="none",
        images=(),
        turns=(Turn(role="user", text="Hi"), Turn(role="assistant", text="Hi.", loss=True)),
    )
    records = [two, none, record_of("one")]
    result = maker.prepare(maker.source(records, images))
    made = [tokenize(record, maker.tokenizer) for record in records]
    counted = [
        msgspec.structs.replace(sample, image_tokens=(16,) * len(sample.image_slots))
        for sample in made
    ]
    assert list(result.samples) == counted
    assert result.samples[-1] == counted[-1] and list(result.samples[:2]) == counted[:2]
    assert result.lengths.tolist() == [sample.length for sample in counted]
    assert result.samples.image_names() == ["good.jpg", "wide.png"]
    assert result.images.find("good.jpg") == Path(images, "good.jpg")


def test_the_counter_is_told_sizes_and_the_limit_counts_the_images(maker: Any, images: str) -> None:
    source = maker.source([record_of("a"), record_of("b", image="wide.png")], images)
    result = maker.prepare(source, image_tokens=lambda width, height: width + height)
    assert [sample.image_tokens for sample in result.samples] == [(112,), (120,)]
    longer = int(result.lengths[1])
    assert longer == result.samples[1].length
    cut = maker.prepare(
        source, image_tokens=lambda width, height: width + height, max_tokens=longer - 1
    )
    assert [sample.id for sample in cut.samples] == ["a"]
    assert cut.dropped == {f"longer than {longer - 1} tokens": 1}
    assert list(cut.examples.values()) == [f"record b: {longer} tokens long"]


def test_a_image_that_has_no_token_count_is_dropped(maker: Any, images: str) -> None:
    def count(width: int, height: int) -> int:
        if width == 90:
            raise LaternaError("too thin")
        return 4

    source = maker.source([record_of("a"), record_of("b", image="wide.png")], images)
    result = maker.prepare(source, image_tokens=count)
    assert [sample.id for sample in result.samples] == ["a"]
    assert result.dropped == {"image of a shape that has no tokens": 1}
    unseen = maker.source([record_of("a")])
    with pytest.raises(LaternaError, match="say where the `images` are"):
        maker.prepare(unseen, image_tokens=count)


def test_fewer_than_no_workers_are_refused(maker: Any) -> None:
    with pytest.raises(LaternaError, match="workers = -1: give 0"):
        maker.prepare(maker.source([record_of("a")]), workers=-1)


def test_nothing_left_says_why(maker: Any, images: str) -> None:
    records = [record_of("a", image="gone.jpg"), record_of("b", image="cut.jpg")]
    with pytest.raises(LaternaError) as error:
        maker.prepare(maker.source(records, images))
    assert str(error.value) == (
        "no record can be trained on (1 × image missing; 1 × image cannot be read); the "
        f"first: record a: {images}/gone.jpg: no such image"
    )


def test_a_mixture_takes_each_source_as_often_as_it_weighs(maker: Any, images: str) -> None:
    one = maker.source([record_of(f"a{number}") for number in range(10)], images, weight=0.3)
    two = maker.source([record_of(f"b{number}") for number in range(4)], images, weight=2.5)
    result = maker.prepare(one, two)
    ids = [sample.id for sample in result.samples]
    assert len([name for name in ids if name[0] == "a"]) == len(set(ids) - {"b0"} - set("b")) - 3
    assert sorted(name for name in ids if name[0] == "b").count("b0") in (2, 3)
    assert (sum(n[0] == "a" for n in ids), sum(n[0] == "b" for n in ids)) == (3, 10)
    assert [sample.id for sample in maker.prepare(one, two).samples] == ids
    assert [sample.id for sample in maker.prepare(one, two, seed=1).samples] != ids
    assert result.samples.image_names() == ["0:good.jpg", "1:good.jpg"]
    assert result.samples[0].images == ("0:good.jpg",)
    assert result.samples.first_images().tolist() == [0] * 3 + [1] * 10
    assert result.images.find("1:good.jpg") == Path(images, "good.jpg")
    assert not len(result.validation)
    with pytest.raises(LaternaError, match="weight = -1: give 0 or more"):
        maker.prepare(msgspec.structs.replace(one, weight=-1))


def test_first_images_are_numbered_as_they_come(maker: Any, images: str) -> None:
    turns = (Turn(role="user", text="Hello"), Turn(role="assistant", text="Yes", loss=True))
    text = InstructionRecord(id="text", images=(), turns=turns)
    shown = ["wide.png", "", "good.jpg", "wide.png"]
    records = [record_of(str(n), image=name) if name else text for n, name in enumerate(shown)]
    samples = maker.prepare(maker.source(records, images)).samples
    assert samples.first_images().tolist() == [0, -1, 1, 0]
    assert samples.image_names() == ["wide.png", "good.jpg"]


def test_a_second_start_reads_no_data(
    maker: Any, images: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = maker.source([record_of(str(number)) for number in range(5)], images)
    monkeypatch.setattr(fingerprints, "RACY_NS", -1)
    first = maker.prepare(source)
    read: list[Path] = []
    real = fingerprints.sha256_of
    monkeypatch.setattr(fingerprints, "sha256_of", lambda path: read.append(path) or real(path))
    monkeypatch.setattr(preparation, "do_chunks", lambda *_: pytest.fail("prepared again"))
    again = maker.prepare(source)
    (place,) = (path.parent for path in (maker.folder / "prepared").rglob(MANIFEST))
    assert read == [part_path(place, 0)], "held against its checksum, and nothing else"
    assert list(again.samples) == list(first.samples)


def test_embedded_images_are_kept_beside_the_samples(maker: Any, images: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    content = Path(images, "wide.png").read_bytes()
    said = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A cup."}]
    path = maker.folder / "rows"
    row = {"conversations": said, "image": {"bytes": content, "path": None}}
    parquet.write_table(pa.Table.from_pylist([row, row]), path)
    result = maker.prepare(SourceSettings(data=str(path)), image_tokens=lambda w, h: w)
    assert [sample.image_tokens for sample in result.samples] == [(90,), (90,)]
    (name,) = result.samples.image_names()
    found = result.images.find(name)
    assert isinstance(found, Path) and found.read_bytes() == content
    found.write_bytes(content[:-1] + b"!")
    with pytest.raises(LaternaError, match=f"{name}: its checksum differs; remove .* to have the"):
        result.images.find(name)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the first row of every chunk that is checked."""
    seen: list[int] = []
    do_chunk = preparation.workers.do_chunk

    def noted(checker: object, chunk: rows.Chunk) -> Done:
        seen.append(chunk.first)
        return do_chunk(checker, chunk)  # type: ignore[arg-type]

    monkeypatch.setattr(preparation.workers, "do_chunk", noted)
    return seen


def test_a_second_preparation_finds_the_first(maker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record_of("a"), record_of("b", "a <|im_end|>")]
    source = maker.source(records)
    seen = counting(monkeypatch)
    first = maker.prepare(source)
    assert seen == [1]
    again = maker.prepare(source, image_tokens=SameTokens(tokens=3), max_tokens=99)
    assert seen == [1]
    assert again.dropped == first.dropped == {"a special token in the text": 1}
    assert again.samples[0].input_ids == first.samples[0].input_ids
    for change in (
        {"template": maker.tokenizer.chat_template + " "},
        {"folder": maker.folder / "elsewhere"},
    ):
        maker.prepare(source, **change)
    maker.prepare(maker.source([*records, record_of("c")]))
    assert seen == [1] * 4


def test_a_image_that_was_missing_or_broken_is_looked_at_again(
    maker: Any, images: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "PART_CHUNKS", 1)
    monkeypatch.setattr("laterna.data.sources.json_files.CHUNK_ROWS", 2)
    names = ("good.jpg", "wide.png", "late.jpg", "cut.jpg", "good.jpg", "good.jpg")
    records = [record_of(f"r{number}", image=name) for number, name in enumerate(names)]
    source = maker.source(records, images)
    seen = counting(monkeypatch)
    first = maker.prepare(source)
    assert first.dropped == {"image missing": 1, "image cannot be read": 1}
    assert maker.prepare(source).dropped == first.dropped
    assert seen == [1, 3, 5]
    good = Path(images, "good.jpg").read_bytes()
    Path(images, "late.jpg").write_bytes(good)
    second = maker.prepare(source)
    assert second.dropped == {"image cannot be read": 1}
    assert seen == [1, 3, 5, 3, 5]  # the first part knew of no image that is another now
    Path(images, "cut.jpg").write_bytes(good)
    third = maker.prepare(source)
    assert third.dropped == {}
    assert [sample.id for sample in third.samples] == [record.id for record in records]


def test_a_killed_preparation_goes_on_where_it_was(
    maker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "PART_CHUNKS", 2)
    monkeypatch.setattr("laterna.data.sources.json_files.CHUNK_ROWS", 3)
    records = [record_of(f"r{number}") for number in range(20)]
    source = maker.source(records)
    seen = counting(monkeypatch)

    def killed(name: str, done: int) -> None:
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        maker.prepare(source, progress=killed)
    (place,) = (maker.folder / "prepared").iterdir()
    assert not (place / MANIFEST).is_file()
    assert seen == [1, 4, 7, 10]
    half = place / ".00002.arrow.part"  # what a process that is killed outright leaves
    half.mkdir()
    (half / "new").write_bytes(b"ARROW1")
    told: list[int] = []
    result = maker.prepare(source, progress=lambda name, done: told.append(done))
    assert seen == [1, 4, 7, 10, 13, 16, 19]
    assert told == [15, 18, 20]
    assert not half.exists()
    assert [sample.id for sample in result.samples] == [record.id for record in records]


def test_processes_prepare_what_one_does(maker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "ALONE", 2)
    monkeypatch.setattr("laterna.data.sources.json_files.CHUNK_ROWS", 7)
    records = [record_of(f"r{number}", "cup " * (1 + number % 9)) for number in range(60)]
    records[33] = record_of("bad", "<|im_end|>")
    source = maker.source(records)
    alone = maker.prepare(source)
    together = maker.prepare(source, workers=2, folder=maker.folder / "two")
    assert list(together.samples) == list(alone.samples)
    assert np.array_equal(together.lengths, alone.lengths)
    assert together.dropped == alone.dropped == {"a special token in the text": 1}
    with pytest.raises(LaternaError, match="the chat template is not valid Jinja"):
        maker.prepare(source, workers=2, template="{% for %}")


def test_two_at_once_do_the_work_once(maker: Any) -> None:
    """The second waits for the lock that the first holds, and then finds its work."""
    source = maker.source([record_of("a")])
    maker.prepare(source)
    (place,) = (maker.folder / "prepared").iterdir()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX)"
    code = f"{hold}; print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(place / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ.copy(),
    )
    assert holder.stdout is not None and holder.stdin is not None
    assert holder.stdout.readline() == b"held\n"
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(maker.prepare, source)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        holder.stdin.close()
        assert [sample.id for sample in waiting.result(timeout=30).samples] == ["a"]
    holder.wait()
