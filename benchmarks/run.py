"""Run the figures: contenders × problems, with the machine's limits beside.

python benchmarks/run.py --list
python benchmarks/run.py --data ~/data --figures iteration small
python benchmarks/run.py --smoke
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
if sys.path[0] == str(HERE):
    # as a script: make `benchmarks` importable, and keep its modules from shadowing others
    sys.path[0] = str(HERE.parent)

from threadpoolctl import threadpool_limits  # noqa: E402

from benchmarks import contenders, figures, machine, records, reference  # noqa: E402
from benchmarks.harness import Context  # noqa: E402

BAD = ("WRONG", "FAILED")


def arguments(given: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="name figures and contenders, and stop")
    parser.add_argument(
        "--reference",
        nargs="?",
        const="",
        metavar="CASE",
        help="compute the final errors that results/reference.json and ends.json lack, and stop",
    )
    parser.add_argument("--table", action="store_true", help="write figures.md from the records")
    parser.add_argument("--smoke", action="store_true", help="everything, tiny, in seconds")
    parser.add_argument("--full", action="store_true", help="the slow figures too")
    parser.add_argument("--quick", action="store_true", help="fewer starts and smaller limits, for a look")
    parser.add_argument("--figures", nargs="+", metavar="NAME", help="these only")
    parser.add_argument(
        "--only", default="", metavar="CASE", help="of quality and missing: cases whose name contains this"
    )
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="these only")
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("NMFCORE_DATA"),
        help="folder of real data (default: NMFCORE_DATA; without it, generated matrices)",
    )
    parser.add_argument("--repeats", type=int, default=5, help="turns a contender gets")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows to keep")
    parser.add_argument("--out", type=Path, help="folder of the records")
    options = parser.parse_args(given)
    for name in options.figures or ():
        if name not in figures.NAMES:
            parser.error(f"no figure named {name!r}; there are {', '.join(figures.NAMES)}")
    if options.data is not None and not Path(options.data).is_dir():
        parser.error(f"--data: no folder {options.data}")
    return options


def main(given: list[str] | None = None) -> int:
    """Run; return 1 when an answer was wrong or a contender or a figure failed, else 0."""
    options = arguments(given)
    sys.stdout.reconfigure(line_buffering=True)  # keeps its place among the progress lines
    about = {name: figures.find(name).ABOUT for name in figures.NAMES}
    found = contenders.discover()
    if options.list:
        for name, sentence in about.items():
            print(f"{name}: {sentence}")
        for name, contender in found.items():
            print(f"contender {name}: {contender.unavailable() or 'available'}")
        return 0
    out = options.out or HERE / "results"
    if options.table:
        for name in about:
            path = out / f"{name}.jsonl"
            _draw(figures.find(name), records.published(path) if path.exists() else [], out, [])
        page = records.report(out, about, {name: getattr(figures.find(name), "PLOTS", ()) for name in about})
        (out / "figures.md").write_text(page, encoding="utf-8")
        print(page)
        return 0
    if options.reference is not None:
        if options.data is None:
            print("--reference needs the data (--data or NMFCORE_DATA)")
            return 2
        with threadpool_limits(options.threads):
            done = reference.compute(Path(options.data), out, options.reference)
        print(f"{done} computed; {out / reference.PATH.name}, {out / reference.ENDS_PATH.name}")
        return 0
    if options.contenders:
        unknown = set(options.contenders) - set(found)
        if unknown:
            print(f"no contender named {', '.join(unknown)}; there are {', '.join(found)}")
            return 2
        found = {name: found[name] for name in found if name in options.contenders}
    if options.smoke and options.out is None:
        out = Path(tempfile.mkdtemp(prefix="nmfcore-smoke-"))  # tiny numbers are not results
    with threadpool_limits(options.threads):
        return _run(options, found, about, out)


def _run(
    options: argparse.Namespace,
    found: dict[str, contenders.Contender],
    about: dict[str, str],
    out: Path,
) -> int:
    limits = machine.Limits(options.threads, small=options.smoke)
    context = Context(
        folder=Path(options.data) if options.data else None,
        contenders=found,
        limits=limits,
        repeats=2 if options.smoke else options.repeats,
        threads=options.threads,
        smoke=options.smoke,
        full=options.full,
        scale=options.scale,
        quick=options.quick,
        only=options.only,
        out=out,
    )
    facts = machine.describe([contender.package for contender in found.values()])
    facts.update(threads=options.threads, smoke=options.smoke, scale=options.scale, quick=options.quick)
    print(f"{facts['machine']['cpu']}, {options.threads} threads; commit {facts['commit']}")
    print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    if context.folder is None and not options.smoke:
        print("no data folder (--data or NMFCORE_DATA): generated matrices stand in, and say so")
    if "OPENBLAS_CORETYPE" in os.environ:
        print(
            f"OPENBLAS_CORETYPE={os.environ['OPENBLAS_CORETYPE']} is set, and may slow numpy and scikit-learn down: "
            "unset it, and OPENBLAS_L2_SIZE, for figures that count"
        )
    print(records.limits_line(limits.measure()))

    failed = []
    for name in options.figures or figures.NAMES:
        figure = figures.find(name)
        slow = getattr(figure, "FULL_ONLY", False)
        if slow and not (options.full or options.figures or options.smoke):
            print(f"\n## {name}: left out, it is slow; --full or --figures {name} runs it")
            continue
        print(f"\n## {name}\n" + ("" if options.smoke else f"\n{about[name]}\n"))
        start, rows = time.perf_counter(), []
        try:
            for batch in figure.run(context):
                for row in batch:
                    rows.append({"figure": name, **row, **facts})
                    print(records.sentence(row), file=sys.stderr)  # progress; the table follows
        except Exception:  # one broken figure must not cost the others their results
            traceback.print_exc()
            failed.append(f"{name} raised")
        if rows:
            records.append(out / f"{name}.jsonl", rows)
            _draw(figure, rows, out, failed)
            seconds = time.perf_counter() - start
            print(f"{seconds:.0f} s" if options.smoke else f"{records.table(rows)}\n\n{seconds:.0f} s")
        failed += [f"{name}: {records.sentence(r)}" for r in rows if r["status"] in BAD]
    print(f"\nrecords: {out}")
    if failed:
        print("\nFAILED\n" + "\n".join(failed))
    return 1 if failed else 0


def _draw(figure: ModuleType, rows: list[records.Row], folder: Path, failed: list[str]) -> None:
    """Draw the figure's plots of these rows, if it has any."""
    if not rows or not hasattr(figure, "draw"):
        return
    try:
        for path in figure.draw(rows, folder):
            print(f"drawn: {path}")
    except ImportError as error:
        print(f"not drawn: {error}")  # the records are there; --table draws them elsewhere
    except Exception:
        traceback.print_exc()
        failed.append(f"drawing {figure.__name__} raised")


if __name__ == "__main__":
    sys.exit(main())
