"""What is kept and shown: JSON lines, one record a row, and Markdown tables made from them."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


def append(path: Path, rows: list[Row]) -> None:
    """Add rows to a JSON-lines file; a reader, or a killed run, never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = "".join(json.dumps(_plain(row), ensure_ascii=False) + "\n" for row in rows)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.write_text(kept + lines, encoding="utf-8")
    beside.replace(path)


def _plain(value: Any) -> Any:
    """Round floats to 8 digits, replace NaN, which is not JSON, and numpy's scalars, which `json` does not write."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.8g}") if math.isfinite(value) else None
    return value


def newest(path: Path) -> list[Row]:
    """Return the newest record of each case and contender, in the order first seen."""
    found: dict[tuple, Row] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        problem = row["problem"]
        key = (row["case"], problem["name"], problem["dtype"], row["k"], row["beta"], row["init"])
        # a development run must not hide a whole one
        run = (row["smoke"], row.get("quick", False), row["scale"])
        found[(*key, row["contender"], *run)] = row
    return list(found.values())


def published(path: Path) -> list[Row]:
    """Return the newest records for readers: smoke, quick and scaled runs are for development."""
    return [row for row in newest(path) if not (row["smoke"] or row.get("quick")) and row["scale"] == 1]


HEAD = ("data", "k", "case", "contender", "median", "min", "spread", "faster than scikit-learn")
TAIL = ("target", "of the floor", "first call / warm", "answer")


def table(rows: list[Row]) -> str:
    """Return rows as a Markdown table; columns nothing is said in are left out."""
    lines = [[*map(_text, _cells(row))] for row in rows]
    head = [*HEAD, *TAIL]
    used = [i for i in range(len(head)) if i < len(HEAD) or any(line[i] for line in lines)]
    widths = [max(len(head[i]), *(len(line[i]) for line in lines)) for i in used]

    columns = list(zip(used, widths, strict=True))

    def show(cells: list[str]) -> str:
        return "| " + " | ".join(cells[i].ljust(w) for i, w in columns) + " |"

    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([show(head), rule, *map(show, lines)])


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).replace("|", "\\|").replace("\n", " ")


def _cells(row: Row) -> list[Any]:
    problem = row["problem"]
    data = f"{problem['name']} {'×'.join(map(str, problem['shape']))} {problem['dtype']}"
    if problem["generated"]:
        data += " (generated)"
    if problem.get("nnz"):
        data += f" {problem['format']}"
    start = [data, row["k"], row["case"], row["contender"]]
    if row["status"] != "ok":
        return [*start, row["status"], *[None] * 6, row["why"]]
    ratio = row.get("ratio")
    warm = row.get("warm_up")
    share = row.get("floor", {}).get("share")
    return [
        *start,
        quantity(row["median"], row["unit"]),
        quantity(row["min"], row["unit"]),
        f"{row['spread']:.0%}" if _known(row["spread"]) else None,
        f"{ratio['median']:.2f} × ({ratio['min']:.2f}–{ratio['max']:.2f})"
        if ratio and _known(ratio["median"])
        else None,
        _target(row),
        f"{share:.0%}" if _known(share) else None,
        f"{quantity(warm['cold_s'], 's')} / {quantity(warm['warm_s'], 's')}" if warm else None,
        _answer(row),
    ]


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def quantity(value: float, unit: str) -> str:
    """Return a value with its unit, seconds in the prefix that suits them."""
    if unit.startswith("s"):
        rest = unit[1:]
        for scale, prefix in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= scale or scale == 1e-6:
                return f"{value / scale:.3g} {prefix}{rest}"
    return f"{value:.6f} ×" if unit == "×" else f"{value:.4g} {unit}"


def met(row: Row) -> bool | None:
    """Return whether the row's target is met in all its parts; None without one.

    Parts: ``ratio`` (times faster, at least), ``value`` (median, at most), ``max`` (worst repeat, at
    most), ``loss_ratio`` (final error over the reference's, at most), ``flaws`` (entries of the row's
    list of that name, at most).
    """
    target = row.get("target")
    if not target or row["status"] != "ok":
        return None
    reached = True
    if "ratio" in target:
        reached &= bool(row.get("ratio")) and (row["ratio"]["median"] or 0.0) >= target["ratio"]
    if "value" in target:
        reached &= row["median"] <= target["value"]
    if "max" in target:
        reached &= row["max"] <= target["max"]
    if "loss_ratio" in target:
        reached &= row["check"].get("loss_ratio", float("inf")) <= target["loss_ratio"]
    if "flaws" in target:
        reached &= len(row["flaws"]) <= target["flaws"]
    return bool(reached)


def _target(row: Row) -> str | None:
    reached = met(row)
    if reached is None:
        return None
    target, wanted = row["target"], []
    if "ratio" in target:
        wanted.append(f"≥ {target['ratio']:.3g} ×")
    if "value" in target:
        wanted.append(f"≤ {quantity(target['value'], row['unit'])}")
    if "max" in target:
        wanted.append(f"worst ≤ {quantity(target['max'], row['unit'])}")
    if "loss_ratio" in target:
        wanted.append(f"loss ≤ {target['loss_ratio']:.5g} ×")
    if "flaws" in target:
        wanted.append("no flaw" if not target["flaws"] else f"flaws ≤ {target['flaws']}")
    return f"{', '.join(wanted)} {'met' if reached else 'MISSED'}"


def _answer(row: Row) -> str | None:
    check = row.get("check", {})
    parts = []
    if "loss_difference" in check:
        parts.append(f"same to {check['loss_difference']:.0e}")
    if "loss_ratio" in check:
        parts.append(f"loss × {check['loss_ratio']:.6f}")
    if "loss_of_codes_ratio" in check:
        parts.append(f"codes × {check['loss_of_codes_ratio']:.6f}")
    if check.get("n_iter"):
        parts.append(f"{check['n_iter']} it.")
    if row.get("note"):
        parts.append(row["note"])
    parts += row.get("flaws", ())
    return ", ".join(parts) or None


def report(folder: Path, about: dict[str, str], plots: dict[str, tuple[str, ...]]) -> str:
    """Return the page of all figures from the newest records in `folder`.

    Parameters
    ----------
    folder : Path
        Holds ``<figure>.jsonl``.
    about : dict
        One sentence for each figure, in the order to show them.
    plots : dict
        File names of each figure's plots; those that are in `folder` are shown.
    """
    parts = [
        "# Figures",
        "Made by `python benchmarks/run.py --table` from the newest records in this folder; do not "
        "edit. How to read them: [benchmarks/README.md](../README.md).",
    ]
    for name, sentence in about.items():
        path = folder / f"{name}.jsonl"
        if not path.exists():
            continue
        rows = published(path)
        if not rows:
            continue
        shown = [f"![{Path(plot).stem}]({plot})" for plot in plots.get(name, ()) if (folder / plot).exists()]
        parts += [f"## {name}", sentence, *shown, table(rows), _provenance(rows)]
    return "\n\n".join(parts) + "\n"


def _provenance(rows: list[Row]) -> str:
    """Say where the rows come from: once if they agree, else the range."""

    def each(pick: Any) -> str:
        return " / ".join(dict.fromkeys(str(pick(row)) for row in rows))

    versions = rows[-1]["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version != "not installed")
    dates = sorted(row["date"][:10] for row in rows)
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    limits = rows[-1].get("limits") or {}
    text = (
        f"{each(lambda row: row['machine']['cpu'])}, {each(lambda row: row['threads'])} of "
        f"{each(lambda row: row['machine']['cores'])} cores, "
        f"{each(lambda row: row['machine']['memory_gb'])} GB; {named}; "
        f"commit {each(lambda row: row['commit'])}; {when}."
    )
    return text + (f" {limits_line(limits)}." if limits else "")


def limits_line(limits: Row) -> str:
    """Return the machine's limits in one line."""
    rates = [
        f"{kind} {count} thread{'s' if count != '1' else ''} {limits[key]:.0f} GFLOP/s"
        for kind in ("sgemm", "dgemm")
        for key in limits
        if key.startswith(kind) and key.endswith("_gflops")
        for count in [key.split("_")[1].rstrip("t")]
    ]
    for key, what in (("read_gb_s", "read"), ("copy_gb_s", "copy")):
        if key in limits:
            rates.append(f"memory {what} {limits[key]:.1f} GB/s")
    return "Machine's limits: " + ", ".join(rates)


def sentence(row: Row) -> str:
    """Return a row as one line, shown while the rest is still being measured."""
    cells = [_text(cell) for cell in _cells(row)]
    return " · ".join(cell for cell in cells if cell)
