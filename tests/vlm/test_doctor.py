"""The doctor: a healthy place has nothing wrong, and each fault is named with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stream_fixtures import model, processor
from typer.testing import CliRunner

import vlm.doctor
from vlm.bundle import load_bundle, save_bundle
from vlm.checksums import verify_checksums, write_checksums
from vlm.cli import app
from vlm.devices import pick_device, pick_dtype
from vlm.doctor import Finding, examine
from vlm.errors import UserError

runner = CliRunner()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Path:
    """A bundle of random weights, with checksums. Not to be changed."""
    built = model()
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    save_bundle(built, processor(built), folder)
    write_checksums(folder)
    return folder


@pytest.fixture
def bundle(healthy, tmp_path) -> Path:
    """The same, to damage."""
    import shutil

    return Path(shutil.copytree(healthy, tmp_path / "tiny"))


def found(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def test_a_healthy_place_has_nothing_wrong(healthy):
    findings = list(examine(healthy))
    assert [finding for finding in findings if finding.state == "wrong"] == []
    assert {"python", "packages", "devices", "threads", "bundle", "checksums", "load", "pictures"} <= {
        finding.name for finding in findings
    }
    assert "torch" in found(findings, "packages").found
    assert "files are as they should be" in found(findings, "checksums").found
    assert all(finding.advice for finding in findings if finding.state != "ok")
    assert any("one seed, one picture" in finding.found for finding in findings)


def test_a_flipped_byte_is_named_with_its_file(bundle):
    shard = next(bundle.glob("*.safetensors"))
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    findings = list(examine(bundle))
    wrong = [finding for finding in findings if finding.state == "wrong"]
    assert len(wrong) == 1 and str(shard) in wrong[0].found and "differs from its checksum" in wrong[0].found
    assert not any(finding.name == "load" for finding in findings)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_found_at_load_with_its_file(bundle, value: float):
    shard = sorted(bundle.glob("*.safetensors"))[-1]
    tensors = load_file(shard)
    name = next(name for name, tensor in tensors.items() if "layers.1" in name and tensor.ndim > 1)
    tensors[name][0, 0] = value
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"{shard.name} holds values that are no finite numbers .*{name}"):
        load_bundle(bundle)
    (bundle / "checksums").unlink()
    load = [finding for finding in examine(bundle) if finding.state == "wrong"]
    assert len(load) == 1 and "no finite numbers" in load[0].found


def test_checksums_are_those_of_the_files(bundle):
    count = len([path for path in bundle.iterdir() if path.name != "checksums"])
    assert verify_checksums(bundle) == count
    (bundle / "config.json").unlink()
    with pytest.raises(UserError, match="config.json is missing"):
        verify_checksums(bundle)
    for text in ("abc  config.json\n", "0" * 64 + "  ../config.json\n", "\ud800"):
        (bundle / "checksums").write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(UserError, match="expected"):
            verify_checksums(bundle)
    (bundle / "checksums").unlink()
    assert verify_checksums(bundle) is None


def test_a_missing_or_wrong_package_is_named(monkeypatch, healthy):
    monkeypatch.setattr(
        "importlib.metadata.requires", lambda name: ["pillow>=99", "no-such-package>=1", 'x; extra == "demo"']
    )
    findings = [finding for finding in examine(healthy, self_test=False) if finding.name == "packages"]
    assert [finding.state for finding in findings] == ["wrong", "wrong"]
    assert "pillow is " in findings[0].found and "no-such-package is missing" in findings[1].found
    assert all("pip install" in finding.advice for finding in findings)


def test_a_broken_library_is_a_finding_too(monkeypatch, healthy):
    def broken():
        raise ImportError("libtorch.so:\nno such file")
        yield

    monkeypatch.setattr(vlm.doctor, "_devices", broken)
    finding = next(f for f in examine(healthy, self_test=False) if f.name == "devices")
    assert (finding.state, finding.found) == ("wrong", "unexpected ImportError: libtorch.so: no such file")


def test_too_many_threads_are_told(monkeypatch, healthy):
    monkeypatch.setattr("torch.get_num_threads", lambda: 9999)
    assert found(list(examine(healthy, self_test=False)), "threads").advice.startswith("set OMP_NUM_THREADS=")


def test_the_command_says_what_to_do(healthy, bundle):
    done = runner.invoke(app, ["doctor", "--bundle", str(healthy)])
    assert done.exit_code == 0 and done.stdout.endswith("All is well.\n"), done.output
    (bundle / "config.json").unlink()
    done = runner.invoke(app, ["doctor", "--bundle", str(bundle)])
    assert done.exit_code == 1 and "WRONG    bundle" in done.stdout and "→ " in done.stdout
    assert "1 of these must be mended" in done.stdout and "Traceback" not in done.output


def test_devices_and_precisions_are_checked_by_name():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_dtype("bfloat16") == torch.bfloat16 and pick_dtype(None) == torch.float32
    for name in ("gpu", "meta", "cuda:99", "mps" if not torch.backends.mps.is_available() else "xpu"):
        with pytest.raises(UserError, match=name):
            pick_device(name)
    for wrong in ("float64", torch.int8):
        with pytest.raises(UserError, match="expected one of float32"):
            pick_dtype(wrong)
