"""One GPU in one run: matrix products, both stages of LLaVA-1.5-7B, Trainer's, and generation.

    benchmarks/gpu.sh            at most nine minutes on one card of the H200's class
    benchmarks/gpu.sh --tiny     the same on tiny models, on a CPU too: that the script runs

Weights and records are random, of the published models' shapes: nothing is read or fetched. Each
part is told beside what it is held against: the planner's memory, Trainer's speed. A part that
fails, or that no time is left for, says so in the result instead.

So far only `--tiny` on a CPU has been run: no figure of a GPU has come from this script yet.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import torch
import transformers
from transformers import CLIPVisionConfig, GenerationConfig, LlamaConfig

from gpu_trainer import STAGES, WORDS, Size, synchronise, trainers
from laterna.data.batches import collate
from laterna.model.build import build_random, fast_dtype
from laterna.model.sources import with_published
from laterna.model.vlm import VisionLanguageModel
from laterna.planner.assumptions import Assumptions, Lengths
from laterna.planner.plan import plan_recipe
from laterna.recipe import Recipe, StageName, load_recipe
from laterna.records import IMAGE_TOKEN_INDEX, Batch, Pack, Sample
from laterna.training.dataloader import Step
from laterna.training.loop import train_steps
from laterna.training.parallel import Ranks
from laterna.training.stages import apply_stage
from laterna.training.throughput import matmul_peak, set_up_meter, speeds
from laterna.training.train_state import TrainState

RESULTS = Path(__file__).parent / "results"
FULL = Size(records=64, rows=16, steps=5, requests=(1, 16, 64), new_tokens=128)
TINY = Size(records=4, rows=2, steps=3, requests=(1, 2), new_tokens=4)


def main() -> None:
    """Measure what there is time for, and write it down after every part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--minutes", type=float, default=7.0, help="no part begins later")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not given.tiny:
        raise SystemExit("no GPU that torch can use; --tiny tries the script on a CPU")
    with tempfile.TemporaryDirectory() as folder:
        recipe = tiny_recipe(Path(folder)) if given.tiny else full_recipe()
        size = TINY if given.tiny else FULL
        found = {"machine": machine(device), "tiny": given.tiny, "size": size._asdict()}
        name = f"{datetime.now(UTC):%Y-%m-%d}-{hardware(device)}-gpu"
        path = given.out / f"{name}{'-tiny' if given.tiny else ''}.json"
        until = time.monotonic() + 60 * given.minutes
        for part, measure in parts(recipe, size, device):
            began = time.monotonic()
            found[part] = attempt(measure, until)
            found[part]["took_seconds"] = round(time.monotonic() - began, 2)
            path.write_text(json.dumps(found, indent=1) + "\n")
            print(part, json.dumps(found[part]), flush=True)
    print(path)


