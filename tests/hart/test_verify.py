"""`hart.verify` on the recorded folder and on folders of other settings, against an independent reference."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from release_reference import write
from safetensors.torch import load_file, save_file

from hart.checkpoint import CheckpointError
from hart.verify import main, verify

GOLDEN = Path(__file__).parents[1] / "data" / "hart-golden"


def test_the_recorded_folder_verifies(capsys):
    assert main([str(GOLDEN)]) == 0
    lines = capsys.readouterr().out.splitlines()
    recorded = load_file(GOLDEN / "golden.safetensors")
    inputs = {"tok.image", "diff.cond", "t2i.context", "t2i.context_mask", "t2i.context_position_ids"}
    expected = {key for key in recorded if key not in inputs and ".noise." not in key}
    assert {line.split()[0] for line in lines[:-1]} == expected
    assert lines[-1].startswith("verified: max_abs_error=") and lines[-1].endswith("codes_differing=0")


SETTINGS = {
    "no modulation, level table, softmax scale": (
        {"attn_l2_norm": False, "use_timestep_embed": False, "use_context_norm": False}, {"share_quant_resi": 1},
    ),
    "shared table, four scales": (
        {"shared_aln": True, "patch_nums": [1, 2, 4, 5], "depth": 1}, {"v_patch_nums": [1, 2, 4, 5]},
    ),
    "a projection per layer, maximum": (
        {"disable_aln": False, "embed_dim": 48, "num_heads": 3, "mlp_ratio": 8.0}, {"vocab_size": 40},
    ),
    "a projection per layer, average, two scales": (
        {
            "disable_aln": False, "sep_aln_pooling_mode": "avg", "patch_nums": [1, 3], "num_sampling_steps": "5",
            "context_token": 3, "diff_depth": 2,
        },
        {"v_patch_nums": [1, 3], "z_channels": 3, "share_quant_resi": 3},
    ),
    "an autoencoder whose finest level is wider than its stem": (
        {"patch_nums": [1, 4], "num_sampling_steps": "2", "shared_aln": True, "attn_l2_norm": False},
        {"v_patch_nums": [1, 4], "ch_mult": [2, 1], "share_quant_resi": 2},
    ),
    "a tokenizer of another schedule, three levels": (
        {"patch_nums": [1, 2, 3, 4], "attn_l2_norm": False},
        {"v_patch_nums": [1, 2], "ch_mult": [1, 2, 1], "share_quant_resi": 0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_folders_of_other_settings_verify(name, tmp_path):
    llm, tok = SETTINGS[name]
    write(tmp_path / "golden", llm, tok, seed=len(name), guidances=(0, 2.5))
    verdict = verify(tmp_path / "golden")
    assert verdict.passed, "\n".join(map(str, verdict.findings))
    assert len(verdict.findings) > 15


@pytest.mark.parametrize("one_is_neutral", [True, False])
def test_a_residual_guidance_of_one_is_that_of_the_recording(one_is_neutral, tmp_path):
    # Three scales: the last t is half of the guidance.
    settings = {"attn_l2_norm": False}
    write(tmp_path / "golden", settings, seed=5, guidances=(2,), one_is_neutral=one_is_neutral)
    verdict = verify(tmp_path / "golden")
    assert verdict.passed, "\n".join(map(str, verdict.findings))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "golden"
    write(folder, guidances=(1.5,))
    return folder


@pytest.fixture
def copy(small, tmp_path) -> Path:
    shutil.copytree(small, tmp_path / "copy")
    return tmp_path / "copy"


def change(folder: Path, key: str, by: float) -> None:
    golden = load_file(folder / "golden.safetensors")
    golden[key].view(-1)[0] += by
    save_file(golden, folder / "golden.safetensors")


@pytest.mark.parametrize("key", ["t2i.cfg1.5.logits.1", "tok.var_input", "diff.sample", "t2i.cfg1.5.image"])
def test_an_error_fails_and_is_named(key, copy, capsys):
    change(copy, key, 0.01)
    assert main([str(copy)]) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(key))
    assert float(line.split("=")[1]) == pytest.approx(0.01, abs=2e-3)


def test_a_code_that_differs_fails(copy, capsys):
    golden = load_file(copy / "golden.safetensors")
    golden["tok.codes_hybrid.2"][1, 3] = (golden["tok.codes_hybrid.2"][1, 3] + 1) % 24
    save_file(golden, copy / "golden.safetensors")
    assert main([str(copy)]) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("codes_differing=1")


def test_not_a_number_fails(copy):
    change(copy, "t2i.cfg1.5.logits.1", float("nan"))
    assert not verify(copy).passed


def test_image_tolerance_and_precision(copy):
    change(copy, "tok.recon_hybrid", 0.01)
    assert not verify(copy).passed
    assert verify(copy, image_tolerance=0.02).passed
    rough = verify(copy, dtype=torch.bfloat16, image_tolerance=0.5)
    assert rough.passed and rough.max_abs_error > 1e-3


def test_bad_folders_are_named(copy, capsys):
    assert main([str(copy / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
    golden = load_file(copy / "golden.safetensors")
    del golden["t2i.cfg1.5.codes.1"]
    save_file(golden, copy / "golden.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks t2i\.cfg1\.5\.codes\.1"):
        verify(copy)
