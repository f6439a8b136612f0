"""Pretrains the nano vision encoder on drawn images and their alt text.

Two losses share one encoder, as in CoCa and SigLIP 2: the contrastive loss of CLIP between a
image's and a text's single vector, and the loss of a small captioner that reads the encoder's
penultimate patch features. The text tower and the captioner are thrown away afterwards. Every
image is drawn fresh and none is seen twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
)

from laterna.files import Made, write_atomically
from laterna.records import Truth
from laterna.scenes.geometry import PLACES
from laterna.scenes.phrases import at_place
from laterna.world.captions import write_alt_text
from laterna.world.drawing import draw_image
from laterna.world.scenes import draw_truth
from laterna.world.toys import (
    CATEGORIES,
    COLOURS,
    IMAGE_SIDE,
    LIGHTINGS,
    SIGN_WORDS,
    SIZES,
    TEXTURES,
)
from pretrain_nano.descent import Descent
from pretrain_nano.saving import save_half
from pretrain_nano.settings import VisionPretraining, report, scheduled

PAD, BOS, EOS = 0, 1, 2
TEXT_LENGTH = 72
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def vocabulary() -> dict[str, int]:
    """Return word to id over all that alt text can say; ids 0 to 2 are pad, begin and end."""
    phrases = [*CATEGORIES, *COLOURS, *TEXTURES, *SIZES, *LIGHTINGS, *SIGN_WORDS]
    phrases += [at_place(place) for place in PLACES.values()]
    phrases += ["a sign says", "no sign", "light", ","]
    words = dict.fromkeys(word for phrase in phrases for word in phrase.split())
    return {word: number for number, word in enumerate(words, start=EOS + 1)}


def vocabulary_size() -> int:
    """Return the number of ids, the three marks included."""
    return EOS + 1 + len(vocabulary())


def vision_config() -> CLIPVisionConfig:
    """Return the shipped encoder's config: 4 layers, 128 wide, 112 px in 8×8 patches of 14."""
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIDE,
        patch_size=14,
        projection_dim=128,
    )


def text_config() -> CLIPTextConfig:
    """Return the config of the text tower that only pretraining uses."""
    return CLIPTextConfig(
        vocab_size=vocabulary_size(),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TEXT_LENGTH,
        projection_dim=128,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def drawn_pixels(truth: Truth, noise_seed: int) -> Tensor:
    """Return the image of a scene, (3, h, w) in 0..1."""
    pixels = np.asarray(draw_image(truth, noise_seed=noise_seed)).transpose(2, 0, 1) / 255.0
    return torch.tensor(pixels, dtype=torch.float32)


def normalized(pixels_bchw: Tensor) -> Tensor:
    """Return pixels in 0..1 as the encoder takes them."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (CLIP_MEAN, CLIP_STD))
    return (pixels_bchw - mean) / std


class DrawnPairs(Dataset[tuple[Tensor, Tensor]]):
    """Image and alt text number i, drawn when asked for: (3, h, w) in 0..1, (TEXT_LENGTH,)."""

    def __init__(self, settings: VisionPretraining) -> None:
        self.seed, self.curriculum = settings.seed, settings.curriculum
        self.count = settings.steps * settings.batch
        self.words = vocabulary()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        most = scheduled(self.curriculum, index, self.count)
        truth = draw_truth("pretrain", self.seed, index, most)
        words = write_alt_text(truth, np.random.default_rng([self.seed, index])).split()
        ids = [BOS, *(self.words[word] for word in words), EOS]
        padded = ids + [PAD] * (TEXT_LENGTH - len(ids))
        return drawn_pixels(truth, index), torch.tensor(padded)


class Captioner(nn.Module):
    """A two-layer decoder that writes alt text from patch features; pretraining's scaffold."""

    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Parameter(torch.randn(TEXT_LENGTH, width) * 0.02)
        layer = nn.TransformerDecoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, 2, norm=nn.LayerNorm(width))
        self.memory_norm = nn.LayerNorm(width)
        nn.init.normal_(self.words.weight, std=0.02)

    def forward(self, features_bnd: Tensor, ids_bt: Tensor) -> Tensor:
        """Return the mean loss of the words, given the features and the words before."""
        inputs = self.words(ids_bt[:, :-1]) + self.places[: ids_bt.shape[1] - 1]
        mask = nn.Transformer.generate_square_subsequent_mask(inputs.shape[1])
        hidden = self.layers(inputs, self.memory_norm(features_bnd), tgt_mask=mask)
        logits = hidden @ self.words.weight.T
        return functional.cross_entropy(
            logits.flatten(0, 1), ids_bt[:, 1:].flatten(), ignore_index=PAD
        )


