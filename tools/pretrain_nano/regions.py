"""Goes on with a pretrained nano vision encoder: every patch learns the words of what lies on it.

RegionCLIP (Zhong et al. 2022) went on from CLIP in this way, and SigLIP 2 has it among its losses:
a text about a whole image says little about single patches, and patches are all that a LLaVA
ever reads. The words are those of alt text about the toy or sign on the patch, the patch in a
toy's middle has the article too, so that toys can be counted, and a linear layer, thrown away
afterwards, reads them from the penultimate features. Every image is drawn fresh.
"""

from __future__ import annotations

from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPVisionModel

from laterna.model.pretrained import load_weights
from laterna.records import Box, Toy, Truth
from laterna.scenes.geometry import place_of
from laterna.scenes.phrases import at_place
from laterna.world.scenes import draw_truth
from pretrain_nano.descent import Descent
from pretrain_nano.settings import RegionPretraining, report
from pretrain_nano.vision import (
    drawn_pixels,
    normalized,
    save_encoder,
    vocabulary,
    vocabulary_size,
)

NOTHING: tuple[str, ...] = ("no",)
"""What is said of a patch on which nothing lies."""
MIDDLE = "a"
"""Said of the patch in a toy's middle, besides."""
_LEARNED_BEFORE = 10_000_000
"""Index of an image far behind those of the pretraining that came before."""


def words_on_patches(truth: Truth, side: int) -> list[list[tuple[str, ...]]]:
    """Return the words of each of side × side patches, row by row."""
    words = [[NOTHING] * side for _ in range(side)]
    things = [(toy.box, _words_of(toy)) for toy in truth.toys]
    if truth.sign and truth.sign_box:
        things.append((truth.sign_box, ("sign", truth.sign)))
    for box, said in things:
        x1, y1, x2, y2 = (round(value * side) for value in (box.x1, box.y1, box.x2, box.y2))
        for row in range(y1, y2):
            words[row][x1:x2] = [said] * (x2 - x1)
    for toy in truth.toys:
        column, row = (int(value * side) for value in toy.box.centre)
        words[row][column] = (MIDDLE, *words[row][column])
    return words


def _words_of(toy: Toy) -> tuple[str, ...]:
    kind = tuple(toy.category.split())
    return (*kind, toy.colour, toy.size, toy.texture, *_place(toy.box))


def _place(box: Box) -> tuple[str, ...]:
    place = at_place(place_of(*box.centre))
    return tuple(word for word in place.split() if word not in ("at", "in", "on", "the"))


class DrawnRegions(Dataset[tuple[Tensor, Tensor]]):
    """Image number i and its patches' words: (3, h, w) in 0..1, (patches, words) shares."""

    def __init__(self, settings: RegionPretraining, side: int) -> None:
        self.seed, self.count, self.side = settings.seed, settings.steps * settings.batch, side
        self.words = vocabulary()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        truth = draw_truth("pretrain", self.seed, _LEARNED_BEFORE + index)
        shares = torch.zeros(self.side**2, vocabulary_size())
        said = [words for row in words_on_patches(truth, self.side) for words in row]
        for patch, words in enumerate(said):
            for word in words:
                shares[patch, self.words[word]] = 1 / len(words)
        return drawn_pixels(truth, index), shares


def learn_regions(encoder: Path, settings: RegionPretraining, out: Path) -> dict[str, float]:
    """Train the encoder in folder `encoder` further and write it to `out`; return the figures.

    Raises LaternaError when the folder holds no such encoder.
    """
    torch.manual_seed(settings.seed)
    vision = load_weights(CLIPVisionModel, str(encoder), what="vision encoder")
    side = vision.config.image_size // vision.config.patch_size
    regions = DrawnRegions(settings, side)
    reader = nn.Linear(vision.config.hidden_size, vocabulary_size())
    parameters = [*vision.parameters(), *reader.parameters()]
    descent = Descent(parameters, settings.lr, settings.steps, rise=0.1)
    loader = DataLoader(regions, settings.batch, num_workers=settings.workers)
    figures: dict[str, float] = {}
    for step, (pixels, shares) in enumerate(track(loader, "regions"), start=1):
        output = vision(normalized(pixels), output_hidden_states=True)
        logits_bpw = reader(output.hidden_states[-2][:, 1:])
        loss = functional.cross_entropy(logits_bpw.flatten(0, 1), shares.flatten(0, 1))
        descent.step(loss)
        if step % settings.report_every == 0 or step == settings.steps:
            on_something = shares[..., regions.words[NOTHING[0]]] == 0
            said = shares.gather(-1, logits_bpw.argmax(-1, keepdim=True))[..., 0] > 0
            figures = {
                "step": step,
                "loss": loss.item(),
                "right_on_things": said[on_something].float().mean().item(),
            }
            report(figures)
            save_encoder(vision, out)
    return figures
