"""Probes of a frozen encoder's features: what a simple classifier reads out of them.

Shapes: b images or things in them · n patches an image · d width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from laterna.data.images.opening import load_image
from laterna.errors import LaternaError
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Box

IMAGES_A_PASS = 64
HIDDEN = 128
"""Width of a non-linear probe."""
_DECAY = 1e-2
_ITERATIONS = 100


@torch.no_grad()
def image_features(model: VisionLanguageModel, folder: Path, names: Sequence[str]) -> Tensor:
    """Return the encoder's features (b, n, d) of square images, on the CPU.

    Raises LaternaError when an image cannot be read, or is not square: a box would then not be
    where the encoder sees it.
    """
    chunks = []
    for start in range(0, len(names), IMAGES_A_PASS):
        images = [load_image(folder / name) for name in names[start : start + IMAGES_A_PASS]]
        for name, image in zip(names[start:], images, strict=False):
            if image.width != image.height:
                raise LaternaError(f"{folder / name}: not square; draw the dataset again")
        pixels_bchw = model.prepare(images).to(model.device)
        chunks.append(model.vision(pixels_bchw).float().cpu())
    return torch.cat(chunks)


def probe_hits(
    features_bd: Tensor, labels: Sequence[str], *, seed: int, hidden: int = 0
) -> list[float]:
    """Train a classifier on one half, return 1 or 0 for each right or wrong of the other half.

    Multinomial logistic regression, or with `hidden` a perceptron with one hidden layer of that
    width. `seed` draws the halves and a perceptron's first weights. Features are standardised by
    the training half.
    """
    classes = sorted(set(labels))
    targets_b = torch.tensor([classes.index(label) for label in labels])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    features_bd = features_bd.detach().float()
    mean = features_bd[train].mean(dim=0)
    # A feature that never varies in training is left unscaled: it says nothing either way.
    deviation = features_bd[train].std(dim=0).clamp_min(1e-6)
    features_bd = (features_bd - mean) / deviation
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = _probe(features_bd.shape[1], len(classes), hidden)
        _fit(probe, features_bd[train], targets_b[train])
    with torch.no_grad():
        hits = probe(features_bd[test]).argmax(dim=-1) == targets_b[test]
    return [float(hit) for hit in hits]


def probe_accuracy(
    features_bd: Tensor, labels: Sequence[str], *, seed: int, hidden: int = 0
) -> float:
    """Return the share (0..1) of `probe_hits`."""
    hits = probe_hits(features_bd, labels, seed=seed, hidden=hidden)
    return sum(hits) / len(hits)


def nearest_hits(features_bd: Tensor, labels: Sequence[str], groups: Sequence[str]) -> list[float]:
    """Return 1 or 0 for each thing: whether the nearest one of another group has its label.

    Nearest by the cosine of features from which their mean was taken. Things of one group, such
    as toys of one image, are not looked for.
    """
    unit_bd = torch.nn.functional.normalize(features_bd.float() - features_bd.float().mean(dim=0))
    cosines_bb = unit_bd @ unit_bd.T
    names = sorted(set(groups))
    group_b = torch.tensor([names.index(group) for group in groups])
    cosines_bb[group_b[:, None] == group_b[None, :]] = -math.inf
    nearest = cosines_bb.argmax(dim=1).tolist()
    return [float(labels[other] == own) for own, other in zip(labels, nearest, strict=True)]


def mean_pool(features_nd: Tensor, _: Box | None) -> Tensor:
    """Return the mean of all patches, (d,)."""
    return features_nd.mean(dim=0)


def box_pool(features_nd: Tensor, box: Box | None) -> Tensor:
    """Return the mean of the patches whose centres the box covers, (d,).

    A box that covers no centre takes the patch that its own centre lies in; no box, all patches.
    """
    if box is None:
        return features_nd.mean(dim=0)
    side = grid_side(len(features_nd))
    centres = (torch.arange(side) + 0.5) / side
    columns = (centres >= box.x1) & (centres <= box.x2)
    rows = (centres >= box.y1) & (centres <= box.y2)
    covered = (rows[:, None] & columns[None, :]).flatten()
    if not covered.any():
        column, row = (min(side - 1, int(middle * side)) for middle in box.centre)
        return features_nd[row * side + column]
    return features_nd[covered].mean(dim=0)


def mean_max_pool(features_nd: Tensor, _: Box | None) -> Tensor:
    """Return mean and maximum over all patches, (2·d,): a small sign is lost in the mean alone."""
    return torch.cat([features_nd.mean(dim=0), features_nd.amax(dim=0)])


def grid_side(patches: int) -> int:
    """Return the side of the square grid of patches; raises LaternaError when it is not square."""
    side = math.isqrt(patches)
    if side * side != patches:
        raise LaternaError(
            f"{patches} features an image are not a square grid of patches; "
            "measure a checkpoint whose recipe has vision.class_token = false"
        )
    return side


def _probe(width: int, classes: int, hidden: int) -> nn.Module:
    if hidden:
        return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, classes))
    probe = nn.Linear(width, classes)
    nn.init.zeros_(probe.weight)  # a convex problem: nothing is left to chance
    nn.init.zeros_(probe.bias)
    return probe


def _fit(probe: nn.Module, features_bd: Tensor, targets_b: Tensor) -> None:
    """Fit a classifier by L-BFGS with weight decay, of logistic regression on its weights alone."""
    optimizer = torch.optim.LBFGS(
        probe.parameters(), max_iter=_ITERATIONS, line_search_fn="strong_wolfe"
    )
    matrices = [weight for weight in probe.parameters() if weight.ndim == 2]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(probe(features_bd), targets_b)
        decay = _DECAY if len(matrices) == 1 else _DECAY / 10
        loss = loss + decay * torch.stack([weight.square().sum() for weight in matrices]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
