"""Every test runs on one thread, offline and without a network name to look up."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings  # noqa: E402

settings.register_profile("calm", deadline=None, derandomize=True)
settings.load_profile("calm")
