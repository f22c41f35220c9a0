"""The checker of truth: does a picture show what a step claims?

The world is fixed by product, step and style, so the true picture is known, and so is the picture of every likely
fault. Two questions are asked. For each named fault (a part missing, in another colour, out of place, too early, not
highlighted; another number or callout): is the picture, where truth and fault differ, nearer to the fault than to the
truth? That likelihood ratio integrates over all the pixels concerned, so blur and noise hardly move it. And for
anything else: is there a cluster of pixels that no colour in the truth's neighbourhood explains?
Knows nothing of models. Letters: H hypotheses, N numbers of a 128 x 128 x 3 picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from PIL import Image
from scipy import ndimage, sparse

from vlm.flatpack.faults import LEAST_SHIFT, displaced, later_parts, with_extra, without
from vlm.flatpack.product import Product
from vlm.flatpack.render import ARROW_ID, CANVAS, NUMBER_ID, Scene, draw, draw_ids, recoloured, scene
from vlm.flatpack.style import HOUSE, Style

# Both pictures are blurred by so many pixels before faults are weighed: a soft outline is no fault, and 4:2:0 chroma
# spreads about two pixels (with 1.0 for chroma, 0.4 % of JPEGs failed on the colour of a narrow strip; with 2.0 none).
LUMA_BLUR, CHROMA_BLUR = 1.0, 2.0
REACH = 6  # pixels at which the blurs are cut off
NEARER = 0.5  # a fault is believed where the picture is this far on the way from the truth to it
MARGIN = 1500.0  # and explains this much more squared error (levels², all channels) than the truth does
FAINT = 1500.0  # faults that differ less than this in all (levels²) cannot be told from the truth, and are not asked
CHROMA_REACH = 3  # pixels over which colour (not brightness) may bleed, as it does in JPEG and in small decoders
LUMA_CHROMA = np.array(  # RGB → brightness and two colour differences, all in levels
    [[0.299, -0.169, 0.5], [0.587, -0.331, -0.419], [0.114, 0.5, -0.081]], dtype=np.float32
)
TOLERANCE = 32.0  # levels by which a pixel may leave the range of colours of its true neighbourhood
# Levels by which one cluster of pixels may do so in all. Measured: JPEG q80 at most 5; of 259 extra parts those that no
# named fault explains, at least 889. Between them lie round trips of a tokenizer at 27 dB (99 % within 157); up to 400
# the threshold decides none of them.
EXCESS = 150.0
NUMBERS = range(1, 7)
DIRECTIONS = [(LEAST_SHIFT * cos(i * pi / 4), LEAST_SHIFT * sin(i * pi / 4)) for i in range(8)]


@dataclass(frozen=True)
class PartFigure:
    """How one part came out: overlap of where it is seen with where it should be, pixels of it that are wrong, and the
    mean distance (levels, RGB) of its pixels from their true colours."""

    ident: int
    noun: str
    iou: float
    wrong_pixels: int
    colour_distance: float


@dataclass(frozen=True)
class Verdict:
    """Whether the picture shows its step, and if not, why. shift: (right, down) pixels by which it was moved back."""

    ok: bool
    reasons: tuple[str, ...]
    parts: tuple[PartFigure, ...]
    shift: tuple[int, int]
    excess: float


@dataclass(frozen=True, eq=False)
class _Hypotheses:
    """Named faults: what each is about, what it says, and how the blurred picture would differ from the truth."""

    subjects: tuple[str, ...]
    reasons: tuple[str, ...]
    difference_HN: sparse.csr_array
    energy_H: np.ndarray


@dataclass(frozen=True, eq=False)
class _Truth:
    """The true picture at full and at 128 px, its blurred self, the range of colours around each pixel, the id map."""

    shown: Scene
    names: dict[int, str]
    full: np.ndarray
    picture: np.ndarray
    soft: np.ndarray
    low: np.ndarray
    high: np.ndarray
    ids: np.ndarray


def check(image: Image.Image, product: Product, step: int, style: Style = HOUSE) -> Verdict:
    """Judges a square RGB picture whose side is a multiple of 128.

    `step` counts from 0; the number of steps stands for the finished picture. Raises ValueError for another size or
    for a step that the product lacks.
    """
    if image.width != image.height or image.width < CANVAS or image.width % CANVAS:
        raise ValueError(f"expected a square picture of a multiple of {CANVAS} px; got {image.width}x{image.height}")
    truth = _truth(product, step, image.width, style)
    shift, seen = _aligned(np.asarray(image.convert("RGB"), dtype=np.float32), truth)
    over = _excess(seen, truth)
    wrong = over > TOLERANCE
    excess, place = _worst_cluster(over, wrong)
    residual = (_soften(seen) - truth.soft).ravel()
    found = _believed(residual, _hypotheses(product, step, style))
    if not found:
        found = _believed(residual, _displacements(product, step, style))
    if not found and excess > EXCESS:
        found = [f"something that does not belong there at ({place[0]}, {place[1]})"]
    return Verdict(not found, tuple(found), _figures(truth, seen, wrong), shift, excess)


@lru_cache(maxsize=48)
def _truth(product: Product, step: int, size: int, style: Style) -> _Truth:
    shown = scene(product, step)
    full = np.asarray(draw(shown, size, style), dtype=np.float32)
    picture = _reduce(full)
    low, high = (_neighbours(picture @ LUMA_CHROMA, find) for find in (ndimage.minimum_filter, ndimage.maximum_filter))
    return _Truth(
        shown, _names(shown), full, picture, _soften(picture), low, high, draw_ids(shown, CANVAS, style)
    )


def _neighbours(pixels: np.ndarray, find: Callable[..., np.ndarray]) -> np.ndarray:
    """The least or most luma within one pixel, and chroma within `CHROMA_REACH` pixels."""
    wide = 2 * CHROMA_REACH + 1
    luma, chroma = find(pixels[..., :1], (3, 3, 1)), find(pixels[..., 1:], (wide, wide, 1))
    return np.concatenate([luma, chroma], axis=2)


def _excess(seen: np.ndarray, truth: _Truth) -> np.ndarray:
    """(128, 128) levels by which each pixel leaves the range of its true neighbourhood, luma and chroma together."""
    pixels = seen @ LUMA_CHROMA
    pixels[..., 1:] = ndimage.uniform_filter(pixels[..., 1:], (2 * CHROMA_REACH - 1, 2 * CHROMA_REACH - 1, 1))
    return np.linalg.norm(np.maximum(np.maximum(pixels - truth.high, truth.low - pixels), 0), axis=2)


def _names(shown: Scene) -> dict[int, str]:
    """Id → "seat", or "leg 2" where there are several."""
    nouns = [p.part.noun for p in shown.placed]
    seen: dict[str, int] = {}
    names = {}
    for placed in shown.placed:
        noun = placed.part.noun
        seen[noun] = seen.get(noun, 0) + 1
        names[placed.ident] = f"{noun} {seen[noun]}" if nouns.count(noun) > 1 else noun
    return names


def _reduce(pixels: np.ndarray) -> np.ndarray:
    """Averages a picture down to 128 px."""
    m = pixels.shape[0] // CANVAS
    return pixels.reshape(CANVAS, m, CANVAS, m, 3).mean(axis=(1, 3))


def _soften(pixels: np.ndarray) -> np.ndarray:
    """(…, …, 3) RGB → blurred luma and more blurred chroma."""
    turned = pixels @ LUMA_CHROMA
    sigmas = (LUMA_BLUR, CHROMA_BLUR, CHROMA_BLUR)
    planes = [
        ndimage.gaussian_filter(turned[..., i], sigma, mode="nearest", truncate=REACH / sigma)
        for i, sigma in enumerate(sigmas)
    ]
    return np.stack(planes, axis=2)


def _aligned(seen: np.ndarray, truth: _Truth) -> tuple[tuple[int, int], np.ndarray]:
    """The shift within one pixel of the 128-pixel picture that fits best, and the picture moved back, at 128 px."""
    m = seen.shape[0] // CANVAS
    grey, target = seen.mean(axis=2), truth.full.mean(axis=2)
    size = seen.shape[0]
    padded, best, chosen = np.pad(grey, m, mode="edge"), np.inf, (0, 0)
    for down in range(-m, m + 1):
        for right in range(-m, m + 1):
            moved = padded[m + down : m + down + size, m + right : m + right + size]
            cost = float(np.abs(moved - target).sum())
            if cost < best:
                best, chosen = cost, (right, down)
    right, down = chosen
    around = np.pad(seen, ((m, m), (m, m), (0, 0)), mode="edge")
    return chosen, _reduce(around[m + down : m + down + size, m + right : m + right + size])


def _worst_cluster(over: np.ndarray, wrong: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Summed excess of the worst connected cluster of wrong pixels, and its centre (x, y)."""
    labels, count = ndimage.label(wrong, structure=np.ones((3, 3)))
    if not count:
        return 0.0, (0, 0)
    sums = ndimage.sum_labels(over - TOLERANCE, labels, np.arange(1, count + 1))
    worst = int(np.argmax(sums))
    y, x = ndimage.center_of_mass(labels == worst + 1)
    return float(sums[worst]), (round(x), round(y))


