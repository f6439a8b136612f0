"""Encoders of timm, through transformers' wrapper of them (`model_type` `timm_wrapper`).

timm's own folders, which have `architecture` and `pretrained_cfg` instead of a `model_type`, are of
that type too. Cutting a model and the shape of its features use the interface that nearly all of
timm's models share: `feature_info`, `forward_intermediates`, `prune_intermediate_layers` and
`group_matcher`. No model is known by its name.

timm needs torchvision, so neither is imported before a source is of this type.
"""

from __future__ import annotations

from functools import partial
from inspect import signature
from itertools import chain
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call
from transformers import BitImageProcessorPil

from laterna.errors import LaternaError, one_line
from laterna.model.vision.family import Cut, Geometry, Wanted, removed

TIMM_TYPE = "timm_wrapper"
_NET = "timm_model"
"""Where transformers' wrapper keeps the model."""
_INTERFACE = ("feature_info", "forward_intermediates", "prune_intermediate_layers")


class TimmFamily(NamedTuple):
    """All models of timm; see `VisionFamily`."""

    model: Any
    processor: Any = BitImageProcessorPil
    inside: str = ""

    def read_config(self, source: str) -> Any:
        """Read `config.json`, in timm's form or in that of transformers.

        timm (1.0.31) writes the number of classes among `model_args`, where the wrapper of
        transformers (5.23) has none, and gives the argument twice.
        """
        config = self.model.config_class.from_pretrained(source)
        arguments = config.model_args or {}
        config.model_args = {key: value for key, value in arguments.items() if key != "num_classes"}
        return config

    def read_processor(self, source: str, config: Any) -> Any:
        """Make the processor from `pretrained_cfg`: side, mean, deviation and interpolation.

        Raises LaternaError when there is none, or its images are not square.
        """
        from timm.data import resolve_data_config

        stated = getattr(config, "pretrained_cfg", None)
        if not stated:
            raise LaternaError(
                f"{source}: config.json has no `pretrained_cfg`, which says how large the images "
                "of a timm model are and how they are normalized; save the model by timm"
            )
        found = resolve_data_config({}, pretrained_cfg=stated)
        _, height, width = found["input_size"]
        if height != width:
            raise LaternaError(f"{source}: takes images of {height}×{width}, not square ones")
        return self.processor(
            size={"height": height, "width": width},
            do_center_crop=False,
            resample=Image.Resampling[found["interpolation"].upper()],
            image_mean=list(found["mean"]),
            image_std=list(found["std"]),
        )

    def cut(self, model: Any, wanted: Wanted) -> Cut:
        """Prune the model after the wanted feature map, and measure its shape."""
        net, name = model.get_submodule(_NET), str(model.config.architecture)
        index = _index(net, name, wanted.layer)
        _require_tokens(net, name, wanted)
        every = model.state_dict()
        net.prune_intermediate_layers([index], prune_norm=not wanted.final_norm, prune_head=True)
        options: dict[str, Any] = {"output_hidden_states": [index]}
        if wanted.final_norm:
            options["norm"] = True
        if wanted.class_token:
            options["return_prefix_tokens"] = True
        return Cut(
            shape=_shape(model, name, wanted, options),
            aside=removed(every, model),
            layers=_layers(net),
            run=partial(_run, options=options),
        )


def timm_family(source: str) -> TimmFamily:
    """Return the family of timm's models; raises LaternaError where timm does not import."""
    try:
        import timm  # noqa: F401, only to see whether it imports
        from transformers import TimmWrapperModel
    except (ImportError, RuntimeError, OSError) as error:
        # A torchvision that was built for another torch fails in any of these ways.
        raise LaternaError(
            f"{source}: an encoder of timm, which needs the packages timm and torchvision, and "
            f"they cannot be imported ({one_line(error, 200)}); run `pip install 'laterna[timm]'`, "
            f"with the torchvision that was built for torch {torch.__version__}"
        ) from error
    return TimmFamily(TimmWrapperModel)


