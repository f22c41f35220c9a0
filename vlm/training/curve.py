"""The curve of a run as data: `curve.jsonl`, one JSON object a line, and what no line tells of yet.

Knows steps, minutes and figures; knows neither weights nor losses. A run that is resumed writes the lines that it
would have written without the kill, each once.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
from pathlib import Path
from typing import Any

from vlm.files import output_file

log = logging.getLogger(__name__)

CURVE_FILE = "curve.jsonl"


class Curve:
    """Writes the curve in `folder`, which only the main process does.

    batch_size: samples of a batch whose report does not say how many; processes: how many of them train.
    """

    def __init__(self, folder: Path, batch_size: int, processes: int, main: bool) -> None:
        self._path = folder / CURVE_FILE
        self._batch_size, self._processes, self._main = batch_size, processes, main
        self._batches: list[dict[str, float]] = []
        self._samples, self._since = 0.0, time.monotonic()

    def add(self, metrics: dict[str, float]) -> None:
        """Take what one batch reports: "samples", if it says so, and other figures."""
        self._batches.append({name: value for name, value in metrics.items() if name != "samples"})
        self._samples += metrics.get("samples", self._batch_size) * self._processes

    def trained(self, step: int, spent: float, rate: float) -> None:
        """Write a line of the batches since the last one: each figure's mean over those that have it; spent: seconds of
        training so far."""
        names = sorted({name for metrics in self._batches for name in metrics})
        row = {name: statistics.fmean(m[name] for m in self._batches if name in m) for name in names}
        row["samples_per_s"] = self._samples / max(1e-9, time.monotonic() - self._since)
        self._batches = []
        self.restart_clock()
        self._write("train", step, spent, row | {"lr": rate})

    def validated(self, step: int, spent: float, figures: dict[str, float]) -> None:
        """Write a line of figures on held-out data."""
        self._write("validation", step, spent, figures)

    def restart_clock(self) -> None:
        """Measure the throughput from now on: what went before was no training, or is written."""
        self._samples, self._since = 0.0, time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """What no line tells of yet, for a checkpoint."""
        return {"batches": self._batches, "samples": self._samples, "seconds": time.monotonic() - self._since}

    def go_on(self, state: dict[str, Any], step: int) -> None:
        """Take the state of a checkpoint of `step`, and drop the lines that were written after it."""
        self._batches = list(state.get("batches", ()))
        self._samples, self._since = state.get("samples", 0.0), time.monotonic() - state.get("seconds", 0.0)
        if self._main and self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if _step_of(line) <= step]
            if kept != lines:
                with output_file(self._path) as aside:
                    aside.write_text("".join(kept), encoding="utf-8")

    def _write(self, kind: str, step: int, spent: float, row: dict[str, float]) -> None:
        if not self._main:
            return
        rounded = {key: float(f"{value:.5g}") for key, value in row.items()}
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step, "minutes": round(spent / 60, 2), **rounded}) + "\n")
        log.info(
            "%s %d · %.1f min · %s", kind, step, spent / 60, "  ".join(f"{k} {v:.4g}" for k, v in rounded.items())
        )


def _step_of(line: str) -> float:
    """The step of a line; beyond all steps where a kill left half of one."""
    try:
        return json.loads(line)["step"] if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")
