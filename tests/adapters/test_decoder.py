"""Teaching the image tokenizer's decoder: what changes, what must not, and whose decoder shows which picture."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from adapter_fixtures import BASE, QUICK, kept, manual, model, picture_file, processor, stored, streams
from agent_fixtures import BRIEF, GUIDE, script, tiny_agent
from PIL import Image

from adapters.folder import load_adapter
from adapters.held_out import held_out_losses, held_out_pictures
from adapters.importers import load_examples
from adapters.lora import LoraSettings, apply, merge
from adapters.material import Material, batch_of
from adapters.pictures import ShownPictures, spread, world_pictures
from adapters.registry import Adapters
from adapters.training import About, AdaptSettings, AdaptTask, train_adapter
from vlm.chat import ChatSession
from vlm.conversations import load_conversation, save_conversation
from vlm.errors import UserError
from vlm.events import ImageDone
from vlm.record import record_of

SIZE = (3, 32, 32)


def pictures(count: int, seed: int = 0) -> list[torch.Tensor]:
    """Random blocks of colour."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 4, 4, generator=generator) * 2 - 1
    return list(torch.nn.functional.interpolate(small, SIZE[1:]))


@pytest.fixture(scope="module")
def material():
    several = streams(model(), 4)
    return Material(several[:3], several[3:], pictures=pictures(6), held_out_pictures=pictures(3, seed=1))


def adapt(out, material, places=("decoder",), rehearse=0.0, **train):
    settings = AdaptSettings(LoraSettings(places, rank=2), rehearse, train=replace(QUICK, **train))
    built = model()
    train_adapter(built, processor(built), material, settings, out, About(BASE))
    adapter = load_adapter(out)
    return adapter, apply(model(), [(adapter.settings, adapter.tensors, 1.0)])


def test_the_decoder_alone_learns_its_pictures_and_changes_nothing_else(tmp_path, material):
    adapter, changed = adapt(tmp_path / "a", material, steps=30, validate_every=30)
    assert adapter.tensors and all(name.startswith("image_tokenizer.decoder.") for name in adapter.tensors)
    assert all(value.abs().sum() > 0 for value in adapter.tensors.values())
    before, after = held_out_pictures(model(), material.pictures), held_out_pictures(changed, material.pictures)
    assert after["decoder"] < before["decoder"] and after["psnr"] > before["psnr"]
    figures = adapter.manifest.figures
    known = held_out_pictures(changed, material.held_out_pictures)
    assert figures["held_out.decoder"] == pytest.approx(known["decoder"], abs=1e-4)
    stream = held_out_losses(changed, material.held_out)
    assert figures["held_out.total"] == pytest.approx(stream["total"] + known["decoder"], abs=1e-3)
    # Codes keep their meaning, and the towers write and draw what they did, to the bit.
    pixels = torch.stack(pictures(2, seed=2))
    one, other = model().image_tokenizer.encode(pixels), changed.image_tokenizer.encode(pixels)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one.codes, other.codes, strict=True))
    assert torch.equal(one.residual, other.residual)
    assert stream == held_out_losses(model(), material.held_out)


def test_where_no_answer_shows_a_picture_the_decoder_alone_has_nothing_to_learn(tmp_path, material):
    with pytest.raises(UserError, match="the decoder has nothing to learn; train text instead"):
        adapt(tmp_path / "a", replace(material, pictures=()))
    assert not (tmp_path / "a").exists()


def test_figures_are_of_pictures_from_all_over_the_held_out_examples():
    numbers = [torch.tensor(float(number)) for number in range(50)]
    assert [int(one) for one in spread(numbers, 12)] == list(range(0, 50, 5))
    assert len(spread(numbers[:7], 12)) == 7 and not spread([], 12)


def test_merging_the_decoder_equals_adding_it(material):
    base = model()
    adapter = stored(base, LoraSettings(("decoder",), 3, 6.0))
    added = apply(base, [(adapter.settings, adapter.tensors, 1.0)])
    merged = merge(added)
    assert set(merged.state_dict()) == set(base.state_dict())
    tokens = base.image_tokenizer.encode(torch.stack(pictures(2)))
    shown = [one.image_tokenizer.decode(tokens) for one in (base, added, merged)]
    assert torch.allclose(shown[1], shown[2], atol=1e-4) and not torch.allclose(shown[0], shown[1], atol=1e-2)


def test_other_places_leave_the_decoder_as_it_was(tmp_path, material):
    adapter, changed = adapt(tmp_path / "a", material, ("text", "image", "residual"), steps=2)
    before = kept(model().image_tokenizer)
    assert all(torch.equal(value, before[name]) for name, value in changed.image_tokenizer.state_dict().items())
    assert "held_out.decoder" not in adapter.manifest.figures


