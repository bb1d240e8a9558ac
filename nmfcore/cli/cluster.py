"""``--scheduler``: a fit on the Dask cluster of a scheduler."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .common import Stop

if TYPE_CHECKING:
    from ..images import Pictures


@contextmanager
def spread(pictures: "Pictures", scheduler: str | None) -> Iterator[Any]:
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


def check_scheduler(scheduler: str | None, **others: Any) -> None:
    """Refuse what a cluster cannot do before anything is read."""
    if scheduler is None:
        return
    if not importlib.util.find_spec("distributed"):
        raise Stop("--scheduler needs Dask: pip install 'nmfcore[dask]'")
    for name, value in others.items():
        if value is not None:
            raise Stop(f"--{name} does not go with --scheduler: leave one of them out")


def here(W: Any) -> Any:
    """Return a factor that may be on a cluster as numpy's array."""
    return W.compute() if hasattr(W, "compute") else W
