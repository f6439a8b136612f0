"""Write docs/models.md: encoders, connectors and language models, with what each costs.

`python tools/write_models_page.py` rewrites the page. The words are in `models_page.md.jinja`, the
numbers come from models built on the meta device from their published sizes;
tests/test_models_page.py holds the page to them.
"""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from ask_timm import ANSWERS, Answers
from laterna.files import write_atomically
from laterna.model.connectors import build_connector
from laterna.model.language.causal import ENCODER_DECODERS
from laterna.model.sources import PUBLISHED, resolve
from laterna.model.vision import VisionTower
from laterna.model.vision.families import SUPPORTED, family_of
from laterna.recipe import ConnectorSettings

TOOLS = Path(__file__).resolve().parent
PAGE = TOOLS.parent / "docs" / "models.md"
D_VISION, D_LANGUAGE = 1024, 4096
BFLOAT16 = 2
"""Bytes of a number in the cache."""
LITE2 = {"image_size": 256, "variant": "efficientnet-lite2"}
VIT_L = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}


class Encoder(NamedTuple):
    """One encoder: its published sizes, and the features that are taken of it."""

    name: str
    model_type: str
    sizes: dict[str, Any]
    pixels: int
    layer: int = -2
    bare: bool = True
    """False where class token and closing norm belong to the features."""


ENCODERS = (
    Encoder("openai/clip-vit-large-patch14", "clip", {**VIT_L, "image_size": 224}, 224),
    Encoder("openai/clip-vit-large-patch14-336", "clip", {**VIT_L, "image_size": 336}, 336),
    Encoder(
        "google/siglip-so400m-patch14-384",
        "siglip",
        {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "patch_size": 14,
            "image_size": 384,
        },
        384,
    ),
    Encoder(
        "google/siglip2-base-patch16-256",
        "siglip",
        {"hidden_size": 768, "intermediate_size": 3072, "image_size": 256, "patch_size": 16},
        256,
    ),
    Encoder("facebook/dinov2-large", "dinov2", {**VIT_L, "image_size": 518}, 224),
    Encoder(
        "facebook/dinov2-with-registers-large",
        "dinov2_with_registers",
        {**VIT_L, "image_size": 518, "num_register_tokens": 4},
        224,
    ),
    Encoder("Salesforce/blip2-flan-t5-xxl", "blip-2", {}, 224, layer=-1, bare=False),
    Encoder("microsoft/resnet-50", "resnet", {}, 224, layer=-1),
    Encoder("facebook/convnext-tiny-224", "convnext", {}, 224, layer=-1),
    Encoder("package:efficientnet-lite0", "efficientnet-lite0", {}, 224, layer=-1),
    Encoder("package:efficientnet-lite0", "efficientnet-lite0", {"image_size": 320}, 320, layer=-1),
    Encoder("package:efficientnet-lite2", "efficientnet-lite0", LITE2, 256, layer=-1),
)


class EncoderRow(NamedTuple):
    """A line of the table of encoders."""

    name: str
    model_type: str
    pixels: int
    layer: int
    tokens: int
    width: int
    weights: int
    run: int


SEQ2SEQ = {name: str(PUBLISHED[name]) for name in ("google/flan-t5-xl", "google/mt5-large")} | {
    "builtin:nano-t5": resolve("builtin:nano-t5")
}
"""Name of an encoder-decoder to the folder of its configuration."""


class EncoderDecoderRow(NamedTuple):
    """A line of the table of encoder-decoders."""

    name: str
    width: int
    layers: str
    vocabulary: int
    weights: int
    cache: int


class Connection(NamedTuple):
    """One connector, as a recipe would have it."""

    name: str
    known_from: str
    toml: str
    settings: ConnectorSettings


CONNECTIONS = (
    Connection("one linear layer", "LLaVA", 'kind = "linear"', ConnectorSettings(kind="linear")),
    Connection("perceptron", "LLaVA-1.5", 'kind = "mlp"', ConnectorSettings()),
    Connection(
        "2 × 2 means, perceptron",
        "average pooling",
        'kind = "pool"',
        ConnectorSettings(kind="pool"),
    ),
    Connection(
        "2 × 2 pixel shuffle, one layer",
        "Idefics3, SmolVLM",
        'kind = "pool", merge = "shuffle", depth = 1',
        ConnectorSettings(kind="pool", merge="shuffle", depth=1),
    ),
    Connection(
        "Q-Former, one layer", "BLIP-2", 'kind = "qformer"', ConnectorSettings(kind="qformer")
    ),
    Connection(
        "perceiver resampler",
        "Idefics2",
        'kind = "perceiver"',
        ConnectorSettings(kind="perceiver"),
    ),
    Connection(
        "resampler",
        "Flamingo",
        'kind = "resampler"',
        ConnectorSettings(kind="resampler"),
    ),
)


class ConnectorRow(NamedTuple):
    """A line of the table of connectors."""

    name: str
    known_from: str
    toml: str
    tokens_256: int
    tokens_576: int
    weights: int


class QFormerSum(NamedTuple):
    """The weights of BLIP-2's Q-Former, part by part."""

    number: int
    blocks: int
    queries: int
    text_layers: int
    embeddings: int
    heads: int
    word_head: int

    @property
    def ours(self) -> int:
        """Weights that an assistant runs."""
        return self.blocks + self.queries

    @property
    def all(self) -> int:
        """Weights that transformers' retrieval model has beside its encoder."""
        return self.ours + self.text_layers + self.embeddings + self.heads

    @property
    def most(self) -> int:
        """All, and the head that predicts words in pretraining."""
        return self.all + self.word_head


