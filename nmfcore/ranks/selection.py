"""What a selection of k has found: a curve with its spread, a table of all fits, and the k that a rule chooses."""

from __future__ import annotations

import csv
import html
import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._files import replacing
from .._typing import Array

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

__all__ = ["RULES", "RankSelection", "RankTable", "chosen"]

RULES = ("1se", "min")
_FLAT = 1e-6  # share of the test loss within which a curve without a spread is flat


def chosen(test: Array, rule: str) -> tuple[int, int]:
    """Return which k a rule chooses, and which has the least test loss.

    Parameters
    ----------
    test : ndarray of shape (repeats, number of k)
        Test loss, k increasing.
    rule : {"1se", "min"}
        "1se" is the smallest k whose difference to the least is at most its standard error: the mean over repeats of
        the differences within a repeat, whose splits are the same for all k. "min" is the k of the least loss.

    Returns
    -------
    chosen, least : int
        Places in the order of k.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.ranks.selection import chosen
    >>> chosen(np.array([[0.9, 0.51, 0.50], [0.8, 0.40, 0.41], [0.7, 0.31, 0.29]]), "1se")
    (1, 2)
    """
    least = int(np.argmin(test.mean(axis=0)))
    if rule == "min" or len(test) < 2:
        return least, least
    return int(np.flatnonzero(_alike(test, least))[0]), least


def _alike(test: Array, least: int) -> Array:
    """Return for which k the difference to the least loss is within its standard error."""
    differences = test - test[:, [least]]
    return differences.mean(axis=0) <= differences.std(axis=0, ddof=1) / np.sqrt(len(test))


def is_flat(test: Array, least: int) -> bool:
    """Return whether no k differs from the best one by more than the spread.

    Parameters
    ----------
    test : ndarray of shape (repeats, number of k)
    least : int
        Place of the least test loss.

    Returns
    -------
    flat : bool
    """
    means = test.mean(axis=0)
    equal = bool(means.max() - means.min() <= _FLAT * means.max())
    return equal or (len(test) > 1 and bool(_alike(test, least).all()))


class RankTable:
    """All fits of a selection, one row each.

    Parameters
    ----------
    columns : dict of str to ndarray
        "k", "repeat", "fold", "train", "test", "n_iter" and "seconds", of the same length. Losses are relative to those
        of the block; NaN where the block holds zeros only.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore.ranks.selection import RankTable
    >>> table = RankTable({"k": np.array([2, 3]), "test": np.array([0.5, 0.25])})
    >>> len(table), table["test"].tolist()
    (2, [0.5, 0.25])
    >>> print(table.to_csv())
    k,test
    2,0.5
    3,0.25
    <BLANKLINE>
    """

    def __init__(self, columns: dict[str, Array]):
        self._columns = columns

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self._columns)

    def __getitem__(self, name: str) -> Array:
        return self._columns[name]

    def __len__(self) -> int:
        return len(self._columns["k"])

    def __repr__(self) -> str:
        return f"<RankTable: {len(self)} fits; {', '.join(self.columns)}>"

    def _repr_html_(self) -> str:
        return _html_table(self.columns, [[f"{value:.6g}" for value in row] for row in self._rows()])

    def _rows(self) -> list[tuple[Any, ...]]:
        return list(zip(*(column.tolist() for column in self._columns.values()), strict=True))

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str | None:
        """Write the table as comma-separated values.

        Parameters
        ----------
        path : path-like or None
            File to write or replace. None returns the text.

        Returns
        -------
        text : str or None
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self._rows())
        if path is None:
            return text.getvalue()
        with replacing(path) as file:
            file.write(text.getvalue().encode())
        return None

    def to_pandas(self) -> pandas.DataFrame:
        """Return the table as a data frame.

        Returns
        -------
        frame : pandas.DataFrame

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas, or use to_csv") from error
        return pd.DataFrame(self._columns)


@dataclass(frozen=True, eq=False, repr=False)
class RankSelection:
    """What `select_rank` has found.

    Attributes
    ----------
    k : ndarray of int
        Numbers of components that were tried, increasing.
    train, test : ndarray of float64, of the shape of `k`
        Mean loss of the fitted and of the left-out entries, relative to ½‖X‖² for the Frobenius loss, otherwise to the
        loss of the mean of X. One minus it is the share that is explained.
    spread : ndarray of float64, of the shape of `k`
        Standard error of `test` over the repeats; NaN for a single one.
    table : RankTable
        One row for each fit: k, repeat, fold, train, test, n_iter, seconds.
    best : int
        The k that the rule chooses.
    at_edge : bool
        Whether the least test loss lies at the smallest or the largest k, or the curve is flat: k may be outside of
        what was tried, or cannot be told.
    stop_reason : str
        Why no more was tried, in one sentence.
    rule : {"1se", "min"}
        The rule that has chosen.
    repeats : int
        Number of splits over which the losses are means.
    n_rows : int
        Number of rows of X that were used.
    method : {"bicross", "holdout"} or None
        What was left out: blocks of rows and columns, or single entries. None where an earlier version does not say it.

    See Also
    --------
    nmfcore.select_rank : Makes it.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore import select_rank
    >>> rng = np.random.default_rng(0)
    >>> X = rng.exponential(size=(200, 4)) @ rng.exponential(size=(4, 60)) * rng.gamma(20, 0.05, (200, 60))
    >>> found = select_rank(X, range(2, 8), random_state=0)
    >>> found.best
    4
    >>> found
    <RankSelection: k = 4 of 2 … 7, test loss 0.0...>
    """

    k: Array
    train: Array
    test: Array
    spread: Array
    table: RankTable
    best: int
    at_edge: bool
    stop_reason: str
    rule: str
    repeats: int
    n_rows: int
    method: str | None = None  # as of pickles of earlier versions

    @property
    def _at(self) -> int:
        return int(np.flatnonzero(self.k == self.best)[0])

    def __repr__(self) -> str:
        tried = f"{self.k[0]} … {self.k[-1]}" if len(self.k) > 1 else f"{self.k[0]}"
        edge = ", at the edge" if self.at_edge else ""
        return f"<RankSelection: k = {self.best} of {tried}, test loss {self.test[self._at]:.4g}{edge}>"

    def _repr_html_(self) -> str:
        rows = [
            [str(k), f"{train:.5f}", f"{test:.5f}", "" if np.isnan(spread) else f"± {spread:.5f}"]
            for k, train, test, spread in zip(self.k, self.train, self.test, self.spread, strict=True)
        ]
        sentence = f"k = {self.best} (rule “{self.rule}”); {self.stop_reason}."
        return f"<p>{html.escape(sentence)}</p>" + _html_table(("k", "train", "test", ""), rows, self._at)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw the curves of test and train loss, with bars, and mark the chosen k.

        Parameters
        ----------
        axes : matplotlib Axes or None, default=None
            Where to draw. None makes a new figure.

        Returns
        -------
        axes : matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        from .. import plots

        return plots.loss_against_k(
            self.k, self.test, train=self.train, spread=self.spread, chosen=self.best, axes=axes
        )


RankSelection.__module__ = "nmfcore"  # the name that is imported, so that pickles hold no inner path


def _html_table(names: tuple[str, ...], rows: list[list[str]], bold: int | None = None) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = [line(row, "th" if number == bold else "td") for number, row in enumerate(rows)]
    return f"<table><thead>{line(list(names), 'th')}</thead><tbody>{''.join(body)}</tbody></table>"
