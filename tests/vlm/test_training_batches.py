"""Batches whose text is made in the workers and whose pictures the model encodes."""

from __future__ import annotations

from dataclasses import fields

import torch
from PIL import Image

from hart.tokenizer import HybridTokenizer
from vlm.batch import StreamBatch, collate
from vlm.training.batches import filled, unencoded
from vlm.training.conversations import conversation_sample
from vlm.training.model import ModelSettings, ModelTask, TowerSettings
from vlm.training.settings import TrainSettings
from vlm.training.tokenizer import TokenizerConfig, save_tokenizer

TINY = TokenizerConfig(
    channels=8, vocab_size=64, groups=8,
    encoder_widths=(16, 16, 32), decoder_widths=(16, 16, 32), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1),
)  # fmt: skip
QUICK = TrainSettings(steps=1, device="cpu")


def test_rows_made_in_workers_and_pictures_encoded_later_are_what_the_processor_encodes(tmp_path):
    tower = TowerSettings(width=32, hidden=64, layers=2, heads=2)
    save_tokenizer(HybridTokenizer(TINY), TINY, tmp_path)
    task = ModelTask(
        ModelSettings(
            tokenizer=str(tmp_path), vocabulary=512, tower=tower, residual_width=32, residual_depth=1, train=QUICK
        )
    )
    model, processor = task.module, task.processor
    samples = [conversation_sample(number, 128, 0, kind="chat") for number in range(3)]
    batch = unencoded("chat", "", samples, processor, torch.Generator().manual_seed(5), 2)
    rows = task._encoded(model, batch)
    streams = []
    for sample in samples:
        pixels = iter(sample.pixels)
        messages = [
            {
                "role": message["role"],
                "content": [
                    part if part["type"] == "text" else {"type": "image", "image": Image.fromarray(next(pixels))}
                    for part in message["content"]
                ],
            }
            for message in sample.messages
        ]
        streams.append(processor.encode(messages, model.image_tokenizer))
    expected = collate(streams, model.config, generator=torch.Generator().manual_seed(5), max_draft_spans=2)
    assert len(expected.codes) > 3 and len(expected.drafted) > 3
    for field in fields(StreamBatch):
        mine, theirs = getattr(rows, field.name), getattr(expected, field.name)
        if field.name == "residuals":
            # Pictures are encoded together here and one by one there.
            torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-3)
        else:
            assert mine == theirs if field.name == "size" else torch.equal(mine, theirs), field.name
    for mine, theirs in zip(filled(batch.streams, rows, model.config.text_vocab_size), streams, strict=True):
        assert torch.equal(mine.ids, theirs.ids) and torch.equal(mine.assistant, theirs.assistant)
