"""Tiny models and conversations for the tests of the stream; random weights, no files."""

from __future__ import annotations

import functools

import torch
from transformers import PreTrainedTokenizerFast

from hart.config import TokenizerConfig
from hart.tokens import HybridTokens
from vlm.config import HartVLMConfig
from vlm.model import HartVLM
from vlm.processor import StreamProcessor
from vlm.text_tokenizer import train_text_tokenizer

KINDS = ("llama", "qwen2", "qwen3")


def tower(kind: str, hidden: int = 32, **changes) -> dict:
    values = dict(
        model_type=kind,
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    return values | ({"head_dim": 8} if kind != "qwen2" else {}) | changes


def tokenizer_dict() -> dict:
    return TokenizerConfig(
        resolution=32,
        channels=6,
        vocab_size=24,
        sides=(1, 2, 4),
        patch=4,
        encoder_widths=(16, 16),
        encoder_blocks=(1, 1),
        decoder_widths=(16, 16),
        decoder_blocks=(1, 1),
        groups=4,
    ).to_dict()


@functools.cache
def text_tokenizer() -> PreTrainedTokenizerFast:
    colours = ("red", "blue", "green", "yellow")
    lines = [
        f"# A {c} stool\nIt has {i} legs.\n\n## Parts\n- {i} x {c} leg\n\n## Tools\n- hex key\n\n## Steps\n"
        f"{i}. Attach the {c} leg to the seat.\nYou are done! How do I assemble a stool?"
        for i in range(12)
        for c in colours
    ]
    return train_text_tokenizer(lines, 360)


def config(kind: str = "llama", image_hidden: int | None = None, **changes) -> HartVLMConfig:
    hidden = 32
    other = hidden if kind == "qwen2" else image_hidden or hidden
    return HartVLMConfig(
        text_config=tower(kind, hidden, vocab_size=len(text_tokenizer())),
        image_config=tower(kind, other),
        image_tokenizer=tokenizer_dict(),
        residual_width=24,
        residual_depth=2,
        **changes,
    )


def model(kind: str = "llama", seed: int = 0, **changes) -> HartVLM:
    """Random weights, large enough that nothing is hidden by being near zero."""
    torch.manual_seed(seed)
    built = HartVLM(config(kind, **changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if parameter.ndim > 1 and "image_tokenizer" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return built


def processor(built: HartVLM) -> StreamProcessor:
    return StreamProcessor(text_tokenizer(), built.config)


def picture(built: HartVLM, seed: int) -> HybridTokens:
    generator = torch.Generator().manual_seed(seed)
    shape = built.config
    codes = tuple(torch.randint(shape.code_vocab_size, (1, s * s), generator=generator) for s in shape.scales)
    return HybridTokens(
        codes, torch.randn(1, shape.scales[-1] ** 2, shape.latent_channels, generator=generator)
    )


def guide_messages(built: HartVLM, pictures: int = 2, seed: int = 0) -> list[dict]:
    """An upload, then an answer with pictures."""
    parts: list[dict] = [{"type": "text", "text": "# A stool\nShort.\n\n## Steps\n"}]
    for i in range(pictures):
        parts.append({"type": "text", "text": f"{i + 1}. Attach leg {i}.\n"})
        parts.append({"type": "image", "tokens": picture(built, seed + i)})
        parts.append({"type": "text", "text": "\n"})
    parts.append({"type": "text", "text": "You are done!"})
    question = [{"type": "text", "text": "How? "}, {"type": "image", "tokens": picture(built, seed + 50)}]
    return [{"role": "user", "content": question}, {"role": "assistant", "content": parts}]


def drawing_model(kind: str = "llama", seed: int = 0, **changes) -> HartVLM:
    """A random model that likes to draw: <|boi|>, newline and the end of the turn get a head start."""
    built = model(kind, seed, **changes)
    plain = built.text.lm_head
    head = torch.nn.Linear(plain.in_features, plain.out_features)
    newline = text_tokenizer().convert_tokens_to_ids("\n")
    with torch.no_grad():
        head.weight.copy_(plain.weight)
        head.bias.zero_()
        head.bias[built.config.boi_id] = 9.0
        head.bias[newline] = 5.0
    built.text.lm_head = head
    return built


def question(built: HartVLM, text: str = "How do I assemble a stool?"):
    """A prompt, ready to be answered."""
    return processor(built).encode([{"role": "user", "content": text}], add_generation_prompt=True)
