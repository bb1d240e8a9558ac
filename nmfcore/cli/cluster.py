"""``--scheduler``: a fit on the Dask cluster of a scheduler."""

import importlib.util
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .common import Stop

if TYPE_CHECKING:
    import numpy as np

    from .._typing import Matrix
    from ..images import Pictures


_SECONDS = 5  # that a scheduler has to answer in


@contextmanager
def spread(pictures: "Pictures", scheduler: str | None) -> "Iterator[Matrix]":
    """Give the matrix as it is, or on the cluster of a scheduler."""
    if scheduler is None:
        yield pictures.matrix
        return
    from ..rows.cluster import on_cluster

    try:
        with on_cluster(pictures.matrix, scheduler) as there:
            yield there
    except (ConnectionError, RuntimeError) as error:
        raise Stop(str(error)) from error


def check_scheduler(scheduler: str | None, **others: object) -> None:
    """Refuse what a cluster cannot do, and an address where nothing listens, before anything is read."""
    if scheduler is None:
        return
    if not importlib.util.find_spec("distributed"):
        raise Stop("--scheduler needs Dask: pip install 'nmfcore[dask]'")
    for name, value in others.items():
        if value is not None:
            raise Stop(f"--{name} does not go with --scheduler: leave one of them out")
    try:
        address = urlsplit(scheduler if "://" in scheduler else f"tcp://{scheduler}")
        host, port = address.hostname, address.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise Stop(f"--scheduler {scheduler!r} is no address: give one like tcp://127.0.0.1:8786")
    if address.scheme not in ("tcp", "tls"):
        return
    try:
        socket.create_connection((host, port), timeout=_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise Stop(
            f"no Dask scheduler answers at '{scheduler}' ({reason}): start one with 'dask scheduler' and give the "
            "address that it prints"
        ) from error


def as_numpy(W: "Matrix") -> "np.ndarray":
    """Return a factor that may be on a cluster as numpy's array."""
    return W.compute() if hasattr(W, "compute") else W
