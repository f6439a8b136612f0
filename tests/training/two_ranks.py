"""Run as a program: be one of two ranks that are given rank 0's weights; write down what came.

python two_ranks.py RECIPE.json FOLDER RANK [bf16]
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import msgspec
import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from laterna.errors import LaternaError
from laterna.model.build import build_from_recipe
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe
from laterna.training.objective import Objective
from laterna.training.parallel import Ranks, shard, without_weights
from laterna.training.stages import apply_stage


def main(path: str, folder: str, number: str, *savings: str) -> None:
    rank = int(number)
    recipe = msgspec.json.decode(Path(path).read_bytes(), type=Recipe)
    store = distributed.FileStore(f"{folder}/store", 2)
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=300)
    )
    ranks = Ranks(rank=rank, count=2, device=torch.device("cpu"))

    def read() -> VisionLanguageModel:
        whole = build_from_recipe(recipe)
        apply_stage(whole, recipe, "instruct")
        _ = whole.plain_head
        return whole

    model = ranks.from_first(read, lambda one: without_weights(one, one.language))
    on_meta = [name for name, one in model.named_parameters() if one.is_meta]
    expected = {name: one.detach().clone() for name, one in model.named_parameters()}
    objective = Objective(model)
    objective.in_half = "bf16" in savings
    shard(objective, ranks)
    found = {}
    for name, one in model.named_parameters():
        shared = isinstance(one, DTensor)
        local = one.to_local() if isinstance(one, DTensor) else one
        full = one.full_tensor() if isinstance(one, DTensor) else one
        found[name] = (shared, local.numel(), one.dtype, full.detach().clone())
    torch.save((on_meta, found, expected if rank == 0 else {}), f"{folder}/{rank}.pt")
    try:
        ranks.from_first(_fails, lambda one: one)
    except LaternaError as error:
        Path(folder, f"{rank}.txt").write_text(str(error))
    distributed.destroy_process_group()


def _fails() -> int:
    raise LaternaError("no such model")


if __name__ == "__main__":
    main(*sys.argv[1:])
