"""Convex prisms, the axonometric camera and the order in which prisms hide each other.

One primitive serves every shape: a prism between a bottom and a top polygon of equal length. A box, a disc, a
tapered leg and a lampshade are single prisms; a turned leg is a stack and a curved back an arc of them.
World axes: x to the right, y towards the viewer, z up; one unit is one pixel of a 128-pixel picture.
Letters: N corners, F faces, P prisms, A axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, radians, sin

import numpy as np

EPSILON = 1e-6


@dataclass(frozen=True, eq=False)
class Prism:
    """A convex solid between two horizontal polygons.

    bottom_N2, top_N2: counter-clockwise corners seen from above; z0 < z1. `smooth` sides show no edges between
    their facets (discs, turned parts). Compared and hashed by identity.
    """

    bottom_N2: np.ndarray
    top_N2: np.ndarray
    z0: float
    z1: float
    smooth: bool = False

    @property
    def corners(self) -> np.ndarray:
        """All corners, (2N, 3): the bottom ring, then the top ring."""
        count = len(self.bottom_N2)
        return np.concatenate(
            [
                np.column_stack([self.bottom_N2, np.full(count, self.z0)]),
                np.column_stack([self.top_N2, np.full(count, self.z1)]),
            ]
        )


@dataclass(frozen=True)
class View:
    """An orthographic camera: degrees around the vertical, degrees above the horizon, mirrored or not."""

    azimuth: float = 30.0
    elevation: float = 30.0
    mirrored: bool = False

    @property
    def screen(self) -> np.ndarray:
        """World to screen, (3, 2): right and down, in units of a 128-pixel picture."""
        a, e = radians(self.azimuth), radians(self.elevation)
        flip = -1.0 if self.mirrored else 1.0
        return np.array([[flip * cos(a), sin(a) * sin(e)], [-flip * sin(a), cos(a) * sin(e)], [0.0, -cos(e)]])

    @property
    def towards(self) -> np.ndarray:
        """Unit vector from the scene to the camera."""
        a, e = radians(self.azimuth), radians(self.elevation)
        return np.array([sin(a) * cos(e), cos(a) * cos(e), sin(e)])


def box(x: float, y: float, z: float, dx: float, dy: float, dz: float) -> Prism:
    """An axis-aligned box from its lowest corner and its three lengths."""
    ring = np.array([[x, y], [x + dx, y], [x + dx, y + dy], [x, y + dy]], dtype=float)
    return Prism(ring, ring, z, z + dz)


def bar(x0: float, y0: float, x1: float, y1: float, width: float, z: float, dz: float) -> Prism:
    """A horizontal bar of the given width from one point to another."""
    along = np.array([x1 - x0, y1 - y0]) / max(np.hypot(x1 - x0, y1 - y0), EPSILON)
    side = np.array([-along[1], along[0]]) * width / 2
    start, end = np.array([x0, y0]), np.array([x1, y1])
    ring = np.stack([start - side, end - side, end + side, start + side])
    return Prism(ring, ring, z, z + dz)


def cone(x: float, y: float, r0: float, r1: float, z0: float, z1: float, facets: int = 20) -> Prism:
    """A round solid of bottom radius r0 and top radius r1; r0 == r1 is a disc or a rod."""
    turn = (np.arange(facets) + 0.5) * 2 * pi / facets
    circle = np.column_stack([np.cos(turn), np.sin(turn)])
    return Prism(circle * r0 + [x, y], circle * r1 + [x, y], z0, z1, smooth=True)


def tapered(x: float, y: float, w0: float, w1: float, z0: float, z1: float) -> Prism:
    """A square solid centred on (x, y), of width w0 below and w1 above."""
    square = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    return Prism(square * w0 + [x, y], square * w1 + [x, y], z0, z1)


def turned(x: float, y: float, width: float, z0: float, z1: float) -> list[Prism]:
    """A lathe-turned post: a foot, a swelling, a neck and a head, stacked."""
    profile = ((0.0, 0.62), (0.12, 0.85), (0.45, 1.3), (0.70, 0.68), (0.80, 1.1), (1.0, 1.0))
    rings = [(z0 + t * (z1 - z0), r * width / 2) for t, r in profile]
    return [cone(x, y, r0, r1, a, b, facets=12) for (a, r0), (b, r1) in zip(rings, rings[1:], strict=False)]


def arc(x: float, y: float, radius: float, thick: float, start: float, end: float, z: float, dz: float) -> list[Prism]:
    """A curved upright panel around (x, y) between two angles in degrees (0 along +x, 90 along +y)."""
    count = 6
    turn = np.radians(np.linspace(start, end, count + 1))
    rays = np.column_stack([np.cos(turn), np.sin(turn)])
    inner, outer = rays * (radius - thick) + [x, y], rays * radius + [x, y]
    rings = [np.stack([inner[i], outer[i], outer[i + 1], inner[i + 1]]) for i in range(count)]
    return [Prism(ring, ring, z, z + dz, smooth=True) for ring in rings]


@dataclass(frozen=True, eq=False)
class Projection:
    """A prism as the camera sees it, in screen units.

    faces: visible polygons with the brightness of each, in [0, 1]; outline: the convex silhouette; edges: the sharp
    lines inside it, as polylines.
    """

    faces: tuple[tuple[np.ndarray, float], ...]
    outline: np.ndarray
    edges: tuple[np.ndarray, ...]


LIGHT = np.array([0.35, 0.62, 1.0]) / np.linalg.norm([0.35, 0.62, 1.0])


@lru_cache(maxsize=8192)
def project(prism: Prism, view: View) -> Projection:
    """What is visible of one prism alone."""
    count = len(prism.bottom_N2)
    corners = prism.corners
    flat = corners @ view.screen
    low, high = corners[:count], corners[count:]
    following = np.roll(np.arange(count), -1)
    # Diagonals give the normal of a (possibly twisted or pointed) side more robustly than two sides would.
    normals = np.cross(high[following] - low, high - low[following])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + EPSILON
    seen = normals @ view.towards > EPSILON
    bright = np.clip(normals @ LIGHT, 0, 1)
    faces = [(flat[[i, following[i], count + following[i], count + i]], float(bright[i])) for i in np.flatnonzero(seen)]
    top = flat[count:]
    faces.append((top, float(LIGHT[2])))
    edges = [np.concatenate([top, top[:1]])]
    if not prism.smooth:
        edges += [flat[[i, count + i]] for i in range(count) if seen[i] and seen[i - 1]]
    return Projection(tuple(faces), _hull(flat), tuple(edges))


def _hull(points: np.ndarray) -> np.ndarray:
    """Convex hull of (N, 2) points, by Andrew's monotone chain."""
    ordered = sorted({(round(float(x), 4), round(float(y), 4)) for x, y in points})

    def half(sequence: list[tuple[float, float]]) -> list[tuple[float, float]]:
        chain: list[tuple[float, float]] = []
        for p in sequence:
            while len(chain) > 1 and (
                (chain[-1][0] - chain[-2][0]) * (p[1] - chain[-2][1])
                <= (chain[-1][1] - chain[-2][1]) * (p[0] - chain[-2][0])
            ):
                chain.pop()
            chain.append(p)
        return chain[:-1]

    return np.array(half(ordered) + half(ordered[::-1]))


