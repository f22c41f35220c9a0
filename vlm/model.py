"""The two-tower model: a plain text decoder, an image tower of the same kind, heads, projections and losses.

Knows architecture and the training pass. Does not know text, files, sampling or the loop of generation.

Shapes: B samples, T text rows, S spans, D drafted spans, R draft rows per span, C latent channels, p side of
the last scale, W text width, W' image width, V codes. The towers' sizes and all conventions are in
`vlm.config`.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from hart.diffusion import ResidualHead, residual_loss
from hart.tokenizer import HybridTokenizer
from hart.tokens import HybridTokens
from vlm.batch import StreamBatch
from vlm.config import HartVLMConfig
from vlm.masks import attention_blocks, row_table
from vlm.stream import NO_LABEL
from vlm.towers import joint_forward


@dataclass(frozen=True)
class StreamLosses:
    """Scalars of one training pass. total is weighted, the parts are not; accuracies carry no gradient.

    coarse_accuracy is that of the first half of the scales.
    """

    total: Tensor
    text: Tensor
    code: Tensor
    residual: Tensor
    text_accuracy: Tensor
    code_accuracy: Tensor
    coarse_accuracy: Tensor

    def metrics(self) -> dict[str, float]:
        """Plain numbers for a progress line."""
        return {name: float(getattr(self, name).detach()) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class StreamOutput:
    """What a training pass computes, before any loss.

    text_logits: (T, text vocab) or only the rows asked for. code_logits: (D, R, V).
    last_hidden: (D, p², W'), hidden states of the last scale, what the residual is conditioned on.
    """

    text_logits: Tensor
    code_logits: Tensor
    last_hidden: Tensor


class HartVLM(PreTrainedModel):
    """Text tower, image tower, image tokenizer (frozen) and heads; built, saved and loaded as usual.

    checkpointing: training keeps only what goes from layer to layer and runs each layer once more, to save memory.
    """

    checkpointing = False

    config: HartVLMConfig
    config_class = HartVLMConfig
    base_model_prefix = ""
    main_input_name = "text_ids"
    _supports_sdpa = True
    _no_split_modules = ["LlamaDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"]

    def __init__(self, config: HartVLMConfig) -> None:
        super().__init__(config)
        width, channels = config.image_tower.hidden_size, config.latent_channels
        self.text = AutoModelForCausalLM.from_config(config.text_tower)
        # The image tower's embedding has one row: the learned vector of <|boi|>.
        self.image = AutoModel.from_config(config.image_tower)
        self.image_tokenizer = HybridTokenizer(config.tokenizer_config)
        self.latent_projection = nn.Linear(channels, width)
        self.scale_embedding = nn.Embedding(len(config.scales), width)
        self.cell_embedding = nn.Embedding(config.codes_per_picture, width)
        self.picture_projection = nn.Sequential(
            nn.Linear(channels * config.merge**2, width), nn.GELU(), nn.Linear(width, width)
        )
        self.picture_cell_embedding = nn.Embedding(config.picture_rows, width)
        self.code_head = nn.Linear(width, config.code_vocab_size, bias=False)
        self.code_projection = nn.Linear(channels, width)
        self.residual_norm = nn.RMSNorm(width, eps=1e-6)
        self.residual_head = ResidualHead(channels, width, config.residual_width, config.residual_depth)
        self.image_tokenizer.requires_grad_(False).eval()
        self.post_init()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | PathLike, *args: Any, **kwargs: Any
    ) -> Any:
        """As in transformers, but missing or unexpected weights raise ValueError and are named."""
        wants_report = kwargs.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        model, report = loaded
        wrong = {key: sorted(report[key]) for key in ("missing_keys", "unexpected_keys") if report[key]}
        if report.get("mismatched_keys"):
            wrong["mismatched_keys"] = sorted(str(key) for key in report["mismatched_keys"])
        if wrong:
            raise ValueError(f"{pretrained_model_name_or_path}: the weights do not fit the model: {wrong}")
        # Loading makes new parameters, which ask for gradients again.
        model.image_tokenizer.requires_grad_(False)
        model.eval()
        return (model, report) if wants_report else model

    def _init_weights(self, module: nn.Module) -> None:
        # The towers come initialised, hart's modules initialise themselves; only the embeddings here need a
        # small scale.
        embeddings = (self.scale_embedding, self.cell_embedding, self.picture_cell_embedding)
        for embedding in embeddings:
            if module is embedding:
                nn.init.normal_(embedding.weight, std=0.02)

    def train(self, mode: bool = True) -> HartVLM:
        """Training mode for everything but the frozen image tokenizer."""
        super().train(mode)
        self.image_tokenizer.eval()
        return self

    def boi_rows(self, count: int) -> Tensor:
        """(count, 1, W'): the input row of <|boi|>, which predicts the first scale."""
        rows = torch.zeros(count, 1, dtype=torch.long, device=self.image.embed_tokens.weight.device)
        return self.image.embed_tokens(rows) + self._scale_cells(0)

    def draft_rows(self, inputs: Tensor, scales: slice) -> Tensor:
        """Accumulated latents resized to their scales, (D, R', C) → input rows (D, R', W').

        `scales` are the (consecutive) scales of 1 … K-1 that `inputs` covers.
        """
        cells = torch.cat([self._scale_cells(k) for k in range(scales.start, scales.stop)])
        return self.latent_projection(inputs.to(self.latent_projection.weight.dtype)) + cells

    def picture_rows(self, latent: Tensor) -> Tensor:
        """Hybrid latents (S, C, p, p) → input rows (S, rows, W'), merge × merge cells in each."""
        merge = self.config.merge
        cells = rearrange(latent, "s c (h a) (w b) -> s (h w) (c a b)", a=merge, b=merge)
        projected = self.picture_projection(cells.to(self.code_head.weight.dtype))
        return projected + self.picture_cell_embedding.weight

    def residual_condition(self, last_hidden: Tensor, codes: Tensor) -> Tensor:
        """Hidden states (…, W') and codes (…) of the last scale → condition (…, W') of the residual head."""
        embedded = self.code_projection(self.image_tokenizer.quantizer.embed(codes).to(last_hidden.dtype))
        return self.residual_norm(last_hidden + embedded)

    def stream_pass(self, batch: StreamBatch, text_rows: Tensor | None = None) -> StreamOutput:
        """One pass over all rows of a batch. text_rows: (T,) bool, whose text logits are wanted (all)."""
        config = self.config
        rows = row_table(batch, config)
        drafted = batch.codes[batch.drafted]
        schedule = self.image_tokenizer.schedule
        text_hidden, image_hidden = joint_forward(
            self.text.model,
            self.image,
            self.text.model.embed_tokens(batch.text_ids),
            self._image_inputs(batch),
            rows,
            attention_blocks(rows),
            checkpointing=self.checkpointing,
        )
        if text_rows is not None:
            text_hidden = text_hidden[text_rows]
        draft_hidden = image_hidden[: rows.draft].unflatten(0, (len(drafted), config.codes_per_picture))
        return StreamOutput(
            text_logits=self.text.lm_head(text_hidden),
            code_logits=self.code_head(draft_hidden),
            last_hidden=draft_hidden[:, schedule.slice(schedule.count - 1)],
        )

    def forward(self, batch: StreamBatch, generator: torch.Generator) -> StreamLosses:
        """Losses of one batch; `generator` draws the diffusion's times and noise."""
        learnt = batch.labels != NO_LABEL
        output = self.stream_pass(batch, text_rows=learnt)
        labels, codes = batch.labels[learnt], batch.codes[batch.drafted]
        text, text_accuracy = _cross_entropy(output.text_logits, labels)
        code, code_accuracy, coarse_accuracy = self._code_loss(output.code_logits, codes, batch)
        residual = self._residual_loss(output, batch, generator)
        config = self.config
        total = config.text_weight * text + config.code_weight * code + config.residual_weight * residual
        return StreamLosses(total, text, code, residual, text_accuracy, code_accuracy, coarse_accuracy)

    def _image_inputs(self, batch: StreamBatch) -> Tensor:
        """Input rows of the image tower, draft rows then picture rows, (I, W')."""
        if len(batch.codes) == 0:
            return self.boi_rows(0).flatten(0, 1)
        quantizer, schedule = self.image_tokenizer.quantizer, self.image_tokenizer.schedule
        codes = batch.codes.split(schedule.areas, dim=1)
        with torch.no_grad():
            latent = quantizer.latent(HybridTokens(codes, batch.residuals.float()))
        parts = [self.picture_rows(latent).flatten(0, 1)]
        if len(batch.drafted):
            with torch.no_grad():
                inputs = quantizer.teacher_inputs(tuple(scale[batch.drafted] for scale in codes))
            draft = [self.boi_rows(len(batch.drafted)), self.draft_rows(inputs, slice(1, schedule.count))]
            parts.insert(0, torch.cat(draft, dim=1).flatten(0, 1))
        return torch.cat(parts)

    def _code_loss(self, logits: Tensor, codes: Tensor, batch: StreamBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of logits (D, R, V) on codes (D, R), rows weighed by scale; accuracy of all and of coarse scales."""
        if len(codes) == 0:
            zero = logits.new_zeros((), dtype=torch.float32)
            return zero, zero, zero
        schedule = self.image_tokenizer.schedule
        areas = torch.tensor(schedule.areas, device=logits.device)[schedule.scale_of_row(logits.device)]
        weight = areas.float() ** -self.config.coarse_emphasis
        wanted = codes.flatten()
        if self.config.code_softness:
            tokens = HybridTokens(codes.split(schedule.areas, dim=1), batch.residuals[batch.drafted].float())
            quantizer = self.image_tokenizer.quantizer
            wanted = quantizer.closeness(quantizer.rests(tokens), self.config.code_softness).flatten(0, 1)
        each = F.cross_entropy(logits.float().flatten(0, 1), wanted, reduction="none").view_as(codes)
        right = (logits.detach().argmax(-1) == codes).float()
        coarse = sum(schedule.areas[: schedule.count // 2])
        return (each * weight).sum() / (weight.sum() * len(codes)), right.mean(), right[:, :coarse].mean()

    def _residual_loss(self, output: StreamOutput, batch: StreamBatch, generator: torch.Generator) -> Tensor:
        if len(batch.drafted) == 0:
            return output.text_logits.new_zeros((), dtype=torch.float32)
        last = self.image_tokenizer.schedule.slice(self.image_tokenizer.schedule.count - 1)
        condition = self.residual_condition(output.last_hidden, batch.codes[batch.drafted][:, last])
        target = batch.residuals[batch.drafted].float() / self.config.residual_scale
        return residual_loss(self.residual_head, target.flatten(0, 1), condition.flatten(0, 1), generator)

    def _scale_cells(self, scale: int) -> Tensor:
        cells = self.cell_embedding.weight[self.image_tokenizer.schedule.slice(scale)]
        return cells + self.scale_embedding.weight[scale]


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss in float32 and accuracy; both 0 where there is nothing to predict."""
    if len(labels) == 0:
        zero = logits.new_zeros((), dtype=torch.float32)
        return zero, zero
    accuracy = (logits.detach().argmax(-1) == labels).float().mean()
    return F.cross_entropy(logits.float(), labels), accuracy


AutoConfig.register(HartVLMConfig.model_type, HartVLMConfig, exist_ok=True)
AutoModel.register(HartVLMConfig, HartVLM, exist_ok=True)
