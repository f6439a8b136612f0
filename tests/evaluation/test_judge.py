"""Judges through a stub endpoint: good, malformed, refusing, dead; nothing failed is a score."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from laterna.errors import LaternaError
from laterna.evaluation.judge import JUDGES, Judging, agree, judge_answers
from laterna.evaluation.scores import score
from laterna.records import Answer, Question
from laterna.synthesis.settings import Endpoint

REFUSAL = "I'm sorry, but I can't help with that."


@contextmanager
def endpoint(answer: Any) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An OpenAI-compatible endpoint whose replies `answer(request)` makes: text or a status."""
    seen: list[dict[str, Any]] = []

    class Stub(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(request)
            said = answer(request)
            status = said if isinstance(said, int) else 200
            choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
            body = json.dumps(
                {"error": {"message": "broken"}}
                if status != 200
                else {"model": f"{request['model']}-2026-11", "choices": [choice]}
            ).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")


def judging(url: str, **more: Any) -> Judging:
    asked = Endpoint(base_url=url, key_variable="JUDGE_KEY", tries=1, concurrency=4)
    return Judging(model="j", endpoint=asked, **more)


def vet(texts: list[str]) -> list[Answer]:
    return [
        Answer(
            question=Question(
                id=str(number),
                images=(),
                kind="ocr",
                text="Which word?",
                references=("cafe",),
                fields={"capabilities": "ocr"},
            ),
            text=text,
            score=math.nan,
        )
        for number, text in enumerate(texts)
    ]


def by_answer(request: dict[str, Any]) -> str | int:
    """Reply with what stands between the last `Answer: ` and the end of its line."""
    said: str = request["messages"][-1]["content"].rpartition("Answer: ")[2].partition("\n")[0]
    replies: dict[str, str | int] = {"refuse": REFUSAL, "mumble": "about half", "break": 400}
    return replies.get(said, said)


def test_what_fails_is_counted_by_reason_and_enters_no_mean(tmp_path: Path) -> None:
    answers = vet(["1.0", "0.5", "refuse", "mumble", "break", "0.0"])
    with endpoint(by_answer) as (url, seen):
        judged = judge_answers(judging(url), "mm_vet", answers, tmp_path / "judge.sqlite")
        again = judge_answers(judging(url), "mm_vet", answers[:4], tmp_path / "judge.sqlite")
    scores = [one.score for one in judged.answers]
    assert scores[:2] + scores[5:] == [1.0, 0.5, 0.0]
    assert all(map(math.isnan, scores[2:5]))
    counted = judged.figures.outcomes
    assert {name: counted[name] for name in ("judged", "refused", "unparsable")} == {
        "judged": 3,
        "refused": 1,
        "unparsable": 1,
    }
    (failure,) = set(counted) - {"judged", "refused", "unparsable"}
    assert counted[failure] == 1
    values = score(judged.answers, ("mm_vet",)).values
    assert values["mm_vet.total"] == 50.0
    assert values["mm_vet.failures"] == 3
    assert values["mm_vet.mm_vet.total"] == 25.0  # as the published script takes failures
    # the ledger knew what was answered: only what failed would be asked again
    assert len(seen) == 6
    assert [one.text for one in again.verdicts] == [one.text for one in judged.verdicts[:4]]


def test_each_verdict_keeps_request_and_version_and_the_ledger_keeps_both(tmp_path: Path) -> None:
    with endpoint(by_answer) as (url, seen):
        first = judge_answers(judging(url), "mm_vet", vet(["0.5"]), tmp_path / "judge.sqlite")
        again = judge_answers(judging(url), "mm_vet", vet(["0.5"]), tmp_path / "judge.sqlite")
    for judged in (first, again):
        (verdict,) = judged.verdicts
        assert (verdict.judge, verdict.version, verdict.outcome) == ("j", "j-2026-11", "judged")
        sent = [{"role": one.role, "content": one.content} for one in verdict.messages]
        assert sent == seen[0]["messages"]
        assert judged.figures.versions == ("j-2026-11",)
        assert "not the published one" in judged.figures.note
    assert (seen[0]["temperature"], seen[0]["max_tokens"]) == (0.0, 16)
    assert len(seen) == 1
    connection = sqlite3.connect(tmp_path / "judge.sqlite")
    assert connection.execute("SELECT count(*) FROM requests").fetchone() == (1,)
    connection.close()
    assert "secret" not in str(first)


@pytest.mark.parametrize("answer", [lambda _: 500, lambda _: 401], ids=["broken", "no key"])
def test_a_dead_judge_ends_with_an_error(tmp_path: Path, answer: Any) -> None:
    with endpoint(answer) as (url, _), pytest.raises(LaternaError) as raised:
        judge_answers(judging(url), "mm_vet", vet(["1.0", "0.5"]), tmp_path / "judge.sqlite")
    assert url in str(raised.value)


def test_a_judge_that_cannot_be_reached_ends_with_an_error(tmp_path: Path) -> None:
    with endpoint(by_answer) as (url, _):
        pass  # it is closed now
    with pytest.raises(LaternaError, match="gave no review of any of 1 answers"):
        judge_answers(judging(url), "mm_vet", vet(["1.0"]), tmp_path / "judge.sqlite")


def test_a_second_run_of_one_judge_is_asked_anew_and_compared(tmp_path: Path) -> None:
    replies = iter(["0.5", "1.0", "0.0", "0.5", "0.6", "about"])
    lock = threading.Lock()

    def in_turn(_: dict[str, Any]) -> str:
        with lock:
            return next(replies)

    answers = vet(["a", "b", "c"])
    with endpoint(in_turn) as (url, seen):
        asked = judging(url, second="j")
        one = Endpoint(**{**_told(asked.endpoint), "concurrency": 1})
        asked = Judging(model="j", second="j", endpoint=one)
        judged = judge_answers(asked, "mm_vet", answers, tmp_path / "judge.sqlite")
    assert len(seen) == 6
    found = judged.figures.agreement
    assert found is not None
    assert (found.first, found.second, found.both) == ("j", "j", 2)
    firsts = {one.question: one.score for one in judged.verdicts[:3]}
    seconds = {one.question: one.score for one in judged.verdicts[3:]}
    gaps = [abs(firsts[n] - seconds[n]) for n in firsts if not math.isnan(seconds[n])]
    assert found.difference == pytest.approx(sum(gaps) / 2)
    assert found.same == sum(gap == 0 for gap in gaps) / 2


def _told(asked: Endpoint) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in asked.__struct_fields__}


