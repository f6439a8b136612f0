"""Loss of texts behind their own picture, behind another's and behind none: picture_loss.py --help.

A finer measure than right answers: of an assistant that reads its pictures, texts about a picture
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
from laterna.data.pictures.opening import load_picture
from laterna.errors import LaternaError, told
from laterna.model.checkpoint import load_checkpoint
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Pack, Sample
from laterna.training.objective import Objective, count_targets
from real_small.prepared_samples import prepared_samples

ROWS = 8
"""Records a forward pass."""


def picture_losses(
    assistant: VisionLanguageModel, samples: Sequence[Sample], pictures: Path
) -> dict[str, float]:
    """Return the mean loss of the samples' targets, in nats a token, by what stands before them.

    `own`: each one's picture, from the folder `pictures`; `other`: the next picture's, in the
    order of the samples; `blank`: one colour. Raises LaternaError unless there are two pictures.
    """
    names = list(dict.fromkeys(sample.pictures[0] for sample in samples))
    if len(names) < 2:
        raise LaternaError(f"{pictures}: {len(names)} pictures; another one needs at least 2")
    opened = {name: load_picture(pictures / name) for name in names}
    following = dict(zip(names, names[1:] + names[:1], strict=True))
    shown: dict[str, Callable[[str], Image.Image]] = {
        "own": lambda name: opened[name],
        "other": lambda name: opened[following[name]],
        "blank": lambda name: assistant.prepare.blank(*opened[name].size),
    }
    return {how: _mean_loss(assistant, samples, picture_of) for how, picture_of in shown.items()}


@torch.no_grad()
def _mean_loss(
    assistant: VisionLanguageModel,
    samples: Sequence[Sample],
    picture_of: Callable[[str], Image.Image],
) -> float:
    objective = Objective(assistant)
    loss, targets = 0.0, 0
    for first in range(0, len(samples), ROWS):
        batch = collate([Pack(samples=(sample,)) for sample in samples[first : first + ROWS]])
        pixels = assistant.prepare([picture_of(name) for name in batch.pictures])
        loss += float(objective(replace(batch, pixels_bchw=pixels)))
        targets += count_targets([batch])
    return loss / targets


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, help="instruction records, one picture each")
    parser.add_argument("pictures", type=Path, help="folder of their pictures")
    given = parser.parse_args()
    assistant = load_checkpoint(given.checkpoint)
    samples = prepared_samples(assistant, given.data, given.pictures, max_tokens=2048)
    losses = picture_losses(assistant, samples, given.pictures)
    print(", ".join(f"{how} {loss:.3f}" for how, loss in losses.items()))


if __name__ == "__main__":
    sys.exit(told(main))
