"""Names and settings of the public HART release, translated into this package's.

Knows: the release's state-dict keys and config fields. Does not know where files are: it takes what they
hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hart.config import TokenizerConfig

# Release prefix → ours, first match wins; the rest of a key stays as it is.
_TOKENIZER_PREFIXES = {
    "vae.encoder.": "encoder.",
    "vae.quant_conv.": "encoder.quant_conv.",
    "vae.post_quant_conv.": "decoder.post_quant_conv.",
    "vae.decoder.": "decoder.",
    "vae.quantize.embedding.": "quantizer.embedding.",
    "vae.quantize.quant_resi.qresi_ls.": "quantizer.convolutions.",
}
# With one convolution for all scales, or with each scale its own, the release names them differently.
_SINGLE_CONVOLUTION = {"vae.quantize.quant_resi.qresi.": "quantizer.convolutions.0."}
# Training state without a role in encoding or decoding.
_IGNORED = ("disc.", "vae.quantize.ema_vocab_hit_SV")
_RESIDUAL_HEAD = "diffloss.net."


def tokenizer_config(release: Mapping[str, Any]) -> TokenizerConfig:
    """The release's ``tokenizer/config.json`` → our config. Raises ValueError on a switch that is not
    implemented.
    """
    if release.get("using_znorm") or not release.get("hybrid", True):
        raise ValueError("expected a hybrid release tokenizer without using_znorm, got another kind")
    widths = tuple(release["ch"] * factor for factor in release["ch_mult"])
    sides = tuple(release["v_patch_nums"])
    return TokenizerConfig(
        resolution=sides[-1] * 2 ** (len(widths) - 1),
        autoencoder="convolutional",
        channels=release["z_channels"],
        vocab_size=release["vocab_size"],
        sides=sides,
        shared_convs=release["share_quant_resi"],
        residual_scale=0.6,
        normalise_latent=False,
        patch=1,
        encoder_widths=widths,
        encoder_blocks=(2,) * len(widths),
        decoder_widths=widths,
        decoder_blocks=(3,) * len(widths),
        groups=32,
    )


def tokenizer_state(release: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The release's tokenizer weights under our names; load the result strictly. Raises ValueError naming
    unknown keys.
    """
    prefixes = _TOKENIZER_PREFIXES | _SINGLE_CONVOLUTION
    state, unknown = {}, []
    for key, value in release.items():
        if key.startswith(_IGNORED):
            continue
        prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        if prefix is None:
            unknown.append(key)
        else:
            state[prefixes[prefix] + key.removeprefix(prefix)] = value
    if unknown:
        raise ValueError(f"unknown keys in the release's tokenizer: {sorted(unknown)}")
    return state


def residual_head_state(release: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The residual head's weights out of the release's transformer. Raises ValueError when there are none."""
    state = {
        key.removeprefix(_RESIDUAL_HEAD): value
        for key, value in release.items()
        if key.startswith(_RESIDUAL_HEAD)
    }
    if not state:
        raise ValueError(f"expected keys beginning with {_RESIDUAL_HEAD!r}, found none")
    return state
