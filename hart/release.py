"""Names and settings of the public HART release, translated into this package's.

Knows: the release's state-dict keys and config fields, and what each is when a config leaves it out. Does not
know where files are: it takes what they hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hart.config import TokenizerConfig, TransformerConfig

TRANSFORMER_TYPE = "hart_transformer_t2i"
TOKENIZER_TYPES = ("hart_autoencoder_with_disc", "hart_autoencoder")
RESIDUAL_SCALE = 0.6

# Release prefix → ours, first match wins; the rest of a key stays as it is.
_TOKENIZER_PREFIXES = {
    "vae.encoder.": "encoder.",
    "vae.quant_conv.": "encoder.quant_conv.",
    "vae.post_quant_conv.": "decoder.post_quant_conv.",
    "vae.decoder.": "decoder.",
    "vae.quantize.embedding.": "quantizer.embedding.",
    # Partially shared convolutions, one for all scales, each scale its own: three names for one list.
    "vae.quantize.quant_resi.qresi_ls.": "quantizer.convolutions.",
    "vae.quantize.quant_resi.qresi.": "quantizer.convolutions.0.",
    "vae.quantize.quant_resi.": "quantizer.convolutions.",
}
# Training state without a role in encoding or decoding.
_TOKENIZER_IGNORED = ("disc.", "vae.quantize.ema_vocab_hit_SV")
_RESIDUAL_HEAD = "diffloss.net."
# Buffers that follow from the config.
_TRANSFORMER_IGNORED = ("lvl_1L", "attn_bias_for_masking")
_TRANSFORMER_IGNORED_SUFFIXES = (".zero_k_bias", ".inv_freq")
_TRANSFORMER_PREFIXES = {
    _RESIDUAL_HEAD: "residual_head.",
    "lvl_embed.": "level_embedding.",
    "head_nm.": "head_norm.",
    "decoder_norm.": "residual_norm.",
}
_TRANSFORMER_PARTS = {".ln_wo_grad.": ".norm.", ".scale_mul_1H11": ".log_scale"}

# What the release takes when a config has no such field.
_TRANSFORMER_DEFAULTS: dict[str, Any] = {
    "context_token": 77, "context_dim": 768, "depth": 16, "embed_dim": 1024, "num_heads": 16,
    "mlp_ratio": 4.0, "norm_eps": 1e-6, "patch_nums": [1, 2, 3, 4, 5, 6, 8, 10, 13, 16],
    "shared_aln": False, "attn_l2_norm": False, "mlp_type": "gpt2", "attn_type": "gpt2",
    "disable_aln": False, "use_timestep_embed": False, "sep_aln_pooling_mode": "max",
    "use_cross_attn": False, "diff_width": 1024, "diff_depth": 6, "num_sampling_steps": "8",
    "sampler": "iddpm", "use_context_norm": False,
}  # fmt: skip
_TOKENIZER_DEFAULTS: dict[str, Any] = {
    "vocab_size": 4096, "z_channels": 32, "ch": 160, "using_znorm": False, "quant_conv_ks": 3,
    "quant_resi": 0.5, "share_quant_resi": 4, "default_qresi_counts": 0,
    "v_patch_nums": [1, 2, 3, 4, 5, 6, 8, 10, 13, 16], "ch_mult": [1, 1, 2, 2, 4],
    "quantizer_type": "var", "double_decoder": False,
}  # fmt: skip
# Fields of training, of speed and of the library that wrote the file: no effect on what is computed.
_WITHOUT_EFFECT = frozenset({
    "vae_path", "drop_rate", "attn_drop_rate", "drop_path_rate", "cond_drop_rate", "flash_if_available",
    "fused_if_available", "diffusion_batch_mul", "diffusion_head_repeats", "context_norm_scale",
    "latent_condition_weight", "num_classes", "dropout", "beta", "test_mode", "levels", "hybrid",
    "disable_quant_resi", "freeze_codebook_for_hybrid", "model_type", "architectures", "auto_map",
    "torch_dtype", "dtype", "transformers_version", "_name_or_path", "_commit_hash", "return_dict",
    "use_cache", "id2label", "label2id", "is_encoder_decoder", "tie_word_embeddings",
})  # fmt: skip


def transformer_config(release: Mapping[str, Any], tokenizer: TokenizerConfig) -> TransformerConfig:
    """The release's ``llm/config.json`` → our config; codes and channels are its tokenizer's.

    Raises ValueError naming every switch that is unknown or not implemented.
    """
    values = _with_defaults(release, _TRANSFORMER_DEFAULTS, "transformer")
    steps = str(values["num_sampling_steps"])
    _refuse(
        "transformer",
        {
            "attn_type": (values["attn_type"], values["attn_type"] == "llama", "llama"),
            "mlp_type": (values["mlp_type"], values["mlp_type"] == "llama", "llama"),
            "use_cross_attn": (values["use_cross_attn"], not values["use_cross_attn"], "false"),
            "sampler": (values["sampler"], values["sampler"] == "iddpm", "iddpm"),
            "num_sampling_steps": (steps, steps.isdecimal() and int(steps) >= 2, "a number from 2"),
            "sep_aln_pooling_mode": (
                values["sep_aln_pooling_mode"], values["sep_aln_pooling_mode"] in ("max", "avg"), "max or avg",
            ),
        },
    )
    if not values["disable_aln"]:
        modulation = "per_layer"
    else:
        modulation = "shared" if values["shared_aln"] else "none"
    return TransformerConfig(
        width=values["embed_dim"],
        depth=values["depth"],
        heads=values["num_heads"],
        sides=tuple(values["patch_nums"]),
        vocab_size=tokenizer.vocab_size,
        channels=tokenizer.channels,
        context_tokens=values["context_token"],
        context_width=values["context_dim"],
        context_norm=bool(values["use_context_norm"]),
        mlp_ratio=values["mlp_ratio"],
        query_key_norm=bool(values["attn_l2_norm"]),
        modulation=modulation,
        pooling=values["sep_aln_pooling_mode"],
        level_embedding="sinusoidal" if values["use_timestep_embed"] else "table",
        norm_eps=values["norm_eps"],
        residual_width=values["diff_width"],
        residual_depth=values["diff_depth"],
        residual_steps=int(steps),
        residual_scale=tokenizer.residual_scale,
    )


def transformer_state(release: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The release's transformer weights under our names; keys it does not rename stay, to be found unexpected.
    """
    return {
        _renamed(key, _TRANSFORMER_PREFIXES, _TRANSFORMER_PARTS): value
        for key, value in release.items()
        if not (key in _TRANSFORMER_IGNORED or key.endswith(_TRANSFORMER_IGNORED_SUFFIXES))
    }


