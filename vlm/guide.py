"""The guide: a typed, validated document of steps, and the parser of the form in which the model writes one.

Knows neither model nor pixels: pictures are named by path, relative to the guide's own file. There is no
clock in a guide: the same prompt, seed and model give the same bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from vlm.errors import GuideError, UserError
from vlm.png import open_png

PICTURE = "\ufffc"
"""The object replacement character: a picture's place in the text form."""

GUIDE_FILE = "guide.json"

MAX_GUIDE_BYTES = 16 << 20
MAX_STEPS = 999

Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]
Sentences = Annotated[str, StringConstraints(max_length=20_000)]

# Names that every system can hold, none of which is another's folder or one of the guide's own files.
_IMAGE = re.compile(r"(?:[\w-][\w -]*/)*[\w-][\w .-]*\.png", re.IGNORECASE)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Frozen):
    """A line of the parts list: "3 x turned red leg" is count 3, name "turned red leg", colour "red"."""

    count: int = Field(ge=1, le=999)
    name: Words
    colour: Words | None = None


class Tool(_Frozen):
    """A tool or a fastener; fasteners are counted, tools are not."""

    name: Words
    count: int | None = Field(default=None, ge=1, le=999)


class Step(_Frozen):
    """One step. `image` is the path of a PNG, with forward slashes, relative to the guide's file, not above it."""

    number: int = Field(ge=1, le=MAX_STEPS)
    text: Words
    image: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    alt: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=20_000)]
    parts_added: tuple[Words, ...] = Field(default=(), max_length=MAX_STEPS)
    warnings: tuple[Words, ...] = Field(default=(), max_length=20)

    @model_validator(mode="after")
    def _image_stays_beside_the_guide(self) -> Step:
        path = PurePosixPath(self.image)
        if path.is_absolute() or ".." in path.parts or "\\" in self.image or ":" in self.image:
            raise ValueError(f"image {self.image!r} must be a relative path below the guide's own folder")
        if not _IMAGE.fullmatch(self.image):
            raise ValueError(f"image {self.image!r} must be a plain path such as steps/01.png")
        return self


class Guide(_Frozen):
    """An illustrated guide. Raises pydantic's `ValidationError` (a `ValueError`) if it is not whole."""

    title: Words
    description: Sentences = ""
    parts: tuple[Part, ...] = Field(default=(), max_length=999)
    tools: tuple[Tool, ...] = Field(default=(), max_length=999)
    steps: tuple[Step, ...] = Field(min_length=1, max_length=MAX_STEPS)
    closing: Sentences = ""
    prompt: Words
    seed: int = Field(ge=-(2**63), lt=2**64)
    model: Words
    """Fingerprint of the weights that wrote and drew this."""

    @model_validator(mode="after")
    def _steps_are_counted_from_one(self) -> Guide:
        numbers = [step.number for step in self.steps]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError(f"steps are numbered {numbers}, expected 1 to {len(numbers)} in order")
        # Some file systems hold "A.png" and "a.png" to be one.
        if len({step.image.casefold() for step in self.steps}) < len(numbers):
            raise ValueError("two steps share one image, expected one picture for each step")
        return self

    def to_json(self) -> str:
        """JSON text, with a newline at its end; `Guide.model_validate_json` reads it back."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def load(cls, path: Path | str) -> Guide:
        """Read `guide.json` (or the folder that holds it) and prove that each of its pictures is a PNG.

        Raises `UserError` if the file or a picture is missing, damaged or not what it should be.
        """
        path = Path(path)
        path = path / GUIDE_FILE if path.is_dir() else path
        try:
            size = path.stat().st_size
            if not path.is_file() or size > MAX_GUIDE_BYTES:
                raise UserError(
                    f"{path} is no file of at most {MAX_GUIDE_BYTES:,} bytes, expected a {GUIDE_FILE}"
                )
            guide = cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f"cannot read {path} ({error.strerror}), expected a {GUIDE_FILE}") from error
        except ValidationError as error:
            raise UserError(f"{path} is no valid guide: {describe(error)}") from error
        root = path.parent.resolve()
        for step in guide.steps:
            picture = path.parent / step.image
            if not picture.resolve().is_relative_to(root):
                raise UserError(f"{picture} leads out of the guide's folder, expected a picture below {root}")
            open_png(picture)
        return guide


def describe(error: ValidationError) -> str:
    """The first fault of a pydantic error on one line: "steps.0.image: Field required"."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


