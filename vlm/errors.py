"""The errors a user can cause and mend; knows no command line and no model.

A message is one line: what was wrong, what was expected, what to do.
"""

from __future__ import annotations


class UserError(Exception):
    """Bad input: a prompt, a path, a config, a bundle. The command line exits with `exit_code`."""

    exit_code = 2


class OutOfWorld(UserError):
    """The model answered, but with words instead of a guide: the prompt is outside what it knows.

    `answer` is what the model said.
    """

    exit_code = 3

    def __init__(self, answer: str) -> None:
        super().__init__(
            "the prompt is outside what this model knows, so nothing was written; see its answer"
        )
        self.answer = answer


class GuideError(ValueError):
    """A text or a stream that should be a guide and is not. The message names the line or the field."""
