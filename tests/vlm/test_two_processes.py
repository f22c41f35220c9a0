"""Two processes train the same thing as one process with twice the batch.

They are started by torchrun: on a CPU `accelerate launch --num_processes 2` starts but one, without a word
(huggingface/accelerate#2741).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_processes.py")


def launch(folder: Path, processes: int, batch_size: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder), str(batch_size)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    launch(folder / "one", 1, 8)
    launch(folder / "two", 2, 4)
    return folder / "one", folder / "two"


def test_gradients_of_two_processes_are_averaged(runs):
    one, two = (torch.load(run / "line" / "line.pt", weights_only=True) for run in runs)
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-5), name


def test_processes_end_a_run_of_minutes_together_whoever_waited_for_whom(runs):
    for run, processes in zip(runs, (1, 2), strict=True):
        rows = [json.loads(line) for line in (run / "slow" / "curve.jsonl").read_text().splitlines()]
        assert any(row["kind"] == "validation" for row in rows)
        weights = torch.load(run / "slow" / "all.pt", weights_only=True)
        assert len(weights) == processes and all(torch.equal(one, weights[0]) for one in weights)


def test_the_processes_train_one_tokenizer_its_codebook_among_it(runs):
    weights = torch.load(runs[1] / "tokenizer" / "all.pt", weights_only=True)
    assert len(weights) == 2 and torch.equal(*weights)


def test_the_tokenizer_follows_the_same_curve_within_noise(runs):
    one, two = (losses(run / "tokenizer") for run in runs)
    assert len(one) == len(two) == 20
    fallen = sum(one[:3]) - sum(one[-3:])
    assert fallen > 0.2 * sum(one[:3])  # there is a curve to follow
    assert abs(sum(one[-3:]) - sum(two[-3:])) < 0.1 * fallen
