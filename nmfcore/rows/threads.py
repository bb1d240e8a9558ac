"""The thread pool that all fits of a process share, and how many of its threads a fit may use."""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .. import _compat

_pool: ThreadPoolExecutor | None = None
_making = threading.Lock()


def _forget_pool() -> None:
    global _pool, _making
    _pool, _making = None, threading.Lock()


if hasattr(os, "register_at_fork"):  # a child has no threads; its first visit makes its own pool
    os.register_at_fork(after_in_child=_forget_pool)


def _shared_pool() -> ThreadPoolExecutor:
    """Return the pool of the process, which concurrent fits share. Its tasks never wait for one another."""
    global _pool
    with _making:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(32, os.cpu_count() or 1), thread_name_prefix="nmfcore")
        return _pool


def run_all(task: Callable[[int], None], count: int, threads: int) -> None:
    """Run task(0) … task(count − 1), by the calling thread and up to threads − 1 threads of the pool.

    After an exception, KeyboardInterrupt in the calling thread included, no further task begins, those under way are
    awaited, and the first exception is raised. Where no thread can be had (a limit of the system; the main thread has
    ended), the calling thread does all the work.
    """
    if threads <= 1 or count <= 1:
        for i in range(count):
            task(i)
        return
    numbers = itertools.count()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for i in numbers:
                if i >= count or failures:
                    return
                task(i)
        except BaseException as failure:
            failures.append(failure)

    # Not by futures: `submit` may queue a helper, and fail to start a thread for it; that helper may still run later.
    change, open_, busy = threading.Condition(), [work], 0

    def helper() -> None:
        nonlocal busy
        with change:
            if not open_:  # the pool serves other fits, too: this one has been done without it
                return
            task, busy = open_[0], busy + 1
        try:
            task()
        finally:
            with change:
                busy -= 1
                change.notify_all()

    try:
        try:
            for _ in range(min(threads, count) - 1):
                _shared_pool().submit(helper)
        except RuntimeError:  # no new thread can be started
            pass
        work()
    except BaseException as failure:  # Ctrl-C outside of `work`
        failures.append(failure)
    while True:
        try:
            with change:
                open_.clear()
                while busy:
                    change.wait()
            break
        except BaseException as failure:  # Ctrl-C while waiting: helpers may still write to the buffers
            failures.append(failure)
    try:
        if failures:
            raise failures[0]
    finally:
        failures.clear()  # else this frame, which is in its traceback, and an exception would hold each other


@functools.cache
def _blas() -> Any:
    import threadpoolctl

    return threadpoolctl.ThreadpoolController().select(user_api="blas")


def effective_threads(n_jobs: int | None) -> int:
    """Return the number of threads that a fit may use.

    None means the smallest of: joblib's count of processors, which respects affinity and containers; the limits of BLAS
    that are in force (threadpoolctl); those of OMP and Numba in the environment; an active ``joblib.parallel_config``.
    −1 means all processors.
    """
    if n_jobs == 0:
        msg = "n_jobs = 0 has no meaning: give a number of threads, -1 for all processors, or None."
        raise ValueError(msg)
    try:
        import joblib
    except RuntimeError:  # once the main thread has ended it cannot be imported any more, nor can a thread be started
        return 1
    processors = joblib.cpu_count()
    if n_jobs is not None:
        return n_jobs if n_jobs > 0 else max(1, processors + 1 + n_jobs)
    limits = [processors]
    limits += [library.num_threads for library in _blas().lib_controllers]
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0]
        if value.isdigit() and int(value) > 0:
            limits.append(int(value))
    workers = _compat.joblib_workers()
    if workers is not None:
        limits.append(workers)
    return max(1, min(limits))
