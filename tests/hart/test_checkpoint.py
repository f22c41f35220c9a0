"""Checkpoints: which file is read, shards, own layout, damage, wrong folders, keys."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hart_fixtures import write_release
from safetensors.torch import save_file

from hart.checkpoint import CheckpointError, Names, fill, load_models, load_tokenizer, save_models
from hart.config import TokenizerConfig


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return write_release(tmp_path_factory.mktemp("release")).parent


@pytest.fixture
def release(original, tmp_path) -> Path:
    shutil.copytree(original, tmp_path / "hart")
    return tmp_path / "hart"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "llm/pytorch_model.bin", weights_only=True)


def head_bias(folder: Path) -> torch.Tensor:
    return load_models(folder).transformer.head.bias


def plain(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.clone().contiguous() for key, value in state.items()}


def test_averaged_weights_first_then_safetensors(release, caplog):
    state = weights(release)
    assert torch.equal(head_bias(release), state["head.bias"])
    save_file(plain(state | {"head.bias": state["head.bias"] + 1}), release / "llm/model.safetensors")
    assert torch.equal(head_bias(release), state["head.bias"] + 1)
    torch.save(state | {"head.bias": state["head.bias"] + 2}, release / "llm/ema_model.bin")
    with caplog.at_level("INFO", logger="hart.checkpoint"):
        models = load_models(release / "llm")
    assert torch.equal(models.transformer.head.bias, state["head.bias"] + 2)
    assert models.sources[0].name == "ema_model.bin"
    assert "ema_model.bin, averaged" in caplog.text


@pytest.mark.parametrize(("stem", "ending"), [("model", "safetensors"), ("pytorch_model", "bin")])
def test_shards(stem, ending, release):
    state = plain(weights(release))
    (release / "llm/pytorch_model.bin").unlink()
    where = {}
    for i, keys in enumerate((sorted(state)[::2], sorted(state)[1::2]), 1):
        name = f"{stem}-{i:05}-of-00002.{ending}"
        part = {key: state[key] for key in keys}
        (save_file if ending == "safetensors" else torch.save)(part, release / "llm" / name)
        where |= dict.fromkeys(keys, name)
    index = release / f"llm/{stem}.{ending}.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert torch.equal(head_bias(release), state["head.bias"])
    (release / "llm" / name).unlink()
    with pytest.raises(CheckpointError, match=f"lacks the shards {name}"):
        load_models(release)
    index.write_text(json.dumps({"weight_map": {"head.bias": "../outside.bin"}}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        load_models(release)


def test_files_of_old_torch_are_read(release):
    state = weights(release)
    torch.save(state, release / "llm/pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(head_bias(release), state["head.bias"])


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_own_layout_round_trip(dtype, release, tmp_path):
    models = load_models(release, dtype=dtype)
    (tmp_path / "own").mkdir()
    save_models(models, tmp_path / "own")
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == [
        "config.json", "tokenizer.safetensors", "transformer.safetensors",
    ]
    again = load_models(tmp_path / "own")
    for name in ("transformer", "tokenizer"):
        ours, theirs = getattr(models, name), getattr(again, name)
        assert ours.config == theirs.config
        for (key, value), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            assert torch.equal(value, other) and value.dtype == other.dtype, key
            exact = dtype is None or name == "tokenizer" or key.startswith("residual_head.")
            assert value.dtype == (torch.float32 if exact else dtype), key


def test_missing_and_unexpected_keys_are_all_named(release):
    state = weights(release)
    del state["head.bias"], state["blocks.1.attn.q_bias"]
    state |= {"extra.one": torch.zeros(1), "extra.two": torch.zeros(1), "head.weight": torch.zeros(3, 4)}
    torch.save(state, release / "llm/pytorch_model.bin")
    with pytest.raises(CheckpointError) as error:
        load_models(release)
    text = str(error.value)
    for part in ("missing: blocks.1.attn.q_bias, head.bias", "unexpected: extra.one, extra.two", "head.weight (3, 4)"):
        assert part in text


def test_keys_are_named_as_the_file_names_them(release):
    for folder, lost in (
        ("llm", ("decoder_norm.weight", "head_nm.ln_wo_grad.weight", "lvl_embed.mlp.0.bias")),
        ("tokenizer", ("vae.post_quant_conv.bias", "vae.quant_conv.bias", "vae.quantize.quant_resi.qresi_ls.3.bias")),
    ):
        path = release / folder / "pytorch_model.bin"
        state = torch.load(path, weights_only=True)
        torch.save({key: value for key, value in state.items() if key not in lost} | {"vae.new": torch.zeros(1)}, path)
        with pytest.raises(CheckpointError) as error:
            load_models(release)
        assert f"missing: {', '.join(lost)}; unexpected: vae.new" in str(error.value)
        torch.save(state, path)


def test_a_switch_that_the_weights_do_not_have(release):
    path = release / "llm/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"disable_aln": False}))
    with pytest.raises(CheckpointError, match=r"missing: blocks\.0\.ada_lin\.1\.bias"):
        load_models(release)


@pytest.mark.parametrize(
    ("folder", "changes", "named"),
    [
        ("llm", {"use_cross_attn": True, "attn_type": "gpt2"}, r"attn_type 'gpt2'.*use_cross_attn True"),
        ("llm", {"sep_aln_pooling_mode": "sum"}, "sep_aln_pooling_mode 'sum'"),
        ("llm", {"num_sampling_steps": "ddim50"}, "num_sampling_steps 'ddim50'"),
        ("llm", {"use_magic": True}, "not known here: use_magic"),
        ("llm", {"num_heads": 3}, "multiple of 4"),
        ("llm", {"depth": "2", "mlp_ratio": None}, r"depth '2' \(expected a whole number\), mlp_ratio None"),
        ("llm", {"patch_nums": [1, 2.5]}, r"patch_nums \[1, 2\.5\] \(expected a list of whole numbers\)"),
        ("tokenizer", {"v_patch_nums": []}, "list of whole numbers"),
        ("tokenizer", {"share_quant_resi": -2}, "must be positive"),
        ("tokenizer", {"using_znorm": True, "quantizer_type": "var"}, r"quantizer_type 'var'.*using_znorm True"),
        ("tokenizer", {"new_switch": 2}, "not known here: new_switch"),
    ],
)
def test_switches_that_are_unknown_or_unsupported_are_named(folder, changes, named, release):
    path = release / folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=named):
        load_models(release)


def test_a_config_that_leaves_defaults_out(release):
    path = release / "llm/config.json"
    config = json.loads(path.read_text())
    for key in ("shared_aln", "sep_aln_pooling_mode", "num_sampling_steps", "sampler"):
        del config[key]
    path.write_text(json.dumps(config | {"transformers_version": "4.42.2", "torch_dtype": "float32", "unused": None}))
    assert load_models(release).transformer.config.residual_steps == 8


def test_half_downloaded_files(release):
    path = release / "llm/pytorch_model.bin"
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], b"", b"<html>not found</html>"):
        path.write_bytes(part)
        with pytest.raises(CheckpointError, match="pytorch_model.bin is damaged or not fully downloaded"):
            load_models(release)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load_models(release)
    path.unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_models(release)
    whole = save_file({"a": torch.zeros(100)}, release / "llm/model.safetensors")
    damaged = (release / "llm/model.safetensors").read_bytes()[:-40]
    (release / "llm/model.safetensors").write_bytes(damaged)
    with pytest.raises(CheckpointError, match="model.safetensors is damaged"):
        load_models(release)
    (release / "llm/config.json").write_text('{"depth": ')
    with pytest.raises(CheckpointError, match="config.json is damaged"):
        load_models(release)


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def test_pickled_objects_are_never_run(release, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))):
        save({"head.bias": Harmful()}, release / "llm/pytorch_model.bin")
        with pytest.raises(CheckpointError):
            load_models(release)
    assert not (tmp_path / "touched").exists()


def test_wrong_folders(release):
    with pytest.raises(CheckpointError, match="is HART's tokenizer, expected the folder llm"):
        load_models(release / "tokenizer")
    with pytest.raises(CheckpointError, match="there is no folder"):
        load_models(release / "nowhere")
    with pytest.raises(CheckpointError, match="hart_transformer_t2i, expected HART's tokenizer"):
        load_models(release, tokenizer=release / "llm")
    (release / "other").mkdir()
    with pytest.raises(CheckpointError, match="has no config.json"):
        load_models(release / "other")
    (release / "other/config.json").write_text('{"model_type": "qwen2_vl"}')
    with pytest.raises(CheckpointError, match="model of type qwen2_vl"):
        load_models(release / "other")
    shutil.move(release / "tokenizer", release / "moved")
    with pytest.raises(CheckpointError, match="expected beside its llm folder"):
        load_models(release)
    assert isinstance(load_models(release, tokenizer=release / "moved").tokenizer.config, TokenizerConfig)
    assert load_tokenizer(release / "moved").config.vocab_size == 24


def test_weights_are_taken_and_not_copied(tmp_path):
    seen = {}

    def translate(state):
        seen.update(state)
        return state

    save_file({"weight": torch.randn(4, 3), "bias": torch.randn(4)}, tmp_path / "model.safetensors")
    module = fill(lambda: torch.nn.Linear(3, 4), tmp_path / "model.safetensors", Names(translate))
    assert module.weight.data_ptr() == seen["weight"].data_ptr()
    assert not module.weight.requires_grad and not module.training


# Peak memory over what was there before, in units of the weights, as the kernel counts it.
MEASURE = """
import sys
from pathlib import Path
import torch
from hart import checkpoint
from hart.checkpoint import fill

