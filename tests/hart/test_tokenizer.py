"""The tokenizer's interface over both autoencoders, and its settings."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from hart.config import TokenizerConfig
from hart.tokenizer import HybridTokenizer


def heavy_config() -> TokenizerConfig:
    return TokenizerConfig(
        resolution=16,
        autoencoder="convolutional",
        channels=6,
        vocab_size=32,
        sides=(1, 2, 4),
        normalise_latent=False,
        patch=1,
        groups=8,
        encoder_widths=(8, 8, 16),
        encoder_blocks=(1, 1, 1),
        decoder_widths=(8, 8, 16),
        decoder_blocks=(1, 1, 1),
    )


@pytest.mark.parametrize("kind", ["light", "convolutional"])
def test_one_interface_over_both_autoencoders(kind, tiny_config, pictures):
    config = tiny_config if kind == "light" else heavy_config()
    torch.manual_seed(0)
    model = HybridTokenizer(config)
    assert (model.stride, model.channels, model.schedule.sides) == (4, 6, (1, 2, 4))
    tokens = model.encode(pictures)
    assert [codes.shape for codes in tokens.codes] == [(6, 1), (6, 4), (6, 16)]
    assert tokens.residual.shape == (6, 16, 6)
    for options in ({}, {"residual": False}, {"scales": 1}, {"scales": 2}):
        decoded = model.decode(tokens, **options)
        assert decoded.shape == pictures.shape and decoded.dtype == torch.float32
        assert decoded.abs().max() <= 1
    # The hybrid picture is the decoder's picture of the continuous latent itself.
    direct = model.decode_latent(model.encode_latent(pictures)).clamp(-1, 1)
    torch.testing.assert_close(model.decode(tokens), direct, atol=1e-4, rtol=0)


def test_normalised_latent_has_one_length(tiny, pictures):
    length = tiny.encode_latent(pictures).square().mean(1).sqrt()
    torch.testing.assert_close(length, torch.ones_like(length), atol=1e-4, rtol=0)


def test_a_picture_does_not_depend_on_its_batch(tiny, pictures):
    together, alone = tiny.encode(pictures), tiny.encode(pictures[2:3])
    assert torch.equal(together.flat_codes()[2:3], alone.flat_codes())
    torch.testing.assert_close(together.residual[2:3], alone.residual, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (1, 3, 8, 16)])
def test_refuses_other_pictures(tiny, shape):
    with pytest.raises(ValueError, match=r"\(B, 3, 16, 16\)"):
        tiny.encode(torch.zeros(shape))
    with pytest.raises(ValueError, match="uint8"):
        tiny.encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


def test_config_survives_json(tiny_config):
    for config in (tiny_config, heavy_config(), TokenizerConfig()):
        assert TokenizerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 20}, "resolution must be"),
        ({"autoencoder": "heavy"}, "autoencoder must be"),
        ({"decoder_blocks": (1,)}, "same levels"),
        ({"encoder_widths": (8, 15)}, "multiple of groups"),
        ({"residual_scale": 0.0}, "residual_scale"),
        ({"autoencoder": "convolutional"}, "patch 1"),
        ({"autoencoder": "convolutional", "patch": 1, "resolution": 8, "stem_width": 3}, "multiple of groups"),
        ({"stem_width": 8}, "no stem_width"),
    ],
)
def test_config_refuses_what_does_not_fit(tiny_config, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tiny_config, **change)


def test_config_names_unknown_keys():
    with pytest.raises(ValueError, match="colour_of_money"):
        TokenizerConfig.from_dict({"colour_of_money": 1})


def test_256_pixels_are_one_more_level():
    config = TokenizerConfig(
        resolution=256, encoder_widths=(32, 64, 128, 256), encoder_blocks=(1,) * 4,
        decoder_widths=(64, 96, 192, 256), decoder_blocks=(1,) * 4,
    )
    with torch.device("meta"):
        model = HybridTokenizer(config)
    latent = model.encode_latent(torch.zeros(1, 3, 256, 256, device="meta"))
    assert model.stride == 32 and latent.shape[-1] == 8
