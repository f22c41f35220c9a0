"""Readers of data as people have it: Markdown folders, JSON lines, our own guides; a converter from LLaVA's form.

Knows files and forms. Does not know models. Which file is what:

- `*.jsonl`: the canonical form, see `adapters.examples`;
- `guide.json`: a guide as `vlm guide` writes it; other manuals of its folder are its own and are not read again;
- `*.md`: a manual as a person writes it, see `from_markdown`; `README.md` is left alone;
- `world.json` at the top: {"name", "colours", "outside"}, all optional, see `adapters.folder.World`.

What is left, but for the pictures that these name, is in `Found.unread`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from adapters.examples import (
    Example,
    Fault,
    Found,
    check_messages,
    image_part,
    json_lines,
    picture_below,
    relative,
)
from adapters.folder import World
from vlm.errors import GuideError, UserError
from vlm.files import output_file
from vlm.guide import GUIDE_FILE, PICTURE, DraftStep, Guide, GuideDraft, Step, describe, parse_guide

WORLD_FILE = "world.json"
MAX_FILE_BYTES = 256 << 20
_PICTURE_LINE = re.compile(
    r"!\[(?:\\.|[^\]\\])*\]\(\s*(?:<(?P<angled>[^<>]*)>|(?P<plain>[^()\s]+))(?:\s+\"[^\"]*\")?\s*\)"
)
_HEADING_STEP = re.compile(r"#{2,6}\s+(?P<step>\d{1,3}\.\s+\S.*)")
_ESCAPE = re.compile(r"\\([\\`*_\[\]<>&|~!#.)\-+=])")
_FRONT_KEYS = {"prompt", "colours"}


def load_examples(path: Path | str) -> Found:
    """All examples at `path`, a folder or a `.jsonl` file, in the order of their names.

    Raises `UserError` where there is nothing to read at all; what is broken inside is in `Found.faults`.
    """
    root = Path(path)
    if not root.exists():
        raise UserError(f"{root} is missing, expected a folder of manuals or a .jsonl file")
    found = Found()
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if _seen(file, root))
    guides = [file.parent for file in files if file.name == GUIDE_FILE]
    left = []
    for file in files:
        place = relative(file, root)
        try:
            if file.suffix.lower() == ".jsonl":
                _json_lines(file, place, found)
            elif file.name == GUIDE_FILE:
                _guide(file, place, found)
            elif file.name == WORLD_FILE and file.parent == root:
                _world(file, found)
            elif file.suffix.lower() == ".md" and file.name.lower() != "readme.md" and file.parent not in guides:
                _small(file)
                example, colours = from_markdown(file.read_text(encoding="utf-8-sig"), place, file.parent)
                found.colours |= colours
                found.add("Markdown manuals", example)
            elif root.is_file():
                raise UserError("no form that is known, expected .jsonl, .md or guide.json; see `vlm adapt convert`")
            elif file.name.lower() != "readme.md":
                left.append(file)
        except _Lined as error:
            found.faults.append(Fault(f"{place}, line {error.line}", str(error)))
        except UnicodeDecodeError as error:
            found.faults.append(Fault(place, f"no UTF-8 (at byte {error.start}); save it as UTF-8"))
        except (UserError, OSError) as error:
            found.faults.append(Fault(place, str(error)))
    used = {picture.absolute() for example in found.examples for picture in example.pictures}
    found.unread = [relative(file, root) for file in left if file.absolute() not in used]
    if not found.examples and not found.faults:
        raise UserError(f"{root} holds no .md, .jsonl or {GUIDE_FILE}, expected a folder of manuals")
    return found


def from_markdown(text: str, place: str, base: Path) -> tuple[Example, set[str]]:
    """A manual in Markdown as one question and one answer, and the colours that it says it names.

    The manual must be of the form of `vlm.guide.parse_guide`: a title, parts and tools if any, and numbered steps (as
    lines or as headings) with a picture after each. Front matter may hold `prompt`, the question, by default "Show me
    how to make: TITLE", and `colours`. Raises `UserError`, which knows its line where there is one.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    front, first = _front_matter(lines)
    kept: list[tuple[int, str]] = []
    pictures: list[Path] = []
    exported = ""
    for number, line in enumerate(lines[first:], start=first + 1):
        line = line.strip()
        if line == "---":
            # Below its last rule, a guide that was exported tells of prompt and seed; other rules say nothing.
            below = [rest.strip() for rest in lines[number:] if rest.strip()]
            if below and below[0].startswith("Prompt: "):
                exported = _plain(below[0][8:])
                break
            continue
        if found := _PICTURE_LINE.fullmatch(line):
            try:
                pictures.append(picture_below(base, found["angled"] or found["plain"]))
            except UserError as error:
                raise _Lined(number, str(error)) from None
            kept.append((number, PICTURE))
        elif line:
            kept.append((number, _plain(line)))
    answer = "\n".join(line for _, line in kept)
    try:
        draft = parse_guide(answer)
    except GuideError as error:
        raise _at_line(error, [number for number, _ in kept]) from None
    prompt = str(front.get("prompt") or exported or f"Show me how to make: {draft.title}")
    colours = {word.lower() for word in front.get("colours") or ()}
    return _example(prompt, draft, pictures, place), colours


