"""The data the benchmarks run on: one function a problem, and nothing else to register.

A problem is a function ``folder -> X`` under the decorator :func:`problem`. ``folder`` is the data
folder (``--data`` or ``NMFCORE_DATA``), laid out as ``mnist/``, ``cats64/``, ``faces/``, ``text/``,
``audio/``; it is None when there is none. A problem whose files are missing raises :class:`FileNotFoundError`
and its ``stand_in``, generated with the same shape and type, takes its place. The records say so.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True)
class Problem:
    """A non-negative matrix and where it comes from.

    Attributes
    ----------
    name : str
        Name with what was done to it, such as ``mnist[:7000]``.
    X : ndarray or sparse matrix, shape (n_samples, n_features)
        The data, read-only where numpy can say so.
    generated : bool
        True when the numbers were drawn, because the real files are not there or by design.
    """

    name: str
    X: Any = field(repr=False)
    generated: bool

    @property
    def stands_in(self) -> bool:
        """Whether the numbers were drawn because the real files are not there."""
        return self.generated and not self.name.startswith("random")

    @property
    def sparse(self) -> bool:
        return sp.issparse(self.X)

    def describe(self) -> dict[str, Any]:
        """Return what a record says of the problem."""
        facts = {
            "name": self.name,
            "shape": list(self.X.shape),
            "dtype": str(self.X.dtype),
            "generated": self.generated,
        }
        if self.sparse:
            facts["nnz"] = int(self.X.nnz)
            facts["format"] = self.X.format
        return facts


@dataclass(frozen=True)
class _Entry:
    read: Callable[[Path], Any]
    stand_in: Callable[[], Any] | None


PROBLEMS: dict[str, _Entry] = {}


def problem(name: str, stand_in: Callable[[], Any] | None = None):
    """Register the decorated reader under `name`.

    Parameters
    ----------
    name : str
        The name figures ask for.
    stand_in : callable, optional
        Makes generated data of the same shape and type when the files are missing. Without one
        the reader needs no files; its data count as generated if the name starts with "random".
    """

    def register(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
        PROBLEMS[name] = _Entry(read, stand_in)
        return read

    return register


def load(name: str, folder: Path | None, dtype: Any = None, rows: int | None = None) -> Problem:
    """Return a problem, by name, in the wanted storage type.

    Parameters
    ----------
    name : str
        A key of ``PROBLEMS``.
    folder : Path or None
        The data folder.
    dtype : numpy dtype, optional
        Storage type; the problem's own by default.
    rows : int, optional
        Keep the first `rows` rows only; the name then shows it.
    """
    X, generated = _read(name, folder)
    if rows is not None and rows < X.shape[0]:
        X, name = X[:rows], f"{name}[:{rows}]"
    if dtype is not None and X.dtype != np.dtype(dtype):
        X = X.astype(dtype)
    if isinstance(X, np.ndarray):
        X = X.view()
        X.flags.writeable = False
    return Problem(name, X, generated)


def shifted(original: Problem, offset: float) -> Problem:
    """Return the problem with `offset` added, for losses that forbid zeros (beta <= 0)."""
    X = original.X + np.asarray(offset, dtype=original.X.dtype)
    X.flags.writeable = False
    return replace(original, name=f"{original.name}+{offset:g}", X=X)


@lru_cache(maxsize=2)  # MNIST is 55 MB and takes 0.4 s to unzip; figures ask for it in several types
def _read(name: str, folder: Path | None) -> tuple[Any, bool]:
    try:
        entry = PROBLEMS[name]
    except KeyError:
        raise ValueError(f"no problem named {name!r}; there are {sorted(PROBLEMS)}") from None
    if entry.stand_in is None:
        return entry.read(folder or Path()), name.startswith("random")
    if folder is not None:
        try:
            return entry.read(folder), False
        except FileNotFoundError:
            pass
    return entry.stand_in(), True


def cache_folder() -> Path:
    """Return a folder outside the repository for decoded copies of the data."""
    named = os.environ.get("NMFCORE_BENCH_CACHE")
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(named) if named else Path(tempfile.gettempdir()) / f"nmfcore-benchmarks-{user}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def as_npy(source: Problem) -> Path:
    """Write a dense problem as .npy into the cache folder (once) and return the path."""
    digest = hashlib.sha256(source.X[:: max(1, len(source.X) // 64)].tobytes()).hexdigest()[:12]
    shape = "x".join(map(str, source.X.shape))
    path = cache_folder() / f"{digest}-{shape}-{source.X.dtype}.npy"
    if not path.exists():
        _save(path, source.X)
    return path


def _save(path: Path, X: np.ndarray) -> None:
    """Write beside and rename, so that two runs at once never read half a file."""
    beside = path.with_name(f"{path.stem}.{os.getpid()}.npy")
    np.save(beside, X)
    beside.replace(path)


# ---- generated data ----------------------------------------------------------------------------


def pictures(n: int, m: int, zeros: float, parts: int = 30, seed: int = 0) -> np.ndarray:
    """Return n×m uint8 "pictures": sums of a few smooth parts, with about that share of zeros."""
    rng = np.random.default_rng(seed)
    position = np.arange(m, dtype=np.float32)
    centre = rng.uniform(0, m, (parts, 1)).astype(np.float32)
    width = rng.uniform(0.02, 0.08, (parts, 1)).astype(np.float32) * m
    H = np.exp(-(((position - centre) / width) ** 2), dtype=np.float32)  # parts×m
    X = np.empty((n, m), dtype=np.uint8)
    cut = None
    for top in range(0, n, 4096):
        rows = min(4096, n - top)
        W = rng.gamma(0.5, 1.0, (rows, parts)).astype(np.float32)
        W *= rng.random((rows, parts), dtype=np.float32) < 0.3
        V = W @ H + 0.02 * rng.random((rows, m), dtype=np.float32)
        if cut is None:  # one threshold for all rows, from the first block
            cut = float(np.quantile(V, zeros)) if zeros else 0.0
            scale = 255.0 / float(np.quantile(V, 0.999) - cut)
        X[top : top + rows] = np.clip((V - cut) * scale, 0, 255)
    return X


def counts(n: int, m: int, nnz: int, seed: int = 0) -> sp.csr_matrix:
    """Return n×m term counts in CSR with about `nnz` entries and a long-tailed vocabulary."""
    rng = np.random.default_rng(seed)
    popularity = 1.0 / np.arange(10, m + 10)
    columns = rng.choice(m, size=nnz, p=popularity / popularity.sum())
    rows = rng.integers(0, n, size=nnz)
    X = sp.csr_matrix((np.ones(nnz), (rows, columns)), shape=(n, m))
    X.sum_duplicates()
    return X


def spectra(n: int, channels: int, noise: float, k: int = 10, seed: int = 0) -> np.ndarray:
    """Return n mixtures of k Gaussians that overlap much, float64.

    Widths are 0.15 on the unit interval, the weights of a row come from a flat Dirichlet law, and `noise` is the
    standard deviation of what is added before clipping at 0, in units of the root mean square: close to the relative
    error of the best fit.
    """
    rng = np.random.default_rng(seed)
    axis, centres = np.linspace(0, 1, channels), np.linspace(0, 1, k)[:, None]
    W, H = rng.dirichlet(np.ones(k), n), np.exp(-0.5 * ((axis - centres) / 0.15) ** 2).round(12)
    # The same bits on every processor: a matrix product, exp and mean round otherwise on some.
    X = np.zeros((n, channels))
    for j in range(k):
        X += W[:, j, None] * H[j]
    X += noise * np.sqrt(np.mean(X**2)).round(12) * rng.standard_normal(X.shape)
    return np.maximum(X, 0, out=X)


def topics(n: int, m: int, stored: float, k: int = 30, seed: int = 0) -> sp.csr_matrix:
    """Return n×m Poisson counts of k planted topics in CSR, a share `stored` of them not zero."""
    rng = np.random.default_rng(seed)
    H = rng.gamma(0.1, 1.0, (k, m)) / np.arange(10, m + 10)  # few words a topic, a long-tailed vocabulary
    H /= H.sum(axis=1, keepdims=True)
    W = rng.dirichlet(np.full(k, 0.1), n) * rng.lognormal(0.0, 0.5, (n, 1))
    sample = W[:200] @ H
    low, high = 1.0, 1e9  # words in a document of length 1
    for _ in range(60):
        length = np.sqrt(low * high)
        low, high = (length, high) if np.mean(-np.expm1(-length * sample)) < stored else (low, length)
    blocks = [sp.csr_matrix(rng.poisson(low * (W[top : top + 256] @ H)).astype(np.float64)) for top in range(0, n, 256)]
    return sp.vstack(blocks, format="csr")


# ---- the problems ------------------------------------------------------------------------------


def _idx(path: Path) -> np.ndarray:
    """Read an IDX3 file of pictures (gzip) as rows of uint8."""
    with gzip.open(path) as stream:
        magic, n, height, width = struct.unpack(">4i", stream.read(16))
        if magic != 2051:
            raise ValueError(f"{path} is not an IDX file of pictures: magic number {magic}")
        return np.frombuffer(stream.read(), dtype=np.uint8).reshape(n, height * width)


@problem("mnist", stand_in=lambda: pictures(70_000, 784, zeros=0.81))
def mnist(folder: Path) -> np.ndarray:
    """MNIST, train and test together, raw 0-255 pixels: 70,000×784 uint8."""
    names = ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz")
    return np.concatenate([_idx(folder / "mnist" / name) for name in names])


@problem("cats", stand_in=lambda: pictures(6_000, 4_096, zeros=0.0, parts=60))
def cats(folder: Path) -> np.ndarray:
    """Cat faces, 64×64, grey: 6,000×4,096 uint8. Decoded once, kept in the cache folder."""
    files = sorted((folder / "cats64").glob("*.jpg"), key=lambda path: int(path.stem))
    if not files:
        raise FileNotFoundError(folder / "cats64")
    sizes = ",".join(str(path.stat().st_size) for path in files)
    stamp = hashlib.sha256(sizes.encode()).hexdigest()[:12]
    kept = cache_folder() / f"cats64-{len(files)}-{stamp}.npy"
    if kept.exists():
        return np.load(kept)
    from PIL import Image

    X = np.empty((len(files), 64 * 64), dtype=np.uint8)
    for row, path in zip(X, files, strict=True):
        with Image.open(path) as picture:
            row[:] = np.asarray(picture.convert("L").resize((64, 64))).ravel()
    _save(kept, X)
    return X


@problem("bbc", stand_in=lambda: counts(2_225, 9_635, 400_000))
def bbc(folder: Path) -> sp.csr_matrix:
    """BBC news, term counts: 2,225×9,635 float64 CSR (documents are rows)."""
    from scipy.io import mmread

    path = folder / "text" / "bbc.mtx"
    if not path.exists():
        raise FileNotFoundError(path)
    return sp.csr_matrix(mmread(path).T)


@problem("cbcl", stand_in=lambda: pictures(2_429, 361, zeros=0.0) / 255.0)
def cbcl(folder: Path) -> np.ndarray:
    """CBCL faces, 2,429×361 float64; the file is grey-inverted and holds pictures as columns."""
    from scipy.io import loadmat

    path = folder / "faces" / "cbcl.mat"
    if not path.exists():
        raise FileNotFoundError(path)
    return np.ascontiguousarray(1.0 - loadmat(path)["X"].T)


@problem("cbcl-hoyer", stand_in=lambda: hoyer(pictures(2_429, 361, zeros=0.0) / 255.0))
def cbcl_hoyer(folder: Path) -> np.ndarray:
    """CBCL faces as Hoyer (2004) prepared them, for figures that compare with published errors."""
    return hoyer(cbcl(folder))


def hoyer(X: np.ndarray) -> np.ndarray:
    """Return pictures standardised, then 0.25 (x + 0.25) clipped to [1e-4, 1]."""
    X = X - X.mean()
    X = X / np.sqrt(np.mean(X**2))
    return np.maximum(np.clip(0.25 * (X + 0.25), 0, 1), 1e-4)


@problem("orl", stand_in=lambda: pictures(400, 4_096, zeros=0.0, parts=60))
def orl(folder: Path) -> np.ndarray:
    """ORL (AT&T) faces of 40 people in their order, 64×64, grey: 400×4,096 uint8."""
    from PIL import Image

    with tarfile.open(folder / "faces" / "att_faces_pgm.tar.gz") as archive:
        found = {}
        for member in archive:
            if member.name.endswith(".pgm"):
                person, number = Path(member.name).parts[-2:]
                with Image.open(archive.extractfile(member)) as picture:
                    found[int(person[1:]), int(Path(number).stem)] = np.asarray(picture.resize((64, 64))).ravel()
    return np.stack([found[which] for which in sorted(found)])


@problem("piano", stand_in=lambda: pictures(129, 586, zeros=0.0) / 255.0)
def piano(folder: Path) -> np.ndarray:
    """Magnitude spectrogram of a piano piece: 129×586 float64."""
    from scipy.io import loadmat

    path = folder / "audio" / "piano_Mary.mat"
    if not path.exists():
        raise FileNotFoundError(path)
    return np.ascontiguousarray(loadmat(path)["X"])


@problem("china")
def china(folder: Path) -> np.ndarray:
    """The photo china.jpg of scikit-learn, grey, in patches of 16×32 pixels: 520×512 uint8."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    images = load_sample_images()
    names = [Path(name).name for name in images.filenames]
    grey = np.asarray(Image.fromarray(images.images[names.index("china.jpg")]).convert("L"))
    high, wide = grey.shape[0] // 16, grey.shape[1] // 32
    patches = grey[: 16 * high, : 32 * wide].reshape(high, 16, wide, 32).swapaxes(1, 2)
    return np.ascontiguousarray(patches.reshape(high * wide, 512))


