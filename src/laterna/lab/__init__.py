"""Experiments on how assistants come about; a new one is one file and one line in `EXPERIMENTS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from laterna.choices import late

if TYPE_CHECKING:
    from laterna.lab.bench import Plan


class Experiment(NamedTuple):
    """A question about assistants, and what answers it."""

    question: str
    minutes: float
    """With one seed, on two CPU cores, for nano; an estimate where docs/lab has no page."""
    needs: str
    """What it takes beside the package itself."""
    plan: Callable[[], Plan]


EXPERIMENTS: dict[str, Experiment] = {
    "projector": Experiment(
        question="Why does a second layer with GELU help, and when?",
        minutes=15,
        needs="nothing",
        plan=late("laterna.lab.projector:plan"),
    ),
    "loss-mask": Experiment(
        question="What happens without the mask?",
        minutes=10,
        needs="nothing",
        plan=late("laterna.lab.loss_mask:plan"),
    ),
    "blind-spots": Experiment(
        question="What does it not know of what its teacher could not see?",
        minutes=6,
        needs="laterna[enrich]",
        plan=late("laterna.lab.blind_spots:plan"),
    ),
    "two-stages": Experiment(
        question="Why align the connector before the language model learns?",
        minutes=6,
        needs="nothing",
        plan=late("laterna.lab.two_stages:plan"),
    ),
    "proxy-kinds": Experiment(
        question="What do conversations, details and reasoning each bring?",
        minutes=9,
        needs="nothing",
        plan=late("laterna.lab.proxy_kinds:plan"),
    ),
    "data-scale": Experiment(
        question="How does accuracy grow with the number of instruction records?",
        minutes=3,
        needs="nothing",
        plan=late("laterna.lab.data_scale:plan"),
    ),
    "frozen-encoder": Experiment(
        question="Should the vision encoder stay frozen?",
        minutes=9,
        needs="nothing",
        plan=late("laterna.lab.frozen_encoder:plan"),
    ),
    "fusion": Experiment(
        question="Should images stand in the row, beside it, or in an encoder?",
        minutes=14,
        needs="nothing",
        plan=late("laterna.lab.fusion:plan"),
    ),
    "resolution": Experiment(
        question="What do pixels cost, and what do they buy?",
        minutes=5,
        needs="nothing",
        plan=late("laterna.lab.resolution:plan"),
    ),
    "typographic": Experiment(
        question="Does a refusal learned on text hold for words in the image?",
        minutes=10,
        needs="nothing; words of your own in words.txt of its folder",
        plan=late("laterna.lab.typographic:plan"),
    ),
}
"""Name to experiment; their own modules are imported when they run."""
