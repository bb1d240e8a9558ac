"""Drawn faces: a free set of pictures for examples, made of parts that are known."""

from __future__ import annotations

import numpy as np
from sklearn.utils import check_random_state

from .._typing import Seed
from .pictures import Pictures

__all__ = ["drawn_faces"]

_SCALE = 4  # a picture is drawn this many times larger and then reduced, which smooths its edges
HAIR = ("none", "short", "long", "curly", "hat")


def drawn_faces(n: int = 600, size: int = 48, random_state: Seed = 0) -> Pictures:
    """Draw faces that are combinations of a few parts.

    A face has one of five kinds of hair, one of three mouths, eyes that look to one of three sides,
    and often glasses, a beard or brows; it is lit from a random side. The pictures are free to use
    for any purpose.

    Parameters
    ----------
    n : int
        Number of faces. Defaults to 600.
    size : int
        Height and width in pixels, at least 16. Defaults to 48.
    random_state : int, RandomState or None
        Decides which parts a face has. Defaults to 0.

    Returns
    -------
    Pictures
        Grey pictures, uint8, with a row of ``size * size`` pixels for each face, named "face 0",
        "face 1", …; the labels say which hair a face has.

    Raises
    ------
    ImportError
        When Pillow is missing.
    ValueError
        When `n` is less than 1 or `size` less than 16.

    Examples
    --------
    >>> from nmfcore.images import drawn_faces
    >>> faces = drawn_faces(40)
    >>> faces.matrix.shape, faces.shape, sorted(set(faces.labels.tolist()))
    ((40, 2304), (48, 48), ['curly', 'hat', 'long', 'none', 'short'])
    """
    if n < 1 or size < 16:
        raise ValueError(f"n = {n} and size = {size} were given: n must be at least 1, and size at least 16.")
    rng = check_random_state(random_state)
    matrix = np.empty((n, size * size), np.uint8)
    labels = []
    for row in matrix:
        hair = HAIR[rng.randint(len(HAIR))]
        row[:] = _lit(_drawn(hair, size, rng), rng).ravel()
        labels.append(hair)
    names = tuple(f"face {number}" for number in range(n))
    return Pictures(matrix, (size, size), names, np.array(labels), source="drawn faces")


def _drawn(hair: str, size: int, rng: np.random.RandomState) -> np.ndarray:
    """Return a face of size × size pixels, between 0 and 255, evenly lit."""
    from PIL import Image, ImageDraw

    whole = size * _SCALE
    picture = Image.new("L", (whole, whole), 12)
    draw = ImageDraw.Draw(picture)

    def box(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        return left * whole, top * whole, right * whole, bottom * whole

    # What a face may have or lack is lighter than the face, so that it is added to it, as parts of a factorisation are.
    light = 225
    if hair == "long":
        draw.rounded_rectangle(box(0.14, 0.08, 0.86, 0.92), 0.3 * whole, fill=light)
    draw.rectangle(box(0.4, 0.8, 0.6, 1), fill=85)  # the neck
    draw.ellipse(box(0.2, 0.14, 0.8, 0.92), fill=110)
    if hair in ("short", "long"):
        draw.chord(box(0.19, 0.1, 0.81, 0.66), 195, 345, fill=light)
    elif hair == "curly":
        for angle in np.linspace(np.pi, 2 * np.pi, 9):
            x, y = 0.5 + 0.29 * np.cos(angle), 0.36 + 0.24 * np.sin(angle)
            draw.ellipse(box(x - 0.1, y - 0.1, x + 0.1, y + 0.1), fill=light)
    elif hair == "hat":
        draw.rectangle(box(0.28, 0.02, 0.72, 0.26), fill=170)
        draw.rectangle(box(0.12, 0.24, 0.88, 0.31), fill=170)
    look = 0.02 * rng.randint(-1, 2)
    for x in (0.38, 0.62):
        draw.ellipse(box(x - 0.07, 0.42, x + 0.07, 0.5), fill=200)
        draw.ellipse(box(x - 0.03 + look, 0.425, x + 0.03 + look, 0.495), fill=20)
    if rng.rand() < 0.5:  # brows
        for x in (0.38, 0.62):
            draw.rectangle(box(x - 0.08, 0.36, x + 0.08, 0.385), fill=230)
    draw.polygon([(0.5 * whole, 0.5 * whole), (0.45 * whole, 0.64 * whole), (0.55 * whole, 0.64 * whole)], fill=140)
    if rng.rand() < 0.3:  # a beard
        draw.chord(box(0.22, 0.3, 0.78, 0.92), 20, 160, fill=190)
    mouth = rng.randint(3)
    if mouth == 0:
        draw.chord(box(0.38, 0.62, 0.62, 0.8), 0, 180, fill=235)
    elif mouth == 1:
        draw.rectangle(box(0.4, 0.73, 0.6, 0.755), fill=235)
    else:
        draw.ellipse(box(0.44, 0.69, 0.56, 0.8), fill=235)
    if rng.rand() < 0.3:  # glasses
        for x in (0.38, 0.62):
            draw.ellipse(box(x - 0.11, 0.37, x + 0.11, 0.55), outline=250, width=max(1, whole // 48))
        draw.line([(0.49 * whole, 0.46 * whole), (0.51 * whole, 0.46 * whole)], fill=250, width=max(1, whole // 48))
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS), np.float64)


def _lit(face: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Return the face lit from the left or the right, as uint8."""
    side = rng.uniform(-0.35, 0.35)
    light = 1 + side * np.linspace(-1, 1, face.shape[1])
    return np.clip(np.rint(face * light * rng.uniform(0.85, 1.0)), 0, 255).astype(np.uint8)