def transformer_key(name: str) -> str:
    """Our name of a transformer's weight → the release's, for messages about its files."""
    return _renamed(name, _inverse(_TRANSFORMER_PREFIXES), _inverse(_TRANSFORMER_PARTS))


def tokenizer_config(release: Mapping[str, Any]) -> TokenizerConfig:
    """The release's ``tokenizer/config.json`` → our config. Raises ValueError naming every switch that is
    unknown or not implemented.
    """
    values = _with_defaults(release, _TOKENIZER_DEFAULTS, "tokenizer")
    kind = values["quantizer_type"]
    _refuse(
        "tokenizer",
        {
            "quantizer_type": (kind, kind == "var_hybrid", "var_hybrid"),
            "using_znorm": (values["using_znorm"], not values["using_znorm"], "false"),
            "double_decoder": (values["double_decoder"], not values["double_decoder"], "false"),
            "quant_conv_ks": (values["quant_conv_ks"], values["quant_conv_ks"] == 3, "3"),
            "quant_resi": (values["quant_resi"], abs(values["quant_resi"]) == 0.5, "0.5"),
        },
    )
    widths = tuple(values["ch"] * factor for factor in values["ch_mult"])
    sides = tuple(values["v_patch_nums"])
    return TokenizerConfig(
        resolution=sides[-1] * 2 ** (len(widths) - 1),
        autoencoder="convolutional",
        channels=values["z_channels"],
        vocab_size=values["vocab_size"],
        sides=sides,
        shared_convs=values["share_quant_resi"] or values["default_qresi_counts"] or len(sides),
        residual_scale=RESIDUAL_SCALE,
        normalise_latent=False,
        patch=1,
        stem_width=values["ch"],
        encoder_widths=widths,
        encoder_blocks=(2,) * len(widths),
        decoder_widths=widths,
        decoder_blocks=(3,) * len(widths),
        groups=32,
    )


