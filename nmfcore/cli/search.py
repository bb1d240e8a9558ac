"""``nmfcore search`` and ``nmfcore transform``: neighbours of a picture, and codes of other pictures."""

import csv
import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .._text import printable
from .common import (
    Stop,
    count,
    new_file,
    note,
    open_model,
    print_pairs,
    reading_bar,
    refusals,
    say_skipped,
    warnings_as_notes,
    written,
)
from .copies import check_folder, planned_copies, write_copies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .._typing import Array
    from ..search.engine import Found, SearchEngine

_DRAWN = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")
_PARTS = 3  # parts named per neighbour
_SIGNS = {"+": 1.0, "-": -1.0, "−": -1.0}
_OTHER = {False: "--dissimilar", True: "leave out --dissimilar"}


def search(
    folder: str,
    words: list[str],
    n: int,
    dissimilar: bool,
    space: str | None,
    out: Path | None,
    force: bool,
    form: str | None = None,
    labels: list[str] | None = None,
    scores: tuple[float | None, float | None] = (None, None),
    offset: int = 0,
    copy_to: Path | None = None,
) -> None:
    """Run the command; `form` is "json", "csv", or None for a table, `scores` the least and the largest to be found."""
    from rich.console import Console

    notes = Console(stderr=True)
    if scores[0 if dissimilar else 1] is not None:
        wrong, right = ("--min-score", "--max-score") if dissimilar else ("--max-score", "--min-score")
        raise Stop(
            f"{wrong} limits what is {'' if dissimilar else 'dis'}similar: give {right}, or {_OTHER[dissimilar]}"
        )
    target = None
    if out is not None:
        if out.suffix.lower() not in _DRAWN:
            raise Stop(f"'{out}' names no kind of picture: end --out in {', '.join(_DRAWN)}")
        target = new_file(out, out, force)
    copies = None if copy_to is None else check_folder(copy_to)
    terms = split_terms(words)
    engine = open_model(folder, space)
    with refusals(), warnings_as_notes(notes):
        queries = []
        for _, text in terms:
            query, said = engine.meant(text)
            queries.append(query)
            if said is not None:
                note(notes, said)
        found = engine.search(
            queries,
            n,
            not dissimilar,
            space=space,
            weights=[sign for sign, _ in terms],
            threshold=scores[int(dissimilar)],
            labels=labels or None,
            offset=offset,
        )
    plan = [] if copies is None else planned_copies(engine, found, copies)
    if form is None:
        _print_found(engine, found)
    else:
        _write_found(engine, found, form)
    facts = []
    if target is not None:
        _draw(engine, found, target, force)
        facts.append(("written to", str(target)))
    if copies is not None and plan:
        facts.append(("copied to", write_copies(plan, copies)))
    if form is None and facts:
        print_pairs(facts)
    if not len(found):
        note(notes, "nothing was found that meets the conditions")


def split_terms(words: list[str]) -> list[tuple[float, str]]:
    """Read ``a.jpg + b.jpg - c.jpg`` as signs and texts; words without a sign between them are one text."""
    terms: list[tuple[float, list[str]]] = []
    for number, word in enumerate(words):
        if word in _SIGNS:
            if number + 1 == len(words) or words[number + 1] in _SIGNS:
                raise Stop(f"'{' '.join(words)}' has no picture after a '{word}': give one, or leave the sign out")
            terms.append((_SIGNS[word], []))
        elif not terms:
            terms.append((1.0, [word]))
        else:
            terms[-1][1].append(word)
    return [(sign, " ".join(text)) for sign, text in terms]


def _draw(engine: "SearchEngine", found: "Found", target: Path, force: bool) -> None:
    with refusals():
        figure: Figure = engine.draw(found)
    kind = target.suffix.lower().removeprefix(".")
    try:
        with written(target, force) as file:
            figure.savefig(file, format=kind, bbox_inches="tight", pad_inches=0.1)
    except ImportError as error:
        raise Stop(f"'{target}' could not be drawn ({error}): end --out in .png") from error


