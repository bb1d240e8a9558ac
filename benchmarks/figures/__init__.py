"""Figures: named experiments, one file each.

A file of this package has ``ABOUT`` (one sentence for the reader of the table) and
``run(context)``, a generator that yields lists of rows. ``FULL_ONLY = True`` keeps a slow one out
of a run that does not ask for it with ``--full`` or by name; ``draw(rows, folder)`` makes plots of
the rows, the files that ``PLOTS`` names, and returns their paths.
"""

from __future__ import annotations

import importlib
from types import ModuleType

# in the order to run and to show
NAMES = (
    "iteration",
    "cats",
    "kernels",
    "mu",
    "kullback_leibler",
    "sparse",
    "fit_transform",
    "memory",
    "small",
    "startup",
    "notebook",
    "search",
    "search_quality",
    "duplicates",
    "serve",
    "update",
    "calls",
    "online",
    "restarts",
    "missing",
    "quality",
    "rank",
    "curves",
)


def find(name: str) -> ModuleType:
    """Return the module of a figure."""
    if name not in NAMES:
        raise ValueError(f"no figure named {name!r}; there are {', '.join(NAMES)}")
    return importlib.import_module(f"{__name__}.{name}")
