"""Steps: any mixture of arrivals gives each its own answer, and what cannot be driven is named."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from laterna.inference import generation
from laterna.inference.batching import onednn
from laterna.inference.batching.cache import probe
from laterna.inference.batching.pace import EngineSettings
from laterna.inference.batching.request import Request
from laterna.inference.batching.steps import Slots
from laterna.inference.engine import Engine, QueueFullError
from laterna.inference.generation import Prompt, generate_answers, generate_tokens
from laterna.inference.sampling import Decoding
from laterna.model.vlm import VisionLanguageModel

from .conftest import PROMPTS, ids_of, prompt


@torch.no_grad()
def recomputed(model: VisionLanguageModel, one: Prompt, length: int) -> list[int]:
    embeds = generation._inputs(model, [one], None)["inputs_embeds"]
    ids: list[int] = []
    while len(ids) < length and not set(ids) & set(model.end_of_turn()):
        logits = model.language(inputs_embeds=embeds, use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        new = model.language.get_input_embeddings()(torch.tensor([[ids[-1]]]))
        embeds = torch.cat([embeds, new], dim=1)
    return ids


@pytest.fixture(scope="module")
def expected(model: VisionLanguageModel) -> list[list[int]]:
    """Each prompt's greedy answer, every token by a forward over all before it, without a cache."""
    return [recomputed(model, one, 20) for one in PROMPTS]


class ByHand(Engine):
    """Steps when it is told to: a schedule is then the same each time."""

    def submit(self, *arguments: Any, **options: Any) -> Request:
        self._thread = threading.current_thread()  # no other is started
        return super().submit(*arguments, **options)

    def step(self) -> None:
        self._steps.step()

    def finish(self) -> None:
        for _ in range(2000):
            if self._steps.idle:
                return
            self.step()
        raise AssertionError("it never ends")


