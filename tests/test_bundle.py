"""Bundles: each kind of damage is one line that names the file, and the fingerprint is of the contents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vlm.bundle import MODEL_TYPE, bundle_path, check_bundle, check_safetensors, fingerprint, load_bundle
from vlm.errors import UserError


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": MODEL_TYPE}))
    save_file({"a": torch.ones(300), "b": torch.zeros(2, 3)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"c": torch.ones(3)}, tmp_path / "model-00002-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "c": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    return tmp_path


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_bundle(folder)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    return str(caught.value)


def test_the_model_type_is_that_of_the_config_class():
    from vlm.config import HartVLMConfig

    assert HartVLMConfig.model_type == MODEL_TYPE


def test_a_whole_bundle_passes(folder):
    check_bundle(folder)


def test_a_folder_that_is_none(folder):
    assert "missing" in refused(folder / "nowhere")
    assert "a file" in refused(folder / "config.json")
    with pytest.raises(UserError):
        bundle_path(folder / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "model-00002-of-00002.safetensors"])
def test_a_missing_file_is_named(folder, name: str):
    (folder / name).unlink()
    assert name in refused(folder)


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -1])
def test_a_truncated_shard(folder, keep: int):
    shard = folder / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:keep])
    assert shard.name in refused(folder)


def test_a_shard_of_something_else(folder):
    shard = folder / "model-00001-of-00002.safetensors"
    for content in (
        b"PK\x03\x04" + bytes(100),
        b"\x02" + bytes(7) + b"[]",
        b"\x02" + bytes(7) + b"{}tail",
        b"\xff" * 64,
    ):
        shard.write_bytes(content)
        assert shard.name in refused(folder)
    shard.write_bytes(b"\x02" + bytes(7) + b"{}")
    check_safetensors(shard)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"model_type": "llama"}', "'llama', expected 'hart_vlm'"),
        ("{}", "None"),
        ("[]", "expected an object"),
        ("{", "no JSON"),
    ],
)
def test_a_foreign_config(folder, config: str, message: str):
    (folder / "config.json").write_text(config)
    assert message in refused(folder)


@pytest.mark.parametrize(
    "index", ['{"weight_map": {"a": "../../x"}}', '{"weight_map": 3}', '{"weight_map": {"a": 1}}']
)
def test_a_foreign_index(folder, index: str):
    (folder / "model.safetensors.index.json").write_text(index)
    assert "index.json" in refused(folder)


def test_what_the_model_class_refuses_is_one_line(folder):
    assert "cannot be loaded" in refused(folder) or "weights" in refused(folder)


def test_the_fingerprint_is_of_names_and_contents(folder):
    before = fingerprint(folder)
    assert len(before) == 16 and before == fingerprint(folder)
    (folder / ".hidden").write_text("x")
    assert fingerprint(folder) == before
    (folder / "config.json").rename(folder / "config2.json")
    renamed = fingerprint(folder)
    (folder / "config2.json").write_text("x")
    assert len({before, renamed, fingerprint(folder)}) == 3
