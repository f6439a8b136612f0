"""Demonstrations before a question: whose they are, in what form, and never of what is asked."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from laterna.data.masking import tokenize_prompt
from laterna.data.template import load_template
from laterna.errors import LaternaError
from laterna.evaluation.run import evaluate, figures, score_table
from laterna.evaluation.saved import SavedTask
from laterna.evaluation.shots import (
    Demonstrations,
    ShotPrompts,
    Shots,
    asked_images,
    draw_demonstrations,
    looks,
)
from laterna.evaluation.tasks import TASKS
from laterna.evaluation.tasks.base import Setting, Task
from laterna.inference.assistant import Assistant
from laterna.inference.generation import Decoding, Prompt, generate_answers
from laterna.model.build import build_from_recipe
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe
from laterna.records import IMAGE_TOKEN_INDEX, Question, Turn

from ..tiny import flamingo

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200), "grey": (90, 90, 90)}


def colour_questions(dataset_folder: Path, *, limit: int, seed: int) -> list[Question]:
    """Two questions about each image: of its colour, which its name says, and a second."""
    del limit, seed
    names = sorted(path.name for path in (dataset_folder / "images").iterdir())
    return [
        Question(
            id=f"{name}-{kind}",
            images=(name,),
            kind=kind,
            text=f"Which {kind}?",
            references=("dim", name.split("-")[0], name.split("-")[0]),
        )
        for name in names
        for kind in ("colour", "hue")
    ]


COLOUR = Task(
    questions=colour_questions,
    about="colours",
    settings={"own": Setting("{text} Shortly."), "question-only": Setting()},
)


def draw(folder: Path, colours: Sequence[str], start: int = 0) -> Path:
    """Write images of colours, each of another size, so that no two files are alike."""
    (folder / "images").mkdir(parents=True)
    for number, colour in enumerate(colours, start):
        name = f"{colour}-{number}.png"
        Image.new("RGB", (28 + number, 28), COLOURS[colour]).save(folder / "images" / name)
    return folder


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A dataset that is asked about, and one to show from; they share the names of images."""
    monkeypatch.setitem(TASKS, "colour", COLOUR)
    return (
        draw(tmp_path / "test", ["red", "blue", "green"]),
        draw(tmp_path / "train", list(COLOURS) * 5, start=40),
    )


class Listener:
    """Remembers what it is asked, and answers each with the number of its turns."""

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []
        self.decoding: Decoding | None = None

    def __call__(
        self, model: VisionLanguageModel, prompts: Sequence[Prompt], decoding: Decoding
    ) -> list[str]:
        self.prompts += prompts
        self.decoding = decoding
        return [str(len(turns)) for turns, _ in prompts]


def told(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in turns]


def asked(
    model: VisionLanguageModel, folders: tuple[Path, Path], shots: Shots, **more: Any
) -> list[Prompt]:
    listener = Listener()
    more = {"controls": (), "answer": listener, "progress": False, **more}
    evaluate(Assistant(model), "colour", folders[0], shots=shots, **more)
    return listener.prompts


def of(folders: tuple[Path, Path], count: int, **more: Any) -> Shots:
    return Shots(count=count, source=folders[1], **more)


def drawn(shots: Shots, task: Task) -> Demonstrations:
    """Draw what can be shown where nothing is asked about."""
    found = draw_demonstrations(shots, task, (), Path, setting="", seed=0)
    assert found is not None
    return found


def test_shots_are_turns_before_the_question_and_the_same_for_all(
    tiny_assistant: VisionLanguageModel, folders: tuple[Path, Path]
) -> None:
    prompts = asked(tiny_assistant, folders, of(folders, 4))
    assert len(prompts) == 6
    before = {json.dumps(told(turns[:-1])) for turns, _ in prompts}
    assert len(before) == 1
    turns, images = prompts[0]
    assert [turn.role for turn in turns] == ["user", "assistant"] * 4 + ["user"]
    assert turns[-1].text == "<image>\nWhich colour? Shortly."
    assert len(images) == 5
    for number in range(4):
        question, answer = turns[2 * number : 2 * number + 2]
        assert question.text in ("<image>\nWhich colour? Shortly.", "<image>\nWhich hue? Shortly.")
        assert images[number].getpixel((0, 0)) == COLOURS[answer.text]  # the commonest reference
    assert len({image.size for image in images[:4]}) == 4  # one an image


def test_fewer_shots_are_the_first_of_more_and_a_seed_draws_others(
    tiny_assistant: VisionLanguageModel, folders: tuple[Path, Path]
) -> None:
    def shown(count: int, seed: int = 0) -> list[tuple[str, str]]:
        turns, _ = asked(tiny_assistant, folders, of(folders, count), seed=seed)[0]
        return told(turns[:-1])

    assert shown(8)[:8] == shown(4)
    assert shown(4) == shown(4)
    assert shown(4) != shown(4, seed=1)


