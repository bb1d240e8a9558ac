"""Passes that a device repeats: memory that takes turns, and CUDA graphs of what is queued in it.

A pass is some operations of the backend (`repeatable`), from the clearing of its sums to the row of numbers that is
sent to the host. While a `Turn` is current, an operation that is called with the very arguments of the last pass of
this turn (the same arrays, equal numbers) is put off: it returns what it returned then. If this is true of all of
them, the pass is launched as one CUDA graph, which is captured the first time. With the first operation that differs,
those before it are carried out, and the rest of the pass is queued as any other.

A graph holds addresses. So all that an operation writes has to lie where it lay in the last pass of this turn:
`empty` and `zeros` hand out memory of the turn, in the order in which it is asked for, and `scratch` memory that all
turns of a fit share, as they run on one stream. The turn keeps the arrays, and what the operations were called with,
as long as it keeps the graph. While it is captured CuPy may make no array; that, and any other exception, ends the
graphs of this fit, and its passes are queued one by one.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable
from operator import is_
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from .._typing import DType
from . import cuda

Array = Any  # cupy.ndarray
P = ParamSpec("P")
T = TypeVar("T")


class _Current(threading.local):
    """The turn that a thread is queueing a pass for."""

    turn: Turn | None = None


_current = _Current()


# ---- memory ----------------------------------------------------------------------------------------------------------


class _Memory:
    """Arrays that are handed out again in each pass, in the same order."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[Any, Any], list[Array]] = {}
        self._taken: dict[tuple[Any, Any], int] = {}

    def begin(self) -> None:
        """Begin a pass."""
        self._taken.clear()

    def taken(self, shape: Any, dtype: DType) -> Array:
        """Return the next array of this shape and type."""
        key = shape, dtype
        number, arrays = self._taken.get(key, 0), self._arrays.setdefault(key, [])
        self._taken[key] = number + 1
        if number == len(arrays):
            arrays.append(cuda.cupy().empty(shape, dtype))
        return arrays[number]


def empty(shape: Any, dtype: DType = np.float64) -> Array:
    """Return an uninitialised array: one of the current turn, which stays what it is until this turn comes again."""
    turn = _current.turn
    return cuda.cupy().empty(shape, dtype) if turn is None else turn.memory.taken(shape, dtype)


def scratch(shape: Any, dtype: DType = np.float64) -> Array:
    """Return an uninitialised array that nobody reads after the pass."""
    turn = _current.turn
    return cuda.cupy().empty(shape, dtype) if turn is None else turn.shared.scratch.taken(shape, dtype)


def zeros(shape: Any, dtype: DType = np.float64) -> Array:
    """Return an array of zeros, see `empty`."""
    turn = _current.turn
    if turn is None:
        return cuda.cupy().zeros(shape, dtype)
    made = turn.memory.taken(shape, dtype)
    made.fill(0)
    return made


# ---- operations ------------------------------------------------------------------------------------------------------


