"""Loss of texts behind their own image, behind another's and behind none: image_loss.py --help.

A finer measure than right answers: of an assistant that reads its images, texts about an image
are likelier behind it than behind another one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from msgspec.structs import replace
from PIL import Image

from laterna.data.batches import collate
from laterna.data.images.opening import load_image
from laterna.errors import LaternaError, told
from laterna.model.checkpoint import load_checkpoint
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Pack, Sample
from laterna.training.objective import Objective, count_targets
from real_small.prepared_samples import prepared_samples

ROWS = 8
"""Records a forward pass."""


def image_losses(
    assistant: VisionLanguageModel, samples: Sequence[Sample], images: Path
) -> dict[str, float]:
    """Return the mean loss of the samples' targets, in nats a token, by what stands before them.

    `own`: each one's image, from the folder `images`; `other`: the next image's, in the
    order of the samples; `blank`: one colour. Raises LaternaError unless there are two images.
    """
    names = list(dict.fromkeys(sample.images[0] for sample in samples))
    if len(names) < 2:
        raise LaternaError(f"{images}: {len(names)} images; another one needs at least 2")
    opened = {name: load_image(images / name) for name in names}
    following = dict(zip(names, names[1:] + names[:1], strict=True))
    shown: dict[str, Callable[[str], Image.Image]] = {
        "own": lambda name: opened[name],
        "other": lambda name: opened[following[name]],
        "blank": lambda name: assistant.prepare.blank(*opened[name].size),
    }
    return {how: _mean_loss(assistant, samples, image_of) for how, image_of in shown.items()}


@torch.no_grad()
def _mean_loss(
    assistant: VisionLanguageModel,
    samples: Sequence[Sample],
    image_of: Callable[[str], Image.Image],
) -> float:
    objective = Objective(assistant)
    loss, targets = 0.0, 0
    for first in range(0, len(samples), ROWS):
        batch = collate([Pack(samples=(sample,)) for sample in samples[first : first + ROWS]])
        pixels = assistant.prepare([image_of(name) for name in batch.images])
        loss += float(objective(replace(batch, pixels_bchw=pixels)))
        targets += count_targets([batch])
    return loss / targets


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, help="instruction records, one image each")
    parser.add_argument("images", type=Path, help="folder of their images")
    given = parser.parse_args()
    assistant = load_checkpoint(given.checkpoint)
    samples = prepared_samples(assistant, given.data, given.images, max_tokens=2048)
    losses = image_losses(assistant, samples, given.images)
    print(", ".join(f"{how} {loss:.3f}" for how, loss in losses.items()))


if __name__ == "__main__":
    sys.exit(told(main))
