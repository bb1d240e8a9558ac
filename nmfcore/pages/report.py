"""One page about a model, in one file: parts, reconstructions, classes, neighbours.

The page holds its pictures and its style and asks nothing of the network, so it can be mailed, archived and opened
anywhere. It lays its pictures out itself, from a telephone's width up; only curves are drawn by `plots`.
"""

from __future__ import annotations

import io
import math
import shlex
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .. import __version__
from .._text import FAINT, UNSTABLE, masked_text, part_name, printable, share_text
from .._typing import Array
from ..analysis import (
    class_means,
    clusters,
    components_for_share,
    explained_share,
    held_by_evidence,
    rank,
    rebuild,
    reconstruction_errors,
    top_components,
)
from ..images import InputError
from ..images.thumbnails import brightness, data_uri, part_png, picture_png
from ..plots._loading import load_matplotlib
from ..plots._shared import BLUE
from ..search.engine import SearchEngine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jinja2 import Template
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from ..search.engine import Found
    from ..search.masks import PictureMasks

__all__ = ["report"]

_LONGEST = 128  # pixels of a picture's longer side
_EXAMPLES, _RANKED, _FILLED = 12, 8, 9  # pictures shown
_GUESSED = 0.5  # share of a pixel by entries of parts that hardly any picture decides, above which it is not shown
_MASKED = tuple(int(BLUE[at : at + 2], 16) / 255 for at in (1, 3, 5))  # the colour of masked pixels
_QUERIES, _SIMILAR, _DISSIMILAR = 4, 6, 3
_CLUSTERS, _MEMBERS = 8, 9  # groups of pictures, and how many of each are shown
_CLASSES = 30  # more classes than this are no classes but names
_CLASS_PARTS = 6  # parts shown per class
_PAGES = ("wide", "middle", "narrow")
_OPTIONS = {
    "--solver": "solver",
    "--init": "init",
    "--beta-loss": "beta_loss",
    "--extrapolate": "extrapolate",
    "--max-iter": "max_iter",
    "--tol": "tol",
    "--seed": "random_state",
}
# What each way of choosing k has left out; models of earlier versions do not know the way.
_APART = {
    "bicross": "Rows and columns of the pictures were left out of fits with different numbers of parts",
    "holdout": "Pixels of the pictures, tiles or single ones, were left out of fits with different numbers of parts",
}
_APART_SOMEHOW = "A part of the pictures was left out of fits with different numbers of parts"
_PREPARED = {"cropped": "--crop", "letterboxed": "--letterbox"}


def report(engine: SearchEngine, *, labels: ArrayLike | None = None, title: str | None = None) -> str:
    """Make a page about a model.

    Parameters
    ----------
    engine : SearchEngine
        The model and its originals. Without originals, the page says what is missing for that.
    labels : array-like of shape (n,), integers or strings, or None
        The class of every picture; those that the model has by default. From 2 to 30 classes are shown; the empty
        string stands for none.
    title : str or None
        The page's title; where the pictures came from by default.

    Returns
    -------
    str
        HTML. It loads nothing, runs no script, and what it shows of names and labels is escaped.

    Raises
    ------
    ValueError
        When there is not one label per picture.
    ImportError
        When Jinja2, matplotlib or Pillow is missing.

    Examples
    --------
    >>> from nmfcore.pages.report import report
    >>> from nmfcore.search.engine import SearchEngine
    >>> page = report(SearchEngine(6).fit("digits"))
    >>> page.startswith("<!doctype html>"), "<script" in page, "http:" in page
    (True, False, False)
    """
    template = _template()
    drawing = _Drawing(engine, labels)
    sections = {
        "parts": drawing.parts(),
        "stability": drawing.stability(),
        "filled": drawing.filled(),
        "examples": drawing.pairs(drawing.examples()),
        "ranked": drawing.ranked(),
        "convergence": drawing.convergence(),
        "classes": drawing.classes(),
        "clusters": drawing.clusters(),
        "neighbours": drawing.neighbours(),
    }
    return template.render(
        title=title or drawing.title(),
        facts=drawing.facts(),
        command=drawing.command(),
        contents=_contents(sections),
        columns=_columns,
        missing=drawing.missing,
        grey=engine.shape is not None and max(engine.shape[:2]) <= 48,
        charts=drawing.class_charts(),
        space=engine.space,
        masked=drawing.masks is not None,
        colour=engine.shape is not None and len(engine.shape) == 3,
        version=__version__,
        **sections,
    )


