"""Serving the page: where it listens, who may come in, what may be fetched."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gradio as gr

from demo.look import CSS, theme
from demo.memory import few_arenas
from vlm.errors import UserError

log = logging.getLogger(__name__)

MAX_UPLOAD = "64mb"
MOST_PAGES = 128
"""Pages and programs whose state Gradio keeps, the last used ones: 75 kB each, of those that have gone too."""


def launch(
    app: gr.Blocks,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    auth: str | None = None,
    wait: bool = True,
    root: Path | None = None,
) -> str:
    """Serve the page until Ctrl-C, or with `wait` False until `app.close()`; returns its address.

    auth: "user:password" that everyone must give. root: of `build_app`; its conversations are never served. Raises
    `UserError` on an `auth` of another form, a port that is taken, or a server that cannot be reached.
    """
    few_arenas()
    options: dict[str, Any] = {}
    if auth is not None:
        user, colon, password = auth.partition(":")
        if not (user and colon and password):
            raise UserError("--auth expects user:password, both of at least one character")
        options["auth"] = (user, password)
    if root is not None:
        options["blocked_paths"] = [str(root.absolute() / "conversations"), str(root.absolute() / "secret")]
    try:
        _, address, _ = app.launch(
            server_name=host, server_port=port, share=share, max_file_size=MAX_UPLOAD, show_error=False, quiet=True,
            footer_links=[], ssr_mode=False, enable_monitoring=False, run_history=False, theme=theme(), css=CSS,
            prevent_thread_lock=True, state_session_capacity=MOST_PAGES, **options,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"cannot listen on {host}, port {port} ({error}); choose another --port") from error
    except ValueError as error:
        # Gradio looks whether it can reach its own server, and gives up after some seconds.
        if "localhost is not accessible" not in str(error):
            raise
        raise UserError(
            f"the server on {host} did not answer itself: the machine is too busy, or a proxy stands before localhost; "
            "try again, or set NO_PROXY=localhost,127.0.0.1"
        ) from error
    if wait:
        log.info("serving %s", address)
        app.block_thread()
    return address
