"""Matplotlib, imported when something is drawn."""

from __future__ import annotations

import contextlib
import os
import sys

__all__ = ["load_matplotlib"]


def load_matplotlib() -> None:
    """Import matplotlib, whatever backend the environment names: figures made here need none.

    A notebook names its own backend in MPLBACKEND, and a program that it starts inherits the variable. Matplotlib
    cannot be imported where that backend is not installed.

    Raises
    ------
    ImportError
        When matplotlib is missing.
    """
    if sys.modules.get("matplotlib") is not None:
        return
    named = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'nmfcore[app]'") from error
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    if named:
        with contextlib.suppress(ValueError):  # no such backend
            matplotlib.rcParams["backend"] = named