def _contents(sections: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the anchor and the heading of every section that is on the page."""
    headings = {
        "filled": "Masked and filled in",
        "examples": "Reconstructions",
        "stability": "How many parts, how stable",
    }
    contents = []
    for name, section in sections.items():
        titles = [title for title, _ in section] if name == "ranked" else [headings.get(name, name.capitalize())]
        if section:
            contents += [(title.replace(",", "").replace(" ", "-").lower(), title) for title in titles]
    return contents


def _columns(count: int, wide: int = 9, middle: int = 6, narrow: int = 4) -> str:
    """Return how many tiles are side by side on a wide, a middle and a narrow page, so that no row has only one."""

    def suitable(most: int) -> int:
        if count <= most or most == 1:
            return max(count if most > 1 else 1, most // 2)  # few tiles are not blown up
        return min(range(max(2, 2 * most // 3), most + 2), key=lambda n: (count % n == 1, -count % n, -n))

    return "; ".join(f"--{name}: {suitable(most)}" for name, most in zip(_PAGES, (wide, middle, narrow), strict=True))


def _template() -> Template:
    try:
        import jinja2
    except ImportError as error:
        raise ImportError("a report needs Jinja2: pip install 'nmfcore[app]'") from error
    text = resources.files("nmfcore.pages").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, finalize=_shown, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)


def _shown(value: object) -> object:
    """Return what the template inserts: names and labels without control characters; its own HTML as it is."""
    return printable(value) if type(value) is str else value


class _Drawing:
    """What the page shows, made once from an engine."""

    def __init__(self, engine: SearchEngine, labels: ArrayLike | None):
        self.engine, self.model, self.shape = engine, engine.model, engine.shape
        self.labels = _checked(self.model.labels if labels is None else labels, len(engine))
        self.missing, self.X, self.top, self.errors = "", None, 1.0, None
        self.components = np.asarray(self.model.components, dtype=np.float64)
        self.drawn = self.components
        self.shares: Array | None = None
        self.masks: PictureMasks | None = None
        try:
            X, self.masks = engine.matrix(), engine.masks
        except InputError as error:
            self.missing = str(error)
            return
        self.X = X
        if self.masks is not None:
            self.drawn = held_by_evidence(self.components, self.model.W, self.masks)
        self.top = brightness(X)
        self.errors = reconstruction_errors(X, self.model.W, self.components, mask=self.masks)
        self.shares = explained_share(X, self.model.W, self.components, mask=self.masks)

    def title(self) -> str:
        source = self.model.source.rstrip("/").rpartition("/")[2] or "a matrix"
        return f"{len(self.components)} parts of {source}"

    def facts(self) -> list[tuple[str, str]]:
        model, shape = self.model, self.shape
        n, m = len(model.W), model.components.shape[1]
        folded = "" if shape is None else f", {shape[0]}×{shape[1]}{' in colour' if len(shape) == 3 else ''}"
        facts = [("pictures" if shape else "rows", f"{n:,}{folded}"), ("features", f"{m:,}")]
        if model.masked:
            facts.append(("masked", masked_text(model.masked, n * m, shape)))
        if math.isfinite(model.relative_error):
            facts.append(("relative error", f"{model.relative_error:.4f}"))
        facts.append(("iterations", f"{model.n_iter:,}"))
        solver = model.parameters.get("solver")
        facts += [("solver", str(solver))] if solver else []
        seed = model.parameters.get("random_state")
        facts += [] if seed is None else [("seed", str(seed))]
        seconds = np.asarray(model.history.get("seconds", ()))
        facts += [("seconds", f"{seconds[-1]:.3g}")] if len(seconds) else []
        facts += [("stopped", model.stop_reason)] if model.stop_reason else []
        facts += [("read from", model.source)] if model.source else []
        return facts

    def command(self) -> str:
        """Return a command that makes this model again; empty where its source is not known."""
        model = self.model
        if not model.source or model.estimator != "NMF" or not model.parameters.get("n_components"):
            return ""
        if model.parameters.get("init") == "custom":  # it began with the parts of another model
            return ""
        words = ["nmfcore", "fit", *([] if model.source == "digits" else [model.source])]
        words += ["-k", str(model.parameters["n_components"])]
        for option, name in _OPTIONS.items():
            value = model.parameters.get(name)
            if value is not None and value is not False:
                words += [option] if value is True else [option, str(value)]
        if self.shape is not None and model.names is not None:  # of a folder, whose pictures are resized
            words += ["--size", f"{self.shape[0]}x{self.shape[1]}", *(["--rgb"] if len(self.shape) == 3 else [])]
            how = model.decoding or {}
            proportions, background = (str(how.get(name)) for name in ("proportions", "background"))
            words += [_PREPARED[proportions]] if proportions in _PREPARED else []
            words += ["--mask-transparent"] if how.get("mask_transparent") else []
            words += ["--background", background] if how and background != "#ffffff" else []
            listed = model.files or {"recursive": any("/" in name for name in model.names)}
            words += ["--recursive"] if listed.get("recursive") else []
            for pattern in cast("list[str]", listed.get("exclude", [])):
                words += ["--exclude", str(pattern)]
        return shlex.join(words)

    # --- pictures ---------------------------------------------------------------------------------

    def picture(self, pixels: ArrayLike, mask: Array | None = None) -> str | None:
        """Draw a picture, transparent where it is masked."""
        return None if self.shape is None else data_uri(picture_png(pixels, self.shape, self.top, _LONGEST, mask=mask))

    def part(self, number: int) -> str | None:
        return None if self.shape is None else data_uri(part_png(self.drawn[number], self.shape, _LONGEST))

    def parts(self) -> dict[str, object]:
        """Show every part, those first that explain most of ‖X‖², with their shares."""
        k, shares = len(self.components), self.shares
        largest = 0.0 if shares is None else max(float(shares.max()), 1e-12)
        tiles = [
            {
                "number": number,
                "picture": self.part(number),
                "share": None if shares is None else share_text(shares[number]).replace(" ", "\u00a0"),
                "width": None if shares is None else round(100 * max(float(shares[number]), 0.0) / largest, 1),
            }
            for number in self.order().tolist()
        ]
        figure = None
        if self.shape is None:
            from ..plots import components_grid

            figure = _saved(components_grid(self.components, shares=shares))
        explained = None if shares is None or k == 1 else _percent(shares.sum())
        faint = 0 if shares is None else int((shares < FAINT).sum())
        return {"tiles": tiles, "figure": figure, "explained": explained, "faint": faint}

    def order(self) -> Array:
        """Return the numbers of the parts, those first that explain most."""
        if self.shares is None:
            return np.arange(len(self.components))
        return np.argsort(-self.shares, kind="stable")

    def stability(self) -> dict[str, object] | None:
        """Show how k was chosen, and how well other starts found each part again, where the model knows."""
        stability, rank = (_known(self.model, name) for name in ("component_stability", "rank_selection"))
        if stability is None and rank is None:
            return None
        told: dict[str, object] = {"tiles": [], "curve": None, "best": None, "few": 0, "mean": None, "apart": None}
        if stability is not None:
            stability = np.asarray(stability, dtype=float)
            told["mean"], told["few"] = f"{stability.mean():.2f}", int((stability < UNSTABLE).sum())
            told["tiles"] = [
                {
                    "name": part_name(number),
                    "picture": self.part(number),
                    "stability": f"{stability[number]:.2f}",
                    "width": round(100 * float(np.clip(stability[number], 0, 1)), 1),
                }
                for number in self.order().tolist()
            ]
        if rank is not None:
            from ..plots import error_against_k

            k, test, spread, best = (_known(rank, name) for name in ("k", "test", "spread", "best"))
            axes = error_against_k(
                k,
                test,
                chosen=best,
                spread=spread,
                label="error of what was left out",
                heading="",
                axes=_axes(5.6, 3.4),
            )
            told["curve"], told["best"] = _saved(axes), int(best)
            told["apart"] = _APART.get(str(_known(rank, "method")), _APART_SOMEHOW)
        return told

    def pairs(self, rows: ArrayLike) -> list[dict[str, object]]:
        """Show originals and their reconstructions."""
        if self.X is None or self.errors is None or self.shape is None:
            return []
        rows = np.asarray(rows, dtype=np.int64)
        originals, made = self.engine.originals(rows), self.engine.reconstructions(rows)
        hidden = [None] * len(rows) if self.masks is None else self.masks[rows]
        return [
            {
                "title": self.engine.title(int(row)),
                "original": self.picture(original, mask),  # both are compared where there is a picture
                "made": self.picture(reconstruction, mask),
                "error": _percent(self.errors[row]),
            }
            for row, original, reconstruction, mask in zip(rows, originals, made, hidden, strict=True)
        ]

    def filled(self) -> dict[str, object] | None:
        """Show some pictures with masked pixels, what of them was observed, and how the parts fill in the rest."""
        if self.masks is None or self.X is None or self.shape is None:
            return None
        counts = self.masks.counts()
        some = np.flatnonzero((counts > 0) & (counts < self.masks.shape[1]))
        whole = int((counts == self.masks.shape[1]).sum())
        rows = some[np.unique(np.linspace(0, len(some) - 1, min(len(some), _FILLED)).round()).astype(np.int64)]
        tiles = []
        for row, original, made in zip(
            rows.tolist(), self.engine.originals(rows), self.engine.reconstructions(rows), strict=True
        ):
            mask = self.masks[np.array([row])][0]
            guessed = np.asarray(self.model.W[row], np.float64) @ (self.components - self.drawn)
            unknown = mask & (guessed > _GUESSED * made)
            tiles.append(
                {
                    "title": self.engine.title(row),
                    "observed": self.masked_picture(original, mask),
                    "filled": self.masked_picture(np.where(mask, made, original), unknown),
                    "share": _percent(counts[row] / self.masks.shape[1]),
                }
            )
        told = masked_text(int(counts.sum()), math.prod(self.masks.shape), self.shape)
        return {"tiles": tiles, "pixels": told, "pictures": f"{len(some) + whole:,}", "whole": whole}

    def masked_picture(self, pixels: Array, mask: Array) -> str:
        """Draw a picture with its masked pixels in blue."""
        assert self.shape is not None
        height, width = self.shape[:2]
        levels = np.clip(np.asarray(pixels, np.float64).reshape(height, width, -1) / self.top, 0, 1)
        hidden = mask.reshape(height, width, -1).any(axis=2, keepdims=True)
        coloured = np.where(hidden, _MASKED, levels)
        return data_uri(picture_png(coloured.reshape(-1), (height, width, 3), 1.0, _LONGEST))

    def examples(self) -> Array:
        """Take one picture of each class where there are a few, else some evenly spread."""
        n = len(self.engine)
        if self.labels is not None:
            classes, first = np.unique(self.labels, return_index=True)
            if 1 < len(classes) <= _EXAMPLES:
                return first
        return np.unique(np.linspace(0, n - 1, min(n, _EXAMPLES)).round()).astype(np.int64)

    def ranked(self) -> list[tuple[str, list[dict[str, object]]]]:
        """Find the pictures that are reconstructed best, and worst."""
        if self.X is None or self.errors is None or self.shape is None:
            return []
        norms = np.array([np.linalg.norm(row) for row in self.observed()])
        best, worst = rank(self.errors * np.where(norms > 0, norms, 1), min(_RANKED, len(self.errors) // 2 or 1))
        return [("Reconstructed best", self.pairs(best)), ("Reconstructed worst", self.pairs(worst))]

    def observed(self) -> Iterator[Array]:
        """Yield the originals in float64, one after the other, with 0 where they are masked."""
        assert self.X is not None
        for number, row in enumerate(self.X):
            row = np.array(row, dtype=np.float64)
            if self.masks is not None:
                row[self.masks[number : number + 1][0]] = 0
            yield row

    # --- curves -----------------------------------------------------------------------------------

    def convergence(self) -> str | None:
        from ..plots import convergence

        history = self.model.history
        if not len(history.get("loss", ())) or "seconds" not in history:
            return None
        relative = self.model.relative_error
        known = math.isfinite(relative) and relative > 0
        norm = self.model.reconstruction_err / relative if known else None
        return _saved(convergence(history, norm=norm, n_iter=self.model.n_iter, heading="", axes=_axes(5.6, 3.4)))

    def class_charts(self) -> list[dict[str, object]]:
        """Draw how much of each part is in each class: means, and spread."""
        from ..plots import features_by_class, means_by_class

        if self.labels is None or not 1 < (count := len(np.unique(self.labels))) <= _CLASSES:
            return []
        W, H = self.model.W, self.components
        heat, boxes = _axes(5.8, 1.2 + 0.3 * count), _axes(5.8, 1.2 + 0.5 * count)
        return [
            {
                "title": "The mean of every part in every class",
                "alt": "Heat map: a row per class, a column per part",
                "picture": _saved(means_by_class(W, self.labels, H, heading="", axes=heat)),
                "dark": _saved(heat, dark=True),  # its colours are numbers, which a filter would change
            },
            {
                "title": "Its spread: the middle half of a class, and its median",
                "alt": "Box plots: a band per class, a box per part",
                "picture": _saved(features_by_class(W, self.labels, H, heading="", axes=boxes)),
                "dark": None,
            },
        ]

    # --- classes ----------------------------------------------------------------------------------

    def classes(self) -> list[dict[str, object]]:
        """Show every class: its mean picture, its strongest parts, and what they make of it."""
        if self.labels is None:
            return []
        W = np.asarray(self.model.W, dtype=np.float64)
        names, parts, weights = top_components(W, self.labels, len(self.components), self.components)
        if not 1 < len(names) <= _CLASSES:
            return []
        _, codes = class_means(W, self.labels)
        told: list[dict[str, object]] = []
        halves = components_for_share(weights)
        for name, code, numbers, heavy, half in zip(names, codes, parts, weights, halves, strict=True):
            members = np.flatnonzero(self.labels == name)
            largest = float(heavy.max()) or 1.0
            told.append(
                {
                    "name": str(name) if str(name) else "no label",
                    "count": f"{len(members):,}",
                    "mean": self.picture(code @ self.components),
                    "rebuilt": self.picture(rebuild(W, self.components, members, numbers[:half])),
                    "rebuilt_from": int(half),
                    "parts": [
                        {"number": part, "picture": self.part(part), "width": round(100 * weight / largest, 1)}
                        for part, weight in zip(
                            numbers[:_CLASS_PARTS].tolist(), heavy[:_CLASS_PARTS].tolist(), strict=True
                        )
                    ],
                }
            )
        return told

    def clusters(self) -> list[dict[str, object]]:
        """Group pictures that are made of the same parts; show the members nearest each centre."""
        if self.X is None or self.shape is None or len(self.engine) < 2 * _CLUSTERS:
            return []
        groups = clusters(self.model.W, _CLUSTERS)
        told: list[dict[str, object]] = []
        for number, count in enumerate(groups.counts.tolist()):
            rows = groups.nearest(number, _MEMBERS)
            pictures = [self.picture(pixels) for pixels in self.engine.originals(rows)]
            tiles = [
                {"title": self.engine.title(row), "picture": picture}
                for row, picture in zip(rows.tolist(), pictures, strict=True)
            ]
            told.append({"name": f"Cluster {number + 1}", "count": f"{count:,}", "tiles": tiles})
        return told

    # --- neighbours -------------------------------------------------------------------------------

    def neighbours(self) -> list[dict[str, object]]:
        """Take some pictures, evenly spread, and the most similar and dissimilar to them."""
        n = len(self.engine)
        if n < 3:
            return []
        rows = np.unique(np.linspace(0, n - 1, _QUERIES + 2).round().astype(np.int64))[1:-1]
        told: list[dict[str, object]] = []
        for row in rows:
            groups = []
            for kind, count in (("similar", _SIMILAR), ("dissimilar", _DISSIMILAR)):
                found = self.engine.search(int(row), count, kind == "similar")
                groups.append({"kind": kind, "tiles": self.found(found)})
            query = None if self.X is None else self.picture(self.engine.originals([row])[0])
            told.append({"title": self.engine.title(int(row)), "picture": query, "groups": groups})
        return told

    def found(self, found: Found) -> list[dict[str, object]]:
        if self.X is not None:
            shown = self.engine.originals(found.indices)
        else:  # what is left of them
            shown = self.engine.reconstructions(found.indices)
        return [
            {"title": title, "picture": self.picture(pixels), "score": f"{score:.2f}"}
            for title, pixels, score in zip(found.titles, shown, found.scores, strict=True)
        ]


def _known(of: Any, name: str) -> Any:
    """Return what a model, an estimator or a mapping knows by this name; None where it knows nothing."""
    if isinstance(of, dict):
        return of.get(name)
    return getattr(of, name, getattr(of, f"{name}_", None))


def _checked(labels: ArrayLike | None, n: int) -> Array | None:
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape != (n,):
        raise ValueError(f"expected one label per row ({n}), got labels of shape {labels.shape}")
    return labels


def _percent(share: float) -> str:
    if share >= 9.995:  # of a picture that is nearly black
        return f"{share:,.0f} times"
    return f"{100 * share:.1f} %" if abs(share) < 0.1 else f"{100 * share:.0f} %"


def _axes(width: float, height: float) -> Axes:
    """Return axes of a figure this large, in inches, which a narrow page shrinks little."""
    load_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height)).subplots()


def _saved(axes: Axes, dark: bool = False) -> str:
    """Return a figure as an address that holds it; with light text on a transparent ground for a dark page."""
    figure = axes.figure
    if dark:
        from matplotlib.text import Text

        for text in figure.findobj(Text):
            text.set_color("#d8d8d5")
        for each in figure.axes:
            each.tick_params(labelcolor="#d8d8d5")
    file = io.BytesIO()
    figure.savefig(  # type: ignore[union-attr]
        file, format="png", dpi=160, bbox_inches="tight", pad_inches=0.05, transparent=dark
    )
    return data_uri(file.getvalue())
