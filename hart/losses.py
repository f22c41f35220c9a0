"""The objective a hybrid tokenizer is trained with.

Knows: what a good reconstruction is, the alternation of discrete and continuous decoding (HART, section 3.1).
Does not know the optimizer, the data or how long training runs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from hart.codebook import CodebookTracker
from hart.tokenizer import HybridTokenizer


@dataclass(frozen=True)
class TokenizerLossWeights:
    """How much each part counts; pictures are in [-1, 1].

    detail: extra pixel weight per unit of local contrast, so that thin parts count as much as wide areas.
    commitment pulls the latent to its codes, codebook the residual convolutions to the latent (every scale).
    latent_noise: standard deviation of the noise on continuous latents, relative to their root mean square;
    it teaches the decoder to forgive small errors of a sampled residual. discrete_share: part of the batch
    decoded from codes. Raises ValueError on what cannot be.
    """

    absolute: float = 1.0
    square: float = 1.0
    edge: float = 1.0
    chroma: float = 1.0
    detail: float = 4.0
    commitment: float = 0.25
    codebook: float = 0.5
    latent_noise: float = 0.05
    discrete_share: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                raise ValueError(f"the weight {field.name} is {getattr(self, field.name)}, expected at least 0")
        if self.discrete_share > 1:
            raise ValueError(f"discrete_share is {self.discrete_share}, expected a share of at most 1")


def tokenizer_loss(
    model: HybridTokenizer,
    image: Tensor,
    *,
    codebook: CodebookTracker,
    generator: torch.Generator,
    weights: TokenizerLossWeights | None = None,
    revive: bool = True,
) -> tuple[Tensor, dict[str, float]]:
    """One training step's loss; moves the codebook as a side effect.

    image: (B, 3, H, W) float in [-1, 1], B ≥ 2. The first part of the batch is decoded from its codes (no
    residual convolution at the last scale: the picture ``decode(tokens, residual=False)`` shows), the rest
    from the continuous latent, which equals codes + residual. Returns the scalar loss and metrics: the parts,
    ``psnr_discrete`` and ``psnr_hybrid`` in dB, ``residual_rms`` and ``residual_p999`` in latent units (the
    second is a good ``residual_scale``), and the codebook's statistics. Raises ValueError.
    """
    if image.shape[0] < 2:
        raise ValueError(f"expected at least two pictures, one per decoding, got {image.shape[0]}")
    weights = weights or TokenizerLossWeights()
    latent = model.encode_latent(image)
    if int(codebook.updates) == 0:
        codebook.initialise(model.quantizer, latent.detach(), generator=generator)
    trace = model.quantizer.trace(latent)

    f_hat = trace.accumulated[-1]
    # Straight through: codes' latent forwards, gradient to encoder and residual convolutions alike.
    parts, metrics = _decoded_parts(model, image, f_hat + (latent - latent.detach()), latent, generator, weights)
    parts["commitment"] = F.mse_loss(latent, f_hat.detach())
    parts["codebook"] = torch.stack([F.mse_loss(f, latent.detach()) for f in trace.accumulated]).mean()
    loss = _weighted(parts, weights)
    metrics |= {name: float(value.detach()) for name, value in parts.items()}
    with torch.no_grad():
        size = trace.residual.abs().flatten()
        metrics["residual_rms"] = float(size.square().mean().sqrt())
        metrics["residual_p999"] = float(size.kthvalue(max(1, int(0.999 * len(size)))).values)
    metrics |= codebook.update(model.quantizer, trace, generator=generator, revive=revive)
    return loss, metrics | {"loss": float(loss.detach())}


def decoder_loss(
    model: HybridTokenizer,
    image: Tensor,
    *,
    generator: torch.Generator,
    weights: TokenizerLossWeights | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of the decoder alone: encoder and quantiser stay as they are, so codes and residuals keep their meaning.

    Arguments, results and errors as in :func:`tokenizer_loss`, less what concerns the codebook.
    """
    if image.shape[0] < 2:
        raise ValueError(f"expected at least two pictures, one per decoding, got {image.shape[0]}")
    weights = weights or TokenizerLossWeights()
    # As users encode: under autocast other codes would be learnt from than those that the model draws.
    with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        latent = model.encode_latent(image.to(next(model.encoder.parameters()).dtype))
        codes_latent = model.quantizer.trace(latent).accumulated[-1]
    parts, metrics = _decoded_parts(model, image, codes_latent, latent, generator, weights)
    loss = _weighted(parts, weights)
    return loss, metrics | {name: float(value.detach()) for name, value in parts.items()} | {
        "loss": float(loss.detach())
    }


def _decoded_parts(
    model: HybridTokenizer,
    image: Tensor,
    discrete: Tensor,
    continuous: Tensor,
    generator: torch.Generator,
    weights: TokenizerLossWeights,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Reconstruction errors with the first part of the batch decoded from `discrete`, the rest from `continuous`."""
    split = min(max(round(image.shape[0] * weights.discrete_share), 1), image.shape[0] - 1)
    continuous = continuous[split:]
    if weights.latent_noise > 0:
        noise = torch.randn(continuous.shape, generator=generator, device=generator.device)
        scale = weights.latent_noise * continuous.detach().square().mean().sqrt()
        continuous = continuous + scale * noise.to(continuous.device)
    decoded = model.decode_latent(torch.cat([discrete[:split], continuous])).float()
    with torch.no_grad():
        error = (decoded.clamp(-1, 1) - image.float()).square().flatten(1).mean(1)
        metrics = {
            "psnr_discrete": float(_psnr(error[:split]).mean()),
            "psnr_hybrid": float(_psnr(error[split:]).mean()),
        }
    return reconstruction_parts(decoded, image.float(), detail=weights.detail), metrics


def _weighted(parts: dict[str, Tensor], weights: TokenizerLossWeights) -> Tensor:
    return torch.stack([getattr(weights, name) * value for name, value in parts.items()]).sum()


def reconstruction_parts(decoded: Tensor, image: Tensor, *, detail: float) -> dict[str, Tensor]:
    """Scalar errors of (B, 3, H, W) pictures in [-1, 1]: ``absolute``, ``square``, ``edge``, ``chroma``.

    Pixels weigh 1 + detail · local contrast (|image - its 5×5 mean|, averaged over colours), divided by its
    mean, so that flat paper does not drown thin parts and the loss keeps its size from picture to picture.
    """
    blurred = F.avg_pool2d(image, 5, stride=1, padding=2, count_include_pad=False)
    contrast = (image - blurred).abs().mean(1, keepdim=True)
    weight = 1 + detail * contrast
    weight = weight / weight.mean()
    difference = decoded - image
    # Opponent colours, red-green and yellow-blue: grey has none, so a hue bled to grey counts in full.
    red, green, blue = difference.unbind(1)
    chroma = (red - green).abs() + (0.5 * (red + green) - blue).abs()
    return {
        "absolute": (weight * difference.abs()).mean(),
        "square": (weight * difference.square()).mean(),
        "edge": difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean(),
        "chroma": (weight[:, 0] * chroma).mean(),
    }


def _psnr(error: Tensor) -> Tensor:
    """Mean square error of pictures with range 2 → decibel."""
    return -10 * torch.log10(error.clamp_min(1e-10) / 4)