arrivals = st.lists(
    st.tuples(
        st.integers(0, len(PROMPTS) - 1),  # which question
        st.integers(1, 20),  # of how many tokens
        st.integers(0, 6),  # steps before the next comes
        st.sampled_from(["stay", "stay", "stay", "leave"]),
        st.booleans(),  # watched
    ),
    min_size=1,
    max_size=9,
)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    arrivals=arrivals,
    rows=st.integers(1, 5),
    chunk=st.sampled_from([1, 7, 40, 512]),
    kept=st.sampled_from([0, 40_000, 10**8]),
    attention=st.sampled_from(["sdpa", "eager"]),
    packs=st.booleans(),
)
def test_any_mixture_of_arrivals_gives_what_full_recomputation_gives(
    model: VisionLanguageModel,
    expected: list[list[int]],
    arrivals: list[tuple[int, int, int, str, bool]],
    rows: int,
    chunk: int,
    kept: int,
    attention: str,
    packs: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WORTH_IT", "SMALL"):
        monkeypatch.setattr(onednn, name, 0 if packs else 10**9)
    model.language.set_attn_implementation(attention)
    limits = EngineSettings(rows=rows, chunk=chunk, prefix_bytes=kept, image_bytes=kept)
    engine = ByHand(model, limits)
    taken = []
    for which, length, steps, fate, watched in arrivals:
        decoding = Decoding(max_new_tokens=length)
        taken.append(engine.submit(*PROMPTS[which], decoding, watched=watched))
        for _ in range(steps):
            engine.step()
        if fate == "leave":
            taken[-1].cancel()
    engine.finish()
    for request, (which, length, _, fate, _) in zip(taken, arrivals, strict=True):
        wanted = expected[which][:length]
        ids = ids_of(request)
        if fate == "leave" and request.finish == "cancelled":
            assert ids == wanted[: len(ids)]
        else:
            assert ids == wanted
            assert request.finish == ("length" if len(ids) == length else "stop")
    model.language.set_attn_implementation("sdpa")
    assert engine.stats().running == engine.stats().waiting == 0


def test_many_images_are_encoded_in_batches(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    forward = type(model.vision).forward

    def counting(self: Any, pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(type(model.vision), "forward", counting)
    engine = ByHand(model, EngineSettings(image_batch=4))
    shades = [Image.new("RGB", (28, 28), (value, 0, 0)) for value in range(0, 250, 50)]
    for shade in [*shades, *shades]:
        engine.submit(*prompt("<image>\nWhat?", shade), Decoding(max_new_tokens=2))
    engine.finish()
    assert encoded == [4, 1]


def test_a_cancelled_or_late_request_frees_its_row(model: VisionLanguageModel) -> None:
    engine = ByHand(model, EngineSettings(rows=1))
    first = engine.submit(*PROMPTS[2], Decoding(max_new_tokens=100))
    late = engine.submit(*PROMPTS[0], Decoding(max_new_tokens=4), deadline=0.0)
    third = engine.submit(*PROMPTS[0], Decoding(max_new_tokens=4))
    for _ in range(3):
        engine.step()
    assert (len(first.tokens), len(third.tokens)) == (3, 0)
    assert late.result().finish == "deadline"
    first.cancel()
    engine.finish()
    assert first.result().finish == "cancelled"
    assert len(first.result().tokens) == 3
    assert third.result().finish == "length"
    assert engine.stats().finished == {"deadline": 1, "cancelled": 1, "length": 1}


def test_a_long_prompt_does_not_stop_the_others(model: VisionLanguageModel) -> None:
    engine = ByHand(model, EngineSettings(stall=0.0, stall_seconds=0.0))
    short = engine.submit(*PROMPTS[0], Decoding(max_new_tokens=60))
    engine.step()
    long = engine.submit(*PROMPTS[4], Decoding(max_new_tokens=2))
    steps = 0
    while not long.tokens:
        before = len(short.tokens)
        engine.step()
        assert len(short.tokens) == before + 1
        steps += 1
    assert steps >= len(long.ids) // 16  # pieces of at most 16 tokens
    engine.finish()


def test_the_cache_never_grows_past_its_room(model: VisionLanguageModel) -> None:
    engine = ByHand(model, EngineSettings(cache_bytes=400 * 256))
    requests = [engine.submit(*one, Decoding(max_new_tokens=20)) for one in PROMPTS * 3]
    steps = engine._steps
    assert isinstance(steps, Slots) and steps.token_bytes == 256  # 2 layers, 2 · 2 heads of 8
    most = 0
    while not steps.idle:
        engine.step()
        assert steps._cache.rows * steps._cache.length <= 400
        most = max(most, len(steps.rows))
    assert most > 1
    assert all(request.finish for request in requests)


def test_rows_that_are_made_ready_are_never_made_again(model: VisionLanguageModel) -> None:
    engine = ByHand(model, EngineSettings(cache_bytes=1000 * 256, row_tokens=150, rows=4))
    steps = engine._steps
    assert isinstance(steps, Slots)
    kept = steps._cache.layers[0].keys
    assert (steps._cache.rows, steps._cache.length, kept.shape) == (4, 192, (4, 2, 192, 8))
    requests = [engine.submit(*one, Decoding(max_new_tokens=9)) for one in PROMPTS]
    engine.finish()
    assert steps._cache.layers[0].keys is kept
    assert [ids_of(one) for one in requests] == generate_tokens(
        model, PROMPTS, Decoding(max_new_tokens=9)
    )


@pytest.mark.parametrize(
    ("rows", "room", "ready"),
    [
        (4, 4000, (4, 256)),  # all of the model's 256 positions
        (4, 400, (1, 256)),
        (2, 200, (1, 192)),  # the cache holds fewer
        (2, 60, (0, 0)),
    ],
)
def test_rows_are_made_ready_for_what_the_model_and_the_cache_hold(
    model: VisionLanguageModel, rows: int, room: int, ready: tuple[int, int]
) -> None:
    limits = EngineSettings(cache_bytes=room * 256, rows=rows, row_tokens=None)
    assert Engine(model, limits).ready == ready
    assert Engine(model, EngineSettings(cache_bytes=room * 256)).ready == (0, 0)


@pytest.mark.parametrize("flat", [True, False])
def test_prompts_share_a_forward_with_what_is_written_where_they_can(
    model: VisionLanguageModel, flat: bool
) -> None:
    """In the flat way one forward holds 1 token of a row and 40 of another; else there are two."""
    model.language.set_attn_implementation("sdpa" if flat else "eager")
    engine = ByHand(model, EngineSettings(chunk=40, stall_seconds=1e9))
    steps = engine._steps
    assert isinstance(steps, Slots) and steps._flat is flat
    short = engine.submit(*PROMPTS[5], Decoding(max_new_tokens=4))
    for _ in range(2):  # the second writes alone: it is seen how long that takes
        engine.step()
    steps._pace.note(0, 1, 0.0)  # a token takes no time
    forwards: list[list[int]] = []
    forward = steps._cache.forward

    def counting(language: Any, embeds: Any, rows: Any, written: Any, new: Any) -> Any:
        forwards.append(list(new))
        return forward(language, embeds, rows, written, new)

    steps._cache.forward = counting  # type: ignore[method-assign]
    engine.submit(*PROMPTS[2], Decoding(max_new_tokens=2))
    engine.step()
    assert forwards == ([[1, 40]] if flat else [[1], [40]])
    assert len(short.tokens) == 3
    engine.finish()
    model.language.set_attn_implementation("sdpa")


def test_a_full_queue_says_so(model: VisionLanguageModel) -> None:
    engine = ByHand(model, EngineSettings(rows=1, queue=2))
    for _ in range(2):
        engine.submit(*PROMPTS[5], Decoding(max_new_tokens=2))
    with pytest.raises(QueueFullError, match="2 requests wait, which is all that may, and 0 are"):
        engine.submit(*PROMPTS[5], Decoding(max_new_tokens=2))
    engine.finish()
    # A batch takes its places as they become free, however long it is.
    completions = list(
        Engine(model, EngineSettings(rows=1, queue=2)).answers(
            PROMPTS * 2, Decoding(max_new_tokens=3)
        )
    )
    assert [one.text.strip() for one in completions] == generate_answers(
        model, PROMPTS * 2, Decoding(max_new_tokens=3)
    )


def languages() -> Iterator[tuple[str, str, Any]]:
    from transformers import (
        Gemma3TextConfig,
        Lfm2Config,
        MambaConfig,
        MistralConfig,
        OPTConfig,
        Qwen2Config,
    )

    small = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    yield "", "qwen2", Qwen2Config(**small)
    yield (
        "",
        "opt",
        OPTConfig(
            vocab_size=64,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            word_embed_proj_dim=32,
            max_position_embeddings=64,
        ),
    )
    yield "look back 8 tokens only", "mistral", MistralConfig(**small, sliding_window=8)
    yield "look back 8 tokens", "gemma3", Gemma3TextConfig(**small, head_dim=8, sliding_window=8)
    kinds = ["conv", "full_attention"]
    yield "other kinds than full attention (conv)", "lfm2", Lfm2Config(**small, layer_types=kinds)
    yield (
        "(linear_attention)",
        "mamba",
        MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4),
    )


@pytest.mark.parametrize(("why", "config"), [pytest.param(w, c, id=n) for w, n, c in languages()])
def test_a_model_that_cannot_be_driven_row_by_row_is_named(why: str, config: Any) -> None:
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        language = AutoModelForCausalLM.from_config(config).eval()
    reason, token_bytes = probe(language)
    if why:
        assert why in reason
    else:
        assert (reason, token_bytes > 0) == ("", True)


def one_by_one(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr("laterna.inference.engine.probe", lambda _: ("it is a test", 0))
    engine = Engine(model)
    assert engine.one_by_one == "it is a test"
    return engine


def test_such_a_model_answers_by_generate_alike(
    model: VisionLanguageModel, expected: Sequence[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = Decoding(max_new_tokens=10, temperature=1.1, seed=4, logprobs=1)
    wanted = Engine(model).submit(*PROMPTS[3], drawing).result()
    engine = one_by_one(model, monkeypatch)
    requests = [engine.submit(*one, Decoding(max_new_tokens=20)) for one in PROMPTS]
    assert [ids_of(request) for request in requests] == expected
    drawn = engine.submit(*PROMPTS[3], drawing).result()
    assert [token.id for token in drawn.tokens] == [token.id for token in wanted.tokens]
    text = requests[2].result().text
    stopped = engine.submit(*PROMPTS[2], Decoding(max_new_tokens=20, stop=(text[8:12],)))
    assert stopped.result().text == text[: text.index(text[8:12])]
    long = engine.submit(*PROMPTS[2], Decoding(max_new_tokens=150))
    for _ in long:
        break
    assert long.result().finish == "cancelled"
    assert len(long.result().tokens) < 150
    engine.close()
    assert engine.stats().finished["cancelled"] == 1
