"""Adapters over one base: parity with merging, sharing, switching, weighing, unloading; folders that are refused."""

from __future__ import annotations

import json
import os

import pytest
import torch
from adapter_fixtures import BASE, kept, model, processor, same, stored, streams

from adapters.folder import load_adapter, save_adapter
from adapters.lora import LoraSettings, apply, merge
from adapters.registry import Adapters
from adapters.targets import PLACES, parse_places, target_names
from vlm.batch import collate
from vlm.bundle import load_bundle
from vlm.errors import UserError
from vlm.events import collect
from vlm.generate import generate
from vlm.sampling import GenerationOptions
from vlm.session import StreamSession

ALL = LoraSettings(("text", "image", "residual", "decoder"), rank=3, alpha=6.0)
BRIEF = GenerationOptions(max_new_tokens=6, previews=False, temperature=1.0)


@pytest.fixture(scope="module")
def base():
    return model(image_hidden=24)


def outputs(built, conversations):
    with torch.no_grad():
        batch = collate(conversations, built.config, generator=torch.Generator().manual_seed(0))
        out = built.stream_pass(batch)
        residual = built(batch, torch.Generator().manual_seed(1)).residual
    return [out.text_logits, out.code_logits, out.last_hidden, residual]


def write(folder, adapter, built):
    save_adapter(adapter, folder, target_names(built, adapter.settings.places))
    return folder


def test_every_place_names_layers_of_its_own_and_none_of_what_gives_codes_their_meaning(base):
    names = {place: set(target_names(base, [place])) for place in PLACES}
    assert all(names.values()) and set(names) == {"text", "image", "residual", "decoder"}
    assert len(set().union(*names.values())) == sum(map(len, names.values()))
    every = [name for found in names.values() for name in found]
    assert not any("encoder" in name or "quantizer" in name or "lm_head" in name for name in every)
    assert all(name.startswith("image_tokenizer.decoder.") for name in names["decoder"])
    assert parse_places(" residual,text,text ") == ("text", "residual")
    with pytest.raises(UserError, match="cannot train 'imge', expected some of text, image, residual, decoder"):
        parse_places("imge")


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_the_joint_pass_and_the_cached_steps_both_go_through_the_wrapped_layers(kind):
    built = model(kind)
    adapter = stored(built, ALL)
    changed = apply(built, [(adapter.settings, adapter.tensors, 1.0)])
    (conversation,) = streams(built, 1)
    whole, plain = outputs(changed, [conversation]), outputs(built, [conversation])
    for one, other in zip(whole, plain, strict=True):
        assert not torch.allclose(one, other, atol=1e-3)
    stepwise = StreamSession(changed).feed(conversation)
    assert torch.allclose(stepwise[0], whole[0][-1], atol=1e-4)