@problem("random-spectra-0.02")
def random_spectra(folder: Path) -> np.ndarray:
    """Generated spectra with 2 % of noise, 4,000×150 float64."""
    return spectra(4_000, 150, 0.02)


@problem("random-spectra-0.005")
def random_clean_spectra(folder: Path) -> np.ndarray:
    """Generated spectra with 0.5 % of noise, 4,000×150 float64."""
    return spectra(4_000, 150, 0.005)


@problem("random-spectra-tall")
def random_tall_spectra(folder: Path) -> np.ndarray:
    """Generated spectra with 2 % of noise, 9,500×200 float64: tall enough for a start from samples."""
    return spectra(9_500, 200, 0.02)


@problem("random-topics")
def random_topics(folder: Path) -> sp.csr_matrix:
    """Generated term counts of planted topics, 2,700×13,714 float64 CSR, 6 % stored."""
    return topics(2_700, 13_714, 0.06)


@problem("digits")
def digits(folder: Path) -> np.ndarray:
    """scikit-learn's bundled digits: 1,797×64 float64."""
    from sklearn.datasets import load_digits

    return load_digits().data


@problem("random-20x10")
def random_20x10(folder: Path) -> np.ndarray:
    """Uniform random numbers, as many as an example has: 20×10 float64."""
    return np.random.default_rng(0).random((20, 10))


@problem("random-100x50")
def random_small(folder: Path) -> np.ndarray:
    """Uniform random numbers, 100×50 float64: nothing but overhead."""
    return np.random.default_rng(0).random((100, 50))


@problem("random-pictures")
def random_pictures(folder: Path) -> np.ndarray:
    """Generated pictures, 1,000×256 uint8, for the smoke run."""
    return pictures(1_000, 256, zeros=0.7)


@problem("random-text")
def random_text(folder: Path) -> sp.csr_matrix:
    """Generated term counts, 300×400 float64 CSR, for the smoke run."""
    return counts(300, 400, 6_000)