class Killed(Exception):
    """Stands for a process that dies."""


@pytest.mark.parametrize(("accumulate", "call"), [(1, 4), (2, 8)])
def test_a_run_that_was_killed_goes_on_with_the_pictures_it_would_have_had(
    tmp_path, material, monkeypatch, accumulate, call
):
    material = replace(material, known_picture=lambda number: pictures(1, seed=100 + number)[0])
    options = dict(
        places=("text", "decoder"), rehearse=0.5, steps=6, validate_every=2, accumulate=accumulate, save_minutes=0.0
    )
    whole, _ = adapt(tmp_path / "whole", material, **options)
    loss, calls = AdaptTask.loss, []

    def deadly(*arguments):
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return loss(*arguments)

    monkeypatch.setattr(AdaptTask, "loss", deadly)
    with pytest.raises(Killed):
        adapt(tmp_path / "killed", material, **options)
    monkeypatch.setattr(AdaptTask, "loss", loss)
    again, _ = adapt(tmp_path / "killed", material, **options)
    assert all(torch.equal(value, whole.tensors[name]) for name, value in again.tensors.items())
    assert again.manifest.figures == whole.manifest.figures


def test_which_pictures_a_batch_has_depends_on_its_number_alone(material):
    marked = [torch.full(SIZE, float(number)) for number in range(50)]
    some = replace(material, pictures=marked, known_picture=lambda number: torch.full(SIZE, -1.0 - number))

    def taken(number, rehearse=0.0, seed=0):
        batch = batch_of(some, number, 2, 8, rehearse, seed)
        return [int(one[0, 0, 0]) for one in batch.pictures]

    assert taken(3) == taken(3) != taken(4) and taken(3, seed=1) != taken(3)
    assert set(sum((taken(number) for number in range(60)), [])) == set(range(50))
    mixed = sum((taken(number, rehearse=0.5) for number in range(50)), [])
    known = [one for one in mixed if one < 0]
    assert 150 < len(known) < 250 and len(set(known)) == len(known)
    assert batch_of(some, 0, 2, 0, 0.5, 0).pictures is None
    assert batch_of(replace(some, pictures=()), 0, 2, 8, 0.5, 0).pictures is None
    with pytest.raises(UserError, match="pictures is 1, expected at least 2"):
        AdaptSettings(pictures=1)


def test_the_pictures_are_those_that_answers_show_fitted_as_the_model_sees_them(tmp_path, monkeypatch):
    built = processor(model())
    manual(tmp_path, "stand", "red")
    found = load_examples(tmp_path).examples
    shown = ShownPictures(found, built)
    assert len(shown) == 2 and [tuple(one.shape) for one in shown] == [SIZE, SIZE]
    assert float(shown[0].min()) >= -1 and float(shown[0].max()) <= 1 and float(shown[0].std()) > 0.1
    assert len(shown[:1]) == 1 and torch.equal(shown[:1][0], shown[0])
    asked = replace(found[0], messages=({**found[0].messages[1], "role": "user"},))
    assert len(ShownPictures([asked], built)) == 0
    known = world_pictures(built, 0)
    assert tuple(known(0).shape) == SIZE and torch.equal(known(0), world_pictures(built, 0)(0))
    assert not torch.equal(known(0), known(1))
    picture_file(tmp_path / "stand.png").write_bytes(b"no picture")
    # What was fitted once is kept; what there was no room for is opened again.
    assert torch.equal(shown[1], shown[0])
    with pytest.raises(UserError, match=r"stand\.md.*stand\.png"):
        ShownPictures(found, built)[1]
    picture_file(tmp_path / "stand.png", (10, 200, 30))
    monkeypatch.setattr("adapters.pictures.KEPT_BYTES", 100)
    small = ShownPictures(found, built)
    green = small[0]
    picture_file(tmp_path / "stand.png", (200, 10, 30))
    assert not torch.equal(small[0], green)


@pytest.fixture
def adapted(monkeypatch):
    """A session over an agent with an adapter that changes every place, and the registry."""
    script(monkeypatch, GUIDE)
    agent = tiny_agent()
    registry = Adapters(agent.model, agent.fingerprint)
    registry.add(stored(agent.model, LoraSettings(rank=3, alpha=6.0), base=agent.fingerprint), "style")
    backbone = replace(
        agent.backbone, use_adapter=registry.use, speaker_of=registry.speaker, decoding=registry.decoding
    )
    return ChatSession(backbone), registry