def from_guide(guide: Guide, place: str, base: Path) -> Example:
    """A guide as one question, its prompt, and one answer in the form that the model writes."""
    return _example(guide.prompt, guide, [base / step.image for step in guide.steps], place)


def convert_llava(source: Path, target: Path, force: bool = False) -> int:
    """Rewrite LLaVA / ShareGPT conversations as the canonical form, beside their pictures; returns how many.

    source: a JSON list, or JSON lines, of {"conversations": [{"from": "human" | "gpt" | "system", "value": str}]},
    with "image" (a name or a list) for each `<image>` in the values, in order; "id" and "model" are allowed. target: a
    `.jsonl` from which the pictures' paths must hold as they are; force: replace it if it is there. Raises `UserError`
    naming the row.
    """
    if target.suffix.lower() != ".jsonl":
        raise UserError(f"{target} should end in .jsonl")
    if target.exists():
        if source.exists() and target.samefile(source):
            raise UserError(f"{target} is what is to be converted; take another name")
        if not force:
            raise UserError(f"{target} exists; take another name, or pass --force")
    rows = list(_rows(source))
    if not rows:
        raise UserError(f"{source} holds no conversations")
    with output_file(target) as staging, staging.open("w", encoding="utf-8", newline="\n") as stream:
        for place, row in rows:
            try:
                converted = _llava_row(row)
                check_messages(converted, place, target.absolute().parent)
            except UserError as error:
                raise UserError(f"{source.name}, {place}: {error}") from None
            stream.write(json.dumps(converted, ensure_ascii=False) + "\n")
    return len(rows)


