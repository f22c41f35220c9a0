"""The page to look at: evaluated guides, drawn above true, the worst first."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader

from vlm.evaluation.guides import Judged
from vlm.flatpack.build import stages
from vlm.flatpack.render import render


def write_page(judged: list[Judged], figures: dict[str, float], folder: Path) -> None:
    """index.html and PNGs: each guide's pictures, drawn above true, worst first."""
    guides = []
    for number, one in enumerate(sorted(judged, key=lambda one: one.right_pictures / max(1, one.expected))):
        plan = stages(one.truth) if one.truth else ()
        steps = []
        for step, picture in enumerate(one.pictures):
            drawn, true = f"{number:03d}-{step + 1}.png", f"{number:03d}-{step + 1}-true.png"
            picture.save(folder / drawn)
            known = one.truth is not None and step < len(plan)
            if one.truth is not None and known:
                render(one.truth, step, picture.width).save(folder / true)
            steps.append({"drawn": drawn, "true": true if known else None, "faults": one.faults[step]})
        words = "words right" if one.structure and not one.words else "; ".join(one.words)
        title = one.guide.title if one.guide else "no guide"
        guides.append({"prompt": one.prompt, "title": title, "words": words, "steps": steps})
    environment = Environment(loader=PackageLoader("vlm"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("evaluation.html").render(guides=guides, figures=sorted(figures.items()))
    (folder / "index.html").write_text(page, encoding="utf-8")
