"""Ask timm's models what they are: for docs/models.md, whose own tool runs without timm.

`python tools/ask_timm.py` writes `timm_models.json` beside itself, from models on the meta device.
It needs timm and torchvision. tests/test_models_page.py holds the file to timm where it imports.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from laterna.errors import LaternaError
from laterna.files import write_atomically
from laterna.model.vision import VisionTower
from laterna.model.vision.families import family_of

ANSWERS = Path(__file__).with_name("timm_models.json")
ENCODERS = (
    ("resnet50.a1_in1k", -1),
    ("resnet50.a1_in1k", -2),
    ("convnext_base.clip_laion2b", -1),
    ("efficientnet_b0.ra_in1k", -1),
    ("swin_base_patch4_window7_224.ms_in22k", -1),
    ("vit_large_patch14_clip_336.openai", -2),
    ("vit_base_patch16_siglip_384.v2_webli", -2),
    ("vit_base_patch14_reg4_dinov2.lvd142m", -2),
    ("vit_base_patch16_dinov3.lvd1689m", -2),
    ("eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", -2),
)
"""By timm's names of their weights, and the feature map that is asked for."""


class TimmRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One encoder at one layer."""

    name: str
    pixels: int
    layer: int
    tokens: int
    width: int
    weights: int
    run: int
    layers: int
    """Layers that `last-N` knows of those that run."""


class Answers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What timm's models said."""

    version: str
    rows: tuple[TimmRow, ...]
    files: int
    """Files of models that timm has."""
    asked: int
    """Models that were asked for two layers: the first of each file, and its middle one."""
    refused: dict[str, str]
    """Those that Laterna refused, with the reason."""


def timm_row(name: str, layer: int) -> TimmRow:
    """Build one model without memory, for the image size of its weights, and ask its tower."""
    from timm.models import get_pretrained_cfg
    from transformers import TimmWrapperConfig

    family = family_of("timm_wrapper", name)
    stated = get_pretrained_cfg(name).to_dict()
    config = TimmWrapperConfig(architecture=name.partition(".")[0], pretrained_cfg=stated)
    processor = family.read_processor(name, config)
    with torch.device("meta"):
        model = family.model(config).eval()
        weights = sum(weight.numel() for weight in model.parameters())
        tower = VisionTower(model, processor, layer=layer)
    return TimmRow(
        name=name,
        pixels=processor.size["height"],
        layer=layer,
        tokens=tower.patches,
        width=tower.width,
        weights=weights,
        run=sum(weight.numel() for weight in tower.parameters()),
        layers=tower.layers,
    )


def every_kind() -> list[list[str]]:
    """Return of each of timm's files of models the first, and the middle one of its list."""
    import timm
    from timm.models import model_entrypoint

    files: dict[str, list[str]] = {}
    for name in timm.list_models():
        files.setdefault(model_entrypoint(name).__module__, []).append(name)
    return [list(dict.fromkeys((names[0], names[len(names) // 2]))) for names in files.values()]


def ask() -> Answers:
    """Ask for the rows of the page, and of every kind of model whether Laterna takes it."""
    import timm

    kinds = every_kind()
    names = [name for kind in kinds for name in kind]
    refused = {}
    for name in names:
        try:
            for layer in (-1, -2):
                timm_row(name, layer)
        except (LaternaError, RuntimeError) as error:  # what torch has not on the meta device
            refused[name] = " ".join(str(error).split())
            print(f"{name}: {refused[name]}")
    return Answers(
        version=timm.__version__,
        rows=tuple(timm_row(*encoder) for encoder in ENCODERS),
        files=len(kinds),
        asked=len(names),
        refused=refused,
    )


def main() -> None:
    """Write the answers."""
    text = msgspec.json.format(msgspec.json.encode(ask()), indent=2)
    with write_atomically(ANSWERS) as aside:
        aside.write_bytes(text + b"\n")
    print(f"wrote {ANSWERS}")


if __name__ == "__main__":
    main()