def test_zero_shots_are_two_demonstrations_without_images(
    tiny_assistant: VisionLanguageModel, folders: tuple[Path, Path]
) -> None:
    turns, images = asked(tiny_assistant, folders, of(folders, 0))[0]
    with_images, _ = asked(tiny_assistant, folders, of(folders, 2))[0]
    assert [turn.text.replace("<image>\n", "") for turn in with_images] == [
        turn.text.replace("<image>\n", "") for turn in turns
    ]
    assert [turn.text.count("<image>") for turn in turns] == [0, 0, 0, 0, 1]
    assert len(images) == 1


def test_images_that_are_asked_about_are_never_shown(
    tiny_assistant: VisionLanguageModel, folders: tuple[Path, Path]
) -> None:
    test, train = folders
    for name in ("red-0.png", "blue-1.png"):  # the same files under another name
        content = (test / "images" / name).read_bytes()
        (train / "images" / f"grey-{name}").write_bytes(content)
    (train / "images" / "grey-text.png").write_text("no image")
    shots = of(folders, 20)
    found = evaluate(
        Assistant(tiny_assistant),
        "colour",
        test,
        shots=shots,
        controls=(),
        answer=Listener(),
        progress=False,
    )
    assert found.shots is not None
    assert found.shots.chosen_from == 20
    with pytest.raises(
        LaternaError, match="21 demonstrations are wanted, and 20 can be shown"
    ) as e:
        asked(tiny_assistant, folders, of(folders, 21))
    assert "4 about an image that is asked about" in str(e.value)
    assert "2 with an image that cannot be read" in str(e.value)
    with pytest.raises(LaternaError, match="4 demonstrations are wanted, and 0 can be shown"):
        asked(tiny_assistant, folders, Shots(count=4, source=test))


def test_the_nearest_images_are_shown(
    tiny_assistant: VisionLanguageModel, folders: tuple[Path, Path]
) -> None:
    prompts = asked(tiny_assistant, folders, of(folders, 5, retrieve=True))
    for turns, images in prompts:
        *shown, own = [image.getpixel((0, 0)) for image in images]
        assert shown == [own] * 5
        assert turns[9].text == next(name for name, rgb in COLOURS.items() if rgb == own)
    without = asked(tiny_assistant, folders, of(folders, 5))[0][1]
    assert len({image.getpixel((0, 0)) for image in without}) > 1  # the control: not by the seed


def test_the_nearest_image_is_shown_last(
    tiny_assistant: VisionLanguageModel, folders: tuple[Path, Path]
) -> None:
    found = drawn(of(folders, 4), COLOUR)
    shots = of(folders, 4, retrieve=True)
    prompts = ShotPrompts(found._replace(shots=shots), Assistant(tiny_assistant), COLOUR)
    own = Image.new("RGB", (28, 28), (190, 20, 10))
    question = Question(id="1", images=("x",), kind="", text="Which?", references=("a",))
    _, images = prompts(question, [own])
    near = [float(looks(tiny_assistant, [own]) @ looks(tiny_assistant, [one])) for one in images]
    assert len(images) == 5
    assert near == sorted(near)
    assert near[-1] == pytest.approx(1.0)


def test_the_controls_keep_the_demonstrations_but_a_text_alone_shows_no_image(
    tiny_assistant: VisionLanguageModel, folders: tuple[Path, Path]
) -> None:
    listener = Listener()
    found = evaluate(
        Assistant(tiny_assistant),
        "colour",
        folders[0],
        shots=of(folders, 4),
        controls=("blank", "text_only"),
        before_instruct=Assistant(tiny_assistant),
        answer=listener,
        progress=False,
        limit=1,
    )
    (own, blank, none, baseline) = [listener.prompts[n][1] for n in (0, 1, 2, 3)]
    assert own[:4] == blank[:4] == baseline[:4]
    assert own[4] != blank[4]
    assert none == []
    assert not any("<image>" in turn.text for turn in listener.prompts[2][0])
    assert {answer.text for answer in found.answers} == {"9"}


def test_the_number_of_shots_stands_beside_the_score_and_is_kept(
    tiny_assistant: VisionLanguageModel, folders: tuple[Path, Path]
) -> None:
    found = evaluate(
        Assistant(tiny_assistant),
        "colour",
        folders[0],
        shots=of(folders, 8, retrieve=True, pool=15),
        controls=(),
        answer=Listener(),
        progress=False,
    )
    assert score_table(found).title == "colour, own, 8 shots, the nearest of 15"
    kept = msgspec.json.decode(msgspec.json.encode(figures(found)), type=SavedTask)
    assert kept.shots == found.shots
    assert kept.shots is not None
    assert kept.shots.count == 8


