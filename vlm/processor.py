"""Messages to streams and back; pictures to the model's square and back.

Knows roles, special ids, the chat format, how an image is fitted. Does not know the towers. What a user types
is always
text: special tokens enter by id alone, at the places this module puts them.

A picture of any shape is put whole on a square of `background` colour, centred, its longer side scaled to the
resolution; transparency shows the background.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hart.tokenizer import HybridTokenizer
from hart.tokens import HybridTokens
from vlm.config import SPECIAL_TOKENS, HartVLMConfig
from vlm.stream import RESIDUAL_DTYPE, Conversation, parse, round_residual, span_ids, span_tokens
from vlm.text_tokenizer import plain_encoder

ROLES = ("system", "user", "assistant")
SETTINGS_FILE = "stream_processor.json"

Message = Mapping[str, Any]


class StreamProcessor:
    """Encodes messages for a :class:`vlm.model.HartVLM` with this config and text tokenizer.

    A message is ``{"role": "system" | "user" | "assistant", "content": str | list of parts}``; a part is
    ``{"type": "text", "text": str}`` or ``{"type": "image", "image": PIL.Image}`` or, for a picture that is
    already encoded, ``{"type": "image", "tokens": HybridTokens}`` (a batch of one).
    Raises ValueError when tokenizer and config disagree in a special id or in the size of the vocabulary.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        config: HartVLMConfig,
        *,
        background: tuple[int, int, int] = (255, 255, 255),
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.background = (int(background[0]), int(background[1]), int(background[2]))
        self.resolution = config.tokenizer_config.resolution
        self._plain = plain_encoder(tokenizer)
        ids = (
            config.pad_id,
            config.bos_id,
            config.turn_start_id,
            config.turn_end_id,
            config.boi_id,
            config.eoi_id,
        )
        found = tuple(tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS)
        if ids != found or len(tokenizer) != config.text_vocab_size:
            raise ValueError(
                f"tokenizer and config disagree: special ids {found} and {ids}, "
                f"vocabulary {len(tokenizer)} and {config.text_vocab_size}"
            )

    def encode(
        self,
        messages: Sequence[Message],
        image_tokenizer: HybridTokenizer | None = None,
        *,
        add_generation_prompt: bool = False,
        history: Conversation | None = None,
    ) -> Conversation:
        """Messages → stream. The assistant mask covers its content and the end of its turn.

        image_tokenizer: needed when a part holds a PIL image. add_generation_prompt: open the assistant's
        turn.
        history: a stream to go on with, e.g. from ``Finished``; its ids stay as they are.
        Raises ValueError on an unknown role, an unknown kind of part, or a missing image tokenizer.
        """
        ids: list[Tensor] = []
        assistant: list[Tensor] = []
        residuals: list[Tensor] = []

        def put(values: Sequence[int] | Tensor, learnt: bool = False) -> None:
            ids.append(torch.as_tensor(values, dtype=torch.long))
            assistant.append(torch.full((len(values),), learnt))

        config = self.config
        if history is None:
            if not messages:
                raise ValueError("expected at least one message, got none")
            put([config.bos_id])
        else:
            ids.append(history.ids)
            assistant.append(history.assistant)
            residuals.append(history.residuals)
            if int(history.ids[-1]) != config.turn_end_id:
                put([config.turn_end_id])
            put(self.encode_text("\n"))
        for message in messages:
            role, parts = _checked(message)
            learnt = role == "assistant"
            put([config.turn_start_id])
            put(self.encode_text(f"{role}\n"))
            for part in parts:
                if part["type"] == "text":
                    put(self.encode_text(part["text"]), learnt)
                    continue
                tokens = self._tokens(part, image_tokenizer)
                put(span_ids(tokens, config), learnt)
                residuals.append(round_residual(tokens.residual))
            put([config.turn_end_id], learnt)
            put(self.encode_text("\n"))
        if add_generation_prompt:
            put([config.turn_start_id])
            put(self.encode_text("assistant\n"))
        empty = torch.zeros(0, config.scales[-1] ** 2, config.latent_channels, dtype=RESIDUAL_DTYPE)
        return Conversation(torch.cat(ids), torch.cat(residuals or [empty]), torch.cat(assistant))

    def decode(self, conversation: Conversation) -> list[dict[str, Any]]:
        """Stream → messages whose content is a list of parts, pictures as tokens (a batch of one).

        A last turn that is only opened, or not yet closed, is given with the parts it has.
        """
        rows = parse(conversation, self.config)
        pictures = iter(span_tokens(conversation, rows, self.config))
        messages: list[dict[str, Any]] = []
        for turn in _split(conversation.ids.tolist(), self.config.turn_start_id)[1:]:
            body = _split(turn, self.config.turn_end_id)[0]
            parts = list(self._parts(body, pictures))
            header = parts[0]["text"] if parts and parts[0]["type"] == "text" else ""
            role, _, rest = header.partition("\n")
            parts = ([{"type": "text", "text": rest}] if rest else []) + parts[1:]
            messages.append({"role": role, "content": parts})
        return messages

    def encode_text(self, text: str) -> list[int]:
        """Plain text → ids; no special token ever comes out. Raises ValueError on lone surrogates."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"expected text that UTF-8 can write, got {text[error.start]!a} in it"
            ) from error
        return self._plain.encode(text, add_special_tokens=False).ids

    def decode_text(self, ids: Sequence[int]) -> str:
        """Ids of text → text; special tokens are left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def fit(self, image: Image.Image) -> Image.Image:
        """Any picture → RGB at the model's resolution, by the rule in the module's docstring."""
        if image.mode == "RGB" and image.size == (self.resolution, self.resolution):
            return image
        layer = image.convert("RGBA")
        factor = self.resolution / max(layer.size)
        width, height = (max(1, round(side * factor)) for side in layer.size)
        layer = layer.resize((width, height), Image.Resampling.LANCZOS)
        square = Image.new("RGBA", (self.resolution, self.resolution), (*self.background, 255))
        corner = ((self.resolution - width) // 2, (self.resolution - height) // 2)
        square.alpha_composite(layer, dest=corner)
        return square.convert("RGB")

    def pixels(self, image: Image.Image) -> Tensor:
        """A picture → (1, 3, H, W) float32 in [-1, 1], fitted."""
        array = np.array(self.fit(image), dtype=np.uint8)
        return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 127.5 - 1

    def encode_image(self, image: Image.Image, image_tokenizer: HybridTokenizer) -> HybridTokens:
        """A picture → its tokens, a batch of one on the CPU, the residual rounded to its stored dtype."""
        weight = next(image_tokenizer.parameters())
        tokens = image_tokenizer.encode(self.pixels(image).to(weight.device, weight.dtype))
        return HybridTokens(tuple(codes.cpu() for codes in tokens.codes), round_residual(tokens.residual))

    def save_pretrained(self, path: str | Path) -> None:
        """Write text tokenizer and settings into the folder `path`; the config is the model's to save."""
        self.tokenizer.save_pretrained(path)
        settings = {"background": list(self.background), "resolution": self.resolution}
        (Path(path) / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, path: str | Path, config: HartVLMConfig | None = None) -> StreamProcessor:
        """Read what `save_pretrained` wrote; the config comes from the same folder unless given.

        Raises ValueError when the settings do not belong to this config.
        """
        settings = json.loads((Path(path) / SETTINGS_FILE).read_text(encoding="utf-8"))
        config = config if config is not None else HartVLMConfig.from_pretrained(path)
        if settings.get("resolution") != config.tokenizer_config.resolution:
            raise ValueError(
                f"{path}: the processor is for {settings.get('resolution')} px, "
                f"the model for {config.tokenizer_config.resolution} px"
            )
        background = tuple(settings["background"])
        return cls(PreTrainedTokenizerFast.from_pretrained(path), config, background=background)

    def _tokens(self, part: Message, image_tokenizer: HybridTokenizer | None) -> HybridTokens:
        if "tokens" in part:
            tokens = part["tokens"]
            if len(tokens) != 1:
                raise ValueError(f"a part holds one picture, got tokens of {len(tokens)}")
            return tokens
        if image_tokenizer is None:
            raise ValueError("a part holds an image: pass the model's image_tokenizer to encode it")
        return self.encode_image(part["image"], image_tokenizer)

    def _parts(self, ids: list[int], pictures: Iterator[HybridTokens]) -> Iterator[dict[str, Any]]:
        text: list[int] = []
        for index in ids:
            if index == self.config.boi_id:
                if text:
                    yield {"type": "text", "text": self.decode_text(text)}
                yield {"type": "image", "tokens": next(pictures)}
                text = []
            elif index < self.config.text_vocab_size:
                text.append(index)
        if content := self.decode_text(text):
            yield {"type": "text", "text": content}


def to_picture(image: Tensor) -> Image.Image:
    """(3, H, W) float in [-1, 1], any device → an RGB picture."""
    values = ((image.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())


def _checked(message: Message) -> tuple[str, list[Message]]:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ValueError(f"role must be one of {ROLES}, got {role!r}")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, Sequence):
        raise ValueError(f"content must be text or a list of parts, got {type(content).__name__}")
    for part in parts:
        kind = part.get("type")
        good = (
            isinstance(part.get("text"), str)
            if kind == "text"
            else kind == "image" and {"image", "tokens"} & set(part)
        )
        if not good:
            raise ValueError(
                f"expected a part with text, image or tokens, got type {kind!r} with keys {sorted(part)}"
            )
    return role, list(parts)


def _split(ids: list[int], at: int) -> list[list[int]]:
    groups: list[list[int]] = [[]]
    for index in ids:
        if index == at:
            groups.append([])
        else:
            groups[-1].append(index)
    return groups
