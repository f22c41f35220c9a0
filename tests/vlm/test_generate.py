"""Generation as events: equal to the naive path, fixed by its seed, cancelled at once, nothing left over."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref

import pytest
import torch
from naive_generation import naive_generate, run
from stream_fixtures import KINDS, drawing_model, model, processor, question

from vlm.events import Finished, Generated, ImageDone, ImagePreview, ImageStarted, TextDelta, collect
from vlm.generate import TextAssembler, generate
from vlm.model import HartVLM
from vlm.sampling import GenerationOptions
from vlm.session import StreamSession
from vlm.stream import Conversation, parse

FREE = GenerationOptions(
    seed=3,
    max_new_tokens=10,
    temperature=1.0,
    top_p=1.0,
    code_temperature=1.0,
    code_top_p=0.9,
    previews=False,
)


def answer(built: HartVLM, options: GenerationOptions = FREE, **rest) -> Generated:
    return collect(generate(built, processor(built), question(built), options, **rest))


def same(a: Conversation, b: Conversation) -> bool:
    return torch.equal(a.ids, b.ids) and torch.equal(a.residuals, b.residuals)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_equals_the_naive_path_without_cache(kind: str, guidance: float):
    built = drawing_model(kind)
    options = GenerationOptions(**{**FREE.__dict__, "guidance": guidance})
    fast = answer(built, options).conversation
    slow = naive_generate(built, processor(built), question(built), options)
    assert torch.equal(fast.ids, slow.ids)
    assert len(fast.residuals) >= 2
    torch.testing.assert_close(fast.residuals.float(), slow.residuals.float(), atol=2e-3, rtol=0)


def test_neutral_guidance_is_the_conditional_branch_alone():
    built = drawing_model(guidance=3.0)
    neutral, default = (
        answer(built, GenerationOptions(**{**FREE.__dict__, "guidance": g})) for g in (0.0, None)
    )
    built.config.guidance = 0.0
    assert same(neutral.conversation, answer(built).conversation)
    assert not same(neutral.conversation, default.conversation)


def test_one_seed_one_result_and_another_seed_another():
    built = drawing_model()
    first, again = answer(built), answer(built)
    assert same(first.conversation, again.conversation) and first.text == again.text
    assert all(
        a.image.tobytes() == b.image.tobytes() for a, b in zip(first.images, again.images, strict=True)
    )
    torch.manual_seed(99)
    assert same(first.conversation, answer(built).conversation)
    assert not same(
        first.conversation, answer(built, GenerationOptions(**{**FREE.__dict__, "seed": 4})).conversation
    )


def test_events_come_in_order_and_add_up():
    built = drawing_model()
    options = GenerationOptions(**{**FREE.__dict__, "previews": True})
    events = list(generate(built, processor(built), question(built), options))
    pictures = [event for event in events if not isinstance(event, TextDelta)]
    scales = len(built.config.scales)
    starts = [i for i, event in enumerate(pictures) if isinstance(event, ImageStarted)]
    assert len(starts) >= 2
    for number, start in enumerate(starts):
        group = pictures[start : start + scales + 2]
        assert [type(event) for event in group] == [ImageStarted, *[ImagePreview] * scales, ImageDone]
        assert {event.index for event in group} == {number}
        assert [event.scale for event in group[1:-1]] == list(range(scales))
        assert all(event.image.size == (32, 32) for event in group[1:])
    assert isinstance(events[-1], Finished) and not any(isinstance(e, Finished) for e in events[:-1])
    result = collect(events)
    prompt = len(question(built).ids)
    assert torch.equal(events[-1].conversation.ids[:prompt], question(built).ids)
    assert events[-1].conversation.assistant[prompt:].all()
    assert processor(built).decode(result.conversation)[-1]["role"] == "assistant"


def test_a_picture_is_decoded_from_its_own_tokens():
    built = drawing_model()
    done = answer(built).images[0]
    shown = built.image_tokenizer.decode(done.tokens)[0]
    pixels = torch.tensor(list(done.image.tobytes())).view(32, 32, 3).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(pixels, shown, atol=0.51 / 127.5, rtol=0)
    assert done.tokens.residual.dtype == torch.float16


def test_draft_rows_leave_the_cache_and_picture_rows_enter():
    built = drawing_model()
    session = StreamSession(built)
    session.feed(question(built))
    before, position = session.length, session.position
    for drawn in session.draw_scales(FREE, torch.Generator().manual_seed(0)):
        before_end = session.length
        assert before_end == before + sum(s * s for s in built.config.scales[: drawn.scale + 1])
    assert session.length == before + built.config.picture_rows + 1
    assert session.position == position + len(built.config.scales) + 2


def test_a_replayed_stream_goes_on_as_the_live_one():
    built = drawing_model()
    conversation = answer(built).conversation
    logits = StreamSession(built).feed(conversation)
    torch.testing.assert_close(logits[0], run(built, conversation, 0.0).text_logits[-1], atol=1e-4, rtol=0)
    follow_up = processor(built).encode(
        [{"role": "user", "content": "And then?"}], history=conversation, add_generation_prompt=True
    )
    assert torch.equal(follow_up.ids[: len(conversation.ids)], conversation.ids)
    went_on = collect(generate(built, processor(built), follow_up, FREE)).conversation
    assert torch.equal(went_on.residuals[: len(conversation.residuals)], conversation.residuals)


class Watched:
    """Keeps weak references to the caches of every session made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.caches: list[weakref.ref] = []
        original = StreamSession.__init__

        def remember(session: StreamSession, built: HartVLM) -> None:
            original(session, built)
            self.caches.append(weakref.ref(session.cache))

        monkeypatch.setattr(StreamSession, "__init__", remember)

    def all_gone(self) -> bool:
        gc.collect()
        return bool(self.caches) and all(cache() is None for cache in self.caches)


