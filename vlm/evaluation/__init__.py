"""How true the model is, on products it has never seen; generation runs free, nothing is teacher-forced.

Knows the world and the agent; the figures' names are those of the README.
"""

from __future__ import annotations

from pathlib import Path

from vlm.evaluation.guides import Judged, compare_guides, held_out_case, judge
from vlm.evaluation.image_tokenizer import residual_gain, tokenizer_figures
from vlm.evaluation.latency import latency_figures
from vlm.evaluation.page import write_page
from vlm.evaluation.talks import outside_truth, talk_words
from vlm.evaluation.turns import turn_figures
from vlm.model import HartVLM
from vlm.processor import StreamProcessor
from vlm.sampling import GenerationOptions

ROUND_TRIPS_PER_GUIDE = 4
GUIDES_PER_TALK = 4
LATENCY_GUIDES = 5

__all__ = ["Judged", "compare_guides", "evaluate", "held_out_case", "judge"]


def evaluate(
    model: HartVLM,
    processor: StreamProcessor,
    *,
    limit: int,
    seed: int,
    page: Path | None = None,
    options: GenerationOptions | None = None,
) -> dict[str, float]:
    """Figures of a model on `limit` held-out products; `page` receives index.html with drawn beside true.

    The keys are explained in docs/figures.md.
    """
    options = options or GenerationOptions(seed=seed, previews=False)
    figures = tokenizer_figures(model, limit * ROUND_TRIPS_PER_GUIDE, seed)
    judged = [judge(model, processor, *held_out_case(seed, number), number, options) for number in range(limit)]
    figures |= guide_figures(judged)
    figures |= residual_gain(model, judged)
    figures |= turn_figures(model, processor, limit=limit, seed=seed, options=options)
    talks = max(1, limit // GUIDES_PER_TALK)
    figures["talk.words"] = talk_words(model, processor, talks=talks, seed=seed, options=options)
    figures["outside.truth"] = outside_truth(model, processor, requests=limit, seed=seed, options=options)
    figures |= latency_figures(model, processor, guides=min(limit, LATENCY_GUIDES), seed=seed)
    if page is not None:
        write_page(judged, figures, page)
    return figures


def guide_figures(judged: list[Judged]) -> dict[str, float]:
    """guide.structure, guide.truth, text.exact and picture.truth of judged guides."""
    count = len(judged)
    return {
        "guide.structure": sum(one.structure for one in judged) / count,
        "text.exact": sum(one.structure and not one.words for one in judged) / count,
        "picture.truth": sum(one.right_pictures for one in judged) / max(1, sum(one.expected for one in judged)),
        "guide.truth": sum(one.right for one in judged) / count,
    }
