"""The classes of ``hart`` against what the public implementation computed (tests/data/hart-golden)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hart.diffusion import ResidualHead, sample_residual
from hart.release import (
    residual_head_state,
    tokenizer_config,
    tokenizer_key,
    tokenizer_state,
    transformer_key,
    transformer_state,
)
from hart.tokenizer import HybridTokenizer
from hart.tokens import HybridTokens

GOLDEN = Path(__file__).parents[1] / "data" / "hart-golden"
CLOSE = {"atol": 1e-4, "rtol": 0.0}


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "golden.safetensors")


@pytest.fixture(scope="module")
def tokenizer() -> HybridTokenizer:
    config = tokenizer_config(json.loads((GOLDEN / "tokenizer/config.json").read_text()))
    with torch.device("meta"):
        model = HybridTokenizer(config)
    weights = torch.load(GOLDEN / "tokenizer/pytorch_model.bin", weights_only=True)
    model.load_state_dict(tokenizer_state(weights), assign=True, strict=True)
    return model.eval()


def scales(golden: dict[str, torch.Tensor], name: str) -> tuple[torch.Tensor, ...]:
    return tuple(golden[f"tok.{name}.{k}"] for k in range(4))


def test_codes_of_both_paths_from_the_recorded_latent(tokenizer, golden):
    quantizer = tokenizer.quantizer
    for k, codes in enumerate(quantizer.encode_discrete(golden["tok.latent"])):
        assert torch.equal(codes, golden[f"tok.codes_discrete.{k}"]), k
    for k, codes in enumerate(quantizer.encode(golden["tok.latent"]).codes):
        assert torch.equal(codes, golden[f"tok.codes_hybrid.{k}"]), k


def test_embedding_plus_residual_is_the_last_scale_latent(tokenizer, golden):
    tokens = tokenizer.quantizer.encode(golden["tok.latent"])
    last = tokenizer.quantizer.embed(tokens.codes[-1]) + tokens.residual
    torch.testing.assert_close(last, golden["tok.last_scale_latent"], **CLOSE)


def test_discrete_latent_and_teacher_inputs(tokenizer, golden):
    quantizer = tokenizer.quantizer
    discrete = scales(golden, "codes_discrete")
    f_hat = quantizer.accumulated(discrete, hybrid=False)[-1]
    torch.testing.assert_close(f_hat, golden["tok.fhat_discrete"], **CLOSE)
    inputs = quantizer.teacher_inputs(scales(golden, "codes_hybrid"))
    torch.testing.assert_close(inputs, golden["tok.var_input"], **CLOSE)


def test_latent_and_pictures(tokenizer, golden):
    with torch.no_grad():
        latent = tokenizer.encode_latent(golden["tok.image"])
        torch.testing.assert_close(latent, golden["tok.latent"], **CLOSE)
        discrete = tokenizer.decode_latent(golden["tok.fhat_discrete"]).clamp(-1, 1)
    torch.testing.assert_close(discrete, golden["tok.recon_discrete"], **CLOSE)
    tokens: HybridTokens = tokenizer.encode(golden["tok.image"])
    torch.testing.assert_close(tokenizer.decode(tokens), golden["tok.recon_hybrid"], **CLOSE)


@pytest.fixture(scope="module")
def head() -> ResidualHead:
    config = json.loads((GOLDEN / "llm/config.json").read_text())
    with torch.device("meta"):
        head = ResidualHead(8, config["embed_dim"], config["diff_width"], config["diff_depth"])
    weights = torch.load(GOLDEN / "llm/pytorch_model.bin", weights_only=True)
    head.load_state_dict(residual_head_state(weights), assign=True, strict=True)
    return head


def test_residual_sample_from_recorded_noise(head, golden):
    noises = [golden[f"diff.noise.{i}"] for i in range(9)]
    sample = sample_residual(head, golden["diff.cond"], noises=noises, steps=8)
    torch.testing.assert_close(0.6 * sample, golden["diff.sample"], **CLOSE)


@pytest.mark.parametrize("folder", ["llm", "tokenizer"])
def test_names_go_there_and_back(folder):
    weights = torch.load(GOLDEN / folder / "pytorch_model.bin", weights_only=True)
    ours = transformer_state(weights) if folder == "llm" else tokenizer_state(weights)
    assert ("residual_norm.weight" if folder == "llm" else "encoder.quant_conv.weight") in ours
    theirs = [transformer_key(name) if folder == "llm" else tokenizer_key(name, 4) for name in ours]
    assert all(weights[key] is value for key, value in zip(theirs, ours.values(), strict=True))


@pytest.mark.parametrize(("shared", "key"), [(0, "0"), (1, "qresi"), (3, "qresi_ls.0")])
def test_names_of_residual_convolutions(shared, key):
    whole = f"vae.quantize.quant_resi.{key}.weight"
    assert list(tokenizer_state({whole: torch.zeros(1)})) == ["quantizer.convolutions.0.weight"]
    assert tokenizer_key("quantizer.convolutions.0.weight", shared) == whole


def test_an_autoencoder_without_a_discriminator_has_no_prefix(tokenizer):
    weights = torch.load(GOLDEN / "tokenizer/pytorch_model.bin", weights_only=True)
    plain = {key.removeprefix("vae."): value for key, value in weights.items()}
    assert set(tokenizer_state(plain)) == set(tokenizer.state_dict())
    with pytest.raises(ValueError, match="two keys stand for one weight"):
        tokenizer_state(weights | plain)


def test_keys_that_are_not_the_releases():
    assert set(tokenizer_state({"vae.surprise": torch.zeros(1), "other": torch.zeros(1)})) == {"vae.surprise", "other"}
    with pytest.raises(ValueError, match="diffloss.net"):
        residual_head_state({"head.weight": torch.zeros(1)})