@dataclass(frozen=True)
class DraftStep:
    """A step as the model wrote it; its picture is known by order alone."""

    text: str
    parts_added: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class GuideDraft:
    """What the text says of a guide: all of it but pictures, prompt, seed and model."""

    title: str
    description: str
    parts: tuple[Part, ...]
    tools: tuple[Tool, ...]
    steps: tuple[DraftStep, ...]
    closing: str = ""

    def complete(self, *, prompt: str, seed: int, model: str) -> Guide:
        """The guide, with a path for each picture. Raises `GuideError` if the parts do not make one."""
        steps = tuple(
            Step(
                number=number,
                text=step.text,
                image=f"steps/{number:02d}.png",
                alt=_alternative(number, step),
                parts_added=step.parts_added,
                warnings=step.warnings,
            )
            for number, step in enumerate(self.steps, start=1)
        )
        try:
            return Guide(
                title=self.title, description=self.description, parts=self.parts, tools=self.tools,
                steps=steps, closing=self.closing, prompt=prompt, seed=seed, model=model,
            )  # fmt: skip
        except ValidationError as error:
            raise GuideError(describe(error)) from error


def _alternative(number: int, step: DraftStep) -> str:
    added = f"; added here: {', '.join(step.parts_added)}" if step.parts_added else ""
    return f"Drawing of step {number}: {step.text.rstrip('.')}{added}."


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_COUNTED = re.compile(r"(?P<count>\d{1,3})\s*[x×]\s+(?P<name>\S.*)")
_NUMBERED = re.compile(r"(?P<number>\d{1,3})\.\s+(?P<text>\S.*)")
_WARNING = re.compile(r"(?:>\s*)?(?:Warning|Caution|Careful)[:!]\s*(?P<text>\S.*)", re.IGNORECASE)


@dataclass
class _Lines:
    """The lines that hold something, each with its number from 1."""

    rest: list[tuple[int, str]]
    number: int = 0
    line: str = field(default="")

    @classmethod
    def of(cls, text: str) -> _Lines:
        lines = (
            (number, _CONTROL.sub("", line).strip()) for number, line in enumerate(text.split("\n"), start=1)
        )
        return cls([(number, line) for number, line in lines if line])

    def peek(self) -> str:
        return self.rest[0][1] if self.rest else ""

    def take(self, wanted: str) -> str:
        if not self.rest:
            raise GuideError(f"line {self.number + 1}: the text ends, expected {wanted}")
        self.number, self.line = self.rest.pop(0)
        return self.line

    def fail(self, wanted: str) -> GuideError:
        shown = self.line if len(self.line) <= 60 else self.line[:57] + "..."
        return GuideError(f"line {self.number}: got {shown!r}, expected {wanted}")


def parse_guide(text: str, colours: Collection[str] = ()) -> GuideDraft:
    """Read the Markdown form that the model writes.

        # Title / a sentence / ## Parts / - 3 x turned red leg / ## Tools / - screwdriver /
        ## Steps / 1. Text. / <picture> / 2. … / <picture> / a closing line

    where `<picture>` is `PICTURE` on a line of its own, exactly one after each step. The sections of parts and
    tools may be missing, not empty. A line after a step's
    text that begins with "Warning:" belongs to that step. The first word of a part's name that is among
    `colours` becomes its colour. Raises `GuideError` naming the line if the text is not of this form.
    """
    lines = _Lines.of(text)
    if not lines.take("a title, '# …'").startswith("# ") or not lines.line[2:].strip():
        raise lines.fail("a title, '# …'")
    title = lines.line[2:].strip()

    description = []
    while lines.rest and not lines.peek().startswith(("#", "- ")):
        description.append(_words(lines, "a sentence or '## Parts'"))
    parts: tuple[Part, ...] = ()
    if lines.peek() not in ("## Tools", "## Steps"):
        parts = tuple(_part(lines, item, colours) for item in _section(lines, "Parts"))
    tools: tuple[Tool, ...] = ()
    if lines.peek() == "## Tools":
        tools = tuple(_tool(lines, item) for item in _section(lines, "Tools"))

    if lines.take("'## Steps'") != "## Steps":
        raise lines.fail("'## Steps'")
    steps = list(_steps(lines, parts))
    if not steps:
        lines.take("a step, '1. …'")
        raise lines.fail("a step, '1. …'")
    closing = []
    while lines.rest:
        if lines.peek().startswith(("#", "- ")) or _NUMBERED.fullmatch(lines.peek()):
            lines.take("")
            raise lines.fail(f"step {len(steps) + 1} or a closing line")
        closing.append(_words(lines, "a closing line"))
    return GuideDraft(title, " ".join(description), parts, tools, tuple(steps), " ".join(closing))