def _believed(residual_N: np.ndarray, asked: _Hypotheses) -> list[str]:
    """The reasons of the faults that the picture is nearer to than to the truth; the likeliest for each subject."""
    if not asked.reasons:
        return []
    along_H = asked.difference_HN @ residual_N
    gain_H = 2 * along_H - asked.energy_H
    best: dict[str, int] = {}
    for i in np.flatnonzero((along_H > NEARER * asked.energy_H) & (gain_H > MARGIN)):
        subject = asked.subjects[i]
        if subject not in best or gain_H[i] > gain_H[best[subject]]:
            best[subject] = int(i)
    return [asked.reasons[i] for i in sorted(best.values(), key=lambda i: -gain_H[i])]


class _Collector:
    """Gathers hypotheses as differences of blurred pictures."""

    def __init__(self) -> None:
        self.subjects: list[str] = []
        self.reasons: list[str] = []
        self.places: list[np.ndarray] = []
        self.values: list[np.ndarray] = []
        self.energies: list[float] = []

    def add(self, subject: str, reason: str, difference: np.ndarray) -> None:
        """Adds one fault from its (128, 128, 3) difference to the truth, unless it is too faint to see."""
        y, x = np.nonzero(difference.any(axis=2))
        if not len(y):
            return
        top, left = max(0, y.min() - REACH), max(0, x.min() - REACH)
        soft = _soften(difference[top : y.max() + REACH + 1, left : x.max() + REACH + 1])
        soft[np.abs(soft) < 0.5] = 0
        row, column, plane = np.nonzero(soft)
        values = soft[row, column, plane]
        energy = float(values @ values)
        if energy < FAINT:
            return
        self.subjects.append(subject)
        self.reasons.append(reason)
        self.places.append(((row + top) * CANVAS + column + left) * 3 + plane)
        self.values.append(values)
        self.energies.append(energy)

    def result(self) -> _Hypotheses:
        ends = np.cumsum([0, *(len(place) for place in self.places)])
        columns = np.concatenate([np.zeros(0, dtype=np.int64), *self.places])
        values = np.concatenate([np.zeros(0, dtype=np.float32), *self.values])
        differences = sparse.csr_array((values, columns, ends), shape=(len(self.places), CANVAS * CANVAS * 3))
        return _Hypotheses(tuple(self.subjects), tuple(self.reasons), differences, np.array(self.energies))