class _Lined(UserError):
    """A fault that knows its line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def _at_line(error: GuideError, numbers: list[int]) -> UserError:
    """The parser counts the answer's lines; say the file's."""
    found = re.match(r"line (\d+): (.*)", str(error), re.DOTALL)
    if found is None or not numbers:
        return UserError(f"no manual ({error})")
    index = int(found[1]) - 1
    line = numbers[index] if index < len(numbers) else numbers[-1] + 1
    return _Lined(line, found[2].replace(repr(PICTURE), "a picture"))


def _front_matter(lines: list[str]) -> tuple[dict[str, Any], int]:
    """What stands between `---` lines at the top, and the index of the first line after it."""
    if not lines or lines[0].strip() != "---":
        return {}, 0
    ends = [index for index, line in enumerate(lines[1:], start=1) if line.strip() == "---"]
    if not ends:
        raise _Lined(1, "front matter that does not end, expected a second line ---")
    try:
        front = yaml.safe_load("\n".join(lines[1 : ends[0]])) or {}
    # PyYAML lets out what Python says of an impossible date, an endless number or a bottomless nest.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _Lined(1, f"front matter that is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(front, dict) or set(front) - _FRONT_KEYS:
        unknown = sorted(str(key) for key in set(front) - _FRONT_KEYS) if isinstance(front, dict) else ["no keys"]
        raise _Lined(1, f"front matter has the unknown key {unknown[0]!r}, expected {', '.join(sorted(_FRONT_KEYS))}")
    colours = front.get("colours") or []
    if not isinstance(colours, list) or not all(isinstance(word, str) for word in colours):
        raise _Lined(1, f"front matter whose colours are {colours!r}, expected a list of words: colours: [oxblood]")
    if not isinstance(front.get("prompt") or "", str):
        raise _Lined(1, f"front matter whose prompt is {front['prompt']!r}, expected a sentence; put it in quotes")
    return front, ends[0] + 1


def _plain(line: str) -> str:
    """A line without the marks of Markdown that the model does not write."""
    if step := _HEADING_STEP.fullmatch(line):
        line = step["step"]
    line = re.sub(r"^[*+] ", "- ", line)
    line = re.sub(r"^>\s*", "", line)
    return _ESCAPE.sub(r"\1", re.sub(r"(?<!\\)(\*\*|__)(.+?)(?<!\\)\1", r"\2", line)).replace(PICTURE, "\ufffd")


def _example(prompt: str, guide: Guide | GuideDraft, pictures: list[Path], place: str) -> Example:
    question = {"role": "user", "content": [{"type": "text", "text": prompt}]}
    return Example((question, {"role": "assistant", "content": _parts(_answer(guide), pictures)}), place)


def _answer(guide: Guide | GuideDraft) -> str:
    """A guide as the model writes one, with `PICTURE` for its pictures."""
    lines = [f"# {guide.title}"]
    lines += [guide.description] if guide.description.strip() else []
    if guide.parts:
        lines += ["", "## Parts", *(f"- {part.count} x {part.name}" for part in guide.parts)]
    if guide.tools:
        lines += ["", "## Tools"]
        lines += [f"- {tool.count} x {tool.name}" if tool.count else f"- {tool.name}" for tool in guide.tools]
    lines += ["", "## Steps"]
    steps: Sequence[Step | DraftStep] = guide.steps
    for number, step in enumerate(steps, start=1):
        # On one line: while decoding, a picture is what follows the line of a step.
        text = " ".join([step.text, *(f"Warning: {warning}" for warning in step.warnings)])
        lines += [f"{number}. {text}", PICTURE]
    lines += [guide.closing] if guide.closing.strip() else []
    return "\n".join(lines)


def _parts(answer: str, pictures: list[Path]) -> list[dict[str, Any]]:
    """Text with marks as parts: "1. Text.\\n", picture, "\\n2. …"."""
    texts = answer.split(PICTURE)
    if len(texts) != len(pictures) + 1:
        raise UserError(f"{len(texts) - 1} places for pictures and {len(pictures)} pictures")
    parts: list[dict[str, Any]] = []
    for text, picture in zip(texts, [*pictures, None], strict=True):
        if text:
            parts.append({"type": "text", "text": text})
        if picture is not None:
            parts.append(image_part(picture))
    return parts


def _seen(file: Path, root: Path) -> bool:
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts)


def _small(file: Path) -> None:
    if file.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"more than {MAX_FILE_BYTES:,} bytes")


def _json_lines(file: Path, place: str, found: Found) -> None:
    for number, row, reason in json_lines(file):
        here = f"{place}, line {number}"
        try:
            if reason:
                raise UserError(reason)
            found.add("conversations", check_messages(row, here, file.parent))
        except UserError as error:
            found.faults.append(Fault(here, str(error)))


def _guide(file: Path, place: str, found: Found) -> None:
    guide = Guide.load(file)
    found.colours |= {part.colour.lower() for part in guide.parts if part.colour}
    found.add("guides", from_guide(guide, place, file.parent))


def _world(file: Path, found: Found) -> None:
    _small(file)
    try:
        world = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"no JSON ({error})") from None
    kinds = {"name": str, "colours": list, "outside": str}
    if not isinstance(world, dict):
        raise UserError(f"a {type(world).__name__}, expected an object with some of {', '.join(kinds)}")
    for key, value in world.items():
        if key not in kinds or not isinstance(value, kinds[key]):
            raise UserError(f"the key {key!r} is unknown or not as it should be, expected {', '.join(kinds)}")
    try:
        World(**world)
    except ValidationError as error:
        raise UserError(describe(error)) from None
    found.title, found.outside = world.get("name", ""), world.get("outside")
    found.colours |= {word.lower() for word in world.get("colours", ())}


def _rows(source: Path) -> Iterator[tuple[str, Any]]:
    try:
        if source.suffix.lower() == ".jsonl":
            for number, row, reason in json_lines(source):
                if reason:
                    raise UserError(f"{source.name}, line {number}: {reason}")
                yield f"line {number}", row
            return
        _small(source)
        rows = json.loads(source.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {source} ({error.strerror}), expected conversations") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is no JSON ({' '.join(str(error).split())})") from error
    if not isinstance(rows, list):
        raise UserError(f"{source} holds a {type(rows).__name__}, expected a list of conversations")
    yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _llava_row(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict) or not isinstance(row.get("conversations"), list):
        raise UserError("no conversations, expected a list of turns")
    if unknown := set(row) - {"id", "model", "image", "images", "conversations"}:
        raise UserError(f"the unknown key {min(unknown)!r}, expected id, model, image and conversations")
    if "image" in row and "images" in row:
        raise UserError("both image and images, expected one of them")
    given = row.get("image", row.get("images")) or []
    if not isinstance(given, str | list):
        raise UserError(f"the pictures are a {type(given).__name__}, expected a name or a list of names")
    pictures = [given] if isinstance(given, str) else given
    roles = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
    queue = iter(pictures)
    messages, asked = [], 0
    for number, turn in enumerate(row["conversations"], start=1):
        speaker, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not isinstance(speaker, str) or speaker not in roles or not isinstance(value, str):
            raise UserError(f"turn {number} is from {speaker!r}, expected human or gpt with a value")
        content: list[dict[str, Any]] = []
        for index, text in enumerate(value.split("<image>")):
            if index:
                asked += 1
                content.append({"type": "image", "path": next(queue, "")})
            if stripped := text.strip("\n") if len(value) > len(text) else text:
                content.append({"type": "text", "text": stripped})
        messages.append({"role": roles[speaker], "content": content})
    if asked != len(pictures):
        raise UserError(f"{asked} times <image> and {len(pictures)} pictures")
    return {"messages": messages}
