"""Parts of `benchmarks/device.py`, the script for a card that is there for minutes only.

A phase is a list of cases, each a function that yields rows. A row is written to the folder ``--out`` the moment it is
made; a case that raises becomes a row that says so, and the next one begins.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import records

Row = dict[str, Any]
ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "benchmarks" / "goldens"
# After one of these nothing works in the process any more: the rest of its cases is run by a new one.
LOST = ("IllegalAddress", "ILLEGAL_ADDRESS", "LaunchFail", "LAUNCH_FAILED", "Misaligned", "MISALIGNED", "IllegalInstr",
        "ILLEGAL_INSTRUCTION", "HardwareStack", "LaunchTimeout", "LAUNCH_TIMEOUT", "ECCUncorrectable")  # fmt: skip


class Case(NamedTuple):
    """Something to run: its name, and a function that yields rows, or returns one."""

    name: str
    run: Callable[[], Iterable[Row] | Row | None]


class Recorder:
    """Rows of one phase, each appended to ``rows.jsonl`` and on the disk before the next is made."""

    def __init__(self, out: Path, phase: str):
        out.mkdir(parents=True, exist_ok=True)
        self.path, self.phase, self.begun = out / "rows.jsonl", phase, time.perf_counter()

    def row(self, case: str, status: str = "ok", **more: Any) -> Row:
        """Write a row, in one piece: processes beside this one append to the same file."""
        at = round(time.perf_counter() - self.begun, 3)
        made = {"phase": self.phase, "case": case, "status": status, "at_s": at} | more
        line = json.dumps(records._plain(made), ensure_ascii=False) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return made

    def run(self, cases: list[Case], after: int = 0) -> None:
        """Run cases one after another, the first `after` of them left out; an exception is a row."""
        for number, case in enumerate(cases):
            if number < after:
                continue
            begun = time.perf_counter()
            try:
                made = case.run()
                for row in [made] if isinstance(made, dict) else made or ():
                    self.row(**({"case": case.name} | row))
            except Exception as error:
                self.row(case.name, "failed", why=said(error), took_s=time.perf_counter() - begun, where=place(error))
                if any(name in f"{type(error).__name__}: {error}" for name in LOST):
                    self._begin_anew(number + 1)

    def _begin_anew(self, after: int) -> None:
        arguments = [a for a in sys.argv if not a.startswith("--after")]
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *arguments, f"--after={after}"])


def said(error: BaseException) -> str:
    """Return an exception on one line of 300 characters at most."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def place(error: BaseException) -> str:
    """Return the last lines of code that an exception came through."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))


def rows_of(out: Path) -> Iterator[Row]:
    """Yield the rows that a folder holds; a line that was cut off is left out."""
    path = out / "rows.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


# ---- the card, or what stands for it ---------------------------------------------------------------------------------


class _Lasting:
    """As much of pytest's monkeypatch as `fake_cupy.install` calls; nothing is undone, the process ends."""

    setattr = staticmethod(setattr)

    @staticmethod
    def setitem(mapping: dict[Any, Any], key: Any, value: Any) -> None:
        mapping[key] = value


def stand_in() -> None:
    """Put the stand-in of the tests where ``import cupy`` finds it: kernels run on the host from now on."""
    sys.path.insert(0, str(ROOT / "tests"))
    from cuda_emulator import fake_cupy, module

    reason = module.unavailable()
    if reason:
        raise RuntimeError(reason)
    fake_cupy.install(_Lasting())


class Clock:
    """Times of work on the device, on a stream of its own.

    Parameters
    ----------
    smoke : bool
        One launch instead of twenty: the numbers mean nothing.
    """

    def __init__(self, smoke: bool = False):
        from nmfcore.backends import cuda

        self.xp = cuda.cupy()
        self.repeats, self.warm = (1, 1) if smoke else (20, 3)
        self.stream = self.xp.cuda.Stream(non_blocking=True)

    def __call__(self, *work: Callable[[], Any], graph: bool = True) -> Row:
        """Measure a call; of several, which take turns, the mean: they may do the same with other memory.

        Returns
        -------
        row : dict
            ``graph_us``: a call's time on the device, from the replay of a graph of many (None: it cannot be captured,
            and ``graph_why`` says why). ``plain_us``: the same from events around plain calls, which is the longer of
            the device's time and the host's. ``host_us``: how long the host takes to queue one.
        """
        cuda, repeats = self.xp.cuda, self.repeats
        self.xp.cuda.runtime.deviceSynchronize()
        begin, end = cuda.Event(), cuda.Event()
        with self.stream:
            for number in range(max(self.warm, len(work))):
                work[number % len(work)]()
            self.stream.synchronize()
            begin.record(self.stream)
            start = time.perf_counter()
            for number in range(repeats):
                work[number % len(work)]()
            host = time.perf_counter() - start
            end.record(self.stream)
            end.synchronize()
            row = {"graph_us": None, "plain_us": 1e3 * cuda.get_elapsed_time(begin, end) / repeats,
                   "host_us": 1e6 * host / repeats}  # fmt: skip
            if graph:
                try:
                    row["graph_us"] = self._replayed(work)
                except Exception as error:
                    row["graph_why"] = said(error)
        self.xp.cuda.runtime.deviceSynchronize()
        return row

    def _replayed(self, work: tuple[Callable[[], Any], ...]) -> float:
        from nmfcore.backends.cuda_graphs import Turns

        cuda, repeats, turns = self.xp.cuda, self.repeats, Turns(graphs=False)  # these keep what the graph writes

        def calls(count: int) -> None:
            for number in range(count):
                with turns(number % len(work)):
                    work[number % len(work)]()

        calls(len(work))
        self.stream.begin_capture()
        try:
            calls(repeats)
        finally:
            captured = self.stream.end_capture()
        begin, end = cuda.Event(), cuda.Event()
        captured.launch(self.stream)
        begin.record(self.stream)
        captured.launch(self.stream)
        captured.launch(self.stream)
        end.record(self.stream)
        end.synchronize()
        return 1e3 * cuda.get_elapsed_time(begin, end) / (2 * repeats)

    def host(self, work: Callable[[], Any], repeats: int = 200) -> float:
        """Return the host's microseconds for a call, the device not waited for; the least of three runs."""
        repeats = 1 if self.repeats == 1 else repeats
        work()
        found = []
        for _ in range(1 if self.repeats == 1 else 3):
            self.xp.cuda.runtime.deviceSynchronize()
            start = time.perf_counter()
            for _ in range(repeats):
                work()
            found.append((time.perf_counter() - start) / repeats)
        self.xp.cuda.runtime.deviceSynchronize()
        return 1e6 * min(found)

    def whole(self, work: Callable[[], Any], repeats: int = 3) -> tuple[float, float]:
        """Return seconds of the first call and the median of the next, the device waited for."""
        found = []
        for _ in range(2 if self.repeats == 1 else 1 + repeats):
            self.xp.cuda.runtime.deviceSynchronize()
            start = time.perf_counter()
            work()
            self.xp.cuda.runtime.deviceSynchronize()
            found.append(time.perf_counter() - start)
        later = sorted(found[1:])
        return found[0], later[len(later) // 2]