def _differ(product: Product, step: int, style: Style) -> tuple[_Truth, Callable[[Scene], np.ndarray]]:
    """The truth, and a function from a wrong scene to its difference from it, arrow and labels left out of both.

    The arrow is drawn beside whatever is added, so it would move with a fault that has nothing to do with it.
    """
    truth = _truth(product, step, CANVAS, style)
    clear = ~np.isin(truth.ids, (ARROW_ID, NUMBER_ID))[..., None]

    def bare(shown: Scene) -> np.ndarray:
        return _pixels(replace(shown, motion=None, number=None, count=None), style)

    base = bare(truth.shown)
    return truth, lambda wrong: (bare(wrong) - base) * clear


def _pixels(shown: Scene, style: Style) -> np.ndarray:
    return np.asarray(draw(shown, CANVAS, style), dtype=np.float32)


@lru_cache(maxsize=48)
def _hypotheses(product: Product, step: int, style: Style) -> _Hypotheses:
    """All named faults but displacements."""
    truth, differ = _differ(product, step, style)
    shown, collect = truth.shown, _Collector()
    for placed in shown.placed:
        name = truth.names[placed.ident]
        collect.add(name, f"{name} is missing", differ(without(shown, placed.ident)))
        if placed.added:
            plain = tuple(replace(p, added=False) if p is placed else p for p in shown.placed)
            collect.add(f"highlight of {name}", f"{name} is not highlighted", differ(replace(shown, placed=plain)))
    for noun in dict.fromkeys(p.part.noun for p in shown.placed if not p.added):
        marked = tuple(replace(p, added=p.added or p.part.noun == noun) for p in shown.placed)
        said = f"{noun} is highlighted, though this step does not add it"
        collect.add(f"highlight of {noun}", said, differ(replace(shown, placed=marked)))
    for colour in style.palette:
        difference = differ(recoloured(shown, {p.ident: colour for p in shown.placed}))
        for placed in shown.placed:
            if placed.colour != colour:
                name = truth.names[placed.ident]
                own = (truth.ids == placed.ident)[..., None]
                collect.add(name, f"{name} is {colour}, not {placed.colour}", difference * own)
    for later in later_parts(product, step):
        collect.add(later.part.noun, f"{later.part.noun} is there too early", differ(with_extra(shown, later)))
    if shown.motion is not None:
        arrowless = _pixels(replace(shown, motion=None), style) - truth.picture
        collect.add("arrow", "the arrow is missing", arrowless)
    for number in (None, *NUMBERS):
        if number != shown.number:
            said = "is missing" if number is None else f"reads {number}, not {shown.number or 'none'}"
            collect.add("number", f"the step number {said}", _label(shown, style, number, shown.count))
    for count in (None, *NUMBERS):
        if count != shown.count:
            was = "none" if shown.count is None else f"{shown.count}x"
            said = "is missing" if count is None else f"reads {count}x, not {was}"
            collect.add("callout", f"the callout {said}", _label(shown, style, shown.number, count))
    return collect.result()


