"""The command line's entry: `vlm`, and `python -m vlm` for launchers that start modules.

Imports the command line only once Ctrl-C is looked after, since that takes a second.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """Run the command that was asked for. Ctrl-C, at whatever moment, is one line and exit code 130."""
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        signal.default_int_handler(number, frame)

    # Where Ctrl-C is ignored, as in a job in the background, it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)
    try:
        from vlm.cli import run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("\nvlm: stopped; nothing was left half-written\n")
        raise SystemExit(INTERRUPTED) from None
    except Exception:
        if not stopped:
            raise
        raise SystemExit(INTERRUPTED) from None
    except SystemExit as end:
        # An import that Ctrl-C broke off may end in an error of its own.
        if stopped and end.code == 1:
            raise SystemExit(INTERRUPTED) from None
        raise
    finally:
        # What is left to do is to end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