def _write_found(engine: "SearchEngine", found: "Found", form: str) -> None:
    """Print what was found for another program to read: names as they are, one record for each picture."""
    records = []
    for row, score, why in zip(found.indices, found.scores, engine.reasons(found, _PARTS), strict=True):
        record: dict[str, object] = {"row": int(row), "score": float(score)}
        if engine.model.names is not None:
            record["name"] = engine.model.names[int(row)]
        if engine.model.labels is not None:
            label = engine.model.labels[int(row)]
            record["label"] = label.item() if hasattr(label, "item") else label
        record["parts"] = {str(part): float(share) for part, share in zip(why.components, why.shares, strict=True)}
        records.append(record)
    if form == "json":
        # Names of bytes that are no UTF-8 are escaped, so that every console can print them.
        terms = [{"title": term.title, "row": term.row, "weight": term.weight} for term in found.terms]
        told = {"query": found.title, "terms": terms, "similar": found.similar, "space": found.space}
        print(json.dumps({**told, "offset": found.offset, "found": records}))
        return
    model = engine.model
    columns = ["row", "score"] + ["name"] * (model.names is not None) + ["label"] * (model.labels is not None)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(columns)
    for record in records:
        cells = (str(record[name]).encode("utf-8", "backslashreplace").decode("utf-8") for name in columns)
        table.writerow(cells)


def _print_found(engine: "SearchEngine", found: "Found") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    labels = engine.model.labels
    named = engine.model.names is not None
    kind = "similar" if found.similar else "dissimilar"
    skipped = f", without the first {found.offset:,}" if found.offset else ""
    title = Text(printable(f"most {kind} to {found.title}{skipped}"), style="italic")
    table = Table(box=None, pad_edge=False)
    table.add_column("row", justify="right")
    if named:
        table.add_column("name", overflow="fold")
    if labels is not None:
        table.add_column("label", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("parts in common", overflow="fold")
    for index, name, why in zip(found.indices.tolist(), found.names, engine.reasons(found, _PARTS), strict=True):
        parts = ", ".join(f"{part} ({share:.0%})" for part, share in zip(why.components, why.shares, strict=True))
        cells = [str(index)] + [name] * named + ([] if labels is None else [str(labels[index])])
        table.add_row(*(Text(printable(cell)) for cell in (*cells, f"{why.score:.3f}", parts or "none")))
    console = Console()
    if not console.is_terminal:  # a pipe or a file: do not break lines at 80 columns
        console = Console(width=200)
    console.print(title, soft_wrap=True)
    if len(found):
        console.print(table)


def transform(folder: str, source: str, out: Path | None, skip_broken: bool, force: bool) -> None:
    """Run the command."""
    import numpy as np
    from rich.console import Console

    notes = Console(stderr=True)
    target = new_file(Path("codes.npy") if out is None else out, Path("codes.npy"), force)
    kind = target.suffix.lower()
    if kind not in (".npy", ".csv"):
        raise Stop(f"'{target}' is neither a .npy nor a .csv file: end --out in one of the two")
    beside = None
    if kind == ".npy":
        names = target.with_suffix(".names.json")
        beside = new_file(names, names, force)
    engine = open_model(folder)
    with warnings_as_notes(notes):
        with refusals(), reading_bar(notes) as progress:
            pictures = engine.read(source, skip_broken=skip_broken, progress=progress)
        try:
            codes = engine.transform(pictures)
        except ValueError as error:
            raise Stop(f"'{source}' cannot be transformed: {error}") from error
    say_skipped(pictures, notes)
    facts = [
        ("codes", f"{count(len(codes), 'row')} × {codes.shape[1]} parts, {codes.dtype}"),
        ("written to", os.fspath(target)),
    ]
    with written(target, force) as file:
        if kind == ".csv":
            file.write(_table_of(codes, pictures.names).encode("utf-8", "backslashreplace"))
        else:
            np.save(file, codes, allow_pickle=False)
    if beside is not None and pictures.names is not None:
        with written(beside, force) as file:
            file.write(json.dumps(list(pictures.names)).encode() + b"\n")
        facts.append(("names", os.fspath(beside)))
    print_pairs(facts)


def _table_of(codes: "Array", names: tuple[str, ...] | None) -> str:
    """Return codes as CSV: a column for each part, and the names first where there are any."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    parts = [f"part {number}" for number in range(codes.shape[1])]
    table.writerow(parts if names is None else ["name", *parts])
    for row, code in enumerate(codes.tolist()):
        table.writerow(code if names is None else [names[row], *code])
    return text.getvalue()
