"""A HART of 16 px small enough for tests, its text model, and both as folders in the release's layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from release_weights import LLM, TOKENIZER, transformer_state
from release_weights import tokenizer_state as release_tokenizer_state

from hart.config import TokenizerConfig, TransformerConfig

SIDES = (1, 2, 3, 4)
LETTERS = "abcdefghijklmnopqrstuvwxyzĠ"  # Ġ: how a byte-level tokenizer writes a space

TINY_TOKENIZER = TokenizerConfig(
    resolution=16, autoencoder="convolutional", channels=6, vocab_size=24, sides=SIDES, shared_convs=2,
    normalise_latent=False, patch=1, groups=4, encoder_widths=(8, 8, 16), encoder_blocks=(1, 1, 1),
    decoder_widths=(8, 8, 16), decoder_blocks=(1, 1, 1),
)  # fmt: skip


def tiny_transformer(**changes) -> TransformerConfig:
    values = {
        "width": 32, "depth": 2, "heads": 2, "sides": SIDES, "vocab_size": 24, "channels": 6,
        "context_tokens": 5, "context_width": 16, "residual_width": 16, "residual_depth": 1,
    }  # fmt: skip
    return TransformerConfig(**(values | changes))


def write_release(folder: Path, *, llm: dict | None = None, seed: int = 0) -> Path:
    """`llm/` and `tokenizer/` without a recording; returns the llm folder."""
    settings = LLM | {"context_dim": 16} | (llm or {})
    states = {
        "llm": (settings, transformer_state(settings, TOKENIZER["z_channels"], TOKENIZER["vocab_size"], seed)),
        "tokenizer": (TOKENIZER, release_tokenizer_state(TOKENIZER, seed + 1)),
    }
    for name, (config, state) in states.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))
        torch.save(state, folder / name / "pytorch_model.bin")
    return folder / "llm"


def write_text_model(folder: Path, *, width: int = 16, side: str = "right") -> Path:
    """A Qwen2 of two layers with random weights, and its tokenizer with one token per letter."""
    from transformers import Qwen2Config, Qwen2Model, Qwen2Tokenizer

    torch.manual_seed(0)
    vocabulary = {letter: i for i, letter in enumerate(("<|endoftext|>", *LETTERS))}
    Qwen2Tokenizer(vocab=vocabulary, merges=[], padding_side=side).save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(vocabulary), hidden_size=width, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    Qwen2Model(config).save_pretrained(folder)
    return folder
