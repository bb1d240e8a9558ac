"""What Python takes of a pass where the launches do nothing: solver, rows and backend, without CuPy and a card.

numpy's arrays stand for CuPy's, which cost some tenths of a microsecond more each. The numbers that are sent are ones,
so that a pass of every solver is an ordinary one: accepted, with no component dead.
"""

from __future__ import annotations

import contextlib
import statistics
import time
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

from . import Row

SHAPE, K = (256, 64), 15
SOLVERS = {"hals": ("hals", 2), "cd": ("cd", 2), "mu": ("mu", 2), "mu KL": ("mu", 1)}


class Idle(types.ModuleType):
    """As much of CuPy as a pass calls."""

    def __init__(self) -> None:
        super().__init__("cupy")
        self.made: dict[Any, np.ndarray] = {}
        nothing = types.SimpleNamespace(synchronize=lambda: None, record=lambda: None)
        self.ndarray = OnDevice
        self.cuda = types.SimpleNamespace(
            Stream=Quiet, using_allocator=lambda allocator: contextlib.nullcontext(),
            runtime=types.SimpleNamespace(getDevice=lambda: 0), get_current_stream=lambda: nothing,
            Event=lambda **options: nothing,
            Device=lambda number=0: types.SimpleNamespace(id=number, compute_capability="90"),
        )  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = float) -> np.ndarray:
        """Return an array, the same one each time; what it holds is never looked at."""
        made = self.made.get((shape, dtype))
        if made is None:
            made = self.made[shape, dtype] = np.ndarray.__new__(OnDevice, shape, dtype)
        return made

    zeros = empty

    def RawModule(self, **text: Any) -> Any:
        """Return a module whose kernels do nothing."""
        return types.SimpleNamespace(get_function=lambda name: _nothing)

    def asnumpy(self, array: Any) -> np.ndarray:
        """Return what says that the first pass has moved (its stats), and that no component is dead (what follows)."""
        read = np.zeros(array.shape, array.dtype)
        read[:7] = 1
        return read


class Quiet(contextlib.AbstractContextManager["Quiet"]):
    """A stream, and the graph that is captured on it."""

    def __init__(self, non_blocking: bool = False) -> None:
        self.launched = 0

    def begin_capture(self) -> None:
        """Begin a graph."""

    def end_capture(self) -> Any:
        """Return a graph."""
        return self

    def launch(self) -> None:
        """Do nothing."""
        self.launched += 1

    def __exit__(self, *stopped: object) -> None:
        pass


class OnDevice(np.ndarray):
    """An array that holds ones when it is copied to the host."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        """Where it lies."""
        return types.SimpleNamespace(ptr=self.ctypes.data)

    def get(self, out: np.ndarray, blocking: bool) -> None:
        """Write ones."""
        out[...] = 1.0


def _nothing(grid: Any, block: Any, arguments: Any, shared_mem: int = 0) -> None:
    pass


@contextlib.contextmanager
def nothing_done() -> Iterator[None]:
    """Let launches, reads and array operations of CuPy do nothing."""
    from nmfcore.backends import cuda, cuda_ops
    from nmfcore.solvers import accelerated_hals

    kept = [each for each in vars(cuda_ops).values() if hasattr(each, "cache_clear")]
    idle = Idle()
    try:
        for each in kept:
            each.cache_clear()
        with (
            mock.patch.object(cuda, "cupy", lambda: idle),
            mock.patch.object(cuda, "empty_pinned", np.empty),
            mock.patch.object(accelerated_hals, "CACHED", 0),  # else an iteration makes several passes from 100 on
            np.errstate(all="ignore"),
        ):
            yield
    finally:
        for each in kept:
            each.cache_clear()


def python_of_passes(passes: int = 100, repeats: int = 15) -> Iterator[Row]:
    """Time the passes of each solver, in turn: what the shortest of some runs takes, and the median of them."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in SOLVERS}
    with nothing_done():
        for _ in range(repeats):
            for name, (solver, beta) in SOLVERS.items():
                took[name].append(run(solver, beta, passes))
    for name, each in took.items():
        least, median = (
            1e6 * (of(longer for _, longer in each) - of(shorter for shorter, _ in each)) / passes
            for of in (min, statistics.median)
        )
        yield {"case": f"Python of a pass, {name}", "host_us": least, "median_us": median}


def run(name: str, beta: float, passes: int, clock: Callable[[], float] = time.process_time) -> tuple[float, float]:
    """Return how much `clock` goes on in fits of 40 passes, and of so many more, as the loop makes them.

    The default clock is the processor's time of this process, from which what else the machine does is left out.
    """
    from nmfcore.loop.session import Limits
    from nmfcore.loop.solve import factorize
    from nmfcore.objective import UNPENALISED
    from nmfcore.rows.device import DeviceRows
    from nmfcore.rows.summary import Summary
    from nmfcore.solvers import make_solver

    n, m = SHAPE
    data = DeviceRows(np.ones(SHAPE, np.float32), np.float32)
    data.streamed = False  # the numpy array stands for one on the device
    data._summary = Summary(1.0, True, float(n * m), 1e9, 1.0)
    settings = {"beta": beta} if name == "mu" else {}
    solver = make_solver(name, UNPENALISED, **settings)
    taken = []
    for most in (40, 40 + passes):
        W, Ht = np.ones((n, K), np.float32), np.ones((m, K), np.float32)
        start = clock()
        made = factorize(data, solver, W, Ht, Limits(0, most), measure=False)
        taken.append(clock() - start)
        if made.n_iter != most or made.interruption is not None:
            raise RuntimeError(f"{made.n_iter} passes of {most} were made: {made.interruption}")
    return taken[0], taken[1]


if __name__ == "__main__":  # python -m benchmarks.card.idle
    for row in python_of_passes():
        print(*row.values())
