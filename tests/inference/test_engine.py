"""The engine: any mixture of arrivals gives each its own answer, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.inference.batching.kept import common
from laterna.inference.batching.pace import EngineSettings
from laterna.inference.batching.request import EngineStoppedError
from laterna.inference.batching.steps import Slots
from laterna.inference.engine import Engine, EngineStats, TooLongError
from laterna.inference.generation import Prompt, generate_tokens
from laterna.inference.sampling import Decoding
from laterna.model.build import build_from_recipe
from laterna.model.fusion.cross_attention import CrossAttentionFusion
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe
from laterna.records import Turn

from ..tiny import flamingo
from .conftest import PROMPTS, RED, ids_of, prompt


def test_what_is_drawn_for_a_seed_is_the_same_alone_and_among_others(
    model: VisionLanguageModel,
) -> None:
    def asked(seed: int) -> Decoding:
        return Decoding(
            max_new_tokens=12, temperature=1.2, top_p=0.9, top_k=50, seed=seed, logprobs=2
        )

    alone = []
    for number, one in enumerate(PROMPTS):
        engine = Engine(model)
        alone.append(engine.submit(*one, asked(number)).result())
    engine = Engine(model, EngineSettings(rows=4, chunk=16))
    together = [engine.submit(*one, asked(number)) for number, one in enumerate(PROMPTS)]
    others = [engine.submit(*one, Decoding(max_new_tokens=12)) for one in PROMPTS]
    for whole, request in zip(alone, together, strict=True):
        assert ids_of(request) == [token.id for token in whole.tokens]
        given = [token.logprob for token in request.result().tokens]
        assert given == pytest.approx([token.logprob for token in whole.tokens], abs=1e-4)
        assert all(len(token.top) == 2 for token in request.result().tokens)
    assert ids_of(others[0]) != ids_of(together[0])
    assert len({tuple(ids_of(request)) for request in together}) == len(PROMPTS)


def test_logprobs_are_the_models_own(model: VisionLanguageModel) -> None:
    request = Engine(model).submit(*PROMPTS[0], Decoding(max_new_tokens=1, logprobs=3))
    (token,) = request.result().tokens
    text = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPTS[0][0][0].text}],
        tokenize=False,
        add_generation_prompt=True,
    )
    wanted = model.logits([RED], text)[-1].log_softmax(-1).topk(3)
    assert [id for id, _ in token.top] == wanted.indices.tolist()
    assert [value for _, value in token.top] == pytest.approx(wanted.values.tolist(), abs=1e-4)
    assert token.logprob == token.top[0][1]


def test_a_second_question_about_an_image_finds_it_in_the_cache(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    forward = type(model.vision).forward

    def counting(self: Any, pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(type(model.vision), "forward", counting)
    engine = Engine(model)
    asked = [engine.submit(*PROMPTS[0], Decoding(max_new_tokens=4))]
    first = asked[0].result()
    asked.append(engine.submit(*PROMPTS[1], Decoding(max_new_tokens=4)))
    second = asked[1].result()
    assert first.cached_tokens == 0
    assert second.cached_tokens == common(asked[0].ids, asked[1].ids) > 16
    assert encoded == [1]
    stats = engine.stats()
    assert (stats.image_queries, stats.image_hits) == (2, 1)
    assert stats.cached_tokens == second.cached_tokens
    assert stats.prompt_tokens == first.prompt_tokens + second.prompt_tokens
    turns = [*PROMPTS[0][0], Turn(role="assistant", text=first.text), Turn(role="user", text="So?")]
    third = engine.submit(turns, [RED.copy()], Decoding(max_new_tokens=4)).result()
    assert third.cached_tokens >= first.prompt_tokens


@pytest.mark.parametrize("chunk", [512, 8])
def test_a_fusion_beside_the_row_is_asked_in_any_mixture(tiny_recipe: Recipe, chunk: int) -> None:
    """Prompts of several lengths, together and in pieces: the images are looked at by width."""
    network = build_from_recipe(flamingo(tiny_recipe))
    with torch.no_grad():
        for name, weight in network.fusion.named_parameters():
            if name.endswith("gate"):
                weight.fill_(0.7)
    decoding = Decoding(max_new_tokens=6)
    engine = Engine(network, EngineSettings(chunk=chunk))
    asked = [engine.submit(*one, decoding) for one in PROMPTS]
    found = [ids_of(one) for one in asked]
    engine.close()  # the network was in its hands
    assert found == [generate_tokens(network, [one], decoding)[0] for one in PROMPTS]


def test_what_images_take_beside_the_cache_is_counted(tiny_recipe: Recipe) -> None:
    """Keys and values of the 4 latents of an image, for each block of cross-attention."""
    engine = Engine(build_from_recipe(flamingo(tiny_recipe)))
    asked = [engine.submit(*PROMPTS[at], Decoding(max_new_tokens=30)) for at in (0, 3)]
    steps = engine._steps
    used, rows, images = engine.call(
        lambda: (
            engine.stats().cache_bytes_used,
            sum(row.written for row in steps.rows) * steps.token_bytes,
            sum(len(row.images) for row in steps.rows),
        )
    )
    for one in asked:
        one.result()
    fusion = engine.model.fusion
    assert isinstance(fusion, CrossAttentionFusion) and images >= 1
    own = fusion.settings
    assert used - rows == images * 4 * len(fusion.blocks) * 2 * own.heads * own.head_width * 4
    engine.close()


def test_new_weights_are_not_answered_from_old_ones(model: VisionLanguageModel) -> None:
    engine = Engine(model)
    decoding = Decoding(max_new_tokens=8)
    before = ids_of(engine.submit(*PROMPTS[0], decoding))
    weight = next(model.connector.parameters())
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 50)
    try:
        changed = ids_of(engine.submit(*PROMPTS[0], decoding))
        assert changed == generate_tokens(model, PROMPTS[:1], decoding)[0]
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert ids_of(engine.submit(*PROMPTS[0], decoding)) == before != changed


def test_a_stop_text_ends_an_answer_across_tokens_and_is_not_returned(
    model: VisionLanguageModel,
) -> None:
    engine = Engine(model)
    whole = engine.submit(*PROMPTS[2], Decoding(max_new_tokens=20)).result()
    assert whole.finish == "length"
    middle = whole.text[len(whole.text) // 2 :][:5]
    request = engine.submit(*PROMPTS[2], Decoding(max_new_tokens=20, stop=("#~#", middle)))
    events = list(request)
    text = "".join(event.text for event in events)
    assert text == whole.text[: whole.text.index(middle)]
    assert request.result().text == text
    assert [event.finish for event in events if event.finish] == ["stop"]
    assert len(request.result().tokens) < 20


def test_events_hold_every_token_once_and_all_of_the_text(model: VisionLanguageModel) -> None:
    engine = Engine(model)
    for one in PROMPTS:
        request = engine.submit(*one, Decoding(max_new_tokens=20))
        events = list(request)
        whole = request.result()
        shown = [token for token in whole.tokens if token.id not in model.end_of_turn()]
        assert [token for event in events for token in event.tokens] == shown
        assert "".join(event.text for event in events) == whole.text
        unwatched = engine.submit(*one, Decoding(max_new_tokens=20), watched=False)
        assert unwatched.result().text == whole.text


def test_what_does_not_fit_is_refused_with_the_numbers(model: VisionLanguageModel) -> None:
    engine = Engine(model)
    with pytest.raises(TooLongError, match=r"may have 250, but the model has 256 positions"):
        engine.submit(*PROMPTS[0], Decoding(max_new_tokens=250))
    request = engine.submit(*PROMPTS[0], Decoding(max_new_tokens=250), fit=True)
    assert request.need == 256
    request.cancel()
    small = Engine(model, EngineSettings(cache_bytes=100 * 256))
    with pytest.raises(TooLongError, match=r"the cache has room for 100 tokens"):
        small.submit(*PROMPTS[2], Decoding(max_new_tokens=20))
    with pytest.raises(LaternaError, match="1 `<image>` marks but 0 images"):
        engine.submit(*prompt("<image>\nWhat?"), Decoding(max_new_tokens=2))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_death_of_the_engine_reaches_everyone(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model, EngineSettings(rows=1))
    assistant = Assistant(model)
    assistant._engine = engine

    def fail(*_: Any) -> None:
        time.sleep(0.05)
        raise MemoryError("no room")

    monkeypatch.setattr(Slots, "_advance", fail)
    requests = [engine.submit(*PROMPTS[0], Decoding(max_new_tokens=8)) for _ in range(3)]
    for request in requests:
        with pytest.raises(EngineStoppedError, match="MemoryError: no room"):
            request.result()
        with pytest.raises(EngineStoppedError):
            list(request)
    assert not engine.alive
    with pytest.raises(EngineStoppedError, match="no room"):
        engine.submit(*PROMPTS[0], Decoding(max_new_tokens=8))
    monkeypatch.undo()
    assert assistant.engine is not engine
    assert assistant.answer(RED, "What?", max_new_tokens=4)


def test_closing_fails_what_is_left(model: VisionLanguageModel) -> None:
    engine = Engine(model)
    request = engine.submit(*PROMPTS[2], Decoding(max_new_tokens=150))
    engine.close()
    with pytest.raises(EngineStoppedError, match="closed"):
        request.result()
    assert not engine.alive


def at_rest(engine: Engine) -> EngineStats:
    """How the engine stands once its last step has ended: answers are there a moment before."""
    deadline = time.monotonic() + 30
    while engine.stats().running and time.monotonic() < deadline:
        time.sleep(0.01)
    return engine.stats()


def test_many_threads_may_ask_at_once(model: VisionLanguageModel) -> None:
    wanted = generate_tokens(model, PROMPTS, Decoding(max_new_tokens=6))
    engine = Engine(model, EngineSettings(rows=4))
    asked = [(number, one) for number, one in enumerate(PROMPTS)] * 8

    def ask(pair: tuple[int, Prompt]) -> bool:
        request = engine.submit(*pair[1], Decoding(max_new_tokens=6, stop=("#~#",)))
        text = "".join(event.text for event in request)
        return ids_of(request) == wanted[pair[0]] and text == request.result().text

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, asked))
    stats = at_rest(engine)
    assert (stats.running, stats.waiting, stats.image_queries) == (0, 0, 8 * 5)
    assert len(engine._steps.images._seen) == 3


def test_asynchronous_readers_share_one_loop(model: VisionLanguageModel) -> None:
    engine = Engine(model)

    async def read(one: Prompt, most: int) -> str:
        request = engine.submit(*one, Decoding(max_new_tokens=100))
        text, count = "", 0
        async for event in request:
            text, count = text + event.text, count + 1
            if count == most:
                break
        return text

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(read(one, 10) for one in PROMPTS))

    wanted = [engine.submit(*one, Decoding(max_new_tokens=100)).result().text for one in PROMPTS]
    for text, whole in zip(asyncio.run(all_of_them()), wanted, strict=True):
        assert whole.startswith(text)
    stats = at_rest(engine)
    assert stats.running == 0  # whoever breaks off has cancelled
    assert stats.finished["cancelled"] >= 1


def test_a_closed_stream_frees_its_row(model: VisionLanguageModel) -> None:
    assistant = Assistant(model)
    stream = assistant.stream(None, "How many apples? " * 5)
    assert isinstance(next(stream), str)
    stream.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 10
    while assistant.engine.stats().running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert assistant.engine.stats().finished == {"cancelled": 1}


def test_other_work_is_done_between_steps_and_never_twice(model: VisionLanguageModel) -> None:
    engine = Engine(model, EngineSettings(chunk=64))
    request = engine.submit([Turn(role="user", text="Hello")], [], Decoding(max_new_tokens=60))
    threads, written = set[str](), list[int]()

    def work() -> int:
        threads.add(threading.current_thread().name)
        written.append(len(request.tokens))
        return len(written)

    while request.finish is None:
        assert engine.call(work) == len(written)
    going = [count for count in written if 0 < count < 60]
    assert len(going) > 1
    assert len(set(going)) == len(going)  # a token was written between any two pieces
    assert threads == {"engine"}
    alone = Assistant(model).answer(None, "Hello", max_new_tokens=60)
    assert request.result().text.strip() == alone
    engine.close()


def test_what_work_raises_is_its_callers_and_the_engine_goes_on(
    model: VisionLanguageModel,
) -> None:
    engine = Engine(model)

    def fails() -> None:
        raise KeyError("a fault")

    with pytest.raises(KeyError, match="a fault"):
        engine.call(fails)
    assert engine.alive
    assert engine.call(lambda: 7) == 7
    engine.close()
    with pytest.raises(EngineStoppedError):
        engine.call(lambda: 7)