def sine_places(side: int, width: int) -> Tensor:
    """Return (side², width) sines of row and column: where a patch is, known from the start.

    CLIP's own start, noise of a fiftieth of the patches' size, took several times as many steps
    before a text's places were learned.
    """
    waves = torch.exp(torch.linspace(0.0, -4.0, width // 4))
    angles = torch.arange(side)[:, None] * waves
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = line[:, None].expand(-1, side, -1)
    columns = line[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


class PretrainingModel(nn.Module):
    """CLIP and the captioner over one vision encoder."""

    def __init__(self) -> None:
        super().__init__()
        text, vision = text_config(), vision_config()
        self.clip = CLIPModel(
            CLIPConfig(
                text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128
            )
        )
        places = self.clip.vision_model.embeddings.position_embedding.weight
        places.data[1:] = sine_places(vision.image_size // vision.patch_size, vision.hidden_size)
        self.captioner = Captioner(vision.hidden_size, text.vocab_size)

    def forward(self, pixels_bchw: Tensor, ids_bt: Tensor) -> tuple[Tensor, Tensor]:
        """Return the contrastive and the captioning loss of a batch of pairs."""
        ids_bt = ids_bt[:, : int((ids_bt != PAD).sum(1).max())]
        output = self.clip(
            input_ids=ids_bt,
            attention_mask=(ids_bt != PAD).long(),
            pixel_values=normalized(pixels_bchw),
            return_loss=True,
            output_hidden_states=True,
        )
        features_bnd = output.vision_model_output.hidden_states[-2][:, 1:]
        return output.loss, self.captioner(features_bnd, ids_bt)


def batches(settings: VisionPretraining) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of the whole pretraining, drawn ahead by worker processes."""
    pairs = DrawnPairs(settings)
    yield from DataLoader(
        pairs, settings.batch, num_workers=settings.workers, prefetch_factor=4, shuffle=False
    )


def pretrain_vision(settings: VisionPretraining, out: Path) -> dict[str, float]:
    """Train the encoder and write it with its processor to `out`; return the last losses."""
    torch.manual_seed(settings.seed)
    model = PretrainingModel()
    descent = Descent(model.parameters(), settings.lr, settings.steps, rise=0.05)
    figures: dict[str, float] = {}
    total = settings.steps
    for step, (pixels, ids) in enumerate(
        track(batches(settings), "vision encoder", total=total), start=1
    ):
        contrastive, captioning = model(pixels, ids)
        descent.step(contrastive + settings.captioning_weight * captioning)
        if step % settings.report_every == 0 or step == total:
            figures = {
                "step": step,
                "contrastive_loss": contrastive.item(),
                "captioning_loss": captioning.item(),
            }
            report(figures)
            save_encoder(model.clip.vision_model, out)
    return figures


def save_encoder(encoder: nn.Module, out: Path) -> None:
    """Write a vision encoder and its image processor as a Hugging Face folder."""
    with write_atomically(out, Made(kind="nano-vit", of={"by": "pretrain"})) as aside:
        save_half(encoder, aside)
        side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
        CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False).save_pretrained(
            aside
        )