def test_agreement_over_nothing_has_no_figures() -> None:
    verdicts = judge_verdicts([math.nan, 0.5])
    found = agree(verdicts, judge_verdicts([0.5, math.nan]))
    assert (found.both, found.same, found.difference, found.correlation) == (0, None, None, None)
    same = agree(judge_verdicts([0.0, 0.5, 1.0]), judge_verdicts([0.0, 0.5, 1.0]))
    assert (same.same, same.difference) == (1.0, 0.0)
    assert same.correlation == pytest.approx(1.0)


def judge_verdicts(scores: list[float]) -> Any:
    from laterna.evaluation.judge import Verdict

    return [
        Verdict(
            question=str(number),
            judge="j",
            version="",
            messages=(),
            text="",
            outcome="judged",
            score=value,
        )
        for number, value in enumerate(scores)
    ]


def test_llava_benchs_request_is_in_its_scripts_order_with_the_users_rule() -> None:
    asked = Question(
        id="1",
        images=(),
        kind="conv",
        text="What is it?",
        references=("A cup.",),
        fields={"context": "A cup stands there.", "role": "Assistant", "rule": "Rate both."},
    )
    system, user = JUDGES["llava_bench"].messages(asked, "A mug.", "")
    assert (system.role, user.role) == ("system", "user")
    assert user.content == (
        "[Context]\nA cup stands there.\n\n[Question]\nWhat is it?\n\n"
        "[Assistant 1]\nA cup.\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nA mug.\n\n[End of Assistant 2]\n\n[System]\nRate both.\n\n"
    )


def test_mm_vet_takes_the_users_published_prompt_in_its_own_form(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Compare.\n\nQuestion | Truth | Said | Correctness\n")
    answers = vet(["tea"])
    with endpoint(lambda _: "0.4") as (url, seen):
        judged = judge_answers(
            judging(url, prompt=tmp_path / "prompt.txt"), "mm_vet", answers, tmp_path / "j.sqlite"
        )
    (message,) = seen[0]["messages"]
    assert message["content"] == (
        "Compare.\n\nQuestion | Truth | Said | Correctness\nWhich word? | cafe | tea | "
    )
    assert judged.figures.note == "the prompt of prompt.txt"
    assert judged.answers[0].score == 0.4


def test_an_unknown_judges_prompt_and_an_unreadable_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match="there are: llava_bench, mm_vet"):
        judge_answers(judging("http://x"), "nix", vet(["a"]), tmp_path / "j.sqlite")
    with pytest.raises(LaternaError, match=r"no\.txt: the judge's prompt cannot be read"):
        judge_answers(
            judging("http://x", prompt=tmp_path / "no.txt"), "mm_vet", [], tmp_path / "j.sqlite"
        )
