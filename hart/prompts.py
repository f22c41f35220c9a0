"""From a prompt to the hidden states that HART draws from, as its release computes them.

Knows: a folder with a Hugging Face text model and tokenizer, padding, mask, positions, instruction text. Does
not know HART's transformer beyond the width and length of its context.

Shapes: B batch, L context tokens, W context width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from hart.memory import is_out_of_memory
from hart.transformer import Context

logger = logging.getLogger(__name__)


class PromptError(ValueError):
    """A prompt, an instruction text or a text model that cannot be used; one line that says what to do."""


@dataclass(frozen=True)
class EncodedPrompts:
    """A batch of prompts ready to draw from. cut: for each, how many of its tokens did not fit the context."""

    prompts: tuple[str, ...]
    context: Context
    cut: tuple[int, ...]


class Encoder(Protocol):
    """Whatever turns prompts into a context."""

    def __call__(self, prompts: Sequence[str]) -> EncodedPrompts:
        """Encode a batch. Raises PromptError."""


class PromptEncoder:
    """Encodes with a language model: the last layer's hidden states of L tokens, padded to the full length.

    As the release does: no chat template; the mask is 1 where a token is not padding; positions count the
    tokens of the mask; the padding's hidden states stay in the context. With ``instructions``, their tokens go
    before every prompt in the language model's own pass, and their hidden states are left out.
    """

    def __init__(
        self, model: Any, tokenizer: Any, length: int, width: int, instructions: str | None = None
    ) -> None:
        # A vision-language model is used for its language model alone.
        self.model = getattr(model, "language_model", model)
        self.tokenizer = tokenizer
        self.length = length
        found = self.model.config.get_text_config().hidden_size
        if found != width:
            raise PromptError(
                f"the text model has hidden states of width {found}, this HART was trained on {width}; "
                "give the text model of its release"
            )
        if tokenizer.pad_token_id is None:
            raise PromptError("the text model's tokenizer has no padding token; give the one of HART's release")
        self.instructions = self._instruction_ids(instructions)

    @staticmethod
    def from_pretrained(
        folder: Path | str,
        *,
        length: int,
        width: int,
        instructions: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> PromptEncoder:
        """Load the text model in ``folder`` (nothing is downloaded). Raises PromptError."""
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise PromptError(f"{folder} is no folder of a text model (it has no config.json)")
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            # The width is in the config, so a wrong model is refused before its weights are read.
            found = config.get_text_config().hidden_size
            if found != width:
                raise PromptError(
                    f"{folder} has hidden states of width {found}, this HART was trained on {width}; "
                    "give the text model of its release"
                )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=dtype)
        except PromptError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            if is_out_of_memory(error):
                raise
            # The first sentence says what is wrong; more is advice on another library.
            reason = " ".join(str(error).split()).split(". ")[0]
            raise PromptError(f"the text model in {folder} cannot be loaded ({reason})") from error
        model = getattr(model, "language_model", model).to(device).eval().requires_grad_(False)
        return PromptEncoder(model, tokenizer, length, width, instructions)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> EncodedPrompts:
        """Encode prompts; longer ones are cut at L tokens, which ``cut`` and the log say. Raises PromptError."""
        if not prompts:
            raise PromptError("expected at least one prompt, got none")
        empty = [i for i, prompt in enumerate(prompts) if not prompt.strip()]
        if empty:
            raise PromptError(f"prompt {empty[0] + 1} is empty; say what to draw")
        ids = torch.tensor(
            self.tokenizer(
                list(prompts), padding="max_length", truncation=True, max_length=self.length
            )["input_ids"]
        )
        full = [len(one) for one in self.tokenizer(list(prompts))["input_ids"]]
        cut = tuple(max(0, count - self.length) for count in full)
        for prompt, count in zip(prompts, cut, strict=True):
            if count:
                logger.warning("the prompt %r is too long: its last %d tokens are left out", prompt[:40], count)
        device = self.model.get_input_embeddings().weight.device
        mask = (ids != self.tokenizer.pad_token_id).long()
        positions = mask.cumsum(1) - 1
        before = self.instructions.expand(len(ids), -1)
        every = torch.cat([before, ids], dim=1)
        output = self.model(
            input_ids=every.to(device),
            attention_mask=torch.cat([torch.ones_like(before), mask], dim=1).to(device),
            # Plain numbering, whatever the padding: what the release's library did by default.
            position_ids=torch.arange(every.shape[1], device=device).expand(len(ids), -1),
            use_cache=False,
        )
        hidden: Tensor = output.last_hidden_state[:, before.shape[1] :].float()
        return EncodedPrompts(tuple(prompts), Context(hidden, mask.to(device), positions.to(device)), cut)

    def _instruction_ids(self, instructions: str | None) -> Tensor:
        """(1, n) int64 token ids of the instruction text, n = 0 without one."""
        if instructions is None:
            return torch.zeros(1, 0, dtype=torch.long)
        ids = torch.tensor([self.tokenizer(instructions)["input_ids"]], dtype=torch.long)
        if ids.shape[1] > self.length:
            raise PromptError(
                f"the instruction text takes {ids.shape[1]} tokens, expected at most {self.length}; shorten it"
            )
        return ids


def read_instructions(path: Path | str) -> str:
    """The instruction text in a UTF-8 file, as it is. Raises PromptError."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"cannot read the instruction text {path} ({error}); give a UTF-8 text file") from error
