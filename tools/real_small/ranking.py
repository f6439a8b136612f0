"""Which of 20 captions does an assistant find likeliest for an image? ranking.py --help.

Of each photograph one caption that a person wrote of it, and 19 of other photographs. They are
ranked by their likelihood behind the image, in nats a token, and by how much likelier the image
makes them than a blank one does, which takes away that some sentences are likely everywhere.
The control shows another photograph in the place of its own.

Shapes: s target tokens · v vocabulary.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from msgspec.structs import replace
from PIL import Image
from rich.progress import track

from laterna.data.batches import collate
from laterna.data.images.opening import load_image
from laterna.data.packing import plan_packs
from laterna.errors import LaternaError, told
from laterna.evaluation.statistics import interval
from laterna.evaluation.tasks.descriptions import IN_A_SENTENCE
from laterna.inference.assistant import Assistant, load
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Sample
from laterna.scenes.annotations import stream_scenes
from real_small.instructions import captions_asked
from real_small.prepared_samples import prepared_samples

AMONG = 20
LONGEST = 10**6


class Ranked(NamedTuple):
    """Whether the own caption came first, by either measure."""

    by_likelihood: bool
    by_gain: bool


def rank(
    model: VisionLanguageModel, samples: Sequence[Sample], images: Path, *, seed: int, limit: int
) -> tuple[dict[str, list[Ranked]], list[str]]:
    """Rank captions for each image, or for `limit` drawn by lot (0: all), by what is shown: its
    `own` image, or `another`, none of whose captions is among them. Also return the images' names.

    `samples` are captions that were asked for, one image each. Raises LaternaError where there
    are not more than `AMONG` images.
    """
    of_image: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        of_image[sample.images[0]].append(sample)
    if len(of_image) <= AMONG:
        raise LaternaError(f"{images}: {len(of_image)} images with captions; give over {AMONG}")
    rng = random.Random(seed)
    names = rng.sample(sorted(of_image), limit or len(of_image))
    found: dict[str, list[Ranked]] = {"own": [], "another": []}
    for name in track(names, "ranking", transient=True):
        *others, elsewhere = rng.sample([one for one in sorted(of_image) if one != name], AMONG)
        choices = [rng.choice(of_image[one]) for one in (name, *others)]
        own, another = (load_image(images / one) for one in (name, elsewhere))
        blind = likelihoods(model, choices, model.prepare.blank(*own.size))
        for how, image in (("own", own), ("another", another)):
            behind = likelihoods(model, choices, image)
            found[how].append(Ranked(_first(behind), _first(behind - blind)))
    return found, names


def _first(scores: torch.Tensor) -> bool:
    return int(scores.argmax()) == 0


@torch.no_grad()
def likelihoods(
    model: VisionLanguageModel, samples: Sequence[Sample], image: Image.Image
) -> torch.Tensor:
    """Return the mean log-likelihood of each sample's targets behind an image, in nats."""
    shown = [replace(sample, images=("shown",)) for sample in samples]
    packs = plan_packs(shown, pack_length=LONGEST, shared_prefix=True)
    batch = collate(packs)
    pixels = model.prepare([image] * len(batch.images))
    logits_sv, labels_s = model.target_logits(replace(batch, pixels_bchw=pixels))
    nats_s = logits_sv.float().log_softmax(-1).gather(1, labels_s[:, None].to(logits_sv.device))
    order = [sample for pack in packs for sample in pack.samples]
    parts = torch.split(nats_s[:, 0], [sum(sample.targets[1:]) for sample in order])
    by_id = {sample.id: float(part.mean()) for sample, part in zip(order, parts, strict=True)}
    return torch.tensor([by_id[sample.id] for sample in samples])


def asked_samples(assistant: Assistant, data: Path) -> list[Sample]:
    """Return the captions of a COCO folder as answers to the question that evaluations ask."""
    scenes = stream_scenes(data, None, [], captionless=True)
    records = [record for scene in scenes for record in captions_asked(scene, IN_A_SENTENCE)]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "captions.jsonl"
        path.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
        return prepared_samples(assistant.model, path, data / "images", max_tokens=1024)


def main() -> None:
    """Read the command line, rank and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="checkpoint")
    parser.add_argument("data", type=Path, help="a folder in COCO's form")
    parser.add_argument("--limit", type=int, default=0, help="photographs, drawn by lot; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: the device's")
    given = parser.parse_args()
    assistant = load(given.model, dtype=given.dtype)
    samples = asked_samples(assistant, given.data)
    found, names = rank(
        assistant.model, samples, given.data / "images", seed=given.seed, limit=given.limit
    )
    for how, ranked in found.items():
        for measure in Ranked._fields:
            hits = [float(getattr(one, measure)) for one in ranked]
            share = interval(hits)
            print(
                f"{how} image, {measure.replace('_', ' ')}: own caption first of {AMONG} in "
                f"{share.mean:.3f} ({share.low:.3f} to {share.high:.3f}) of {len(names)}"
            )


if __name__ == "__main__":
    sys.exit(told(main))
