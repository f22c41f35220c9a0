"""Does this implementation compute what the public one recorded? ``python -m hart.verify FOLDER``

The folder holds a checkpoint in the release's layout (``llm``, ``tokenizer``) and ``golden.safetensors``: inputs
and outputs of the public implementation. Recorded inputs, codes and noise are fed in, so that an error is that
of its own step and does not run through the rest. Knows the names of the recording; all shapes, scales and
switches come from the folder.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hart.checkpoint import CheckpointError, HartModels, load_models, read_file
from hart.diffusion import sample_residual
from hart.drawing import Choice, draw_scales
from hart.quantizer import MultiScaleQuantizer
from hart.transformer import Context

TOLERANCE = 1e-4
PICTURES = re.compile(r"\.(image|recon_\w+)$")


@dataclass(frozen=True)
class Finding:
    """One recorded quantity against ours: the largest absolute error, or for codes how many of how many differ."""

    name: str
    error: float | None = None
    differing: int | None = None
    of: int = 0

    @property
    def is_picture(self) -> bool:
        """Whether it is a picture, to which the image tolerance applies."""
        return PICTURES.search(self.name) is not None

    def __str__(self) -> str:
        if self.differing is not None:
            return f"{self.name:28} codes_differing={self.differing} of {self.of}"
        return f"{self.name:28} max_abs_error={self.error:.3g}"


@dataclass(frozen=True)
class Verdict:
    """All findings of a folder, and whether they pass."""

    findings: tuple[Finding, ...]
    passed: bool

    @property
    def max_abs_error(self) -> float:
        """The largest error of all; not a number if any is not."""
        return float(torch.tensor([f.error for f in self.findings if f.error is not None]).max())

    @property
    def codes_differing(self) -> int:
        """Codes that differ, of all quantities together."""
        return sum(finding.differing or 0 for finding in self.findings)

    def __str__(self) -> str:
        return f"verified: max_abs_error={self.max_abs_error:.3g} codes_differing={self.codes_differing}"


def verify(
    folder: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    image_tolerance: float = TOLERANCE,
) -> Verdict:
    """Compare everything the folder records.

    In float32 every error must be at most 1e-4 (pictures: ``image_tolerance``) and no code may differ. In other
    precisions scores and codes cannot agree so far, so pictures alone decide. Raises CheckpointError.
    """
    folder = Path(folder)
    models = load_models(folder / "llm", tokenizer=folder / "tokenizer", device=device, dtype=dtype)
    golden = {key: value.to(device) for key, value in read_file(folder / "golden.safetensors").items()}
    findings = []
    with torch.no_grad():
        for part in (_tokenizer, _transformer, _residual_head):
            findings += list(part(models, golden))
    judged = [finding for finding in findings if dtype == torch.float32 or finding.is_picture]
    if not judged:
        raise CheckpointError(f"{folder / 'golden.safetensors'} records nothing that is known here")
    return Verdict(tuple(findings), all(_passes(finding, image_tolerance) for finding in judged))


def main(arguments: list[str] | None = None) -> int:
    """The command: one line per quantity and a last one; 0 when all pass, else 1 (a bad folder too)."""
    parser = argparse.ArgumentParser(prog="python -m hart.verify", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder with llm/, tokenizer/ and golden.safetensors")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
        help="precision of the computation; other than float32, pictures alone decide",
    )
    parser.add_argument(
        "--image-tolerance", type=float, default=TOLERANCE, help=f"largest error of a picture ({TOLERANCE})"
    )
    options = parser.parse_args(arguments)
    # Which weights were chosen is said beside the findings, not among them.
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # Convolutions in float32 mean float32 here, on every graphics card.
    torch.backends.cudnn.allow_tf32 = False
    try:
        verdict = verify(
            options.folder,
            device=options.device,
            dtype=getattr(torch, options.dtype),
            image_tolerance=options.image_tolerance,
        )
    except (ValueError, OSError, RuntimeError) as error:
        print(f"hart.verify: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    for finding in verdict.findings:
        print(finding)
    print(verdict)
    return 0 if verdict.passed else 1


def _passes(finding: Finding, image_tolerance: float) -> bool:
    if finding.differing is not None:
        return finding.differing == 0
    assert finding.error is not None
    # Written so that an error that is not a number fails.
    return finding.error <= (image_tolerance if finding.is_picture else TOLERANCE)


def _compared(name: str, ours: Tensor, golden: Mapping[str, Tensor]) -> Iterator[Finding]:
    """A finding for a recorded quantity, none for one that is not recorded."""
    theirs = golden.get(name)
    if theirs is None:
        return
    if theirs.shape != ours.shape:
        raise CheckpointError(f"{name} is recorded as {tuple(theirs.shape)}, its config gives {tuple(ours.shape)}")
    if theirs.is_floating_point():
        error = (ours.float() - theirs.float()).abs().max()
        yield Finding(name, error=float(error))
    else:
        yield Finding(name, differing=int((ours != theirs).sum()), of=theirs.numel())


def _tokenizer(models: HartModels, golden: Mapping[str, Tensor]) -> Iterator[Finding]:
    tokenizer, quantizer = models.tokenizer, models.tokenizer.quantizer
    if "tok.image" not in golden:
        return
    computed = tokenizer.encode_latent(golden["tok.image"].to(next(tokenizer.encoder.parameters()).dtype))
    yield from _compared("tok.latent", computed, golden)
    latent = golden.get("tok.latent", computed)
    tokens = quantizer.encode(latent)
    discrete = quantizer.encode_discrete(latent)
    for k, codes in enumerate(discrete):
        yield from _compared(f"tok.codes_discrete.{k}", codes, golden)
    for k, codes in enumerate(tokens.codes):
        yield from _compared(f"tok.codes_hybrid.{k}", codes, golden)
    last = quantizer.embed(tokens.codes[-1]) + tokens.residual
    yield from _compared("tok.last_scale_latent", last, golden)
    recorded = tuple(golden.get(f"tok.codes_discrete.{k}", codes) for k, codes in enumerate(discrete))
    f_hat = quantizer.accumulated(recorded, hybrid=False)[-1]
    yield from _compared("tok.fhat_discrete", f_hat, golden)
    yield from _compared("tok.recon_discrete", tokenizer.decode_latent(f_hat).float().clamp(-1, 1), golden)
    yield from _compared("tok.recon_hybrid", tokenizer.decode(tokens), golden)
    recorded = tuple(golden.get(f"tok.codes_hybrid.{k}", codes) for k, codes in enumerate(tokens.codes))
    yield from _compared("tok.var_input", quantizer.teacher_inputs(recorded), golden)


@dataclass
class _Recording:
    """A :class:`hart.drawing.Chooser` that plays recorded codes and noise back."""

    prefix: str
    golden: Mapping[str, Tensor]
    quantizer: MultiScaleQuantizer
    ours: list[Tensor] = field(default_factory=list)

    def codes(self, scale: int, logits: Tensor) -> Choice:
        """The recorded codes; ours, the likeliest, are kept beside."""
        self.ours.append(logits.argmax(dim=-1))
        codes = _recorded(f"{self.prefix}.codes.{scale}", self.golden)
        return Choice(codes, self.quantizer.embed(codes))

    def noises(self, rows: int, channels: int) -> Iterator[Tensor]:
        """The recorded draws, in order."""
        return _numbered(f"{self.prefix}.noise", self.golden)


def _transformer(models: HartModels, golden: Mapping[str, Tensor]) -> Iterator[Finding]:
    pattern = re.compile(r"t2i\.cfg([0-9.]+?)\.codes\.0")
    guidances = sorted(match[1] for key in golden if (match := pattern.fullmatch(key)))
    if not guidances:
        return
    names = ("context", "context_mask", "context_position_ids")
    context = Context(*(_recorded(f"t2i.{name}", golden) for name in names))
    quantizer = models.tokenizer.quantizer.with_schedule(models.transformer.schedule)
    for guidance in guidances:
        prefix = f"t2i.cfg{guidance}"
        chooser = _Recording(prefix, golden, quantizer)
        # Without guidance the release draws the start of both halves, with it of one: the rows tell which it did.
        start = _recorded(f"{prefix}.noise.0", golden)
        both = len(start) >= 2 * len(context) * quantizer.schedule.areas[-1]
        latent = None
        for drawn in draw_scales(
            models.transformer, quantizer, context, chooser, guidance=float(guidance), one_is_neutral=both
        ):
            yield from _compared(f"{prefix}.logits.{drawn.scale}", drawn.logits, golden)
            yield from _compared(f"{prefix}.codes.{drawn.scale}", chooser.ours[drawn.scale], golden)
            latent = drawn.latent
        assert latent is not None
        image = models.tokenizer.decode_latent(latent).float().clamp(-1, 1)
        yield from _compared(f"{prefix}.image", (image + 1) / 2, golden)


def _residual_head(models: HartModels, golden: Mapping[str, Tensor]) -> Iterator[Finding]:
    if "diff.cond" not in golden:
        return
    config = models.transformer.config
    sample = sample_residual(
        models.transformer.residual_head,
        golden["diff.cond"],
        noises=_numbered("diff.noise", golden),
        steps=config.residual_steps,
    )
    yield from _compared("diff.sample", config.residual_scale * sample, golden)


def _recorded(name: str, golden: Mapping[str, Tensor]) -> Tensor:
    if name not in golden:
        raise CheckpointError(f"the recording lacks {name}")
    return golden[name]


def _numbered(prefix: str, golden: Mapping[str, Tensor]) -> Iterator[Tensor]:
    count = sum(re.fullmatch(rf"{re.escape(prefix)}\.\d+", key) is not None for key in golden)
    return (golden[f"{prefix}.{i}"] for i in range(count))


if __name__ == "__main__":
    sys.exit(main())
