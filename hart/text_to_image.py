"""Text to pictures with HART: prompts in batches, one seed per picture, events per scale.

Knows: options, the order encode → draw → decode, refusals. Does not know: files of weights
(:mod:`hart.checkpoint`), how codes are drawn (:mod:`hart.choosing`), how a prompt is encoded
(:mod:`hart.prompts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from hart.checkpoint import HartModels, load_models
from hart.choosing import ChoosingOptions, RandomChooser
from hart.drawing import DrawnScale, draw_scales
from hart.memory import GIB, DoesNotFit, best_device, device_bytes, drawing_bytes, is_out_of_memory
from hart.picture import Event, ImageDone, ImagePreview, ImageStarted, Picture, to_image
from hart.presets import SCHEDULES
from hart.prompts import EncodedPrompts, Encoder, PromptEncoder
from hart.quantizer import MultiScaleQuantizer, area_resize
from hart.schedule import ScaleSchedule
from hart.tokens import HybridTokens

# A preview is decoded from at most so many cells a side, so that it costs little beside its scale.
PREVIEW_CELLS = 16

Moderator = Callable[[str], str | None]


class PromptRefused(ValueError):
    """A moderator refused a prompt; nothing was drawn, and nothing was put in its place."""


@dataclass(frozen=True)
class DrawOptions(ChoosingOptions):
    """Settings of a drawing, checked when made; the defaults are the release's.

    guidance: 0 is neutral. size: pixels a side, None for what the model was trained for. stop_scale: draw so
    many scales only, a quick preview without residual. residual: False leaves the continuous part out.
    residual_steps: of the diffusion, None for the model's. previews: decode a coarse picture at every scale.
    """

    guidance: float = 4.5
    size: int | None = None
    stop_scale: int | None = None
    residual: bool = True
    residual_steps: int | None = None
    previews: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.guidance < float("inf"):
            raise ValueError(f"guidance must be a number from 0 (neutral), got {self.guidance}")
        if self.stop_scale is not None and self.stop_scale < 1:
            raise ValueError(f"stop_scale must be at least 1, got {self.stop_scale}")
        if self.residual_steps is not None and self.residual_steps < 2:
            raise ValueError(f"residual_steps must be at least 2, got {self.residual_steps}")


class TextToImage:
    """HART ready to draw. :meth:`from_pretrained`, then :meth:`draw` or, as events, :meth:`stream`.

    encoder: turns prompts into hidden states; without one, only encoded prompts can be drawn. moderator: called
    with every prompt before it is encoded; what it returns, if anything, is the reason of a refusal.
    """

    def __init__(
        self, models: HartModels, encoder: Encoder | None = None, moderator: Moderator | None = None
    ) -> None:
        self.transformer = models.transformer
        self.tokenizer = models.tokenizer
        self.sources = models.sources
        self.encoder = encoder
        self.moderator = moderator
        theirs, ours = self.tokenizer.config, self.transformer.config
        if (theirs.vocab_size, theirs.channels) != (ours.vocab_size, ours.channels):
            raise ValueError(
                f"the transformer predicts {ours.vocab_size} codes of {ours.channels} channels, its tokenizer "
                f"has {theirs.vocab_size} of {theirs.channels}; give the two that belong together"
            )

    @staticmethod
    def from_pretrained(
        folder: Path | str,
        text_model: Path | str,
        *,
        tokenizer: Path | str | None = None,
        instructions: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        moderator: Moderator | None = None,
    ) -> TextToImage:
        """Load HART (the release's ``llm`` folder, or a converted one) and its text model.

        instructions: the release's instruction text, see :func:`hart.prompts.read_instructions`. device: None for
        the best of this machine. dtype: None for float32 on a processor, else bfloat16. Raises
        :class:`hart.checkpoint.CheckpointError`, :class:`hart.prompts.PromptError`, :class:`DoesNotFit`.
        """
        device = torch.device(best_device() if device is None else device)
        if dtype is None:
            dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        try:
            models = load_models(folder, tokenizer=tokenizer, device=device, dtype=dtype)
            config = models.transformer.config
            encoder = PromptEncoder.from_pretrained(
                text_model,
                length=config.context_tokens,
                width=config.context_width,
                instructions=instructions,
                device=device,
                dtype=dtype,
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DoesNotFit(
                f"the weights do not fit the memory of {device} in {dtype}; "
                "try bfloat16, or the processor (cpu)"
            ) from error
        return TextToImage(models, encoder, moderator)

    @property
    def sizes(self) -> dict[int, ScaleSchedule]:
        """Pixels a side → the schedule that draws them: the model's own, and the usual ones it can follow."""
        own = self.transformer.schedule
        stride = self.tokenizer.stride
        table = self.transformer.config.level_embedding == "table"
        usual = {
            side * stride: ScaleSchedule(sides)
            for sides in SCHEDULES.values()
            if (side := sides[-1]) < own.last and not (table and len(sides) > own.count)
        }
        return dict(sorted((usual | {own.last * stride: own}).items()))

    def draw(
        self, prompts: str | Sequence[str], seeds: int | Sequence[int] = 0, options: DrawOptions | None = None
    ) -> list[Picture]:
        """One picture per prompt, drawn together. See :meth:`stream`."""
        return [event.picture for event in self.stream(prompts, seeds, options) if isinstance(event, ImageDone)]

    def stream(
        self, prompts: str | Sequence[str], seeds: int | Sequence[int] = 0, options: DrawOptions | None = None
    ) -> Iterator[Event]:
        """Draw a batch as events, ``ImageDone`` the last of each picture; closing the iterator ends it.

        seeds: one per picture, or the first of consecutive ones. Before any event, raises ValueError on bad
        options, :class:`PromptRefused`, :class:`hart.prompts.PromptError` and :class:`DoesNotFit`.
        """
        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        # Options first: a mistake there should not wait for the text model.
        plan = self._plan(len(prompts), seeds, options or DrawOptions())
        return self._events(self.encode(prompts), *plan)

    def encode(self, prompts: str | Sequence[str]) -> EncodedPrompts:
        """Ask the moderator, then encode. ``cut`` of the result says which prompts were too long.

        Raises :class:`PromptRefused`, :class:`hart.prompts.PromptError`; ValueError without a text model.
        """
        if self.encoder is None:
            raise ValueError("this model has no text model; load it with one, or draw encoded prompts")
        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        for i, prompt in enumerate(prompts):
            if self.moderator is not None and (reason := self.moderator(prompt)) is not None:
                raise PromptRefused(f"prompt {i + 1} was refused: {reason}")
        return self.encoder(prompts)

    def stream_encoded(
        self, encoded: EncodedPrompts, seeds: int | Sequence[int] = 0, options: DrawOptions | None = None
    ) -> Iterator[Event]:
        """:meth:`stream` for prompts that are encoded already."""
        return self._events(encoded, *self._plan(len(encoded.prompts), seeds, options or DrawOptions()))

    def _plan(
        self, pictures: int, seeds: int | Sequence[int], options: DrawOptions
    ) -> tuple[tuple[int, ...], DrawOptions, MultiScaleQuantizer]:
        """Check everything that can be checked before a model runs."""
        numbers = tuple(range(seeds, seeds + pictures)) if isinstance(seeds, int) else tuple(seeds)
        if len(numbers) != pictures or any(not 0 <= seed < 2**63 for seed in numbers):
            raise ValueError(f"expected {pictures} seeds in [0, 2**63), one per prompt, got {numbers}")
        sizes = self.sizes
        size = options.size or max(sizes)
        if size not in sizes:
            known = ", ".join(map(str, sizes))
            raise ValueError(f"this model draws {known} pixels a side, got {size}; choose one of them")
        schedule = sizes[size]
        if options.stop_scale is not None and options.stop_scale > schedule.count:
            raise ValueError(f"stop_scale must be in 1..{schedule.count} at {size} px, got {options.stop_scale}")
        available = device_bytes(self.transformer.device)
        if available is not None and self._bytes(pictures, size, options) > available:
            raise DoesNotFit(self._advice(pictures, size, options))
        return numbers, options, self.tokenizer.quantizer.with_schedule(schedule)

    @torch.no_grad()
    def _events(
        self,
        encoded: EncodedPrompts,
        seeds: tuple[int, ...],
        options: DrawOptions,
        quantizer: MultiScaleQuantizer,
    ) -> Iterator[Event]:
        schedule = quantizer.schedule
        scales = options.stop_scale or schedule.count
        for index in range(len(seeds)):
            yield ImageStarted(index, scales)
        chooser = RandomChooser(options, seeds, quantizer.embedding.weight, schedule.count)
        codes: list[Tensor] = []
        size = schedule.last * self.tokenizer.stride
        with self._advising(len(seeds), size, options):
            drawn: DrawnScale | None = None
            for drawn in draw_scales(
                self.transformer,
                quantizer,
                encoded.context,
                chooser,
                guidance=options.guidance,
                scales=scales,
                residual=options.residual,
                residual_steps=options.residual_steps,
            ):
                codes.append(drawn.codes)
                for index, latent in enumerate(drawn.latent):
                    preview = self._preview(latent) if options.previews else None
                    yield ImagePreview(index, drawn.scale, scales, preview)
            assert drawn is not None
            tokens = _tokens(quantizer, codes, drawn.latent) if scales == schedule.count else None
            for index, prompt in enumerate(encoded.prompts):
                yield ImageDone(
                    index,
                    Picture(
                        image=self._decode(drawn.latent[index : index + 1]),
                        prompt=prompt,
                        seed=seeds[index],
                        tokens=None if tokens is None else tokens[index : index + 1].to("cpu"),
                        settings=self._settings(options, size, scales),
                    ),
                )

    def _decode(self, latent: Tensor) -> Image:
        return to_image(self.tokenizer.decode_latent(latent)[0])

    def _preview(self, latent: Tensor) -> Image:
        side = min(latent.shape[-1], PREVIEW_CELLS)
        return self._decode(area_resize(latent[None], side))

    def _settings(self, options: DrawOptions, size: int, scales: int) -> dict[str, str]:
        config = self.transformer.config
        weights = ", ".join(f"{path.name} of {path.stat().st_size} bytes" for path in self.sources[:1])
        chosen = {
            "model": f"HART, width {config.width}, depth {config.depth}" + (f", {weights}" if weights else ""),
            "size": size,
            "scales": scales,
            "guidance": options.guidance,
            "top_k": "release" if options.top_k is None else options.top_k,
            "top_p": options.top_p,
            "temperature": options.temperature,
            "smooth": options.smooth,
            "residual_steps": (options.residual_steps or config.residual_steps) if options.residual else 0,
            "dtype": str(self.transformer.dtype).removeprefix("torch."),
        }
        return {key: str(value) for key, value in chosen.items()}

    def _bytes(self, pictures: int, size: int, options: DrawOptions, dtype: torch.dtype | None = None) -> int:
        dtype = dtype or self.transformer.dtype
        weights = sum(p.numel() * dtype.itemsize for p in self.transformer.parameters())
        weights += sum(p.nbytes for p in self.tokenizer.parameters())
        return weights + drawing_bytes(
            self.transformer.config,
            self.tokenizer.config,
            self.sizes[size],
            pictures=pictures,
            guided=options.guidance > 0,
            dtype=dtype,
        )

    @contextmanager
    def _advising(self, pictures: int, size: int, options: DrawOptions) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DoesNotFit(self._advice(pictures, size, options)) from error

    def _advice(self, pictures: int, size: int, options: DrawOptions) -> str:
        """One line: what was too much, and the largest of each kind that should fit."""
        device, dtype = self.transformer.device, self.transformer.dtype
        have = device_bytes(device)
        needed = self._bytes(pictures, size, options)
        line = (
            f"out of memory on {device}: {pictures} pictures of {size} px in {dtype} take about "
            f"{needed / GIB:.1f} GiB with the weights"
        )
        # The estimate is rough and others use the device too: advise what takes clearly less.
        limit = min(have or needed, needed * 0.8)
        advice = []
        fewer = [n for n in range(pictures - 1, 0, -1) if self._bytes(n, size, options) <= limit]
        if fewer:
            advice.append(f"{fewer[0]} at a time")
        if dtype.itemsize > 2 and self._bytes(pictures, size, options, torch.bfloat16) <= limit:
            advice.append("bfloat16")
        smaller = [s for s in self.sizes if s < size and self._bytes(pictures, s, options) <= limit]
        if smaller:
            advice.append(f"{max(smaller)} px")
        return f"{line}; " + (f"what should fit: {', or '.join(advice)}" if advice else "use a larger device")


def _tokens(quantizer: MultiScaleQuantizer, codes: list[Tensor], latent: Tensor) -> HybridTokens:
    """Codes, and as residual whatever they leave of the latent, smoothing included; so they decode to it."""
    rows = latent.flatten(2).transpose(1, 2)
    discrete = quantizer.latent(HybridTokens(tuple(codes), rows), residual=False)
    return HybridTokens(tuple(codes), rows - discrete.flatten(2).transpose(1, 2))
