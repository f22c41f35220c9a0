"""The wheel works outside the checkout: the command runs, and weights, configs and templates are inside."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from vlm.bundle import MAX_BUNDLE_BYTES, MAX_SHARD_BYTES

ROOT = Path(__file__).parents[1]

PROBE = """
from pathlib import Path
import vlm
from vlm.export import to_html
from vlm.settings import packaged_config
from vlm.guide import parse_guide
packaged_config("tokenizer"), packaged_config("model")
draft = parse_guide("# T\\n## Parts\\n- 1 x a\\n## Steps\\n1. b\\n\\ufffc\\n")
assert ">T</h1>" in to_html(draft.complete(prompt="p", seed=0, model="m"), [b""])
print(Path(vlm.__file__).resolve())
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PIP_CONSTRAINT")
    }
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return next(folder.glob("hart_vlm-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    """The scripts' folder of an environment that has the wheel, and from this one only the libraries."""
    home = wheel.parent / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=home)
    # A folder named in a .pth has its own .pth files ignored, so the checkout stays out of sight.
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def test_the_wheel_holds_what_the_code_reads(wheel):
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    assert {"vlm/templates/guide.html", "vlm/configs/tokenizer.yaml", "vlm/configs/model.yaml"} <= set(sizes)
    assert any(name.endswith("licenses/LICENSE") for name in sizes)
    assert {name.split("/")[0] for name in sizes if ".dist-info" not in name} == {
        "hart",
        "vlm",
        "adapters",
        "demo",
    }
    checkout = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vlm").rglob("*") if path.is_file()}
    assert {name for name in checkout if "__pycache__" not in name} <= set(sizes)


def test_the_bundle_is_small_enough_for_git():
    sizes = {path: path.stat().st_size for path in (ROOT / "vlm" / "bundle").rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= MAX_BUNDLE_BYTES
    assert all(size <= MAX_SHARD_BYTES for size in sizes.values())


def test_it_works_outside_the_checkout(installed, tmp_path):
    assert "guide" in run(installed / "vlm", "--help", cwd=tmp_path)
    found = Path(run(installed / "python", "-c", PROBE, cwd=tmp_path).strip())
    assert found.is_relative_to(installed.parent.resolve())
    run(installed / "vlm", "guide", "How do I assemble a red table?", "--out", "table", "--quiet", cwd=tmp_path)
    assert {"guide.html", "guide.json", "guide.md", "steps"} <= {path.name for path in (tmp_path / "table").iterdir()}