def _label(shown: Scene, style: Style, number: int | None, count: int | None) -> np.ndarray:
    """What other labels change on the page."""
    return _blank(shown.whole, style, number, count) - _blank(shown.whole, style, shown.number, shown.count)


@lru_cache(maxsize=256)
def _blank(whole: tuple, style: Style, number: int | None, count: int | None) -> np.ndarray:
    return _pixels(Scene((), whole, number, count, None), style)


@lru_cache(maxsize=48)
def _displacements(product: Product, step: int, style: Style) -> _Hypotheses:
    """Every part out of place by the least displacement that counts as a fault, in eight directions."""
    truth, differ = _differ(product, step, style)
    collect = _Collector()
    for placed in truth.shown.placed:
        name = truth.names[placed.ident]
        for right, down in DIRECTIONS:
            wrong = displaced(truth.shown, placed.ident, right, down, style)
            collect.add(name, f"{name} is out of place", differ(wrong))
    return collect.result()


def _figures(truth: _Truth, seen: np.ndarray, wrong: np.ndarray) -> tuple[PartFigure, ...]:
    """Overlap, wrong pixels and colour distance of every visible part."""
    distance = np.linalg.norm(seen - truth.picture, axis=2)
    stray_y, stray_x = np.nonzero(wrong)
    strays = seen[stray_y, stray_x]
    figures = []
    for placed in truth.shown.placed:
        own = truth.ids == placed.ident
        pixels = int(own.sum())
        if not pixels:
            continue
        inner = ndimage.binary_erosion(own)
        colours = truth.picture[inner if inner.any() else own]
        outside = 0
        if len(strays):
            near = np.linalg.norm(strays - np.median(colours, axis=0), axis=1) < 2 * TOLERANCE
            outside = int((near & ~own[stray_y, stray_x]).sum())
        bad = int((wrong & own).sum())
        figures.append(
            PartFigure(
                placed.ident, placed.part.noun, (pixels - bad) / (pixels + outside), bad, float(distance[own].mean())
            )
        )
    return tuple(figures)
