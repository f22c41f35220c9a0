"""The codebook's training state: moving averages, revival of dead codes, statistics of use.

Knows: how embeddings follow the vectors assigned to them. Does not know pictures or gradients: the codebook
has none, it moves by exponential averages (van den Oord et al. 2017, arXiv 1711.00937, appendix A.1), which
need no learning rate.

Where several processes train together, their codebooks are one.

The tracker is training state: save its ``state_dict`` with the optimizer, not with the model.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from hart.quantizer import MultiScaleQuantizer, QuantizerTrace


class CodebookTracker(nn.Module):
    """Moving averages for a codebook of V codes with C channels, and a pool of recent vectors to revive from.

    decay: of the averages, per update. dead_below: a code is dead when its share of recent assignments is
    below this fraction of the even share 1/V. pool: how many recent vectors are kept. revive_every: updates
    between revivals.
    """

    counts: Tensor
    sums: Tensor
    recent: Tensor
    filled: Tensor
    updates: Tensor

    def __init__(
        self,
        vocab_size: int,
        channels: int,
        *,
        decay: float = 0.98,
        dead_below: float = 0.02,
        pool: int = 8192,
        revive_every: int = 20,
    ) -> None:
        super().__init__()
        if not 0 < decay < 1 or pool < 1 or revive_every < 1:
            raise ValueError(
                "expected 0 < decay < 1 and positive pool and revive_every, "
                f"got {decay}, {pool}, {revive_every}"
            )
        self.decay, self.dead_below, self.revive_every = decay, dead_below, revive_every
        self.register_buffer("counts", torch.zeros(vocab_size))
        self.register_buffer("sums", torch.zeros(vocab_size, channels))
        self.register_buffer("recent", torch.zeros(pool, channels))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def initialise(
        self, quantizer: MultiScaleQuantizer, latent: Tensor, *, generator: torch.Generator
    ) -> None:
        """Fill the codebook from latents (B, C, p, p): k-means over what each scale would have to add."""
        vectors = torch.cat(_pyramid_rests(quantizer, latent.float()))
        vocab = quantizer.vocab_size
        centres = vectors[_choose(len(vectors), vocab, generator, vectors.device)]
        spread = vectors.std() * 0.02
        noise = torch.randn(centres.shape, generator=generator, device=generator.device)
        centres = centres + spread * noise.to(vectors.device)
        for _ in range(4):
            nearest = torch.cdist(vectors, centres).argmin(1)
            counts = torch.bincount(nearest, minlength=vocab).float()
            sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
            centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), centres)
        quantizer.embedding.weight.copy_(centres)
        self.counts.fill_(len(vectors) / vocab)
        self.sums.copy_(centres * self.counts[:, None])
        self._remember(vectors, generator)
        self.updates.fill_(1)
        _as_the_first_process(quantizer.embedding.weight, self.counts, self.sums)

    @torch.no_grad()
    def adopt(self, quantizer: MultiScaleQuantizer) -> None:
        """Go on from a codebook that is trained already: every code is as good as one vector at its place."""
        weight = quantizer.embedding.weight
        self.counts.fill_(1.0)
        self.sums.copy_(weight)
        self.updates.fill_(1)

    @torch.no_grad()
    def update(
        self,
        quantizer: MultiScaleQuantizer,
        trace: QuantizerTrace,
        *,
        generator: torch.Generator,
        revive: bool = True,
    ) -> dict[str, float]:
        """Move the codebook towards a batch's assignments; replace dead codes every ``revive_every`` updates.

        Returns ``codebook_used`` (share of codes with recent assignments), ``codebook_perplexity`` (effective
        number of codes, of V) and ``codebook_revived`` (count in this update).
        """
        codes = torch.cat([scale.flatten() for scale in trace.codes])
        rests = torch.cat([scale.flatten(0, 1) for scale in trace.rests])
        counts = torch.bincount(codes, minlength=quantizer.vocab_size).float()
        sums = torch.zeros_like(self.sums).index_add_(0, codes, rests)
        if _processes() > 1:
            # Every process learns from the vectors of all.
            distributed.all_reduce(counts)
            distributed.all_reduce(sums)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        # A code without recent vectors keeps its place: its average would be 0/0.
        alive = self.counts > 1e-3
        weight = quantizer.embedding.weight
        means = self.sums / self.counts.clamp_min(1e-3)[:, None]
        weight.copy_(torch.where(alive[:, None], means.to(weight.dtype), weight))
        self._remember(rests, generator)
        self.updates += 1
        revived = 0
        if revive and int(self.updates) % self.revive_every == 0:
            revived = self._revive(quantizer, generator)
        _as_the_first_process(quantizer.embedding.weight, self.counts, self.sums)
        return self.statistics() | {"codebook_revived": float(revived)}

    def statistics(self) -> dict[str, float]:
        """``codebook_used`` and ``codebook_perplexity`` over the recent past."""
        share = self.counts / self.counts.sum().clamp_min(1e-12)
        used = (self.counts > self.dead_below * self.counts.mean()).float().mean()
        perplexity = torch.exp(-(share * share.clamp_min(1e-12).log()).sum())
        return {"codebook_used": float(used), "codebook_perplexity": float(perplexity)}

    def _revive(self, quantizer: MultiScaleQuantizer, generator: torch.Generator) -> int:
        even = self.counts.mean()
        dead = torch.nonzero(self.counts < self.dead_below * even).flatten()
        if len(dead) == 0 or int(self.filled) == 0:
            return 0
        fresh = self.recent[_choose(int(self.filled), len(dead), generator, self.recent.device)]
        quantizer.embedding.weight[dead] = fresh.to(quantizer.embedding.weight.dtype)
        # Half the even share: time enough to be found, without outweighing the codes that earned theirs.
        self.counts[dead] = 0.5 * even
        self.sums[dead] = 0.5 * even * fresh
        return len(dead)

    def _remember(self, vectors: Tensor, generator: torch.Generator) -> None:
        pool = len(self.recent)
        vectors = vectors[_choose(len(vectors), min(len(vectors), pool), generator, vectors.device)]
        filled = int(self.filled)
        free = min(pool - filled, len(vectors))
        self.recent[filled : filled + free] = vectors[:free]
        self.filled += free
        rest = vectors[free:]
        if len(rest):
            self.recent[_choose(pool, len(rest), generator, self.recent.device)] = rest


def _processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _as_the_first_process(*tensors: Tensor) -> None:
    """Give all processes the first one's values: what is drawn at random is drawn by each of its own samples."""
    if _processes() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


def _pyramid_rests(quantizer: MultiScaleQuantizer, latent: Tensor) -> list[Tensor]:
    """What each scale would have to add if the scales before it were exact: rows (B·p_k², C) per scale."""
    f_hat = torch.zeros_like(latent)
    rests = []
    for scale, side in enumerate(quantizer.schedule.sides):
        rows = quantizer.scale_input(latent - f_hat, scale)
        rests.append(rows.flatten(0, 1))
        grid = rows.transpose(1, 2).unflatten(2, (side, side))
        f_hat = f_hat + nn.functional.interpolate(grid, size=latent.shape[-2:], mode="bicubic")
    return rests


def _choose(available: int, wanted: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """``wanted`` indices below ``available``, without repetition as long as there are enough."""
    rounds = -(-wanted // available)
    order = [torch.randperm(available, generator=generator, device=generator.device) for _ in range(rounds)]
    return torch.cat(order)[:wanted].to(device)