def depth_order(prisms: list[Prism], view: View) -> list[int]:
    """Indices of disjoint convex prisms from back to front.

    Two disjoint convex bodies have a separating plane, and whatever lies on the camera's side of it cannot be hidden
    by the other. The axes tried are z, 16 horizontal directions and the side normals of four-sided prisms; if axes
    disagree, neither hides the other. Raises ValueError if two prisms that may hide each other are parted by none of
    these axes, or if prisms hide each other in a cycle.
    """
    turn = np.arange(16) * pi / 16
    axes = [np.column_stack([np.cos(turn), np.sin(turn), np.zeros(16)]), np.array([[0.0, 0.0, 1.0]])]
    for prism in prisms:
        if len(prism.bottom_N2) == 4:
            side = np.roll(prism.bottom_N2, -1, axis=0)[:2] - prism.bottom_N2[:2]
            normal = np.column_stack([side[:, 1], -side[:, 0], np.zeros(2)])
            axes.append(normal / (np.linalg.norm(normal, axis=1, keepdims=True) + EPSILON))
    axes_A3 = np.unique(np.round(np.concatenate(axes), 6), axis=0)
    axes_A3 = axes_A3 * np.where(axes_A3 @ view.towards < 0, -1.0, 1.0)[:, None]
    facing = axes_A3 @ view.towards > 1e-3
    spans = [prism.corners @ axes_A3.T for prism in prisms]
    low_PA = np.stack([span.min(axis=0) for span in spans])
    high_PA = np.stack([span.max(axis=0) for span in spans])
    below_PPA = high_PA[:, None] <= low_PA[None] + 1e-4
    behind = below_PPA[..., facing].any(axis=2)
    parted = below_PPA.any(axis=2)

    flats = [prism.corners @ view.screen for prism in prisms]
    least = np.stack([flat.min(axis=0) for flat in flats])
    most = np.stack([flat.max(axis=0) for flat in flats])
    touching = ((most[:, None] > least[None] - 2) & (most[None] > least[:, None] - 2)).all(axis=2)
    entangled = np.argwhere(touching & ~parted & ~parted.T & ~np.eye(len(prisms), dtype=bool))
    if len(entangled):
        raise ValueError(f"no axis parts prisms {entangled[0][0]} and {entangled[0][1]}; they may overlap")
    before: np.ndarray = np.asarray(behind & ~behind.T & touching)

    waiting = before.sum(axis=0)
    done = np.zeros(len(prisms), dtype=bool)
    order: list[int] = []
    while len(order) < len(prisms):
        free = np.flatnonzero((waiting == 0) & ~done)
        if not len(free):
            raise ValueError("the prisms hide each other in a cycle; split one of them")
        for i in free:
            done[i] = True
            order.append(int(i))
            waiting -= before[i]
    return order