def kilobytes(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1])

checkpoint.PORTION = 1 << 20
path, dtype = Path(sys.argv[1]), getattr(torch, sys.argv[2])
layers = 40
build = lambda: torch.nn.Sequential(*(torch.nn.Linear(1024, 1024, bias=False) for _ in range(layers)))
small = path.with_name("small" + path.suffix)
fill(lambda: torch.nn.Linear(1024, 1024, bias=False), small, dtype=dtype)
Path("/proc/self/clear_refs").write_text("5")  # forget the highest mark so far
before = kilobytes("VmHWM")
module = fill(build, path, dtype=dtype)
peak = kilobytes("VmHWM") - before
total = sum(float(p.sum(dtype=torch.float32)) for p in module.parameters())
assert abs(total - layers * 1024 * 1024) < 1, total
weights = sum(p.nbytes for p in module.parameters())
print(peak * 1024 / weights)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("ending", ["bin", "safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peak_memory_is_that_of_the_weights(dtype, ending, tmp_path):
    state = {f"{i}.weight": torch.ones(1024, 1024) for i in range(40)}
    path = tmp_path / f"model.{ending}"
    save = torch.save if ending == "bin" else save_file
    save(state, path)
    save({"weight": torch.ones(1024, 1024)}, tmp_path / f"small.{ending}")
    command = [sys.executable, "-c", MEASURE, str(path), dtype]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(out) <= 1.15, out
