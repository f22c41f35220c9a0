"""Prompt encoding: padding, mask, positions, instructions, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hart_fixtures import write_text_model

from hart.prompts import PromptEncoder, PromptError, read_instructions


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    return {side: write_text_model(folder / side, side=side) for side in ("right", "left")}


def encoder(folder, **options) -> PromptEncoder:
    return PromptEncoder.from_pretrained(folder, **({"length": 6, "width": 16} | options))


def test_padding_mask_and_positions(folders):
    right = encoder(folders["right"])(["red", "a"])
    assert right.context.mask.tolist() == [[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert right.context.positions.tolist() == [[0, 1, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0]]
    left = encoder(folders["left"])(["red"])
    assert left.context.mask.tolist() == [[0, 0, 0, 1, 1, 1]]
    assert left.context.positions.tolist() == [[-1, -1, -1, 0, 1, 2]]
    assert right.context.hidden.shape == (2, 6, 16) and right.context.hidden.dtype == torch.float32


@pytest.mark.parametrize("side", ["right", "left"])
def test_hidden_states_are_the_language_models_own(side, folders):
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folders[side]), AutoTokenizer.from_pretrained(folders[side])
    words, told = "cat", "is"
    ours = encoder(folders[side], instructions=told)([words]).context.hidden
    ids = tokenizer(words, padding="max_length", max_length=6)["input_ids"]
    every = torch.tensor([tokenizer(told)["input_ids"] + ids])
    mask = (every != tokenizer.pad_token_id).long()
    positions = torch.arange(every.shape[1])[None]
    with torch.no_grad():
        output = model(every, attention_mask=mask, position_ids=positions, output_hidden_states=True)
    torch.testing.assert_close(ours, output.hidden_states[-1][:, 2:])
    assert not torch.allclose(ours, encoder(folders[side])([words]).context.hidden, atol=1e-3)


def test_a_prompt_does_not_depend_on_its_batch(folders):
    encode = encoder(folders["left"], instructions="is")
    both = encode(["a moon", "cat"]).context.hidden
    torch.testing.assert_close(both[1:], encode(["cat"]).context.hidden, atol=1e-5, rtol=0)


def test_a_long_prompt_is_cut_and_it_is_said(folders, caplog):
    encoded = encoder(folders["right"])(["two cats", "cat"])
    assert encoded.cut == (2, 0)
    assert "its last 2 tokens are left out" in caplog.text


def test_refusals(folders, tmp_path):
    encode = encoder(folders["right"])
    with pytest.raises(PromptError, match="prompt 2 is empty"):
        encode(["cat", "  "])
    with pytest.raises(PromptError, match="got none"):
        encode([])
    with pytest.raises(PromptError, match="width 16, this HART was trained on 1536"):
        encoder(folders["right"], width=1536)
    with pytest.raises(PromptError, match="no folder of a text model"):
        encoder(tmp_path / "nowhere")
    with pytest.raises(PromptError, match="takes 7 tokens, expected at most 6"):
        encoder(folders["right"], instructions="a heart")
    (tmp_path / "config.json").write_text('{"model_type": "no such model"}')
    with pytest.raises(PromptError, match="cannot be loaded"):
        encoder(tmp_path)


def test_instructions_are_read_as_they_are(tmp_path):
    (tmp_path / "told.txt").write_text("draw\nthis:\n", encoding="utf-8")
    assert read_instructions(tmp_path / "told.txt") == "draw\nthis:\n"
    with pytest.raises(PromptError, match="cannot read the instruction text"):
        read_instructions(tmp_path / "other.txt")


def test_a_vision_language_model_is_used_for_its_language_model(folders):
    text = encoder(folders["right"])

    class VisionLanguage:
        language_model = text.model

    again = PromptEncoder(VisionLanguage(), text.tokenizer, 6, 16)
    assert torch.equal(again(["cat"]).context.hidden, text(["cat"]).context.hidden)
