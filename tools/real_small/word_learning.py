"""A connector learns to say the words of captions, without the language model.

An image's tokens are a mixture: each says words by its nearness to their embeddings, and together
they are to say those of the image's captions. A pass over 2,500 photographs takes seconds, where
the language model would take an hour.

Shapes: b images · n tokens · d width of the features · e width of the embeddings · v words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

LR, OUTPUT_LR, DECAY, BATCH = 1e-3, 1e-2, 0.05, 64
"""Peak rates of the connector and of the words' bias and sharpness, weight decay, images a step."""
FEWEST = 5
"""Images whose captions must say a word for it to count."""
HELD_OUT = 10
"""One image of so many tells which pass is the best."""


class WordMixture(nn.Module):
    """What an image's tokens say: the mean over them of softmax(sharpness · cosine + bias)."""

    def __init__(self, counts_bv: Tensor, table_ve: Tensor) -> None:
        """Begin with words as likely as they are over all images."""
        super().__init__()
        self.counts_bv = counts_bv
        self.words_ve = functional.normalize(table_ve, dim=-1)
        self.bias_v = nn.Parameter((counts_bv.sum(0) / counts_bv.sum()).log())
        self.sharpness = nn.Parameter(torch.tensor(3.0))

    def forward(self, tokens_bne: Tensor, chosen_b: Tensor) -> Tensor:
        """Return the cross-entropy of the chosen images' words, in nats a word (a scalar)."""
        nearness_bnv = self.sharpness.exp() * tokens_bne @ self.words_ve.T + self.bias_v
        said_bv = nearness_bnv.log_softmax(-1).logsumexp(1) - math.log(tokens_bne.shape[1])
        wanted_bv = self.counts_bv[chosen_b]
        return -(wanted_bv * said_bv).sum() / wanted_bv.sum()


def learn_words(
    layers: Sequence[nn.Linear],
    features_bnd: Tensor,
    bags: Sequence[Sequence[int]],
    table_ve: Tensor,
    *,
    passes: int,
) -> list[float]:
    """Train the layers to say each image's words; return the loss on held-out images, before and
    after each pass.

    `bags` are the ids of all words of each image's captions. Words of more than half of the
    images, and of fewer than `FEWEST`, are not counted. The pass of the lowest loss is kept.
    """
    counts_bv, kept_v = count_words(bags, len(table_ve))
    mixture = WordMixture(counts_bv, table_ve[kept_v])
    with torch.no_grad():
        length = float(through(layers, features_bnd[:256]).norm(dim=-1).mean())
    draw = torch.Generator().manual_seed(0)
    order_b = torch.randperm(len(bags), generator=draw)
    held_b, learned_b = order_b[: len(bags) // HELD_OUT], order_b[len(bags) // HELD_OUT :]

    def loss_of(chosen_b: Tensor) -> Tensor:
        loss: Tensor = mixture(through(layers, features_bnd[chosen_b]) / length, chosen_b)
        return loss

    weights = [weight for layer in layers for weight in layer.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "lr": LR}, {"params": mixture.parameters(), "lr": OUTPUT_LR}],
        weight_decay=DECAY,
    )
    steps = passes * len(_batches(learned_b))
    falling = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [LR, OUTPUT_LR], total_steps=steps, pct_start=0.1
    )
    losses, best = [_mean_of(loss_of, held_b)], _copies(weights)
    for _ in range(passes):
        for chosen_b in _batches(learned_b[torch.randperm(len(learned_b), generator=draw)]):
            optimizer.zero_grad()
            loss_of(chosen_b).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            falling.step()
        losses.append(_mean_of(loss_of, held_b))
        print(f"words of held-out images: {losses[-1]:.3f} nats, before {losses[0]:.3f}")
        if losses[-1] == min(losses):
            best = _copies(weights)
    with torch.no_grad():
        for weight, value in zip(weights, best, strict=True):
            weight.copy_(value)
    return losses


def count_words(bags: Sequence[Sequence[int]], vocabulary: int) -> tuple[Tensor, Tensor]:
    """Return how often each image's captions say each word that counts (b, v), and those words'
    ids (v).
    """
    said_bv = torch.zeros(len(bags), vocabulary, dtype=torch.int16)
    for row, bag in enumerate(bags):
        ids = torch.tensor(bag)
        said_bv[row].index_add_(0, ids, torch.ones(len(ids), dtype=torch.int16))
    images_v = (said_bv > 0).sum(0)
    kept_v = ((images_v >= FEWEST) & (images_v <= len(bags) / 2)).nonzero()[:, 0]
    return said_bv[:, kept_v].float(), kept_v


def through(layers: Sequence[nn.Linear], features_bnd: Tensor) -> Tensor:
    """Return what the layers make of features, GELU between them: (b, n, e)."""
    tokens_bne = features_bnd
    for place, layer in enumerate(layers):
        tokens_bne = layer(functional.gelu(tokens_bne) if place else tokens_bne)
    return tokens_bne


def _batches(chosen_b: Tensor) -> Sequence[Tensor]:
    return torch.split(chosen_b, BATCH)


@torch.no_grad()
def _mean_of(loss_of: Callable[[Tensor], Tensor], chosen_b: Tensor) -> float:
    return sum(float(loss_of(part)) * len(part) for part in _batches(chosen_b)) / len(chosen_b)


def _copies(weights: Sequence[Tensor]) -> list[Tensor]:
    return [weight.detach().clone() for weight in weights]
