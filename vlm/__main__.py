"""`python -m vlm`: the command line, for launchers that start modules (`accelerate launch -m vlm train model`)."""

from vlm.cli import app

app()
