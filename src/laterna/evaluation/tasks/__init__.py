"""The tasks an assistant can be evaluated on; a new one is one file and one line in `TASKS`."""

from __future__ import annotations

from laterna.errors import LaternaError
from laterna.evaluation.tasks.base import Task
from laterna.evaluation.tasks.boxes import BOXES
from laterna.evaluation.tasks.choices import MMBENCH, MMBENCH_CN, MMVP, SCIENCEQA, SEED
from laterna.evaluation.tasks.descriptions import CAPTIONS, CHAIR
from laterna.evaluation.tasks.judged import LLAVA_BENCH, MM_VET
from laterna.evaluation.tasks.mme import MME
from laterna.evaluation.tasks.pope import POPE
from laterna.evaluation.tasks.vqa import CHARTQA, DOCVQA, GQA, TEXTVQA, VIZWIZ, VQAV2
from laterna.evaluation.tasks.world import WORLD, WORLD_CHAIR, WORLD_PAIRS, WORLD_POPE

TASKS: dict[str, Task] = {
    "boxes": BOXES,
    "captions": CAPTIONS,
    "chair": CHAIR,
    "chartqa": CHARTQA,
    "docvqa": DOCVQA,
    "gqa": GQA,
    "llava_bench": LLAVA_BENCH,
    "mm_vet": MM_VET,
    "mmbench": MMBENCH,
    "mmbench_cn": MMBENCH_CN,
    "mme": MME,
    "mmvp": MMVP,
    "pope": POPE,
    "scienceqa": SCIENCEQA,
    "seed": SEED,
    "textvqa": TEXTVQA,
    "vizwiz": VIZWIZ,
    "vqav2": VQAV2,
    "world": WORLD,
    "world_chair": WORLD_CHAIR,
    "world_pairs": WORLD_PAIRS,
    "world_pope": WORLD_POPE,
}
"""Name to task."""


def find_task(name: str) -> Task:
    """Return the task of exactly this name; raises LaternaError that lists the names."""
    if name not in TASKS:
        raise LaternaError(f"{name}: no such task; the tasks are: {', '.join(sorted(TASKS))}")
    return TASKS[name]
