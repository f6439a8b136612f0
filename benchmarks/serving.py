"""The engine beside transformers' own `generate`, and beside itself.

    python benchmarks/serving.py [--shapes nano smollm2-135m] [--rounds 3] [--tokens 32]
        [--clients 1 4 16] [--images 64 576] [--only throughput second long]
         [--checkpoint DIR --world DIR] [--out FILE]

Both sides in turn, in every round, in one process and on one thread: seconds are the CPU's and of
the whole process, so that a busy machine does not count. What is compared is asked in float32 of
the same network, about the same images, and its tokens must be equal.

- throughput: as many clients as said, each with an image of its own, against `generate` one after
  another. The end of turn is switched off on both sides, so that all answers are equally long.
- second question: first tokens of a question about a new image, and of another about the same.
- long prompt: eight answers are being watched when a prompt of 2,000 tokens comes; the seconds
  between their tokens before it came and while it was taken (needs a model of 2,100 positions).
- evaluation: with `--checkpoint` and `--world`, a dataset that `laterna world` drew: all its
  questions through the engine, and in batches of 64 by `generate`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, LlamaConfig, LlamaForCausalLM
from transformers import CLIPVisionModel as ClipVision

from laterna.evaluation.run import ask
from laterna.evaluation.tasks import find_task
from laterna.inference.assistant import Assistant, load
from laterna.inference.batching.pace import EngineSettings
from laterna.inference.batching.request import Request
from laterna.inference.engine import Engine
from laterna.inference.generation import Prompt, generate_answers, generate_tokens
from laterna.inference.sampling import Decoding
from laterna.model.build import build_from_recipe, join
from laterna.model.vision import load_vision
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import load_recipe
from laterna.records import Turn

CLIENTS = (1, 4, 16)
QUESTIONS = (
    "What is on the table?",
    "How many apples are there in the image, and which colour is the largest of them?",
    "Describe the image.",
    "Is there a banana to the left of the striped cup?",
)
SMOLLM2_135M = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
    tie_word_embeddings=True,
)
"""The shapes of SmolLM2-135M's config.json; the weights are drawn."""
CASUAL = Decoding(max_new_tokens=1)


def network(shapes: str, image_tokens: int) -> VisionLanguageModel:
    """Return a network of these shapes: `nano` as shipped, or drawn weights.

    `image_tokens` 64 is the shipped encoder; 576 one of drawn weights that sees 336 pixels in
    patches of 14, as LLaVA-1.5's does, but as wide and deep as the shipped one.
    """
    recipe = load_recipe("nano")
    model = build_from_recipe(recipe)
    vision, language = model.vision, model.language
    torch.manual_seed(0)
    if shapes != "nano":
        language = LlamaForCausalLM(SMOLLM2_135M).float()
    if image_tokens == 576:
        vision = large_vision(recipe)
    joined = join(
        recipe, vision, language, tokenizer=model.tokenizer, template=model.template, fresh=True
    )
    joined.end_of_turn = lambda: [10**6]  # type: ignore[method-assign]  # equal lengths on both sides
    return joined


def large_vision(recipe: Any) -> Any:
    """Return the encoder of drawn weights for 336 pixels."""
    import tempfile

    from msgspec.structs import replace

    with tempfile.TemporaryDirectory() as folder:
        config = CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=336,
            patch_size=14,
        )
        ClipVision(config).save_pretrained(folder)
        side = {"height": 336, "width": 336}
        CLIPImageProcessorPil(size=side, crop_size=side).save_pretrained(folder)
        return load_vision(replace(recipe.vision, source=folder))


def image(number: int) -> Image.Image:
    """Return an image that differs from all others."""
    noise = torch.randint(0, 255, (48, 48, 3), generator=torch.Generator().manual_seed(number))
    return Image.fromarray(noise.to(torch.uint8).numpy())