def parts(
    recipe: Recipe, size: Size, device: torch.device
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield all that is measured, the most wanted first."""
    yield "matmul", lambda: products(device)
    for stage in STAGES:
        yield f"laterna_{stage}", lambda stage=stage: ours(recipe, stage, size, device)
    yield "generation", lambda: generation(recipe, size, device)
    for stage in STAGES:
        yield f"trainer_{stage}", lambda stage=stage: trainers(recipe, stage, size, device)


def attempt(measure: Callable[[], dict[str, Any]], until: float) -> dict[str, Any]:
    """Return what was measured, or why nothing was."""
    if time.monotonic() > until:
        return {"not_measured": "no time was left"}
    try:
        return measure()
    except Exception as error:  # noqa: BLE001  # the parts behind it are to be measured all the same
        return {"not_measured": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


# --- what is measured ------------------------------------------------------------------------


def products(device: torch.device) -> dict[str, Any]:
    """Return the FLOPs a second that products of large matrices reach."""
    threads = torch.get_num_threads()
    return {
        str(dtype).removeprefix("torch."): matmul_peak(device, dtype, threads)
        for dtype in (torch.bfloat16, torch.float32)
    }


def ours(recipe: Recipe, stage: StageName, size: Size, device: torch.device) -> dict[str, Any]:
    """Train some steps by Laterna's own loop, and hold their memory against the plan."""
    torch.manual_seed(0)
    settings, ranks = recipe.stage(stage), Ranks(rank=0, count=1, device=device)
    model = build_random(recipe, device)
    apply_stage(model, recipe, stage)
    in_half = "bf16" in recipe.savings and fast_dtype(device) is torch.bfloat16
    meter = set_up_meter(model, ranks, in_half=in_half)
    train_state = TrainState(model, settings, total=size.steps, ranks=ranks, savings=recipe.savings)
    steps = [a_step(model, stage, size, number) for number in range(size.steps)]
    done = list(train_steps(train_state, steps, recipe.run, seed=0, meter=meter))
    fast = speeds(done[1:])
    return {
        "losses": [one.loss for one in done],
        "seconds_a_step": fast.seconds / (len(done) - 1),
        "tokens_per_second": fast.tokens,
        "target_tokens_per_second": fast.target_tokens,
        "mfu": fast.mfu,
        "mfu_is_of": meter.peak,
        "vision_share": fast.vision,
        "flops_a_step": done[-1].flops,
        **memory(device, planned(recipe, stage)),
    }


def planned(recipe: Recipe, stage: StageName) -> int:
    """Return the bytes that the planner says a step takes."""
    text, targets = WORDS[stage]
    lengths = {stage: Lengths(text=text, targets=targets, longest=text)}
    plan = plan_recipe(recipe, Assumptions(), stages=[stage], lengths=lengths)
    return plan.stages[0].memory.total


def memory(device: torch.device, plan: int) -> dict[str, Any]:
    """Return the most that was in memory beside what was planned; unknown on a CPU."""
    most = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return {
        "peak_bytes": most,
        "planned_bytes": plan,
        "planned_over_peak": None if most is None else plan / most,
    }


def a_step(model: VisionLanguageModel, stage: StageName, size: Size, number: int) -> Step:
    """Return a step of random records, each of one random image and some text, no two alike."""
    noise = torch.Generator().manual_seed(number)
    text, targets = WORDS[stage]
    vocabulary = model.language.get_input_embeddings().num_embeddings
    tokens, side = model.connector.tokens(model.vision.patches), model.prepare.size

    def record(place: int) -> Pack:
        words = torch.randint(5, vocabulary, (text,), generator=noise).tolist()
        sample = Sample(
            id=f"{number}-{place}",
            input_ids=(IMAGE_TOKEN_INDEX, *words),
            targets=(False,) * (1 + text - targets) + (True,) * targets,
            image_slots=(0,),
            images=(f"{number}-{place}",),
            image_tokens=(tokens,),
        )
        return Pack(samples=(sample,))

    batches: list[Batch] = []
    for first in range(0, size.records, size.rows):
        rows = [record(place) for place in range(first, min(first + size.rows, size.records))]
        pixels = torch.randn(len(rows), 3, side, side, generator=noise)
        if torch.cuda.is_available():
            pixels = pixels.pin_memory()
        batches.append(msgspec.structs.replace(collate(rows), pixels_bchw=pixels))
    length = size.records * (tokens + text)
    return Step(number=number, batches=tuple(batches), length=length, faulty={})


@torch.no_grad()
def generation(recipe: Recipe, size: Size, device: torch.device) -> dict[str, Any]:
    """Answer so many requests at once, of one image and 32 tokens each, greedily."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = build_random(recipe, device).to(dtype).eval()
    chosen = GenerationConfig(
        max_new_tokens=size.new_tokens, min_new_tokens=size.new_tokens, do_sample=False
    )
    chosen.pad_token_id, chosen.eos_token_id = 0, 2
    side, found = model.prepare.size, {}

    def answer(requests: int, config: GenerationConfig) -> float:
        """Return the seconds that it takes, from pixels on."""
        pixels = torch.randn(requests, 3, side, side).to(device, dtype)
        synchronise(device)
        began = time.perf_counter()
        images = model.connect(model.vision(pixels))
        prompts = [[IMAGE_TOKEN_INDEX, *range(5, 37)]] * requests
        inputs = model.fusion.generation_inputs(model.language, prompts, images)
        ids_rt = model.language.generate(**inputs, generation_config=config)
        synchronise(device)
        if ids_rt.shape != (requests, config.max_new_tokens):
            raise SystemExit(f"{tuple(ids_rt.shape)} ids were written")
        return time.perf_counter() - began

    one = GenerationConfig(max_new_tokens=1, min_new_tokens=1, do_sample=False)
    one.pad_token_id, one.eos_token_id = 0, 2
    for requests in size.requests:
        answer(requests, one)  # warms up
        first, seconds = answer(requests, one), answer(requests, chosen)
        found[f"requests_{requests}"] = {
            "seconds": seconds,
            "seconds_to_first_token": first,
            "new_tokens_per_second": requests * size.new_tokens / seconds,
        }
    most = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return {**found, "peak_bytes": most}


# --- what it is measured on ------------------------------------------------------------------


def full_recipe() -> Recipe:
    """Return LLaVA-1.5-7B's recipe with the configurations that Laterna ships, as one GPU does."""
    recipe, _ = with_published(load_recipe("llava-1.5-7b"))
    return sized(recipe, FULL, tokens=576)


def tiny_recipe(folder: Path) -> Recipe:
    """Return the same recipe over configurations of tiny models, written to a folder."""
    CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    ).save_pretrained(folder / "vision")
    LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
    ).save_pretrained(folder / "language")
    recipe = load_recipe("llava-1.5-7b")
    replace = msgspec.structs.replace
    recipe = replace(
        recipe,
        vision=replace(recipe.vision, source=str(folder / "vision")),
        language=replace(recipe.language, source=str(folder / "language")),
    )
    return sized(recipe, TINY, tokens=4)


def sized(recipe: Recipe, size: Size, tokens: int) -> Recipe:
    """Let both stages take steps and micro-batches of a size; `tokens`: of an image."""
    replace = msgspec.structs.replace
    stages = {
        name: replace(
            recipe.stage(name),
            global_batch_size=size.records,
            micro_batch_tokens=size.rows * (tokens + WORDS[name][0]),
        )
        for name in STAGES
    }
    return replace(recipe, run=replace(recipe.run, engine="ddp"), **stages)


def hardware(device: torch.device) -> str:
    """Return the hardware's name as it stands in the result's."""
    name = f"{platform.machine().replace('_', '-')}-{os.cpu_count()}-cores"
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the figures were measured on."""
    told: dict[str, Any] = {"torch": torch.__version__, "transformers": transformers.__version__}
    if device.type == "cuda":
        told["memory_bytes"] = torch.cuda.get_device_properties(device).total_memory
    return {"hardware": hardware(device), "python": platform.python_version(), **told}


if __name__ == "__main__":
    main()
