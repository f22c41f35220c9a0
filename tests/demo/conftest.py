"""The demo's tests use the tiny, scripted model of the agent's tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "vlm"))
sys.path.insert(0, str(Path(__file__).parents[1]))
