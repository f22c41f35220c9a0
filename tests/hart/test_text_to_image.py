"""Text to pictures: seeds, batches, events, options, metadata, refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hart_fixtures import TINY_TOKENIZER, tiny_transformer, write_release, write_text_model
from PIL import Image

from hart.checkpoint import CheckpointError
from hart.choosing import ChoosingOptions, RandomChooser
from hart.drawing import draw_scales, guided_ratio
from hart.memory import DoesNotFit, drawing_bytes, is_out_of_memory
from hart.picture import ImageDone, ImagePreview, ImageStarted
from hart.presets import SCHEDULES, hart_0_7b, random_models
from hart.prompts import EncodedPrompts
from hart.schedule import ScaleSchedule
from hart.text_to_image import DrawOptions, PromptRefused, TextToImage
from hart.transformer import Context


class FakeEncoder:
    """Hidden states that depend on the prompt alone."""

    def __call__(self, prompts: Sequence[str]) -> EncodedPrompts:
        hidden = [torch.randn(5, 16, generator=torch.Generator().manual_seed(sum(map(ord, p)))) for p in prompts]
        mask = torch.ones(len(prompts), 5, dtype=torch.long)
        context = Context(torch.stack(hidden), mask, mask.cumsum(1) - 1)
        return EncodedPrompts(tuple(prompts), context, (0,) * len(prompts))


@pytest.fixture(scope="module")
def painter() -> TextToImage:
    return TextToImage(random_models(tiny_transformer(), TINY_TOKENIZER, seed=1), FakeEncoder())


def pixels(picture) -> np.ndarray:
    return np.asarray(picture.image).astype(int)


def near(first, second) -> bool:
    # One step of 255 for sums in another order.
    return bool(np.abs(pixels(first) - pixels(second)).max() <= 1)


def test_one_seed_one_picture_whatever_is_drawn_beside_it(painter):
    prompts, seeds = ["red", "blue", "red"], [3, 4, 5]
    together = painter.draw(prompts, seeds)
    for prompt, seed, picture in zip(prompts, seeds, together, strict=True):
        alone = painter.draw(prompt, seed)[0]
        assert torch.equal(alone.tokens.flat_codes(), picture.tokens.flat_codes())
        assert near(alone, picture) and (picture.prompt, picture.seed) == (prompt, seed)
    assert not near(together[0], together[2]) and not near(together[0], together[1])


def test_consecutive_seeds(painter):
    pictures = painter.draw(["red", "red"], 7)
    assert [p.seed for p in pictures] == [7, 8]
    assert near(pictures[1], painter.draw("red", 8)[0])


@pytest.mark.parametrize("smooth", [True, False])
def test_tokens_decode_to_the_picture(smooth, painter):
    picture = painter.draw("red", 1, DrawOptions(smooth=smooth))[0]
    again = painter.tokenizer.decode(picture.tokens)[0]
    values = ((again + 1) * 127.5).round().permute(1, 2, 0).numpy().astype(int)
    assert np.abs(values - pixels(picture)).max() <= 1


def test_options_change_the_picture_and_neutral_ones_do_not(painter):
    plain = painter.draw("red", 1)[0]
    for options in (
        DrawOptions(guidance=0), DrawOptions(smooth=False), DrawOptions(temperature=0.2), DrawOptions(top_k=2),
        DrawOptions(top_p=0.3), DrawOptions(residual=False), DrawOptions(residual_steps=3), DrawOptions(temperature=0),
    ):  # fmt: skip
        assert not near(painter.draw("red", 1, options)[0], plain), options
    same = DrawOptions(top_k=0, top_p=1.0, residual_steps=8, previews=True)
    assert near(painter.draw("red", 1, same)[0], plain)
    greedy = [painter.draw("red", seed, DrawOptions(temperature=0, residual=False))[0] for seed in (1, 2)]
    assert near(*greedy)


def test_guidance_follows_the_scales(painter):
    assert [guided_ratio(k, 4) for k in range(4)] == [0.0, 1 / 3, 2 / 3, 2 / 3]
    context = FakeEncoder()(["red"]).context
    quantizer = painter.tokenizer.quantizer
    logits = {}
    for guidance in (0.0, 2.0):
        chooser = RandomChooser(ChoosingOptions(temperature=0), [0], quantizer.embedding.weight, 4)
        drawn = draw_scales(painter.transformer, quantizer, context, chooser, guidance=guidance)
        logits[guidance] = [scale.logits for scale in drawn]
    torch.testing.assert_close(logits[0.0][0], logits[2.0][0], atol=1e-5, rtol=0)
    assert not torch.allclose(logits[0.0][1], logits[2.0][1], atol=1e-3)


def test_events_come_per_scale_and_previews_are_pictures(painter):
    events = list(painter.stream(["red", "blue"], 0, DrawOptions(previews=True)))
    assert [e for e in events if isinstance(e, ImageStarted)] == [ImageStarted(0, 4), ImageStarted(1, 4)]
    previews = [e for e in events if isinstance(e, ImagePreview)]
    assert [(e.scale, e.index) for e in previews] == [(k, i) for k in range(4) for i in range(2)]
    assert all(e.image.size == (16, 16) for e in previews)
    assert [e.index for e in events[-2:] if isinstance(e, ImageDone)] == [0, 1]
    quiet = painter.stream("red")
    assert all(e.image is None for e in quiet if isinstance(e, ImagePreview))


def test_the_last_preview_is_the_picture(painter):
    events = list(painter.stream("red", 0, DrawOptions(previews=True)))
    assert np.array_equal(np.asarray(events[-2].image), np.asarray(events[-1].picture.image))


def test_stopping_at_a_scale_gives_the_preview_of_that_scale(painter):
    options = DrawOptions(previews=True)
    preview = next(e for e in painter.stream("red", 2, options) if isinstance(e, ImagePreview) and e.scale == 1)
    stopped = painter.draw("red", 2, DrawOptions(stop_scale=2))[0]
    assert np.array_equal(np.asarray(preview.image), np.asarray(stopped.image)) and stopped.tokens is None
    with pytest.raises(ValueError, match=r"stop_scale must be in 1\.\.4"):
        painter.draw("red", 2, DrawOptions(stop_scale=5))


def test_metadata_round_trip_and_same_bytes(painter, tmp_path):
    prompt = "ein rotes Herz ♥"
    for name in ("a.png", "b.png"):
        painter.draw(prompt, 9, DrawOptions(guidance=2.5))[0].save(tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        text = image.text
    assert (text["prompt"], text["seed"], text["guidance"], text["size"]) == (prompt, "9", "2.5", "16")
    assert str(tmp_path) not in str(text)


def test_a_moderator_refuses_and_nothing_is_drawn_instead():
    def moderator(prompt: str) -> str | None:
        return "no cats here" if "cat" in prompt else None

    models = random_models(tiny_transformer(), TINY_TOKENIZER)
    painter = TextToImage(models, FakeEncoder(), moderator)
    with pytest.raises(PromptRefused, match="prompt 2 was refused: no cats here"):
        painter.stream(["a moon", "a cat"])
    assert painter.draw("a moon")[0].prompt == "a moon"


def test_sizes_follow_schedules():
    large = tiny_transformer(sides=SCHEDULES[1024])
    painter = TextToImage(random_models(large, TINY_TOKENIZER), FakeEncoder())
    # The tokenizer's stride is 4 here.
    assert list(painter.sizes) == [64, 128, 256]
    options = DrawOptions(size=64, residual=False)
    picture = painter.draw("red", 0, options)[0]
    assert picture.image.size == (64, 64) and picture.settings["scales"] == "10"
    with pytest.raises(ValueError, match="draws 64, 128, 256 pixels a side, got 100"):
        painter.draw("red", 0, DrawOptions(size=100))
    table = tiny_transformer(sides=(1, 2, 16, 40), level_embedding="table")
    assert list(TextToImage(random_models(table, TINY_TOKENIZER), FakeEncoder()).sizes) == [160]


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_half_precision_draws(name, painter):
    models = random_models(tiny_transformer(), TINY_TOKENIZER, seed=1, dtype=getattr(torch, name))
    picture = TextToImage(models, FakeEncoder()).draw("red")[0]
    assert picture.settings["dtype"] == name and pixels(picture).std() > 1


def test_out_of_memory_says_what_would_fit(painter, monkeypatch):
    needed = {n: painter._bytes(n, 16, DrawOptions()) for n in (1, 2, 4)}
    assert needed[1] < needed[2] < needed[4]
    monkeypatch.setattr("hart.text_to_image.device_bytes", lambda device: needed[2])
    with pytest.raises(DoesNotFit, match=r"out of memory on cpu: 4 pictures of 16 px .* what should fit: 2 at a time"):
        painter.draw(["red"] * 4)
    assert len(painter.draw(["red"] * 2)) == 2

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(painter.transformer, "run", fail)
    with pytest.raises(DoesNotFit, match=r"what should fit: .*bfloat16"):
        painter.draw(["red"] * 2)


def test_which_errors_are_of_memory():
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(RuntimeError("shapes differ"))
    transformer, tokenizer = hart_0_7b(1024)
    schedule = ScaleSchedule(SCHEDULES[1024])
    sizes = [
        drawing_bytes(transformer, tokenizer, schedule, pictures=1, guided=guided, dtype=dtype) / 2**30
        for guided, dtype in ((True, torch.float32), (True, torch.bfloat16), (False, torch.bfloat16))
    ]
    assert sizes[0] > sizes[1] > sizes[2] and 2 < sizes[1] < 8


def test_bad_options_and_seeds(painter):
    bad = [
        ({"guidance": -1}, "guidance"), ({"top_k": -1}, "top_k"), ({"top_p": 0.0}, "top_p"),
        ({"temperature": float("nan")}, "temperature"), ({"residual_steps": 1}, "residual_steps"),
        ({"stop_scale": 0}, "stop_scale"), ({"top_k": (1, 2, -3)}, "top_k"),
    ]  # fmt: skip
    for changes, name in bad:
        with pytest.raises(ValueError, match=name):
            DrawOptions(**changes)
    with pytest.raises(ValueError, match="expected 2 seeds"):
        painter.draw(["red", "blue"], [1])
    with pytest.raises(ValueError, match="4 values of top_k"):
        painter.draw("red", 0, DrawOptions(top_k=(5, 5)))
    with pytest.raises(ValueError, match="belong together"):
        TextToImage(random_models(tiny_transformer(vocab_size=23), TINY_TOKENIZER))
    with pytest.raises(ValueError, match="no text model"):
        TextToImage(random_models(tiny_transformer(), TINY_TOKENIZER)).draw("red")


def test_from_folders_in_the_release_layout(tmp_path):
    llm, text = write_release(tmp_path / "hart"), write_text_model(tmp_path / "text")
    painter = TextToImage.from_pretrained(llm, text)
    first = painter.draw("red", 1)[0]
    assert first.image.size == (6, 6) and "pytorch_model.bin" in first.settings["model"]
    assert not near(painter.draw("blue", 1)[0], first)


@pytest.mark.parametrize(
    ("best", "given", "expected"),
    [
        ("cuda", {}, ("cuda", torch.bfloat16)),
        ("cpu", {}, ("cpu", torch.float32)),
        ("cuda", {"device": "cpu", "dtype": torch.float16}, ("cpu", torch.float16)),
    ],
)
def test_device_and_precision_are_chosen_where_none_is_named(best, given, expected, monkeypatch):
    asked = {}

    def load(folder, **options):
        asked.update(options)
        raise CheckpointError("enough")

    monkeypatch.setattr("hart.text_to_image.best_device", lambda: best)
    monkeypatch.setattr("hart.text_to_image.load_models", load)
    with pytest.raises(CheckpointError, match="enough"):
        TextToImage.from_pretrained("llm", "text", **given)
    assert (asked["device"].type, asked["dtype"]) == expected


def test_importing_hart_pulls_in_nothing_of_chat():
    code = (
        "import sys, hart; assert 'torch' not in sys.modules; hart.TextToImage, hart.DrawOptions; "
        "print(sorted({'vlm', 'gradio', 'peft', 'adapters', 'demo', 'transformers'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
