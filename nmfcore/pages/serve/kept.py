"""What the search page remembers between requests: pictures that were sent, and results that take long."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from ..._typing import Array

T = TypeVar("T")

__all__ = ["KEPT", "Results", "Upload", "Uploads"]

KEPT = 64  # pictures that were sent


@dataclass(frozen=True, eq=False)
class Upload:
    """A picture that was sent.

    Attributes
    ----------
    pixels : ndarray of shape (n_features,)
        The picture as a row of the model; a masked array where pixels of it are masked.
    png : bytes
        The picture as it is shown.
    """

    pixels: Array
    png: bytes


class Uploads:
    """The last pictures that were sent, each under a mark that cannot be guessed.

    So an address can name a picture that is not in the model, and Back returns to it.

    Parameters
    ----------
    most : int
        How many are kept; the oldest go first.
    """

    def __init__(self, most: int = KEPT):
        self._most = most
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, upload: Upload) -> str:
        """Keep a picture.

        Parameters
        ----------
        upload : Upload

        Returns
        -------
        str
            Its mark.
        """
        token = f"u{secrets.token_hex(16)}"
        with self._lock:
            self._kept[token] = upload
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return token

    def get(self, token: str) -> Upload | None:
        """Return a picture by its mark.

        Parameters
        ----------
        token : str
            The mark.

        Returns
        -------
        Upload or None
            None where it is no longer kept.
        """
        with self._lock:
            if token in self._kept:
                self._kept.move_to_end(token)
            return self._kept.get(token)


class Results:
    """Results that are made once, in threads that the process does not wait for when it ends.

    Of each kind one is made at a time. Nothing is ever forgotten, so there must be few keys.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: dict[Hashable, Future[object]] = {}
        self._turns: dict[str, threading.Lock] = {}

    def get(self, kind: str, key: Hashable, make: Callable[[], T], seconds: float) -> T | None:
        """Return a result, making it at its first use.

        Parameters
        ----------
        kind : str
            Of each kind one result is made at a time.
        key : hashable
            What the result of this kind is called.
        make : callable()
            Makes it.
        seconds : float
            How long to wait for it.

        Returns
        -------
        object or None
            None where it is still being made. What `make` raises is raised here, and the next call tries again.
        """
        with self._lock:
            future = self._futures.get((kind, key))
            if future is None:
                future = self._futures[kind, key] = Future()
                turn = self._turns.setdefault(kind, threading.Lock())
                work = threading.Thread(target=_work, args=(future, make, turn), name=f"nmfcore-{kind}", daemon=True)
                work.start()
        try:
            return cast(T, future.result(timeout=seconds))
        except TimeoutError:
            if not future.done():
                return None
            self._forget(kind, key)
            raise
        except BaseException:
            self._forget(kind, key)
            raise

    def _forget(self, kind: str, key: Hashable) -> None:
        with self._lock:
            self._futures.pop((kind, key), None)


def _work(future: Future[object], make: Callable[[], object], turn: threading.Lock) -> None:
    with turn:
        try:
            future.set_result(make())
        except BaseException as error:
            future.set_exception(error)