def _words(lines: _Lines, wanted: str) -> str:
    line = lines.take(wanted)
    if PICTURE in line:
        raise lines.fail(f"{wanted}, no picture")
    return line


def _section(lines: _Lines, name: str) -> Iterator[str]:
    """Take "## name" and yield its items, the dash removed."""
    if lines.take(f"'## {name}'") != f"## {name}":
        raise lines.fail(f"'## {name}'")
    found = 0
    while lines.peek().startswith("- "):
        yield _words(lines, "an item")[2:].strip()
        found += 1
    if not found:
        lines.take("an item, '- …'")
        raise lines.fail(f"an item of '## {name}', '- …'")


def _part(lines: _Lines, item: str, colours: Collection[str]) -> Part:
    match = _COUNTED.fullmatch(item)
    if match is None or int(match["count"]) < 1:
        raise lines.fail("a counted part, '- 3 x red leg'")
    named = [word for word in re.findall(r"[\w-]+", match["name"].lower()) if word in colours]
    try:
        return Part(count=int(match["count"]), name=match["name"], colour=named[0] if named else None)
    except ValidationError as error:
        raise lines.fail(f"a part ({describe(error)})") from error


def _tool(lines: _Lines, item: str) -> Tool:
    match = _COUNTED.fullmatch(item)
    try:
        if match is None or int(match["count"]) < 1:
            return Tool(name=item)
        return Tool(name=match["name"], count=int(match["count"]))
    except ValidationError as error:
        raise lines.fail(f"a tool ({describe(error)})") from error


def _steps(lines: _Lines, parts: tuple[Part, ...]) -> Iterator[DraftStep]:
    used: Counter[str] = Counter()
    number = 0
    while match := _NUMBERED.fullmatch(lines.peek()):
        number += 1
        lines.take("a step")
        if int(match["number"]) != number:
            raise lines.fail(f"step {number}")
        sentences, warnings = [match["text"]], []
        while lines.rest and lines.peek() != PICTURE:
            line = lines.take(f"the picture of step {number}")
            if line.startswith(("#", "- ")) or _NUMBERED.fullmatch(line) or PICTURE in line:
                raise lines.fail(f"the picture of step {number}")
            warning = _WARNING.fullmatch(line)
            if warning:
                warnings.append(warning["text"])
            else:
                sentences.append(line)
        lines.take(f"the picture of step {number}")
        text = " ".join(sentences)
        yield DraftStep(text, tuple(_added(text, parts, used)), tuple(warnings))


def _added(text: str, parts: tuple[Part, ...], used: Counter[str]) -> Iterator[str]:
    """The parts that `text` names and that the steps before have not used up; brings `used` up to date.

    A part is named by its whole name, or by its last word where no other part ends in that word.
    """
    words = text.lower()
    heads = Counter(part.name.lower().split()[-1] for part in parts)
    for part in parts:
        name = part.name.lower()
        head = name.split()[-1]
        named = _mentions(words, name) or (heads[head] == 1 and _mentions(words, head))
        if named and used[name] < part.count:
            used[name] += _count_before(words, head)
            yield part.name


def _mentions(words: str, name: str) -> bool:
    return re.search(rf"\b{_forms(name)}\b", words) is not None


def _forms(name: str) -> str:
    """A pattern for a phrase and its plural: leg(s), box(es), shelf and shelves, foot and feet."""
    plural = re.sub(r"oot$", "eet", re.sub(r"lf$", "lves", name))
    return rf"(?:{re.escape(name)}(?:e?s)?|{re.escape(plural)})"


_NUMBER_WORDS = {word: number for number, word in enumerate("two three four five six seven eight".split(), 2)}


def _count_before(words: str, head: str) -> int:
    """How many of a part a sentence adds: "fit the two turned red legs" is 2; 1 where it gives no number."""
    numbers = r"\d{1,2}|" + "|".join(_NUMBER_WORDS)
    match = re.search(rf"\b({numbers})\b[^.,;]*?\b{_forms(head)}\b", words)
    if match is None:
        return 1
    return _NUMBER_WORDS.get(match[1]) or int(match[1])
