"""Figures and axes that a notebook shows when they are the last line of a cell; loads matplotlib."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["ShownAxes", "ShownFigure"]


class ShownFigure(Figure):
    """A figure that needs no pyplot to be shown in a notebook."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100, bbox_inches="tight", pad_inches=0.1)
        return file.getvalue()


class ShownAxes(Axes):
    """Axes that stand for their figure in a notebook."""

    def _repr_png_(self) -> bytes | None:
        figure: object = self.figure
        return figure._repr_png_() if isinstance(figure, ShownFigure) else None