def test_a_picture_is_shown_by_the_decoder_it_was_drawn_with_whoever_answers_meanwhile(adapted, tmp_path):
    session, registry = adapted
    drawn = {}
    for turn, adapter in enumerate(("style", None)):
        events = session.reply("A stool?", adapter=adapter, **BRIEF | {"max_new_tokens": 400})
        drawn[turn] = [event.image.tobytes() for event in events if isinstance(event, ImageDone)]
    base = session.backbone.model
    save_conversation(session, tmp_path / "kept")

    def shown(of: ChatSession) -> dict[int, list[bytes]]:
        parts = {number: of.answer_parts(turn) for number, turn in enumerate(of.turns)}
        return {
            number: [part["image"].tobytes() for part in some if part["type"] == "image"]
            for number, some in parts.items()
        }

    for lent in (nullcontext(), registry.use(base, "style")):
        with lent:
            assert shown(session) == drawn and all(map(len, drawn.values()))
            assert shown(load_conversation(session.backbone, tmp_path / "kept")) == drawn
    tokens = next(part for part in session.backbone.processor.decode(session.turns[0].stream)[-1]["content"]
                  if part["type"] == "image")["tokens"]  # fmt: skip
    plain = session.backbone.picture(tokens, None).tobytes()
    assert plain != drawn[0][0]
    # One that is not here any more leaves it to the base, and so does an agent that knows no adapters.
    assert session.backbone.picture(tokens, "gone").tobytes() == plain
    assert tiny_agent().backbone.picture(tokens, "style").tobytes() == plain


def test_the_same_tokens_shown_by_two_decoders_are_kept_as_two_pictures(adapted, tmp_path):
    session, registry = adapted
    alone = stored(session.backbone.model, LoraSettings(("decoder",), 3, 6.0), base=session.backbone.fingerprint)
    registry.add(alone, "pixels")
    kept = []
    for adapter in ("pixels", None):
        list(session.reply("A stool?", seed=1, adapter=adapter, **BRIEF | {"max_new_tokens": 400}))
        save_conversation(session, tmp_path / "kept")
        shown = [part["image"].tobytes() for part in session.answer_parts(session.turns[0]) if part["type"] == "image"]
        saved = [Image.open(path).tobytes() for path in sorted((tmp_path / "kept" / "pictures").iterdir())]
        assert sorted(saved) == sorted(shown)
        kept.append((session.turns[0].stream.fingerprint(), shown))
        session.undo()
    assert kept[0][0] == kept[1][0] and kept[0][1] != kept[1][1]


def test_a_conversation_that_is_saved_again_without_its_adapter_keeps_the_true_pictures(adapted, tmp_path):
    session, _ = adapted
    list(session.reply("A stool?", adapter="style", **BRIEF | {"max_new_tokens": 400}))
    folder = tmp_path / "kept"
    save_conversation(session, folder)
    before = {path.name: path.read_bytes() for path in (folder / "pictures").iterdir()}
    save_conversation(load_conversation(tiny_agent().backbone, folder), folder)
    assert before and {path.name: path.read_bytes() for path in (folder / "pictures").iterdir()} == before


def pictures_of(session: ChatSession) -> list[bytes]:
    return [part["image"].tobytes() for part in session.answer_parts(session.turns[0]) if part["type"] == "image"]


@pytest.mark.parametrize("here", ["no adapter", "another by the same name"])
def test_a_loaded_conversation_shows_its_pictures_as_they_were_without_what_drew_them(adapted, tmp_path, here):
    session, registry = adapted
    list(session.reply("A stool?", adapter="style", **BRIEF | {"max_new_tokens": 400}))
    save_conversation(session, tmp_path / "kept")
    saved = json.loads((tmp_path / "kept" / "conversation.json").read_text())["turns"][0]["speaker"]
    assert saved == registry.speaker("style").fingerprint
    drawn = pictures_of(session)
    backbone = tiny_agent().backbone
    if here != "no adapter":
        registry.unload("style")
        other = stored(session.backbone.model, LoraSettings(rank=2, alpha=9.0), base=backbone.fingerprint)
        registry.add(other, "style")
        backbone = session.backbone
    loaded = load_conversation(backbone, tmp_path / "kept")
    tokens = [p["tokens"] for p in loaded.backbone.processor.decode(loaded.turns[0].stream)[-1]["content"]
              if p["type"] == "image"]  # fmt: skip
    assert [backbone.picture(one, "style").tobytes() for one in tokens] != drawn
    assert pictures_of(loaded) == drawn
    # Saved elsewhere, pictures and who drew them are what they were.
    save_conversation(loaded, tmp_path / "again")
    for name in ("conversation.json", *(f"pictures/{one.name}" for one in (tmp_path / "kept" / "pictures").iterdir())):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "kept" / name).read_bytes()
    assert record_of(loaded).turns[0].speaker == saved
    next((tmp_path / "kept" / "pictures").iterdir()).unlink()
    with pytest.raises(UserError, match=r"\.png"):
        load_conversation(backbone, tmp_path / "kept")