LANGUAGES = {
    "Vicuna 7B, Llama 2 7B": LlamaConfig(),
    "Vicuna 13B, Llama 2 13B": LlamaConfig(
        hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
    ),
    "SmolLM2-135M": LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
    ),
}


class LanguageRow(NamedTuple):
    """A line of the table of language models."""

    name: str
    width: int
    layers: int
    vocabulary: int
    weights: int
    cache: int
    """Bytes of keys and values that one token leaves in the cache."""


def encoder_row(encoder: Encoder) -> EncoderRow:
    """Build an encoder without memory and ask its tower."""
    family = family_of(encoder.model_type, encoder.name)
    config = family.model.config_class(**encoder.sizes)
    side = {"height": encoder.pixels, "width": encoder.pixels}
    processor = family.processor(size=side, crop_size=side)
    with torch.device("meta"):
        model = family.model(config)
        weights = _count(model)
        tower = VisionTower(
            model,
            processor,
            layer=encoder.layer,
            class_token=not encoder.bare,
            final_norm=not encoder.bare,
        )
    return EncoderRow(
        encoder.name,
        encoder.model_type,
        encoder.pixels,
        encoder.layer,
        tower.patches,
        tower.width,
        weights,
        _count(tower),
    )


def nano_row() -> EncoderRow:
    """Ask the encoder that ships with Laterna."""
    sizes = AutoConfig.from_pretrained(resolve("builtin:nano-vit")).to_dict()
    side = int(sizes["image_size"])
    return encoder_row(Encoder("builtin:nano-vit", "clip_vision_model", sizes, side))


def connector_row(connection: Connection) -> ConnectorRow:
    """Build a connector without memory and ask it."""
    with torch.device("meta"):
        connector = build_connector(connection.settings, D_VISION, D_LANGUAGE)
    return ConnectorRow(
        connection.name,
        connection.known_from,
        connection.toml,
        connector.tokens(256),
        connector.tokens(576),
        _count(connector),
    )


def qformer_sum() -> QFormerSum:
    """Count BLIP-2's Q-Former with and without what reads text."""
    both = Blip2Config(qformer_config={"use_qformer_text_input": True})
    width, words = both.qformer_config.hidden_size, both.qformer_config.vocab_size
    with torch.device("meta"):
        silent = Blip2QFormerModel(Blip2QFormerConfig())
        whole = Blip2ForImageTextRetrieval(both)
        word_head = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
    blocks = _count(silent)
    heads = (whole.vision_projection, whole.text_projection, whole.itm_head)
    return QFormerSum(
        number=whole.query_tokens.shape[1],
        blocks=blocks,
        queries=whole.query_tokens.numel(),
        text_layers=_count(whole.qformer) - blocks,
        embeddings=_count(whole.embeddings),
        heads=sum(map(_count, heads)),
        word_head=_count(word_head) + words,  # a bias a word; the matrix is the embeddings'
    )


def language_row(name: str, config: LlamaConfig) -> LanguageRow:
    """Build a language model without memory and count."""
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    width = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    return LanguageRow(
        name,
        config.hidden_size,
        config.num_hidden_layers,
        config.vocab_size,
        _count(model),
        2 * config.num_hidden_layers * width * BFLOAT16,
    )


def encoder_decoder_row(name: str, folder: str) -> EncoderDecoderRow:
    """Build a language model of an encoder and a decoder without memory and count."""
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(config)
    width = config.num_heads * config.d_kv
    return EncoderDecoderRow(
        name,
        config.d_model,
        f"{config.num_layers} + {config.num_decoder_layers}",
        config.vocab_size,
        _count(model),
        2 * config.num_decoder_layers * width * BFLOAT16,
    )


def render_page() -> str:
    """Return the page as the models are now."""
    nano = AutoConfig.from_pretrained(resolve("builtin:nano-llama"))
    encoders = [*map(encoder_row, ENCODERS), nano_row()]
    languages = {**LANGUAGES, "builtin:nano-llama": nano}
    timm = msgspec.json.decode(ANSWERS.read_bytes(), type=Answers)
    environment = Environment(
        loader=FileSystemLoader(TOOLS),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(short=_short, exact=_exact, bytes=_bytes)
    return environment.get_template("models_page.md.jinja").render(
        types=", ".join(f"`{name}`" for name in SUPPORTED),
        encoders=encoders,
        timm=timm,
        connectors=[connector_row(connection) for connection in CONNECTIONS],
        qformer=qformer_sum(),
        languages=[language_row(name, config) for name, config in languages.items()],
        encoder_decoders=[encoder_decoder_row(*one) for one in SEQ2SEQ.items()],
        seq2seq=", ".join(f"`{name}`" for name in ENCODER_DECODERS),
        d_vision=D_VISION,
        d_language=D_LANGUAGE,
        odd_grid=next(isqrt(row.tokens) for row in encoders if row.pixels == 384),
    )


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _short(weights: int) -> str:
    if weights >= 1e9:
        return f"{weights / 1e9:.2f} B"
    return f"{weights / 1e6:.1f} M" if weights >= 1e7 else f"{weights / 1e6:.2f} M"


def _exact(number: int) -> str:
    return f"{number:,}"


def _bytes(number: int) -> str:
    if number >= 1e6:
        return f"{number / 1e6:.1f} MB"
    return f"{number / 1e3:.1f} kB"


def main() -> None:
    """Write the page."""
    with write_atomically(PAGE) as aside:
        aside.write_text(render_page(), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