@pytest.mark.parametrize("rslora", [False, True])
def test_merging_equals_adding(base, rslora):
    adapter = stored(base, LoraSettings(ALL.places, 3, 2.0, rslora=rslora))
    added = apply(base, [(adapter.settings, adapter.tensors, 1.0)])
    merged = merge(added)
    assert set(merged.state_dict()) == set(base.state_dict())
    assert not {id(p) for p in merged.parameters()} & {id(p) for p in base.parameters()}
    for one, other in zip(outputs(merged, streams(base, 2)), outputs(added, streams(base, 2)), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_the_base_stays_as_it_was_to_the_bit_whatever_is_loaded_used_and_unloaded(base):
    before, answers = kept(base), outputs(base, streams(base, 2))
    registry = Adapters(base, BASE)
    registry._add("one", ((stored(base, ALL), 1.0),))
    outputs(registry.model_for("one"), streams(base, 2))
    registry.merged("one")
    with registry.use(base, "one"):
        pass
    registry.unload("one")
    assert same(base, before) and registry.names == ()
    for one, other in zip(outputs(base, streams(base, 2)), answers, strict=True):
        assert torch.equal(one, other)


def test_an_adapter_shares_the_weights_of_its_base(base):
    adapter = stored(base, ALL)
    view = apply(base, [(adapter.settings, adapter.tensors, 1.0)])
    own = {id(p) for p in view.parameters()} - {id(p) for p in base.parameters()}
    assert len(own) == len(adapter.tensors)


def test_switching_gives_what_a_fresh_load_gives(base, tmp_path):
    ask = processor(base).encode([{"role": "user", "content": "How?"}], add_generation_prompt=True)

    def answer(built):
        return collect(generate(built, processor(base), ask, BRIEF)).conversation.fingerprint()

    for name, seed in (("one", 1), ("two", 2)):
        write(tmp_path / name, stored(base, ALL, seed), base)
    registry = Adapters(base, BASE)
    for name in ("one", "two"):
        assert registry.load(tmp_path / name) == name
    switched = [answer(registry.model_for(name)) for name in ("one", "two", None, "one")]
    fresh = []
    for name in ("one", "two"):
        alone = Adapters(base, BASE)
        alone.load(tmp_path / name)
        fresh.append(answer(alone.model_for(name)))
    assert switched == [*fresh, answer(base), fresh[0]]
    assert len(set(switched)) == 3


def test_the_hook_of_sessions_lends_the_base_and_gives_it_back(base, tmp_path):
    registry, adapter = Adapters(base, BASE), stored(base, ALL)
    registry._add("one", ((adapter, 1.0),))
    plain, (conversation,) = outputs(base, streams(base, 1)), streams(base, 1)
    with pytest.raises(UserError, match="no adapter 'two' is loaded, expected one of: one"):
        registry.use(base, "two")
    with registry.use(base, "one"):
        lent = outputs(base, [conversation])
        registry._add("late", ((adapter, 1.0),))
        with pytest.raises(RuntimeError, match="still running"), registry.use(base, "one"):
            pass
    for name in ("one", "late"):
        for one, other in zip(outputs(registry.model_for(name), [conversation]), lent, strict=True):
            assert torch.equal(one, other)
    assert torch.equal(outputs(base, [conversation])[0], plain[0])


def test_combining_adds_the_updates_with_their_weights(base):
    text = stored(base, LoraSettings(("text",), 2, 4.0), 1)
    image = stored(base, LoraSettings(("image", "residual"), 4, 4.0), 2)
    registry = Adapters(base, BASE)
    registry._add("text", ((text, 1.0),))
    registry._add("image", ((image, 1.0),))
    registry.combine({"text": 0.5, "image": -2.0}, "both")
    weights = {name: base.state_dict()[name] for name in kept(base)}
    expected = {name: value.clone() for name, value in weights.items()}
    for adapter, weight in ((text, 0.5), (image, -2.0)):
        scale = weight * adapter.settings.alpha / adapter.settings.rank
        for name, a in adapter.tensors.items():
            if ".lora_A." in name:
                b = adapter.tensors[name.replace("lora_A", "lora_B")]
                expected[name.replace(".lora_A", "")] += scale * b @ a
    merged = registry.merged("both").state_dict()
    for name, value in expected.items():
        assert torch.allclose(merged[name], value, atol=1e-5), name
    registry.unload("text")
    assert registry.names == ("image", "both")
    registry.combine({"image": 0.0}, "nothing")
    assert torch.equal(outputs(registry.model_for("nothing"), streams(base, 1))[1], outputs(base, streams(base, 1))[1])


def test_a_folder_gives_back_what_was_saved(base, tmp_path):
    adapter = stored(base, ALL, name="Blueprints", colours=("mauve",))
    again = load_adapter(write(tmp_path / "a", adapter, base))
    assert again.settings == adapter.settings and again.manifest == adapter.manifest
    assert all(torch.equal(again.tensors[name], value) for name, value in adapter.tensors.items())
    assert again.fingerprint() == adapter.fingerprint() != stored(base, ALL, seed=9).fingerprint()
    assert sorted(os.listdir(tmp_path / "a")) == [
        "README.md", "adapter.json", "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    assert str(tmp_path) not in "".join(path.read_text(errors="ignore") for path in (tmp_path / "a").iterdir())
    assert BASE in (tmp_path / "a" / "README.md").read_text()


def test_a_merged_model_is_a_bundle_that_needs_no_adapter(base, tmp_path):
    registry = Adapters(base, BASE)
    registry._add("one", ((stored(base, ALL), 1.0),))
    registry.merged("one").save_pretrained(tmp_path)
    processor(base).save_pretrained(tmp_path)
    loaded, _ = load_bundle(tmp_path)
    pair = outputs(loaded, streams(base, 1)), outputs(registry.model_for("one"), streams(base, 1))
    for one, other in zip(*pair, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_an_adapter_of_another_base_is_refused_with_both_fingerprints(base, tmp_path):
    folder = write(tmp_path / "a", stored(base, ALL, base="feedfeedfeedfeed"), base)
    with pytest.raises(UserError, match=f"feedfeedfeedfeed.*{BASE}"):
        Adapters(base, BASE).load(folder)


def pickled(folder):
    (folder / "deep").mkdir()
    torch.save({}, folder / "deep" / "optimizer.pt")


def linked(folder):
    (folder.parent / "secret.json").write_text("{}")
    (folder / "extra.json").symlink_to(folder.parent / "secret.json")


def linked_weights(folder):
    weights = folder / "adapter_model.safetensors"
    weights.rename(folder.parent / "elsewhere.safetensors")
    weights.symlink_to(folder.parent / "elsewhere.safetensors")


def torn(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def changed(name, **values):
    def change(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def not_a_number(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, folder / "adapter_model.safetensors")


def linked_round(folder):
    (folder / "round").symlink_to(folder / "round")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (linked_round, "round"),
        (pickled, r"deep.optimizer.pt, which can run code"),
        (linked, "extra.json, a link that leads out of it"),
        (linked_weights, "adapter_model.safetensors, a link that leads out"),
        (torn, "its header promises"),
        (not_a_number, "no finite numbers"),
        (changed("adapter.json", surprise=1), "surprise"),
        (changed("adapter.json", places=["everything"]), "cannot train 'everything'"),
        (changed("adapter_config.json", peft_type="IA3"), "no plain LoRA"),
        (changed("adapter_config.json", rank_pattern={"a": 1}), "no plain LoRA"),
        (changed("adapter_config.json", r=10**9), "the rank is 1000000000"),
        (lambda folder: (folder / "adapter.json").write_text("[" * 100_000), "cannot be read"),
        (lambda folder: (folder / "adapter.json").unlink(), "holds no adapter.json"),
    ],
)
def test_a_folder_that_is_unsafe_damaged_or_foreign_is_refused(base, tmp_path, spoil, reason):
    folder = write(tmp_path / "a", stored(base, ALL), base)
    spoil(folder)
    with pytest.raises(UserError, match=reason):
        load_adapter(folder)


def test_tensors_of_another_shape_are_refused_by_name(base, tmp_path):
    folder = write(tmp_path / "a", stored(base, ALL), base)
    changed("adapter_config.json", r=2)(folder)
    with pytest.raises(UserError, match=r"lora_A.weight is \(3, .*expected \(2, "):
        Adapters(base, BASE).load(folder)


def test_an_adapter_brings_its_world_and_a_fingerprint(base):
    registry = Adapters(base, BASE)
    added = stored(base, ALL, outside="I only know stands.", colours=("mauve",))
    registry.add(added, "one")
    told = registry.speaker("one")
    assert {"mauve", "red"} <= set(told.colours) and told.outside == "I only know stands."
    assert told.fingerprint == f"{BASE}+{added.fingerprint()}"
    with pytest.raises(UserError, match="no adapter 'two' is loaded"):
        registry.speaker("two")


def test_of_adapters_that_are_combined_one_at_most_brings_a_world_of_its_own(base):
    registry = Adapters(base, BASE)
    registry.add(stored(base, ALL, 1, outside="I only know stands.", colours=("mauve",)), "stands")
    registry.add(stored(base, ALL, 2, outside="I only know lamps.", colours=("amber",)), "lamps")
    registry.add(stored(base, ALL, 3, colours=("ochre",)), "style")
    with pytest.raises(UserError, match="'stands' and 'lamps' each bring a world of their own"):
        registry.combine({"stands": 0.5, "lamps": 0.5}, "both")
    assert registry.names == ("stands", "lamps", "style")
    registry.combine({"style": 0.5, "stands": 1.0, "lamps": 0.0}, "styled stands")
    told = registry.speaker("styled stands")
    assert told.outside == "I only know stands." and {"mauve", "ochre"} <= set(told.colours)
    assert "amber" not in told.colours
