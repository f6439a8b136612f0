"""What scribe says of 300 drawn images, held against the truth by this file's own reading."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from laterna.records import Message, Toy, Truth
from laterna.scenes.survey import Survey
from laterna.synthesis.parsing import parse_reply
from laterna.synthesis.proxy import write_proxy
from laterna.synthesis.run import synthesize
from laterna.synthesis.teachers.scribe import Scribe
from laterna.world.captions import write_captions
from laterna.world.scenes import STREAMS, draw_truth
from laterna.world.toys import CATEGORIES, COLOURS, LIGHTINGS, SIGN_WORDS, TEXTURES

SHORT = " Answer briefly."
NUMBERS = ["zero", "one", "two", "three", "four", "five"]
COLUMNS, ROWS = ("left", "", "right"), ("top", "", "bottom")
ARTICLE = r"(?:a pair of|an|a)"
PLACE = r"(?:at the|on the|in the) (?P<place>[a-z ]+?)"
RELATION = r"(?P<relation>to the left of|to the right of|above|below)"
FORMS = {
    "existence": rf"(Is there {ARTICLE} (?P<thing>[a-z ]+) in the picture"
    rf"|Can you see {ARTICLE} (?P<t2>[a-z ]+)|Does the picture show {ARTICLE} (?P<t3>[a-z ]+)"
    rf"|Is {ARTICLE} (?P<t4>[a-z ]+) visible here)\?",
    "count": r"(How many (?P<thing>[a-z ]+?) (are there|can you see)"
    r"|What is the number of (?P<t2>[a-z ]+) in the picture"
    r"|Count the (?P<t3>[a-z ]+)\. How many are there)\?",
    "colour": r"(What colour is the (?P<thing>[a-z ]+)|What is the colour of the (?P<t2>[a-z ]+)"
    r"|Which colour does the (?P<t3>[a-z ]+) have)\?",
    "place": r"(Where is the (?P<thing>[a-z ]+)|Where in the picture is the (?P<t2>[a-z ]+)"
    r"|In which part of the picture can the (?P<t3>[a-z ]+) be found)\?",
    "relation": rf"(Is|Does) the (?P<thing>[a-z ]+?)( stand)? {RELATION} the (?P<other>[a-z ]+)\?",
    "kind of colour": r"(What is the (?P<colour>[a-z]+) object|Which object is (?P<c2>[a-z]+)"
    r"|What kind of thing is the (?P<c3>[a-z]+) one)\?",
    "kind at place": rf"(What is|What can be seen|Which object is) {PLACE}\?",
}


class Asked(NamedTuple):
    """A question and its answer as this file reads them."""

    form: str
    words: dict[str, str]
    question: str
    answer: str


def read(question: str, answer: str) -> Asked:
    for form, pattern in FORMS.items():
        match = re.fullmatch(pattern, question.removesuffix(SHORT))
        if match:
            groups = {k: v for k, v in match.groupdict().items() if v}
            words = {
                {"t": "thing", "c": "colour"}.get(k[0], k) if k[-1].isdigit() else k: v
                for k, v in groups.items()
            }
            return Asked(form, words, question, answer)
    raise AssertionError(f"a question of no known form: {question}")


def centre(toy: Toy) -> tuple[float, float]:
    return (toy.box.x1 + toy.box.x2) / 2, (toy.box.y1 + toy.box.y2) / 2


def place(toy: Toy) -> str:
    x, y = centre(toy)
    words = f"{ROWS[int(y * 3)]} {COLUMNS[int(x * 3)]}".strip()
    return words or "centre"


def singular(noun: str) -> str:
    return {"scissors": "scissors", "buses": "bus"}.get(noun, noun.removesuffix("s"))


def of(truth: Truth, category: str) -> list[Toy]:
    assert category in CATEGORIES, category
    return [toy for toy in truth.toys if toy.category == category]


def only(truth: Truth, category: str) -> Toy:
    (toy,) = of(truth, category)
    return toy


def true_answers(asked: Asked, truth: Truth) -> set[str]:
    """The answers that are true: the bare one and the one in a sentence."""
    words = asked.words
    if asked.form == "existence":
        if of(truth, words["thing"]):
            article = "a pair of" if words["thing"] == "scissors" else "an?"
            return {"yes", rf"Yes, there is {article} {words['thing']}\."}
        return {"no", r"No, there is none in the picture\."}
    if asked.form == "count":
        number = len(of(truth, singular(words["thing"])))
        verb = "is" if number == 1 else "are"
        noun = singular(words["thing"]) if number == 1 else words["thing"]
        return {NUMBERS[number], rf"There {verb} {NUMBERS[number]} {noun}\."}
    if asked.form == "colour":
        colour = only(truth, words["thing"]).colour
        return {colour, rf"The {words['thing']} is {colour}\."}
    if asked.form == "place":
        where = place(only(truth, words["thing"]))
        return {where, rf"The {words['thing']} is (at|on|in) the {where}\."}
    if asked.form == "relation":
        return _true_relation(words, truth)
    if asked.form == "kind of colour":
        (toy,) = [toy for toy in truth.toys if toy.colour == words["colour"]]
        told = rf"The {words['colour']} object is (an?|a pair of) {toy.category}\."
    else:
        (toy,) = [toy for toy in truth.toys if place(toy) == words["place"]]
        told = rf"There is (an?|a pair of) {toy.category} (at|on|in) the {words['place']}\."
    return {toy.category, told}


def _true_relation(words: dict[str, str], truth: Truth) -> set[str]:
    x, y = centre(only(truth, words["thing"]))
    other_x, other_y = centre(only(truth, words["other"]))
    holds = {
        "to the left of": x < other_x,
        "to the right of": x > other_x,
        "above": y < other_y,
        "below": y > other_y,
    }[words["relation"]]
    sentence = f"{words['relation']} the {words['other']}\\."
    if holds:
        return {"yes", f"Yes, the {words['thing']} is {sentence}"}
    return {"no", f"No, the {words['thing']} is not {sentence}"}


class Chat(NamedTuple):
    """One record beside the truth of its image."""

    kind: str
    truth: Truth
    exchanges: list[tuple[str, str]]


@pytest.fixture(scope="module")
def chats(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Chat]:
    out = tmp_path_factory.mktemp("scribe") / "records.json"
    summary = synthesize(small_world, out, conversation_boxes=True, seed=1)
    assert summary.records == {"conversation": 300, "detail": 300, "reasoning": 300}
    assert summary.problems == ()
    lines = (small_world / "truth.jsonl").read_bytes().splitlines()
    truths = {t.image: t for t in (msgspec.json.decode(line, type=Truth) for line in lines)}
    found = []
    for row in json.loads(out.read_text(encoding="utf-8")):
        said = [turn["value"].replace("<image>", "").strip() for turn in row["conversations"]]
        exchanges = list(zip(said[::2], said[1::2], strict=True))
        found.append(Chat(row["kind"], truths[row["image"]], exchanges))
    return found


def asked_in(chat: Chat) -> list[Asked]:
    return [read(question, answer) for question, answer in chat.exchanges]


def test_every_answer_of_every_conversation_is_true(chats: list[Chat]) -> None:
    seen: Counter[tuple[str, bool]] = Counter()
    for chat in chats:
        if chat.kind != "conversation":
            continue
        for asked in asked_in(chat):
            answers = true_answers(asked, chat.truth)
            matching = [a for a in answers if re.fullmatch(a, asked.answer)]
            assert matching, (asked, answers, chat.truth)
            short = asked.question.endswith(SHORT)
            assert short == (asked.answer[-1] != "."), asked
            seen[asked.form, short] += 1
    assert {form for form, _ in seen} == set(FORMS)
    assert min(seen.values()) > 5
    bare = sum(number for (_, short), number in seen.items() if short)
    assert 0.7 < bare / seen.total() < 0.8


@pytest.fixture(scope="module")
def talks() -> list[list[Asked]]:
    """2000 conversations, each about a scene of its own, half of them of either stream."""
    scribe = Scribe("conversation", Survey(CATEGORIES), seed=1)
    found = []
    for stream in STREAMS:
        for index in range(1000):
            truth = draw_truth(stream, 8, index)
            captions = write_captions(truth, np.random.default_rng(index))
            text = write_proxy(captions, tuple(toy.box for toy in truth.toys))
            reply = asyncio.run(scribe.complete([Message(role="user", content=text)]))
            found.append([read(*exchange) for exchange in parse_reply(reply.text)])
    return found


def test_yes_and_no_are_balanced(talks: list[list[Asked]]) -> None:
    differences = Counter[int]()
    total = Counter[tuple[str, str]]()
    for talk in talks:
        said = Counter(
            (asked.words.get("relation", "existence"), asked.answer.lower().split(",")[0])
            for asked in talk
            if asked.form in ("existence", "relation")
        )
        differences[said["existence", "yes"] - said["existence", "no"]] += 1
        total += said
    assert differences[0] > 1600
    # Turns beyond the sixth are cut off after the balance was struck, which can cost one more.
    assert sum(differences[number] for number in (-1, 0, 1)) >= 1995, differences
    assert set(differences) <= {-2, -1, 0, 1, 2}
    for form in ("existence", "to the left of", "to the right of", "above", "below"):
        yes, no = total[form, "yes"], total[form, "no"]
        assert yes + no > 150
        assert 0.43 < yes / (yes + no) < 0.57, total


def test_no_turn_gives_away_what_a_later_one_asks(talks: list[list[Asked]]) -> None:
    """Whoever hears the conversation without seeing the image learns no answer from it."""
    seen = Counter[str]()
    for talk in talks:
        spoken_of: set[str] = set()
        for asked in talk:
            yes = asked.form == "existence" and asked.answer.lower().startswith("yes")
            if yes or asked.form == "count":
                assert singular(asked.words["thing"]) not in spoken_of, talk
                seen[asked.form] += 1
            if asked.form.startswith("kind"):
                (name,) = categories_in(asked.answer)
                others = [o for o in talk if o is not asked]
                assert not any(name in categories_in(o.question + o.answer) for o in others), talk
                seen[asked.form] += 1
            spoken_of |= categories_in(asked.question) | categories_in(asked.answer)
    assert set(seen) == {"existence", "count", "kind of colour", "kind at place"}
    assert min(seen.values()) > 200, seen


def categories_in(text: str) -> set[str]:
    """The categories that a text names as whole words, in the singular or in the plural."""
    return {c for c in CATEGORIES if re.search(rf"\b{c}(e?s)?\b", text.lower())}


def test_descriptions_are_true(chats: list[Chat]) -> None:
    colours = "|".join(COLOURS)
    placed = re.compile(
        rf"(?:(?:The (?P<c1>(?:{colours}) )?(?P<t1>[a-z ]+?) (?:is|stands) (?:at|on|in) the "
        r"(?P<p1>[a-z ]+))|(?:(?:At|On|In) the (?P<p2>[a-z ]+) there is the "
        rf"(?P<c2>(?:{colours}) )?(?P<t2>[a-z ]+)))"
    )
    opening = re.compile(
        r"(?:The picture shows|In the picture one finds|One can see) (.*?)(?: here)?"
    )
    places = 0
    for chat in chats:
        if chat.kind != "detail":
            continue
        first, *rest = chat.exchanges[0][1].removesuffix(".").split(". ")
        match = opening.fullmatch(first)
        assert match, first
        _check_listed(match[1], chat.truth)
        for sentence in rest:
            relation = re.fullmatch(
                rf"The (?P<thing>[a-z ]+?) is {RELATION} the (?P<other>[a-z ]+)", sentence
            )
            if relation:
                assert "yes" in _true_relation(relation.groupdict(), chat.truth), sentence
                continue
            found = placed.fullmatch(sentence)
            assert found, sentence
            toy = only(chat.truth, found["t1"] or found["t2"])
            assert place(toy) == (found["p1"] or found["p2"]), sentence
            assert (found["c1"] or found["c2"] or toy.colour).strip() == toy.colour
            places += 1
    assert places > 150


def _check_listed(listed: str, truth: Truth) -> None:
    """Hold "two dogs, a red cup and scissors" against the toys; no number, no count."""
    named = set()
    for group in re.split(", | and ", listed):
        words = group.removeprefix("a pair of ").split(" ")
        number = {"a": 1, "an": 1}.get(words[0]) or (
            NUMBERS.index(words[0]) if words[0] in NUMBERS else None
        )
        words = words[1:] if number else words
        colour = words.pop(0) if words[0] in COLOURS else None
        noun = " ".join(words)
        category = noun if noun in CATEGORIES else singular(noun)
        toys = of(truth, category)
        assert toys, (group, truth)
        assert number is None or len(toys) == number, group
        assert colour is None or colour == only(truth, category).colour, group
        named.add(category)
    assert named == {toy.category for toy in truth.toys}


def test_reasoning_names_what_is_there(chats: list[Chat]) -> None:
    for chat in chats:
        if chat.kind != "reasoning":
            continue
        there = {toy.category for toy in chat.truth.toys}
        for question, answer in chat.exchanges:
            head, _, reason = answer.partition(", because ")
            assert reason.endswith(".")
            named = {c for c in CATEGORIES if re.search(rf"\b{c}\b", head.lower())}
            assert named
            assert named <= there, answer
            asked = {c for c in CATEGORIES if re.search(rf"\b{c}s?\b", question.lower())}
            assert not asked, "the question gives nothing away"


def test_nobody_speaks_of_texture_lighting_or_signs(chats: list[Chat], small_world: Path) -> None:
    """The blind spot of the text proxy, on purpose: boxes and captions leave these three out."""
    hidden = {*TEXTURES, *LIGHTINGS, *SIGN_WORDS, "light", "lighting", "texture", "sign", "signs"}
    texts = [text for chat in chats for exchange in chat.exchanges for text in exchange]
    texts += [(small_world / name).read_text() for name in ("captions.json", "instances.json")]
    for text in texts:
        assert not hidden & set(re.findall(r"[A-Za-z]+", text)), text
    # Some sign words are everyday words as well; in small letters, only reasoning may use them.
    small = {word.lower() for word in SIGN_WORDS} - set(CATEGORIES)
    for chat in chats:
        if chat.kind != "reasoning":
            answers = " ".join(answer for _, answer in chat.exchanges)
            assert not small & set(re.findall(r"[a-z]+", answers.lower()))