def tokenizer_state(release: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The release's tokenizer weights under our names; keys it does not rename stay, to be found unexpected.

    The autoencoder alone, stored without a discriminator, has no ``vae.`` before its keys.
    """
    state: dict[str, Tensor] = {}
    for key, value in release.items():
        whole = key if key.startswith(("vae.", "disc.")) else f"vae.{key}"
        if whole.startswith(_TOKENIZER_IGNORED):
            continue
        known = whole.startswith(tuple(_TOKENIZER_PREFIXES))
        name = _renamed(whole, _TOKENIZER_PREFIXES) if known else key
        if name in state:
            raise ValueError(f"two keys stand for one weight, {key} is the second; expected one of them")
        state[name] = value
    return state


def tokenizer_key(name: str, share_quant_resi: int) -> str:
    """Our name of a tokenizer's weight → the release's, for messages; the config's switch names convolutions."""
    list_name = {0: "", 1: "qresi."}.get(share_quant_resi, "qresi_ls.")
    prefixes = _inverse(_TOKENIZER_PREFIXES)
    del prefixes["quantizer.convolutions.0."]
    prefixes["quantizer.convolutions." + ("0." if share_quant_resi == 1 else "")] = (
        f"vae.quantize.quant_resi.{list_name}"
    )
    # The longest first: the convolutions around the quantiser are part of our encoder and decoder.
    return _renamed(name, dict(sorted(prefixes.items(), key=lambda pair: -len(pair[0]))))


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


def _with_defaults(release: Mapping[str, Any], defaults: dict[str, Any], what: str) -> dict[str, Any]:
    # A switch that is off changes nothing, whatever it is.
    unknown = sorted(
        key for key, value in release.items() if key not in defaults and key not in _WITHOUT_EFFECT and value
    )
    if unknown:
        raise ValueError(f"the {what}'s config has switches that are not known here: {', '.join(unknown)}")
    given = {key: value for key, value in release.items() if key in defaults}
    wrong = [
        f"{key} {value!r} (expected {kind})"
        for key, value in given.items()
        if (kind := _other_kind(value, defaults[key]))
    ]
    if wrong:
        raise ValueError(f"the {what}'s config has values of another kind: {', '.join(wrong)}")
    return defaults | given


def _other_kind(value: Any, default: Any) -> str | None:
    """What kind of value was expected, when it is not that of the default. Switches take anything."""
    if isinstance(default, list):
        whole = isinstance(value, list) and bool(value) and all(type(item) is int for item in value)
        return None if whole else "a list of whole numbers"
    if type(default) is int:
        return None if type(value) is int else "a whole number"
    if isinstance(default, float):
        number = isinstance(value, int | float) and math.isfinite(value)
        return None if number else "a number"
    return None


def _refuse(what: str, checks: Mapping[str, tuple[Any, bool, str]]) -> None:
    wrong = [
        f"{name} {value!r} (expected {expected})" for name, (value, good, expected) in checks.items() if not good
    ]
    if wrong:
        raise ValueError(f"the {what}'s config asks for what is not implemented: {', '.join(wrong)}")


def _renamed(key: str, prefixes: Mapping[str, str], parts: Mapping[str, str] | None = None) -> str:
    """The first prefix that fits is replaced, then every part."""
    prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), "")
    name = prefixes.get(prefix, "") + key.removeprefix(prefix)
    for part, other in (parts or {}).items():
        name = name.replace(part, other)
    return name


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {ours: theirs for theirs, ours in names.items()}
