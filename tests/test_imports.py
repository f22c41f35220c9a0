"""Who may import whom: hart knows nothing of chat, only the command line puts packages together."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("hart", "vlm", "adapters", "demo")
MAY_IMPORT = {
    "hart": set(),
    "vlm": {"hart"},
    "vlm/cli": {"hart", "adapters", "demo"},
    "adapters": {"hart", "vlm"},
    "demo": {"hart", "vlm"},
}
ONLY_IN = {"gradio": "demo", "gradio_client": "demo", "peft": "adapters"}
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def tops(node: ast.Import | ast.ImportFrom) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {node.module.split(".")[0]} if node.module and not node.level else set()


def group(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return "vlm/cli" if parts[:2] == ("vlm", "cli") else parts[0]


def test_every_package_was_looked_at():
    assert {group(path) for path in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_directions(path: Path):
    here = group(path)
    own = here.split("/")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in imported(tree):
        for top in tops(node):
            where = f"{path.relative_to(ROOT)}:{node.lineno} imports {top}"
            if top in PACKAGES and top != own:
                assert top in MAY_IMPORT[here], where
            if top in ONLY_IN:
                assert own == ONLY_IN[top], where
            assert top not in ("tests", "torchvision"), where


@pytest.mark.parametrize(
    "path", [path for path in FILES if group(path) == "vlm/cli"], ids=lambda path: path.stem
)
def test_the_command_line_imports_packages_and_weights_inside_its_commands(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in imported(function)
    }
    for node in imported(tree):
        assert node in inside or not tops(node) & {"hart", "adapters", "demo", "torch", "transformers"}, (
            f"{path.name}:{node.lineno} belongs inside the command that needs it"
        )


def test_help_loads_nothing_heavy():
    code = (
        "import sys, vlm.cli; print(sorted({'torch', 'transformers', 'gradio', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