class _Call(NamedTuple):
    """An operation that a pass consists of."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    result: Any


def repeatable(operation: Callable[P, T]) -> Callable[P, T]:
    """Return an operation that a turn may repeat: it depends on its arguments only, and allocates by this module."""

    @functools.wraps(operation)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        turn = _current.turn
        if turn is None or options:
            if turn is not None:
                turn.give_up()
            return operation(*arguments, **options)
        return turn.called(operation, arguments)  # type: ignore[no-any-return]

    return call


def ended() -> None:
    """Say that all of a pass has been named: it is launched now, where it is repeated."""
    if _current.turn is not None:
        _current.turn.end()


def not_repeatable() -> None:
    """Say that an operation takes memory of its own, or does what no graph may hold: there are none for this fit."""
    if _current.turn is not None:
        _current.turn.shared.off = True


_NUMBERS = (int, float, bool, str)


def _same(arguments: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    """Whether an operation does the same with both: the arrays are the same ones, numbers and tuples of them equal."""
    if len(arguments) != len(others):
        return False
    if all(map(is_, arguments, others)):
        return True
    for a, b in zip(arguments, others, strict=True):
        if a is not b:
            kind = type(a)
            if kind is not type(b):
                return False
            if isinstance(a, tuple):
                if not _same(a, b):
                    return False
            elif kind in _NUMBERS:
                if a != b:
                    return False
            elif kind is not cuda.cupy().ndarray or _layout(a) != _layout(b):
                return False
    return True


def _layout(A: Array) -> tuple[Any, ...]:
    """Return where an array lies, and how: of two that are alive, the same for views of the same numbers only."""
    return A.data.ptr, A.dtype, A.shape, A.strides


class _Shared:
    """What the turns of a fit share."""

    def __init__(self) -> None:
        self.scratch = _Memory()
        self.off = False  # whether no graphs are made, or none any more
        self.stream: Any = None  # on which they are captured: the null stream cannot be


class Turn:
    """A context in which a pass is queued: one of those that take turns.

    Attributes
    ----------
    memory : _Memory
        What its passes write.
    shared : _Shared
        What it shares with the other turns of this fit.
    replayed : int
        How often a graph was launched.
    """

    def __init__(self, shared: _Shared):
        self.memory, self.shared, self.replayed = _Memory(), shared, 0
        self._calls: list[_Call] = []  # of the last pass
        self._graph: Any = None  # of these
        self._now: list[_Call] = []  # of the pass under way, since it has differed from the last one
        self._at = -1  # how many calls of the pass under way were those of the last one; −1: it differs from that
        self._open = False  # whether operations are those of a pass; not within one, and not when all were named

    def __enter__(self) -> Turn:
        self._before, _current.turn = _current.turn, self
        self._begin()
        self._now, self._at, self._open = [], 0, not self.shared.off
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._open and error is None:  # no numbers were sent: what comes then is not known
                self.give_up()
        finally:
            _current.turn = self._before
            if error is not None:
                self._forget()

    def called(self, operation: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Return what an operation returns; it may be carried out later, with the rest of the pass."""
        if not self._open:
            return operation(*arguments)
        at = self._at
        if at >= 0:
            if at < len(self._calls):
                call = self._calls[at]
                if call.function is operation and _same(arguments, call.arguments):
                    self._at = at + 1
                    if self._graph is None:  # from now on these are the arrays it is called with, not equal views
                        self._calls[at] = _Call(operation, arguments, call.result)
                    return call.result
            self._differs()
        self._open = False  # operations that it calls are parts of it
        result = operation(*arguments)
        self._open = True
        self._now.append(_Call(operation, arguments, result))
        return result

    def end(self) -> None:
        """Launch the pass if it is that of before; else remember it."""
        if not self._open:
            return
        if self._at == len(self._calls) and self._calls:
            self._launch()
        else:
            if self._at >= 0:
                self._differs()
            self._calls, self._now, self._graph = self._now, [], None
        self._open, self._at = False, -1

    def give_up(self) -> None:
        """Carry out what has been put off: this pass is not remembered."""
        if self._at > 0:
            self._differs()
        self._forget()

    def forget(self) -> None:
        """Release all arrays."""
        self._forget()
        self.memory = _Memory()

    def _forget(self) -> None:
        self._calls, self._now, self._graph, self._at, self._open = [], [], None, -1, False

    def _begin(self) -> None:
        self.memory.begin()
        self.shared.scratch.begin()

    def _differs(self) -> None:
        """Carry out the operations that have been put off."""
        self._now, self._at = self._calls[: self._at], -1
        self._carry_out(self._now)

    def _carry_out(self, calls: list[_Call]) -> None:
        self._begin()
        self._open = False
        for call in calls:
            call.function(*call.arguments)
        self._open = True

    def _launch(self) -> None:
        if self._graph is None and not self.shared.off:
            self._graph = self._captured()
        if self._graph is None:
            self._carry_out(self._calls)
        else:
            self._graph.launch()
            self.replayed += 1

    def _captured(self) -> Any:
        """Return a graph of the pass; None where it cannot be captured, and there are no others then."""
        xp, shared, graph = cuda.cupy(), self.shared, None
        try:
            if shared.stream is None:
                shared.stream = xp.cuda.Stream(non_blocking=True)
            with shared.stream, xp.cuda.using_allocator(_refuse):
                shared.stream.begin_capture()
                try:
                    self._carry_out(self._calls)
                finally:
                    graph = shared.stream.end_capture()
        except Exception:  # the driver, CuPy, or an operation cannot: all is queued as before
            shared.off, graph = True, None
        return graph


def _refuse(size: int) -> Any:
    raise RuntimeError(f"{size} bytes are asked for while a graph is captured, which would not keep them")


class Turns:
    """The turns of a fit, by what its passes write to.

    Its passes are queued on one stream, by one thread at a time.

    Parameters
    ----------
    graphs : bool
        Whether passes are launched as graphs. If False, only their memory takes turns. Defaults to True.
    """

    def __init__(self, graphs: bool = True) -> None:
        self._shared = _Shared()
        self._shared.off = not graphs
        self._turns: dict[Hashable, Turn] = {}

    def __call__(self, place: Hashable) -> Turn:
        """Return the turn of a pass that writes to a place."""
        turn = self._turns.get(place)
        if turn is None:
            turn = self._turns[place] = Turn(self._shared)
        return turn

    @property
    def replayed(self) -> int:
        """How many passes were launched as a graph."""
        return sum(turn.replayed for turn in self._turns.values())

    def forget(self) -> None:
        """Release all arrays, X included; there are no more graphs."""
        self._shared.off, self._shared.scratch = True, _Memory()
        for turn in self._turns.values():
            turn.forget()
