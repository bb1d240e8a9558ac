"""Which worker holds which values, how they were made, and how they are made again.

Values that are lost with a worker are made again. Dask loads X again from its graph. Rows of W and of the state of the
solver are made by repeating the orders that made them, from the last copy on another worker. Every `copy_every` passes
all of them are copied, and earlier orders are deleted, here and at the scheduler.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
import itertools
import textwrap
import time
import uuid
import weakref
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..._typing import Array
from . import tasks
from .tasks import Order

FAN = 8  # sums that a task adds up
POLL = 0.5  # seconds between looks at who is still there
FETCH = 300.0  # seconds that an order, or a finished result, may take to arrive
PATIENCE = 60.0  # seconds without any worker before giving up
ANSWER = 30.0  # seconds that a scheduler may take to answer: it may be busy, or the connection be made anew
TIMEOUTS = (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError)
CANCELLED = (concurrent.futures.CancelledError, asyncio.CancelledError)
ATTEMPTS = 5  # losses in one step before giving up: something kills worker after worker


# Dask has no types.
Client: TypeAlias = Any  # distributed.Client
Future: TypeAlias = Any  # distributed.Future


class Held(NamedTuple):
    """A future and the worker that it was given to."""

    future: Future
    home: str | None


class Lost(Exception):
    """Something that was on a worker is there no more."""


class Node:
    """How row-aligned values were made: by an order, from parents. Holds no values."""

    def __init__(
        self, order: Order | None, parents: tuple[Node, ...] = (), extras: list[Any] | None = None, passes: int = 0,
        source: Callable[[int], Held] | None = None,
    ):  # fmt: skip
        self.order, self.parents, self.extras, self.passes, self.source = order, parents, extras, passes, source
        self.values: Callable[[], Values | None] = lambda: None  # a weak reference, once there are any
        self.copies: list[Held] = []
        self.copying: list[Held] = []

    def cut(self) -> None:
        """Forget how the values were made: there are copies."""
        self.order, self.parents, self.extras, self.source = None, (), None, None


class Values:
    """The values of a node on the workers, which are kept while this object exists."""

    def __init__(self, node: Node, held: list[Held]):
        self.node, self.held = node, held
        node.values = weakref.ref(self)


class Cluster:
    """The groups of blocks of one X, their homes among the workers, and the steps taken on them.

    Parameters
    ----------
    client : distributed.Client
    heights : list of tuple of int
        Rows of each block of each group.
    n_jobs : int
        Threads of a task.
    copy_every : int
        Passes between copies of the state.
    """

    def __init__(self, client: Client, heights: list[tuple[int, ...]], n_jobs: int, copy_every: int):
        self.client, self.heights, self.n_jobs, self.copy_every = client, heights, n_jobs, copy_every
        self.homes: list[str] = []
        self.chunks: list[Future] = []  # futures of X as Dask loads it
        self.failure: BaseException | None = None  # once the cluster is of no use any more
        self.closed = False
        self.checkpoint: Any = None  # where the fit is kept, to be named when nothing else is left
        self._empty_since = inf
        self._futures: weakref.WeakSet[Future] = weakref.WeakSet()  # all that were made here
        self._known: weakref.WeakSet[Values] = weakref.WeakSet()
        self._copied: Node | None = None  # whose copies are on their way
        self._name, self._number = uuid.uuid4().hex[:8], itertools.count()

    # ---- tasks

    def submit(self, what: str, function: Callable[..., object], *arguments: object, home: str | None = None) -> Future:
        """Submit a task, to one worker only if it is for a home."""
        key = f"nmfcore-{what}-{self._name}-{next(self._number)}"
        future = self.client.submit(function, *arguments, key=key, pure=False, workers=[home] if home else None)
        self._futures.add(future)
        return future

    def hand_out(self, future: Future) -> Future:
        """Return a future that `close` does not release any more."""
        self._futures.discard(future)
        return future

    def send(self, value: object, home: str | None = None) -> Future:
        """Put a value on a worker; unlike a task's, Dask cannot make it again, and forgets what depended on it."""
        key = f"nmfcore-order-{self._name}-{next(self._number)}"
        end, attempts = time.monotonic() + FETCH, 0
        while True:
            try:
                sent = self._scattered({key: value}, [home] if home else None)[key]
                self._futures.add(sent)
                return sent
            except CANCELLED:
                raise
            except Exception as error:
                self.look()  # a worker, or the scheduler, may be on its way out
                attempts += not isinstance(error, (OSError, KeyError, AttributeError, *TIMEOUTS))
                if attempts == ATTEMPTS or time.monotonic() > end:
                    said = textwrap.shorten(str(error) or repr(error), 200)
                    raise self.fail(
                        RuntimeError(
                            f"The workers at {_address(self.client)} cannot take what a pass sends them ({said}): they "
                            "need the nmfcore that is here, and your own modules if these have part in the fit."
                        )
                    ) from error
                time.sleep(POLL / 5)

    def _scattered(self, data: dict[str, object], workers: list[str] | None) -> dict[str, Future]:
        """Scatter data; if this is interrupted, what Dask goes on sending is released as soon as it has arrived."""
        loop = self.client.loop.asyncio_loop
        if not loop.is_running():
            raise OSError("the connection to the scheduler is closed")
        sending = self.client.scatter(data, workers=workers, hash=False, asynchronous=True)
        arrival = asyncio.run_coroutine_threadsafe(sending, loop)
        try:
            while not arrival.done() and loop.is_running():
                concurrent.futures.wait([arrival], timeout=POLL)
            return arrival.result(timeout=0)
        except BaseException:
            arrival.add_done_callback(_released)
            raise

    def workers(self) -> dict[str, int]:
        """Return the workers and their threads."""
        end = time.monotonic() + ANSWER
        while self.client.status in ("running", "connecting") and time.monotonic() < end:
            if self.client.status == "running":
                with contextlib.suppress(OSError, AttributeError, *TIMEOUTS):
                    return dict(self.client.nthreads())
            time.sleep(POLL / 5)
        raise self.fail(
            RuntimeError(f"The Dask scheduler at {_address(self.client)} does not answer any more: start a new one.")
        )

    def fail(self, failure: BaseException) -> BaseException:
        """Return a failure after which no further step can be taken."""
        self.failure = self.failure or failure
        return self.failure

    def look(self) -> None:
        """Raise `Lost` if a home has left the cluster, RuntimeError if there has been no worker for too long."""
        there = self.workers()
        if there:
            self._empty_since = inf
            if not set(self.homes) <= set(there):
                raise Lost
            return
        self._empty_since = min(self._empty_since, time.monotonic())
        if time.monotonic() - self._empty_since > PATIENCE:
            raise self.fail(
                RuntimeError(f"The Dask cluster at {_address(self.client)} has had no worker for {PATIENCE:g} s.")
            )

    def finished(self, future: Future) -> None:
        """Wait for a task; raise what it raised."""
        import distributed

        while future.status != "finished":
            try:
                distributed.wait([future], timeout=POLL)
            except TIMEOUTS as late:
                # It and a frame of Dask's hold each other and, through the frames, every state that a pass here knew:
                # seven passes' states stayed on the workers until the garbage collector came by.
                late.__traceback__ = None
            except CANCELLED:
                self.workers()  # raises if the scheduler does not answer either
                raise Lost from None
            if future.status == "error":
                self._raise(future)
            if future.status != "finished":
                self.look()

    def all_finished(self, futures: Sequence[Future]) -> None:
        """Wait for tasks."""
        for future in futures:
            self.finished(future)

    def _raise(self, future: Future) -> None:
        import distributed

        try:
            future.result(timeout=FETCH)
        except distributed.KilledWorker as killed:
            raise self.fail(
                RuntimeError(
                    f"Several workers died while they worked on {future.key}: out of memory? Cut X into smaller row "
                    "chunks, or give the workers more memory."
                )
            ) from killed

    def fetch(self, future: Future) -> Any:
        """Wait for a task and bring its result here."""
        self.finished(future)
        try:
            return future.result(timeout=FETCH)
        except (OSError, *TIMEOUTS, *CANCELLED):
            self.workers()
            raise Lost from None

    def safely(self, work: Callable[[], Any]) -> Any:
        """work(), again and again if what it needs was lost and could be made once more."""
        if self.failure is not None:
            raise self.failure
        for _ in range(ATTEMPTS):
            try:
                return work()
            except Lost:
                self._recover_or_wait()
        raise self.fail(
            RuntimeError(f"Workers were lost {ATTEMPTS} times in one step: something in it seems to kill them.")
        )

    # ---- steps

    def make(self, node: Node, parents: Sequence[Values]) -> Values:
        """Submit a task for every group."""
        sent = self.send(node.order)
        held = [
            self._task(node, group, sent, [parent.held[group].future for parent in parents])
            for group in range(len(self.heights))
        ]
        values = Values(node, held)
        self._known.add(values)
        return values

    def _task(self, node: Node, group: int, order: Future, parents: list[Future]) -> Held:
        extras, home = None if node.extras is None else node.extras[group], self.homes[group]
        heights, what = self.heights[group], node.order.function.__name__.strip("_") if node.order else "remade"
        return Held(self.submit(what, tasks.visit_group, order, heights, extras, *parents, home=home), home)

    def source(self, make: Callable[[int], Held]) -> Values:
        """Return values that are sent from here: make(group) puts them on the home of the group."""
        node = Node(None, source=make)
        values = Values(node, [make(group) for group in range(len(self.heights))])
        self._known.add(values)
        return values

    def total(self, values: Values) -> dict[str, Array]:
        """Return the sums of a step, of all groups."""
        size = 1 << (len(self.heights) - 1).bit_length()
        sums = self.safely(lambda: self.fetch(self._tree(values.held, 0, size)))
        # Arrays from the network need not be aligned, and scipy's lu refuses such arrays.
        return {name: np.require(part, requirements="A") for name, part in sums.items()}

    def _tree(self, held: list[Held], first: int, size: int) -> Future:
        places = _branches([h.home for h in held], first, size)
        if len(places) == 1:  # all at one home: W does not move
            group, count = places[0]
            pairs = held[group : group + count]
            return self.submit("sum", tasks.sum_of_groups, group, *(h.future for h in pairs), home=pairs[0].home)
        if len(places) > FAN:
            step = max(1, size // FAN)
            places = [(at, step) for at in range(first, min(first + size, len(held)), step)]
        return self.submit("sum", tasks.sum_of_sums, places, *(self._tree(held, *place) for place in places))

    def draw(
        self,
        function: Callable[..., Array],
        arguments: tuple[object, ...],
        rng: np.random.RandomState,
        parent: Values | None = None,
    ) -> Values:
        """Values drawn block after block from one generator, which is left as if it had drawn them all itself."""

        def chain() -> tuple[list[Held], list[list[np.random.RandomState]]]:
            held, left, last = [], [], copy.deepcopy(rng)
            for group, (heights, home) in enumerate(zip(self.heights, self.homes, strict=True)):
                parents = [parent.held[group].future] if parent else []
                task = self.submit("draw", tasks.draw, function, arguments, heights, last, *parents, home=home)
                held.append(Held(task, home))
                left.append(self.submit("generators", tasks.second, task, home=home))
                last = self.submit("generator", _last, left[-1], home=home)
            return held, [self.fetch(each) for each in left]

        held, states = self.safely(chain)
        rng.set_state(states[-1][-1].get_state())
        order = Order(tasks.drawn_again, (function, arguments), ("F",) if parent else ())
        node = Node(order, (parent.node,) if parent else (), [each[:-1] for each in states])
        values = Values(node, held)
        self._known.add(values)
        return values

    # ---- losses

    def protect(self, values: Values) -> None:
        """Every few passes, begin to copy the state to other workers; forget how it was made once that is done."""
        waiting = self._copied
        if waiting is not None and all(held.future.status == "finished" for held in waiting.copying):
            waiting.copies, waiting.copying, self._copied = waiting.copying, [], None
            waiting.cut()
        node = values.node
        if not node.passes or node.passes % self.copy_every or node.copies or node.copying:
            return
        there = self.workers()
        if len(there) < 2:  # no worker to copy to; the chain of orders must not grow without end
            node.cut()
            return
        used = dict.fromkeys(there, 0.0)
        for held in values.held:
            others = [worker for worker in there if worker != held.home]
            best = min(others, key=lambda worker: (_host(worker) == _host(held.home), used[worker], worker))
            used[best] += 1 / max(there[best], 1)
            node.copying.append(Held(self.submit("copy", tasks.without_sums, held.future, home=best), best))
        self._copied = node

    def _recover_or_wait(self) -> None:
        for _ in range(ATTEMPTS):  # a worker may die while another one's losses are made good
            try:
                return self._recover()
            except Lost:
                continue

    def _recover(self) -> None:
        """Give the blocks of lost workers other homes, and submit again what was lost with them."""
        while not (there := self.workers()):
            self.look()
            time.sleep(POLL)
        known = list(self._known)
        nodes = [values.node for values in known]
        copies = [held for node in _ancestors(nodes) for held in node.copies]
        all_held = [held for values in known for held in values.held] + copies
        asked = [held.future for held in all_held if held.future.status not in ("cancelled", "error")]
        has = {str(key): set(who) & set(there) for key, who in self.client.who_has(asked).items()} if asked else {}

        def lives(held: Held) -> bool:
            if held.future.status == "pending":
                return held.home in there
            return held.future.status == "error" or bool(has.get(str(held.future.key)))

        if self._copied is not None and not all(held.home in there for held in self._copied.copying):
            self._copied.copying, self._copied = [], None
        load = {worker: self.homes.count(worker) / max(threads, 1) for worker, threads in there.items()}
        for group, home in enumerate(self.homes):
            if home in there:
                continue
            holders = [node.copies[group].home for node in _ancestors(nodes) if node.copies]
            holders = [holder for holder in holders if holder in there]
            new = holders[0] if holders else min(load, key=lambda worker: (load[worker], worker))
            load[str(new)] += 1 / max(there[str(new)], 1)
            self.homes[group] = str(new)
        done: dict[tuple[int, int], Held] = {}
        sent: dict[int, Future] = {}
        for values in known:
            for group in range(len(self.heights)):
                self._heal(values.node, group, lives, done, sent)

    def _heal(self, node: Node, group: int, lives: Any, done: Any, sent: Any) -> Held:
        """Return the values of a node for a group, made again if they were lost."""
        at = (id(node), group)
        if at in done:
            return done[at]
        values, home = node.values(), self.homes[group]
        held = values.held[group] if values is not None else None
        if held is None or not lives(held):
            if node.copies and lives(node.copies[group]):
                held = Held(self.submit("copy", tasks.without_sums, node.copies[group].future, home=home), home)
            elif node.source is not None:
                held = node.source(group)
            elif node.order is not None:
                parents = [self._heal(parent, group, lives, done, sent).future for parent in node.parents]
                if id(node) not in sent:
                    sent[id(node)] = self.send(node.order)
                held = self._task(node, group, sent[id(node)], parents)
            else:
                raise self.fail(
                    RuntimeError(
                        f"Rows {self.rows_of(group)} of W are lost: every worker that held them after pass "
                        f"{node.passes} is gone, and {self.way_back()}"
                    )
                )
            if values is not None:
                values.held[group] = held
        done[at] = held
        return held

    def way_back(self) -> str:
        """Say what there is to go on from."""
        if self.checkpoint is None or self.checkpoint.passes is None:
            return "there is no checkpoint to go back to."
        return (
            f"the last checkpoint, '{self.checkpoint.path}', is of pass {self.checkpoint.passes}: "
            "the same call goes on from it."
        )

    def rows_of(self, group: int) -> str:
        """Say which rows a group has."""
        first = sum(map(sum, self.heights[:group]))
        return f"{first:,} … {first + sum(self.heights[group]) - 1:,}"

    def close(self) -> None:
        """Release everything on the cluster except what was handed out."""
        for future in [*self._futures, *self.chunks]:
            future.release()
        for node in _ancestors([values.node for values in self._known]):
            node.cut()
        self._known, self._copied, self.closed = weakref.WeakSet(), None, True


def _released(arrival: concurrent.futures.Future[dict[str, Future]]) -> None:
    if not arrival.cancelled() and arrival.exception() is None:
        for future in arrival.result().values():
            future.release()


def _last(states: list[np.random.RandomState]) -> np.random.RandomState:
    return states[-1]


def _branches(homes: list[str | None], first: int, size: int) -> list[tuple[int, int]]:
    """Cut groups first … first + size − 1 into the largest branches of the tree that have one home each."""
    here = homes[first : first + size]
    if not here:
        return []
    if size == 1 or len(set(here)) == 1:
        return [(first, size)]
    half = size // 2
    return _branches(homes, first, half) + _branches(homes, first + half, half)


def _ancestors(nodes: list[Node]) -> list[Node]:
    """Nodes and all that they were made from, the latest first."""
    found: dict[int, Node] = {}
    rest = list(nodes)
    while rest:
        node = rest.pop()
        if id(node) not in found:
            found[id(node)] = node
            rest += node.parents
    return sorted(found.values(), key=lambda node: -node.passes)


def _host(address: str | None) -> str:
    return str(address).rpartition(":")[0]


def _address(client: Client) -> str:
    return getattr(getattr(client, "scheduler", None), "address", "?")
