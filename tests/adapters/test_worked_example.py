"""The worked example's script from end to end, with the bundled model and a few seconds of training."""

from __future__ import annotations

import json
import sys

from adapter_fixtures import EXAMPLES, example_script


def test_the_whole_example_runs_and_keeps_its_figures(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    example = example_script("worked_example")
    monkeypatch.setattr(example, "FIGURES", tmp_path / "figures.json")
    (tmp_path / "figures.json").write_text(json.dumps({"drafting-200": {"guides": 200}}))
    words = ["pedestal", tmp_path / "run", "--guides", 3, "--minutes", 0.03, "--limit", 1, "--own-limit", 1]
    monkeypatch.setattr(sys, "argv", ["worked_example.py", *map(str, words)])
    example.main()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures.pop("drafting-200") == {"guides": 200}
    told = figures["pedestal-3"]
    assert told["guides"] == 3 and told["steps"] >= 1 and 0 < told["megabytes"] < 10
    assert told["minutes_in_all"] > told["minutes"]
    assert all(value == 0 for key, value in told.items() if key.startswith("forgotten.off."))
    assert {f"{when}.{key}" for when in ("before", "after") for key in ("picture.truth", "text.exact")} <= set(told)
    assert told["ceiling"] > 0 and "after.ceiling" in told
    assert (tmp_path / "run" / "pedestal-3.png").is_file()
    # An adapter that is whole is not trained again.
    monkeypatch.setattr(example.subprocess, "run", None)
    assert example.prepare("pedestal", tmp_path / "run", 3, 1.0) == (tmp_path / "run" / "pedestal-3-adapter", None)
