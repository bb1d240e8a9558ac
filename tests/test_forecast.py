"""What a fit will take: memory beside what it then takes, and time within what a busy machine allows."""

import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.sparse as sp

from nmfcore import NMF, estimate

CASES = [
    ("hals", np.uint8, (20_000, 400), 20, None),
    ("hals", np.float32, (3_000, 1_500), 30, None),
    ("hals", np.float64, (2_000, 300), 40, "nndsvd"),
    ("cd", np.float64, (8_000, 200), 15, "random"),
    ("mu", np.float32, (8_000, 200), 15, "random"),
    ("cd", np.float64, (8_000, 300), 10, None),
]


@pytest.mark.parametrize(("solver", "dtype", "shape", "k", "init"), CASES)
def test_memory_is_that_of_a_fit(solver, dtype, shape, k, init):
    rng = np.random.default_rng(0)
    X = (255 * rng.random(shape)).astype(dtype)
    told = estimate(shape, k, dtype, solver=solver, init=init, n_jobs=2)
    assert peak_of(
        NMF(k, solver=solver, init=init, random_state=0, max_iter=4, n_jobs=2), X
    ) + X.nbytes == pytest.approx(told.bytes, rel=0.15)


@pytest.mark.parametrize("stored", [False, True])
def test_memory_of_a_fit_that_reads_columns(stored):
    settings = {"solver": "hals", "beta_loss": 1, "init": "random", "n_jobs": 1}
    X = sp.random(3_000, 2_000, 0.02, format="csr", random_state=0, dtype=np.float32)
    X = X if stored else X.toarray()
    held = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes if stored else X.nbytes
    told = estimate(X.shape, 10, X.dtype, stored=X.nnz if stored else None, **settings)
    assert peak_of(NMF(10, random_state=0, max_iter=3, **settings), X) + held == pytest.approx(told.bytes, rel=0.25)
    with pytest.raises(ValueError, match="but X is on disk"):
        estimate(X.shape, 10, on_disk=True, **settings)


def test_memory_of_a_sparse_fit():
    X = sp.random(4_000, 6_000, 0.01, format="csr", random_state=0)
    told = estimate(X.shape, 20, X.dtype, solver="hals", stored=X.nnz, n_jobs=2)
    held = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
    found = peak_of(NMF(20, solver="hals", random_state=0, max_iter=4, n_jobs=2), X) + held
    assert found == pytest.approx(told.bytes, rel=0.15)


def peak_of(model, X):
    """Return the bytes that a fit takes at most, without X."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X)  # compiles
        tracemalloc.start()
        try:
            model.fit(X)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def test_seconds_are_those_of_a_pass():
    """Within a factor of 3: other processes are at work, too. The benchmark asks for 1.5."""
    X = np.uint8(255 * np.random.default_rng(0).random((30_000, 300)))
    ratios = []
    for _ in range(3):
        told = estimate(X.shape, 20, X.dtype, solver="cd", n_jobs=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seconds = NMF(20, init="random", random_state=0, tol=0, max_iter=10, n_jobs=1).fit(X).history_["seconds"]
        ratios.append(told.seconds * 9 / (seconds[-1] - seconds[0]))
    assert 1 / 3 < np.median(ratios) < 3


def test_what_is_on_the_disk_is_not_counted():
    X = estimate((100_000, 1_000), 10, np.uint8, solver="hals", n_jobs=1)
    there = estimate((100_000, 1_000), 10, np.uint8, solver="hals", on_disk=True, memory="10MB", n_jobs=1)
    assert X.bytes - there.bytes > 85e6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (((0, 5), 2), "are those of no factorisation"),
        (((10, 5), 0), "are those of no factorisation"),
        (((10, 5), 2, np.float64), None),
    ],
)
def test_nonsense_is_refused(arguments, said):
    if said is None:
        with pytest.raises(ValueError, match="does not handle"):
            estimate(*arguments, solver="cd", beta_loss=1)
        with pytest.raises(ValueError, match="are those of no factorisation"):
            estimate(*arguments, stored=51)
        return
    with pytest.raises(ValueError, match=said):
        estimate(*arguments)