def test_other_shots_are_other_answers_and_the_same_are_asked_once(
    tiny_assistant: VisionLanguageModel, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    def ask(count: int, **more: Any) -> int:
        kept = tmp_path / "cache"
        return len(asked(tiny_assistant, folders, of(folders, count, **more), cache=kept))

    assert [ask(4), ask(4), ask(2), ask(0), ask(4, retrieve=True), ask(2)] == [6, 0, 6, 6, 6, 0]


@pytest.mark.parametrize("fusion", ["prefix", "cross_attention"])
def test_the_engine_answers_behind_demonstrations_as_generate_does(
    fusion: str, tiny_recipe: Recipe, folders: tuple[Path, Path]
) -> None:
    recipe = tiny_recipe if fusion == "prefix" else flamingo(tiny_recipe, gate=1.0)
    assistant = Assistant(build_from_recipe(recipe))

    def ask(**more: Any) -> list[str]:
        found = evaluate(
            assistant, "colour", folders[0], shots=of(folders, 3), controls=(), progress=False,
            **more,
        )  # fmt: skip
        return [answer.text for answer in found.answers]

    assert ask() == ask(answer=generate_answers)
    stats = assistant.engine.stats()
    assert stats.image_queries == 6 * 4
    assert stats.image_hits == 6 * 4 - 6  # three demonstrations and three images, each once


def test_without_turns_the_form_is_openflamingos(
    tiny_assistant: VisionLanguageModel, folders: tuple[Path, Path]
) -> None:
    tokenizer = tiny_assistant.tokenizer
    tiny_assistant.template = load_template("plain", tokenizer, "first")
    listener = Listener()
    found = evaluate(
        Assistant(tiny_assistant),
        "colour",
        folders[0],
        shots=of(folders, 1),
        controls=(),
        answer=listener,
        progress=False,
    )
    assert found.setting == "question-only"
    turns, images = listener.prompts[0]
    shown = "colour" if "colour" in turns[0].text else "hue"
    assert told(turns) == [
        ("user", f"<image>Question:Which {shown}? Short answer:"),
        ("assistant", turns[1].text),
        ("user", "<image>Question:Which colour? Short answer:"),
    ]
    assert len(images) == 2
    assert listener.decoding is not None
    assert listener.decoding.max_new_tokens == 5
    # its tokenizer has no <|endofchunk|>: a line's end, as `plain` trains it
    assert listener.decoding.stop == ("Output", "Question", "Answer", "Short", "\n")


@pytest.mark.parametrize("own", [True, False])
def test_the_published_prompt_token_for_token(
    tiny_assistant: VisionLanguageModel, folders: tuple[Path, Path], tiny_tokenizer: Any, own: bool
) -> None:
    """As it was trained with: with OpenFlamingo's own token, or the tokenizer's end of text."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    end = "<|endofchunk|>" if own else tokenizer.eos_token
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|endofchunk|>"] if own else []})
    tiny_assistant.tokenizer = tokenizer
    tiny_assistant.template = load_template("openflamingo", tokenizer)
    task = COLOUR._replace(metrics=("captions",))
    found = drawn(of(folders, 1), task)
    prompts = ShotPrompts(found, Assistant(tiny_assistant), task)
    assert prompts.longest == 20
    assert prompts.stop == ("Output", "Question", "Answer", "Short")
    image = Image.new("RGB", (28, 28))
    question = Question(id="1", images=("x",), kind="", text="Say.", references=("a",))
    turns, _ = prompts(question, [image])
    ids = tokenize_prompt(turns, tokenizer, prompts.assistant.model.template)
    answer = found.found[0].answer
    plain = tokenizer("Output:")["input_ids"]
    after = tokenizer(f"Output:{answer}{end}")["input_ids"]
    assert ids == [IMAGE_TOKEN_INDEX, *after, IMAGE_TOKEN_INDEX, *plain]


def test_demonstrations_come_from_a_file_of_records(
    tiny_assistant: VisionLanguageModel, folders: tuple[Path, Path]
) -> None:
    test, train = folders
    rows = [
        {
            "id": "1",
            "image": ["red-40.png", "green-41.png"],
            "conversations": [
                {"from": "human", "value": "Look at <image> and <image>. Which is red?"},
                {"from": "gpt", "value": "first"},
                {"from": "human", "value": "And green?"},
                {"from": "gpt", "value": "second"},
            ],
        }
    ]
    (train / "records.json").write_text(json.dumps(rows))
    shots = Shots(count=1, source=train / "records.json")
    turns, images = asked(tiny_assistant, (test, train), shots)[0]
    assert told(turns[:2]) == [
        ("user", "Look at <image> and <image>. Which is red?"),
        ("assistant", "first"),
    ]
    assert [image.getpixel((0, 0)) for image in images[:2]] == [COLOURS["red"], COLOURS["green"]]
    assert len(images) == 3


def test_what_cannot_be_shown_is_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(LaternaError, match="its references are no answers"):
        drawn(of(folders, 4), TASKS["chair"])
    with pytest.raises(LaternaError, match="its references are no answers"):
        drawn(of(folders, 4), TASKS["mm_vet"])
    with pytest.raises(LaternaError, match="0 shots show no image"):
        of(folders, 0, retrieve=True)
    with pytest.raises(LaternaError, match="has images of its own"):
        drawn(of(folders, 4, images=folders[1]), COLOUR)
    gone = Question(id="1", images=("gone.png",), kind="", text="Which?", references=("red",))
    assert list(asked_images([gone], folders[0].__truediv__)) == []  # skipped when it is asked