def prompts(count: int, start: int) -> list[Prompt]:
    """Return questions about images of their own."""
    return [
        ([Turn(role="user", text=f"<image>\n{QUESTIONS[n % len(QUESTIONS)]}")], [image(start + n)])
        for n in range(count)
    ]


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds of some work, and what came of it."""
    begun = time.process_time()
    made = work()
    return time.process_time() - begun, made


def throughput(
    model: VisionLanguageModel, rounds: int, tokens: int, clients_of: Sequence[int]
) -> dict[str, Any]:
    """Return tokens a CPU second of both sides, by the number of clients, and their ratio."""
    decoding = CASUAL

    def by_engine(asked: Sequence[Prompt]) -> list[list[int]]:
        requests = [engine.submit(*one, decoding) for one in asked]
        return [[token.id for token in request.result().tokens] for request in requests]

    def by_generate(asked: Sequence[Prompt]) -> list[list[int]]:
        return [generate_tokens(model, [one], decoding)[0] for one in asked]

    engine = Engine(model)
    found: dict[int, list[tuple[float, float]]] = {clients: [] for clients in clients_of}
    for number in range(rounds + 1):
        if number:  # the first round warms up
            decoding = Decoding(max_new_tokens=tokens)
        for clients in clients_of:
            asked = prompts(clients, start=1000 * number + clients * (clients - 1))
            ours, answers = seconds(lambda: by_engine(asked))  # noqa: B023
            theirs, wanted = seconds(lambda: by_generate(asked))  # noqa: B023
            if answers != wanted:
                raise SystemExit("the engine's tokens are not those of generate")
            if number:
                found[clients].append((ours, theirs))
    engine.close()
    figures = {}
    for clients, pairs in found.items():
        written = clients * tokens
        figures[str(clients)] = {
            "engine": round(written / statistics.median(ours for ours, _ in pairs), 1),
            "generate": round(written / statistics.median(theirs for _, theirs in pairs), 1),
            "ratio": round(statistics.median(theirs / ours for ours, theirs in pairs), 3),
            "ratios": [round(theirs / ours, 3) for ours, theirs in pairs],
        }
    return figures


def second_question(model: VisionLanguageModel, rounds: int) -> dict[str, Any]:
    """Return CPU seconds to the first token of a first and a second question about an image."""

    def first_token(number: int, question: str) -> tuple[float, Any]:
        turns = [Turn(role="user", text=f"<image>\n{question}")]
        asked = image(number)
        begun = time.process_time()
        request = engine.submit(turns, [asked], CASUAL)
        answer = request.result()
        return taken[request] - begun, answer

    engine, taken = Engine(model), dict[Any, float]()
    take = Request.take

    def timed(request: Request, token: Any) -> bool:
        taken[request] = time.process_time()
        return take(request, token)

    Request.take = timed  # type: ignore[method-assign]
    pairs = []
    for number in range(rounds * 3 + 1):
        first, _ = first_token(number, "What is on the table?")
        second, answer = first_token(number, "Is there a banana?")
        if number:
            pairs.append((first, second))
    Request.take = take  # type: ignore[method-assign]
    engine.close()
    return {
        "first": round(statistics.median(first for first, _ in pairs), 4),
        "second": round(statistics.median(second for _, second in pairs), 4),
        "ratio": round(statistics.median(second / first for first, second in pairs), 3),
        "prompt_tokens": answer.prompt_tokens,
        "cached_tokens": answer.cached_tokens,
    }


def long_prompt(model: VisionLanguageModel) -> dict[str, Any]:
    """Return the CPU seconds between tokens of eight answers, usual and while a prompt is taken.

    All eight get a token a step, so one is looked at, by the clock of the thread that steps.
    """
    engine = Engine(model, EngineSettings(row_tokens=2560, rows=12))
    words = "What colour is the largest apple on the table? " * 400
    text = words[: 2000 * len(words) // len(model.tokenizer(words).input_ids)]
    watched = [engine.submit(*one, Decoding(max_new_tokens=500)) for one in prompts(8, 0)]
    first, take, ready = watched[0], watched[0].take, threading.Event()
    times: list[float] = []

    def timed(token: Any) -> bool:
        times.append(time.thread_time())
        if len(times) == 60:
            ready.set()
        return take(token)

    first.take = timed  # type: ignore[method-assign]
    ready.wait()
    long = engine.submit([Turn(role="user", text=text)], [], CASUAL)
    begun = len(times)
    long.result()
    gaps = [after - before for before, after in pairwise(times)]
    usual, during = gaps[20 : begun - 2], gaps[begun - 1 :]
    engine.close()
    middle = statistics.median(usual)
    return {
        "prompt_tokens": len(long.ids),
        "steps": len(during),
        "four_longest": [round(gap, 4) for gap in sorted(during)[:-5:-1]],
        "usual": round(middle, 4),
        "usual_longest": round(max(usual), 4),
        "longest": round(max(during), 4),
        "ratio": round(max(during) / middle, 2),
        "median_ratio": round(statistics.median(during) / middle, 2),
    }


def evaluation(checkpoint: Path, world: Path, rounds: int) -> dict[str, Any]:
    """Return CPU seconds of all the world's questions by both ways, and whether they agree."""
    assistant = load(checkpoint, device="cpu", dtype="float32")
    task = find_task("world")
    questions = task.questions(world, limit=0, seed=0)

    def asked(fresh: Assistant, answer: Any) -> Callable[[], list[str]]:
        return lambda: [
            given.text
            for given in ask(
                fresh,
                questions,
                world / task.images,
                max_new_tokens=task.max_new_tokens,
                answer=answer,
                progress=False,
            ).answers
        ]

    pairs, differ = [], 0
    for _ in range(rounds):
        ours, answers = seconds(asked(Assistant(assistant.model), None))
        theirs, wanted = seconds(asked(assistant, generate_answers))
        pairs.append((ours, theirs))
        differ = sum(a != b for a, b in zip(answers, wanted, strict=True))
    return {
        "questions": len(questions),
        "engine_seconds": round(statistics.median(ours for ours, _ in pairs), 2),
        "generate_seconds": round(statistics.median(theirs for _, theirs in pairs), 2),
        "ratio": round(statistics.median(theirs / ours for ours, theirs in pairs), 2),
        "answers_that_differ": differ,
        "mean_words": round(statistics.mean(len(text.split()) for text in wanted), 1),
    }


def main() -> None:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shapes", nargs="*", default=["nano", "smollm2-135m"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--clients", type=int, nargs="*", default=list(CLIENTS))
    parser.add_argument("--images", type=int, nargs="*", default=[64, 576])
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--world", type=Path, default=None)
    parser.add_argument("--only", nargs="*", default=["throughput", "second", "long"])
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokens": given.tokens,
    }
    for shapes in given.shapes:
        found: dict[str, Any] = {}
        if "throughput" in given.only:
            found["throughput"] = throughput(
                network(shapes, 64), given.rounds, given.tokens, given.clients
            )
        for count in given.images if "second" in given.only else ():
            found[f"second_question_{count}"] = second_question(
                network(shapes, count), given.rounds
            )
        if "long" in given.only and shapes != "nano":
            found["long_prompt"] = long_prompt(network(shapes, 64))
        figures[shapes] = found
        print(json.dumps(found, indent=2), flush=True)
    if given.checkpoint and given.world:
        figures["evaluation"] = evaluation(given.checkpoint, given.world, given.rounds)
    text = json.dumps(figures, indent=2)
    if given.out:
        given.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
