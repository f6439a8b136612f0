"""Optimizers by the recipe's names, behind one interface: AdamW, the same with moments in 8 bits,
or Muon with AdamW for what is no matrix.

Muon (Jordan et al. 2024) makes each update of a weight matrix orthogonal. For small models with
fresh weights, a fresh connector above all, it needs several times fewer steps than AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from laterna.errors import LaternaError, package
from laterna.model.build import fast_dtype
from laterna.recipe import OptimizerName, StageSettings
from laterna.training.stages import Parts, parameter_groups

BETAS = (0.9, 0.999)
"""AdamW's, as in LLaVA's scripts (transformers' default)."""
BESIDE_MUON = 0.4
"""Share of Muon's learning rate that AdamW takes for embeddings, biases and norms."""
SMALL, BLOCK = 4096, 256
"""Of `adamw8bit`: the smallest tensor whose moments have 8 bits, and how many of its weights share
a scale; bitsandbytes' values."""


def _adamw(groups: list[dict[str, Any]]) -> Optimizer:
    return AdamW(groups, betas=BETAS, fused=True)


def _muon(groups: list[dict[str, Any]]) -> Optimizer:
    return Muon(groups, adjust_lr_fn="match_rms_adamw")


class Muon(torch.optim.Muon):
    """torch's Muon, but in the device's fast dtype, where torch's is in bfloat16 everywhere.

    On a CPU without bfloat16 a step of nano took 19 times as long in it. The only `adjust_lr_fn` is
    `match_rms_adamw`.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        del closure  # not used here
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                buffer = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                ahead = weight.grad.lerp(buffer, momentum) if group["nesterov"] else buffer
                update = orthogonal(ahead.to(fast_dtype(weight.device)), group)
                weight.mul_(1 - lr * group["weight_decay"])
                weight.add_(update, alpha=-0.2 * lr * math.sqrt(max(weight.shape)))


def orthogonal(matrix: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """Return approximately the nearest orthogonal matrix; its singular values are near 1.

    By Newton and Schulz's iteration with Muon's polynomial, in the matrix's own dtype; `settings`
    are `torch.optim.Muon`'s `ns_coefficients`, `ns_steps` and `eps`.
    """
    a, b, c = settings["ns_coefficients"]
    wide = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=settings["eps"])
    for _ in range(settings["ns_steps"]):
        gram = wide @ wide.mT
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.mT if matrix.shape[0] > matrix.shape[1] else wide


def _adamw_8bit(groups: list[dict[str, Any]]) -> Optimizer:
    bnb = package("bitsandbytes", "bitsandbytes", 'optimizer = "adamw8bit"')
    made: Optimizer = bnb.optim.AdamW8bit(groups, betas=BETAS, min_8bit_size=SMALL)
    return made


class Kind(NamedTuple):
    """How an optimizer is made, and what it keeps."""

    make: Callable[[list[dict[str, Any]]], Optimizer]
    moments: tuple[str, ...]
    """Names of the moments in its state; small weights do not have all."""
    bytes: Callable[[int], int]
    """Bytes of the moments of a tensor of so many weights."""


def _eighth(weights: int) -> int:
    """Return the bytes of 8-bit moments: two a weight, and two scales of 32 bits a block; for small
    tensors, two moments of 32 bits.
    """
    return 8 * weights if weights < SMALL else 2 * weights + 8 * -(-weights // BLOCK)


KINDS: dict[OptimizerName, Kind] = {
    "adamw": Kind(_adamw, ("exp_avg", "exp_avg_sq"), lambda weights: 8 * weights),
    "adamw8bit": Kind(_adamw_8bit, ("state1", "state2", "absmax1", "absmax2"), _eighth),
    "muon": Kind(_muon, ("momentum_buffer",), lambda weights: 4 * weights),
}


class Optimizers:
    """The optimizers of a stage; together they hold every weight that trains, once."""

    def __init__(self, assistant: Parts, stage: StageSettings) -> None:
        """Raise LaternaError where an optimizer's package is not installed."""
        made = [(name, KINDS[name].make(groups)) for name, groups in _divided(assistant, stage)]
        self.all: tuple[Optimizer, ...] = tuple(one for _, one in made)
        self._of = dict(pair for name, one in made for pair in _held(name, one))

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all, each with its learning rate."""
        return [group for one in self.all for group in one.param_groups]

    def step(self) -> None:
        """Change every weight by its gradient."""
        for one in self.all:
            one.step()

    def forget_gradients(self) -> None:
        """Drop all gradients."""
        for one in self.all:
            one.zero_grad(set_to_none=True)

    def moments(self, weight: nn.Parameter) -> dict[str, Tensor]:
        """Return a weight's moments by name; to resume, write into them."""
        state = self._state(weight)
        names = KINDS[self._of[weight].kind].moments
        return {name: state[name] for name in names if name in state}

    def set_steps(self, weight: nn.Parameter, taken: float) -> None:
        """Set how many steps a weight has taken, where its optimizer counts them."""
        state = self._state(weight)
        if isinstance(state.get("step"), Tensor):
            state["step"].fill_(taken)
        elif "step" in state:
            state["step"] = int(taken)

    def _state(self, weight: nn.Parameter) -> Any:
        """Return the state of a weight, made as its optimizer makes it at the first step."""
        kind, one, (group, place) = self._of[weight]
        state = one.state[weight]
        if state:
            return state
        if kind == "adamw8bit":
            made: Any = one
            made.init_state(one.param_groups[group], weight, group, place)
            return one.state[weight]
        if kind == "adamw":
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
        for name in KINDS[kind].moments:
            state[name] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        return state


class _Held(NamedTuple):
    """Which optimizer has a weight, and as which of which group."""

    kind: OptimizerName
    optimizer: Optimizer
    place: tuple[int, int]


def _held(kind: OptimizerName, one: Optimizer) -> Iterator[tuple[nn.Parameter, _Held]]:
    for number, group in enumerate(one.param_groups):
        for place, weight in enumerate(group["params"]):
            yield weight, _Held(kind, one, (number, place))


def require_whole_weights(stage: StageSettings, *, sharded: bool) -> None:
    """Raise LaternaError where the optimizer needs whole weights and ranks hold shares of them."""
    if stage.optimizer != "adamw" and sharded:
        raise LaternaError(
            f'optimizer = "{stage.optimizer}" needs whole weights, which fsdp does not keep; '
            'set run.engine = "ddp", or optimizer = "adamw"'
        )


def moment_bytes(assistant: Parts, stage: StageSettings) -> int:
    """Return the bytes of a stage's moments, over all weights that train."""
    return sum(
        KINDS[name].bytes(int(weight.numel()))
        for name, groups in _divided(assistant, stage)
        for group in groups
        for weight in group["params"]
    )


def _divided(
    assistant: Parts, stage: StageSettings
) -> list[tuple[OptimizerName, list[dict[str, Any]]]]:
    """Return the parameter groups of each of a stage's optimizers; optimizers without any are left
    out.
    """
    groups = parameter_groups(assistant, stage)
    if stage.optimizer != "muon":
        return [(stage.optimizer, groups)]
    tables = _tables(assistant)

    def chosen(matrices: bool, rate: float) -> list[dict[str, Any]]:
        return [
            group | {"params": weights, "lr": group["lr"] * rate}
            for group in groups
            if (weights := [weight for weight in group["params"]
                            if (weight.ndim == 2 and id(weight) not in tables) is matrices])
        ]  # fmt: skip

    both: tuple[tuple[OptimizerName, list[dict[str, Any]]], ...] = (
        ("muon", chosen(True, 1.0)),
        ("adamw", chosen(False, BESIDE_MUON)),
    )
    return [(name, own) for name, own in both if own]


def _tables(assistant: Parts) -> set[int]:
    """Return the ids of the weights of embeddings and heads, which Muon is not for: the rows of
    these tables are independent.
    """
    language: Any = assistant.parts()["language"]
    modules = [module for part in assistant.parts().values() for module in part.modules()]
    tables = [module for module in modules if isinstance(module, nn.Embedding)]
    tables += [language.get_input_embeddings(), language.get_output_embeddings()]
    return {id(table.weight) for table in tables if table is not None}