def _index(net: Any, name: str, layer: int) -> int:
    """Return the index of a feature map in timm's list of them; `layer` counts from its end.

    From the beginning it would be ambiguous: some models list their stem, others do not.
    """
    if not all(hasattr(net, part) for part in _INTERFACE):
        raise LaternaError(
            f"timm's {name} gives no feature maps of its layers ({', '.join(_INTERFACE)}), or was "
            "saved with `features_only`"
        )
    count = len(net.feature_info)
    if not -count <= layer <= -1:
        raise LaternaError(
            f"vision.layer = {layer}: timm's {name} gives {count} feature maps, which are counted "
            f"from the last; use -1 to {-count}"
        )
    return count + layer


def _require_tokens(net: Any, name: str, wanted: Wanted) -> None:
    """Raise LaternaError where a class token or a final norm is wanted and there is none."""
    tokens = "return_prefix_tokens" in signature(net.forward_intermediates).parameters
    has_class = tokens and net.num_prefix_tokens and getattr(net, "cls_token", None) is not None
    if wanted.class_token and not has_class:
        raise LaternaError(f"vision.class_token = true: timm's {name} gives no class token")
    norm = getattr(net, "norm", None)
    has_norm = tokens and isinstance(norm, nn.Module) and list(norm.parameters())
    if wanted.final_norm and not has_norm:
        raise LaternaError(
            f"vision.final_norm = true: timm's {name} has no closing norm that fits its features"
        )


def _run(model: Any, pixels_bchw: Tensor, *, options: dict[str, Any]) -> Tensor:
    """Return the map (b, d, h, w), or with a class token all tokens (b, leading + n, d)."""
    found = model(pixel_values=pixels_bchw, do_pooling=False, **options).hidden_states[0]
    if isinstance(found, Tensor):
        return found
    map_bdhw, leading_bnd = found
    return torch.cat([leading_bnd, map_bdhw.flatten(2).transpose(1, 2)], dim=1)


def _shape(model: Any, name: str, wanted: Wanted, options: dict[str, Any]) -> Geometry:
    """Return the features' shape, by a run on the meta device, where nothing is computed.

    It does not follow from timm's strides: some models round up, some down, some crop.
    """
    tensors = chain(model.named_parameters(), model.named_buffers())
    shapes = {key: tensor.to("meta") for key, tensor in tensors}
    pixels = torch.empty(1, 3, wanted.side, wanted.side, dtype=model.dtype, device="meta")
    inputs = {"pixel_values": pixels, "do_pooling": False, **options}
    try:
        with torch.no_grad():
            found = functional_call(model, shapes, kwargs=inputs).hidden_states[0]
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:
        raise LaternaError(
            f"timm's {name} does not give features of images of {wanted.side}×{wanted.side} "
            f"pixels: {one_line(error, 200)}"
        ) from error
    map_bdhw, leading = (found, 0) if isinstance(found, Tensor) else (found[0], found[1].shape[1])
    _, width, height, across = map_bdhw.shape
    if height != across:
        raise LaternaError(f"timm's {name} gives a map of {height}×{across}, not a square one")
    return Geometry(width, height, leading)


def _layers(net: Any) -> tuple[tuple[str, ...], ...]:
    """Return the modules of each layer as timm groups them, the stem left out.

    A transformer's layer is a block, a convolutional backbone's a stage (of a few models, a
    convolution). Empty where timm does not group a model.
    """
    from timm.models import group_parameters

    try:
        group_of = group_parameters(net, net.group_matcher(coarse=True), reverse=True)
    except (AttributeError, AssertionError):
        return ()
    groups = sorted(set(group_of.values()))[1:]
    wanted = ({name for name, group in group_of.items() if group == one} for one in groups)
    return tuple(tuple(_holders(net, names, "")) for names in wanted)


def _holders(module: nn.Module, names: set[str], prefix: str) -> list[str]:
    """Return the largest modules whose weights are all among `names`."""
    own = [prefix + name for name, _ in module.named_parameters()]
    if own and all(name in names for name in own):
        return [f"{_NET}.{prefix}".removesuffix(".")]
    inner = (_holders(child, names, f"{prefix}{name}.") for name, child in module.named_children())
    return list(chain.from_iterable(inner))
