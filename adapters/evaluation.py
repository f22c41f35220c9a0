"""Before and after: what an adapter gained on the user's held-out examples and lost on the base's own evaluation.

Knows models, streams, the pictures of examples and the base's evaluation. Does not know the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapters.examples import Example
from adapters.held_out import held_out_losses, held_out_pictures
from adapters.pictures import ShownPictures, spread
from vlm.errors import GuideError, OutOfWorld
from vlm.evaluation import guide_figures, held_out_case, judge
from vlm.generate import generate
from vlm.guide import PICTURE, Guide, GuideDraft, parse_guide
from vlm.model import HartVLM
from vlm.processor import StreamProcessor
from vlm.reading import read_guide
from vlm.sampling import GenerationOptions
from vlm.stream import Conversation

SHOWN_AT_MOST = 48
"""Held-out pictures whose way through the image tokenizer is measured."""


@dataclass(frozen=True)
class Compared:
    """One line of the table; higher is better but for the losses."""

    figure: str
    before: float
    after: float


def compare(
    base: HartVLM,
    adapted: HartVLM,
    processor: StreamProcessor,
    examples: Sequence[Example],
    conversations: Sequence[Conversation],
    *,
    limit: int,
    seed: int,
    on_model: Callable[[str], None] | None = None,
) -> list[Compared]:
    """The table of `vlm adapt eval`. examples and conversations: the held-out ones, in one order.

    limit: how many held-out examples are answered freely, and how many of the base's own cases; 0 of them leaves out
    what needs them. on_model: told which model is at work.
    """
    figures = []
    for name, model in (("before", base), ("after", adapted)):
        if on_model is not None:
            on_model(name)
        figures.append(_figures(model, processor, examples, conversations, limit, seed))
    before, after = figures
    return [Compared(name, before[name], after[name]) for name in before]


def table(rows: Sequence[Compared]) -> str:
    """The rows as a Markdown table."""
    lines = ["| figure | before | after | change |", "|---|---|---|---|"]
    lines += [f"| {one.figure} | {one.before:.4g} | {one.after:.4g} | {one.after - one.before:+.3g} |" for one in rows]
    return "\n".join(lines)


def guides_of(examples: Sequence[Example]) -> list[tuple[str, GuideDraft]]:
    """Prompt and guide of each example that is one question in words and one guide."""
    found = []
    for example in examples:
        asked = [message for message in example.messages if message["role"] != "system"]
        if len(asked) != 2 or any(part["type"] == "image" for part in asked[0]["content"]):
            continue
        try:
            guide = parse_guide(_marked(asked[1]))
        except GuideError:
            continue
        found.append(("".join(part["text"] for part in asked[0]["content"]), guide))
    return found


def base_figures(model: HartVLM, processor: StreamProcessor, limit: int, seed: int) -> dict[str, float]:
    """The base's own evaluation, on `limit` of its products: what an adapter may make it forget."""
    options = GenerationOptions(seed=seed, previews=False)
    return guide_figures(
        [judge(model, processor, *held_out_case(seed, number), number, options) for number in range(limit)]
    )


def _figures(
    model: HartVLM,
    processor: StreamProcessor,
    examples: Sequence[Example],
    conversations: Sequence[Conversation],
    limit: int,
    seed: int,
) -> dict[str, float]:
    losses = held_out_losses(model, conversations)
    losses |= held_out_pictures(model, spread(ShownPictures(examples, processor), SHOWN_AT_MOST))
    losses["total"] += losses.get("decoder", 0.0)
    figures = {f"held_out.{name}": value for name, value in losses.items()}
    options = GenerationOptions(seed=seed, previews=False)
    guides = guides_of(examples)[:limit]
    if guides:
        written = [_answer(model, processor, prompt, options) for prompt, _ in guides]
        pairs = [(one, true) for one, (_, true) in zip(written, guides, strict=True)]
        figures["held_out.structure"] = _share([one is not None for one in written])
        figures["held_out.title"] = _share([one is not None and one.title == true.title for one, true in pairs])
        figures["held_out.parts"] = _share([one is not None and _same_parts(one, true) for one, true in pairs])
        counted = [one is not None and len(one.steps) == len(true.steps) for one, true in pairs]
        figures["held_out.steps"] = _share(counted)
    if limit:
        figures |= {f"base.{name}": value for name, value in base_figures(model, processor, limit, seed).items()}
    return figures


def _answer(model: HartVLM, processor: StreamProcessor, prompt: str, options: GenerationOptions) -> Guide | None:
    """The guide that the model writes to a prompt; None where it writes none."""
    stream = processor.encode([{"role": "user", "content": prompt}], add_generation_prompt=True)
    try:
        drawn = read_guide(
            generate(model, processor, stream, options), prompt=prompt, seed=options.seed, fingerprint="-"
        )
    except (GuideError, OutOfWorld):
        return None
    return drawn.guide


def _same_parts(one: Guide, true: GuideDraft) -> bool:
    return [(part.count, part.name) for part in one.parts] == [(part.count, part.name) for part in true.parts]


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right)


def _marked(message: dict) -> str:
    return "".join(part["text"] if part["type"] == "text" else f"\n{PICTURE}\n" for part in message["content"])