@pytest.mark.parametrize("at", range(8))
def test_cancelling_at_any_event_ends_the_stream_and_frees_the_cache(at: int, monkeypatch):
    watched, built, cancel = Watched(monkeypatch), drawing_model(), threading.Event()
    events = generate(built, processor(built), question(built), FREE, cancel)
    seen = list(itertools.islice(events, at))
    cancel.set()
    rest = list(events)
    assert isinstance(rest[-1], Finished) and rest[-1].reason == "cancelled" and len(rest) <= 2
    assert len(rest[-1].conversation.residuals) == sum(
        isinstance(event, ImageDone) for event in [*seen, *rest]
    )
    assert watched.all_gone()


def test_closing_the_iterator_frees_the_cache(monkeypatch):
    watched, built = Watched(monkeypatch), drawing_model()
    events = generate(built, processor(built), question(built), FREE)
    list(itertools.islice(events, 3))
    events.close()
    assert watched.all_gone()


def test_two_streams_at_once_do_not_meet():
    built = drawing_model()
    alone = [
        answer(built, GenerationOptions(**{**FREE.__dict__, "seed": seed})).conversation for seed in (1, 2)
    ]
    streams = [
        generate(
            built, processor(built), question(built), GenerationOptions(**{**FREE.__dict__, "seed": seed})
        )
        for seed in (1, 2)
    ]
    together = [
        event for pair in itertools.zip_longest(*streams) for event in pair if isinstance(event, Finished)
    ]
    assert sorted(event.conversation.fingerprint() for event in together) == sorted(
        c.fingerprint() for c in alone
    )


def test_length_and_stop_are_told_apart():
    built = model()
    assert answer(built, GenerationOptions(max_new_tokens=3)).reason == "length"
    newline = processor(built).tokenizer.convert_tokens_to_ids("\n")
    stopping = drawing_model()
    with torch.no_grad():
        stopping.text.lm_head.bias[[stopping.config.boi_id, newline]] = -50.0
        stopping.text.lm_head.bias[stopping.config.turn_end_id] = 50.0
    result = answer(stopping)
    assert result.reason == "stop" and int(result.conversation.ids[-1]) == stopping.config.turn_end_id


def test_generation_stays_within_the_positions_of_the_model():
    built = drawing_model()
    prompt = question(built)
    limit = len(prompt.ids) + 8
    built.config.text_tower.max_position_embeddings = limit
    result = answer(built)
    assert result.reason == "length"
    assert parse(result.conversation, built.config).length <= limit


def test_half_precision_draws_too():
    built = drawing_model().to(torch.bfloat16)
    result = answer(built)
    assert result.images and result.images[0].tokens.residual.isfinite().all()


def test_half_characters_are_held_back():
    encoder = processor(model())
    text = "a ✓ né 🪑!"
    assembler, deltas = TextAssembler(encoder), []
    for index in encoder.encode_text(text):
        deltas.append(assembler.add(index))
    assert "".join(deltas) == text and not any("\ufffd" in delta for delta in deltas)
    assembler.add(encoder.encode_text("🪑")[0])
    assert assembler.flush() == "\ufffd" and assembler.flush() == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": 0.0},
        {"code_top_p": (0.5, 1.5, 1.0)},
        {"guidance": -1.0},
        {"residual_steps": 1},
    ],
)
def test_options_are_checked_when_made(wrong: dict):
    with pytest.raises(ValueError, match="got"):
        GenerationOptions(**wrong)


def test_what_does_not_fit_is_refused_before_any_event():
    built = drawing_model()
    with pytest.raises(ValueError, match="3 values of code_temperature"):
        generate(built, processor(built), question(built), GenerationOptions(code_temperature=(1.0, 1.0)))
    with pytest.raises(ValueError, match="positions"):
        generate(built, processor(built), question(built, "word " * 5000), FREE)


def test_per_scale_settings_apply():
    built = drawing_model()
    greedy = GenerationOptions(**{**FREE.__dict__, "code_temperature": (0.0, 0.0, 0.0)})
    mixed = GenerationOptions(**{**FREE.__dict__, "code_temperature": (0.0, 0.0, 1.5)})
    first, second = (answer(built, options).images[0].tokens.codes for options in (greedy, mixed))
    assert torch.equal(first[1], second[1]) and not torch.equal(first[2], second[2])
