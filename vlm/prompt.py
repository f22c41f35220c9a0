"""What counts as a prompt. Knows no model; light, so bad input is refused before anything heavy loads."""

from __future__ import annotations

import unicodedata

from vlm.errors import UserError

MAX_PROMPT = 2000


def check_prompt(prompt: str) -> str:
    """The prompt, stripped. Raises `UserError` if it is empty, too long, binary or undecodable."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError("the prompt is not valid UTF-8, expected text; type it in words") from error
    if len(prompt) > MAX_PROMPT:
        raise UserError(
            f"the prompt has {len(prompt):,} characters, expected at most {MAX_PROMPT:,}; shorten it"
        )
    binary = [
        character
        for character in prompt
        if unicodedata.category(character) == "Cc" and character not in "\n\r\t"
    ]
    if binary:
        raise UserError(
            f"the prompt holds the control character U+{ord(binary[0]):04X}, expected text; remove it"
        )
    if not prompt.strip():
        raise UserError('the prompt is empty, expected a question such as "How do I assemble a blue stool?"')
    return prompt.strip()
