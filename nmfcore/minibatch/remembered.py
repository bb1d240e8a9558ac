"""What a `MiniBatchNMF` remembers of its batches, as plain arrays and numbers for pickles and model files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .descent import Sums
from .multiplicative import Memory

KINDS: dict[str, type[Sums] | type[Memory]] = {"Sums": Sums, "Memory": Memory}


def plain(memory: Sums | Memory) -> dict[str, object]:
    """Return a learner's memory as a dictionary without classes of nmfcore.

    Parameters
    ----------
    memory : Sums or Memory
        As a learner's `step` returns it.

    Returns
    -------
    dict
        "kind", and the fields of the memory: arrays and numbers.
    """
    return {"kind": type(memory).__name__, **memory._asdict()}


def restored(fields: Mapping[str, Any], m: int, k: int) -> Sums | Memory:
    """Return the memory that `plain` described.

    Parameters
    ----------
    fields : mapping
        As `plain` returns it.
    m : int
        Features.
    k : int
        Components.

    Returns
    -------
    Sums or Memory

    Raises
    ------
    ValueError
        When the fields are not those of a memory of m × k numbers.
    """
    values = dict(fields)
    kind = KINDS.get(str(values.pop("kind", "")))
    if kind is None or not set(kind._fields) - set(kind._field_defaults) <= set(values) <= set(kind._fields):
        raise ValueError(f"what it remembers of its batches has the fields {sorted(map(str, fields))}")
    empty = kind.of(np.zeros((m, k), np.float32))
    for name, value in values.items():
        expected = getattr(empty, name)
        shape = getattr(expected, "shape", None)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if shape is None and not (number and np.isfinite(value)):
            raise ValueError(f"what it remembers of its batches has {name} = {value!r:.40}")
        if shape is not None and (
            np.shape(value) != shape or np.asarray(value).dtype.kind != "f" or not np.isfinite(value).all()
        ):
            raise ValueError(f"what it remembers of its batches has {name} of shape {np.shape(value)}, or not finite")
    return kind(**values)
