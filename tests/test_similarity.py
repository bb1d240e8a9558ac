"""Exact cosine search, against sorting all cosines; and the index that is built on it."""

import contextlib
import threading

import numpy as np
import pytest
import reference as ref
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from nmfcore._files import replacing
from nmfcore.rows import memory as data
from nmfcore.search import cosine as similarity
from nmfcore.search.cosine import cosine_topk, reconstruction_space
from nmfcore.search.index import CosineIndex, IndexFileError

STORED = ["uint8", "int64", "float16", "float32", "float64"]


def codes(rng, n, m, dtype="float32"):
    """Nonnegative rows with zeros, as codes are; some rows are zero, some are the same, some the same but for scale."""
    X = np.maximum(rng.normal(0.5, 1, (n, m)), 0) * 50
    if n > 6:
        X[1], X[3], X[5] = 0, X[2], 4 * X[2]
    return X.astype(dtype)


def agree(found, queries, database, k, **kwargs):
    """Scores are those of the reference, and rows have them; in the very order, but for rounding among equals."""
    scores, rows = found
    expected, expected_rows = ref.cosine_topk(queries, database, k, **kwargs)
    np.testing.assert_array_equal(rows < 0, expected_rows < 0)
    np.testing.assert_allclose(scores, expected.astype(float), rtol=0, atol=4e-15)
    own = np.take_along_axis(ref.cosines(queries, database), np.maximum(rows, 0), 1)
    np.testing.assert_allclose(np.where(rows < 0, 0, own - np.nan_to_num(scores)).astype(float), 0, atol=4e-15)
    for line in rows:
        line = line[line >= 0]
        assert len(set(line)) == len(line)
    different = rows != expected_rows
    gaps = np.abs(np.diff(expected.astype(float), axis=1))
    near = np.zeros(rows.shape, bool)
    if rows.shape[1] > 1:
        near[:, 1:] |= gaps < 1e-14
        near[:, :-1] |= gaps < 1e-14
    near[:, -1] = True  # the last may be as good as the first that was left out
    assert not (different & ~near).any()


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("stored", STORED)
def test_every_storage_type(rng, stored, largest):
    X, Q = codes(rng, 700, 13, stored), codes(rng, 37, 13)
    agree(cosine_topk(Q, X, 9, largest=largest), Q, X, 9, largest=largest)


@pytest.mark.parametrize("layout", ["F", "strided", "csr", "csc", "list", "memmap"])
def test_every_layout(rng, layout, tmp_path):
    X, Q = codes(rng, 300, 17), codes(rng, 20, 17)
    given = {
        "F": lambda: np.asfortranarray(X),
        "strided": lambda: np.repeat(np.repeat(X, 2, 0), 3, 1)[::2, ::3],
        "csr": lambda: sparse.csr_matrix(X),
        "csc": lambda: sparse.csc_matrix(X),
        "list": lambda: X.astype(float).tolist(),
        "memmap": lambda: _as_memmap(X, tmp_path / "x"),
    }[layout]()
    agree(cosine_topk(Q, given, 5), Q, X, 5)
    agree(cosine_topk(given, Q, 5), X, Q, 5)


def _as_memmap(X, path):
    kept = np.memmap(path, X.dtype, "w+", shape=X.shape)
    kept[:] = X
    kept.flush()
    return np.memmap(path, X.dtype, "r", shape=X.shape)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 5000, 3), (3, 2, 40), (500, 700, 50), (17, 2100, 300), (250, 1030, 5)]
)
def test_shapes_around_panels_blocks_and_runs(rng, shape):
    q, n, m = shape
    Q, X = codes(rng, q, m), codes(rng, n, m)
    agree(cosine_topk(Q, X, min(7, n)), Q, X, min(7, n))


@given(st.data())
def test_any_shape_with_any_wish(data_):
    draw = data_.draw
    q, n, m = draw(st.integers(1, 30)), draw(st.integers(1, 60)), draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    least = draw(st.sampled_from([-2, 0]))  # of nonnegative numbers many rows are orthogonal, the least there is
    Q, X = rng.integers(least, 3, (q, m)), rng.integers(least, 3, (n, m))
    X = X.astype(draw(st.sampled_from(["int8", "float32"])))
    k, largest = draw(st.integers(1, n + 3)), draw(st.booleans())
    threshold = draw(st.none() | st.sampled_from([-0.7123, 0.0123, 0.3511]))
    allow = draw(st.none() | st.sets(st.integers(0, n - 1)))
    exclude = draw(st.none() | st.just(rng.integers(-1, n, (q, 2))))
    given_ = None if allow is None else np.array(sorted(allow), int)
    found = cosine_topk(Q, X, k, largest=largest, threshold=threshold, allow=given_, exclude=exclude)
    agree(found, Q, X, k, largest=largest, threshold=threshold, allowed=allow, excluded=exclude)


@pytest.mark.parametrize("largest", [True, False])
def test_rows_left_out_where_limits_begin_high(rng, largest):
    X = np.tile(codes(rng, 90, 6), (8, 1))  # every row eight times: the best are all equal
    exclude = np.column_stack([np.arange(720), (np.arange(720) + 90) % 720])
    for k in (1, 9, 30, 40):
        scores, rows = cosine_topk(X, X, k, exclude=exclude, largest=largest)
        assert not (rows[:, :, None] == exclude[:, None, :]).any()
        for j in (0, 7, 89):
            own = np.delete(ref.cosines(X[j : j + 1], X)[0].astype(float), exclude[j])
            own = np.sort(own)[::-1] if largest else np.sort(own)
            np.testing.assert_allclose(scores[j], own[:k], rtol=0, atol=4e-15)


def test_equal_scores_go_by_row_number(rng):
    X = np.tile(codes(rng, 8, 6), (300, 1))  # every row 300 times
    scores, rows = cosine_topk(X[2:3], X, 20)
    assert (scores == 1).all()
    equal = np.flatnonzero((X[2] == X).all(1) | (4 * X[2] == X).all(1))
    np.testing.assert_array_equal(rows[0], equal[:20])
    scores, rows = cosine_topk(X[1:2], X, 5)  # a row of zeros: all are the same to it
    assert scores.tolist() == [[0] * 5] and rows.tolist() == [[0, 1, 2, 3, 4]]
    scores, rows = cosine_topk(X[1:2], X, 5, largest=False)
    assert scores.tolist() == [[0] * 5] and rows.tolist() == [[0, 1, 2, 3, 4]]
    assert not np.signbit(scores).any()


def test_order_beyond_the_compute_type(rng):
    """Cosines that differ in the tenth digit are in order: float32 alone would not tell them apart."""
    base = rng.random(30)
    X = base + 1e-9 * np.arange(400)[:, None] * rng.random(30)
    X = X[rng.permutation(400)]
    _, rows = cosine_topk(base[None], X, 50)
    expected = np.argsort(-ref.cosines(base[None], X)[0], kind="stable")[:50]
    scores = ref.cosines(base[None], X)[0]
    assert np.all(np.diff(scores[rows[0]].astype(float)) <= 1e-15)
    assert len(set(rows[0]) & set(expected)) >= 48  # equal to rounding at the end of the list


def test_same_bits_for_any_number_of_threads_and_any_cut(rng, monkeypatch):
    Q, X = codes(rng, 333, 21), codes(rng, 4000, 21)
    expected = cosine_topk(Q, X, 8, n_jobs=1)
    for n_jobs in (2, 3):
        for one, other in zip(expected, cosine_topk(Q, X, 8, n_jobs=n_jobs), strict=True):
            np.testing.assert_array_equal(one, other)
    for name, value in (("PANEL", 48), ("BLOCK", 9600), ("SAMPLE", 0), ("STRIP", 16), ("RUN_WORK", 1e4)):
        monkeypatch.setattr(similarity, name, value)
        for one, other in zip(expected, cosine_topk(Q, X, 8), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_query_alone_scores_as_in_company(rng):
    Q, X = codes(rng, 100, 21), codes(rng, 900, 21)
    scores, rows = cosine_topk(Q, X, 4)
    for j in (0, 17, 99):
        alone = cosine_topk(Q[j : j + 1], X, 4)
        np.testing.assert_array_equal(alone[0][0], scores[j])
        np.testing.assert_array_equal(alone[1][0], rows[j])


@pytest.mark.parametrize("scale", [1e-300, 1e-40, 1e40, 1e200])
def test_scales_that_overflow_in_float32(rng, scale):
    Q, X = codes(rng, 9, 7, "float64"), codes(rng, 60, 7, "float64")
    expected = cosine_topk(Q, X, 5)
    X[::2] *= scale
    for given_ in (X, sparse.csr_matrix(X)):
        scores, rows = cosine_topk(Q, given_, 5)
        np.testing.assert_allclose(scores, expected[0], rtol=0, atol=1e-14)
        assert (rows == expected[1]).mean() > 0.8  # equals may change places


def test_nothing_of_the_callers_is_written_and_nothing_large_is_made(rng):
    import tracemalloc

    Q, X = codes(rng, 3000, 10), codes(rng, 3000, 10)
    Q.setflags(write=False)
    X.setflags(write=False)
    cosine_topk(Q[:5], X, 3)  # compiled
    tracemalloc.start()
    cosine_topk(Q, X, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3000 * 3000 * 4 / 3


def test_wishes_that_cannot_be_met():
    X = np.eye(4)
    for error, match, call in (
        (ValueError, "two dimensions", lambda: cosine_topk(X[0], X, 1)),
        (ValueError, "no columns", lambda: cosine_topk(X[:, :0], X[:, :0], 1)),
        (ValueError, "3 columns, the database 4", lambda: cosine_topk(X[:, :3], X, 1)),
        (ValueError, "k = 0", lambda: cosine_topk(X, X, 0)),
        (ValueError, "k = 1.5", lambda: cosine_topk(X, X, 1.5)),
        (ValueError, "row 2 holds NaN", lambda: cosine_topk(X, np.where(np.arange(4)[:, None] == 2, np.nan, X), 1)),
        (
            ValueError,
            "row 0 holds NaN or infinity",
            lambda: cosine_topk(X, sparse.csr_matrix(np.inf * np.ones((2, 4))), 1),
        ),
        (TypeError, "real numbers", lambda: cosine_topk(X, X * 1j, 1)),
        (ValueError, "threshold = nan", lambda: cosine_topk(X, X, 1, threshold=np.nan)),
        (ValueError, "mask of shape", lambda: cosine_topk(X, X, 1, allow=[True, False])),
        (ValueError, "names row 4", lambda: cosine_topk(X, X, 1, allow=[4])),
        (ValueError, "names row -2", lambda: cosine_topk(X, X, 1, exclude=[0, 1, 2, -2])),
        (ValueError, "each of the 4 queries", lambda: cosine_topk(X, X, 1, exclude=[0])),
        (ValueError, "row numbers", lambda: cosine_topk(X, X, 1, exclude=[0.0, 1, 2, 3])),
    ):
        with pytest.raises(error, match=match):
            call()
    empty = cosine_topk(X[:0], X, 2)
    assert empty[0].shape == empty[1].shape == (0, 2)
    scores, rows = cosine_topk(X, X[:0], 2)
    assert np.isnan(scores).all() and (rows == -1).all()


def test_an_exception_in_a_thread_arrives(rng, monkeypatch):
    X = codes(rng, 5000, 40)

    def broken(*args):
        raise MemoryError

    from nmfcore.backends import cpu

    monkeypatch.setattr(cpu, "nearest", broken)
    with pytest.raises(MemoryError):
        cosine_topk(X, X, 2, n_jobs=2)


def test_searches_may_run_side_by_side(rng):
    X = codes(rng, 2000, 12)
    expected, found = cosine_topk(X, X, 5), {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: cosine_topk(X, X, 5)})) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((found[i][1] == expected[1]).all() for i in range(3))
    assert data.run_all  # the pool of the fits


# ---- reconstruction space --------------------------------------------------------------------------------------------


def test_reconstruction_space_has_the_cosines_of_the_reconstructions(rng):
    W, H = codes(rng, 50, 6, "float64"), rng.random((6, 40))
    H[4] = H[1] + H[2]  # dependent components: no Cholesky factor
    F = reconstruction_space(W, H)
    np.testing.assert_allclose(ref.cosines(F, F).astype(float), ref.cosines(W @ H, W @ H).astype(float), atol=1e-7)
    D, P = rng.random(6) + 0.1, rng.permutation(6)
    np.testing.assert_allclose(
        ref.cosines(*[reconstruction_space((W * D)[:, P], (H / D[:, None])[P])] * 2).astype(float),
        ref.cosines(F, F).astype(float),
        atol=1e-7,
    )
    assert reconstruction_space(W.astype(np.float32), H).dtype == np.float32
    with pytest.raises(ValueError, match="do not multiply"):
        reconstruction_space(W, H.T)


# ---- the index -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [np.array, sparse.csr_matrix])
def test_the_index_finds_what_a_search_finds(rng, layout):
    X = codes(rng, 400, 9)
    index = CosineIndex(layout(X))
    Q = X[[3, 50]]
    for found, expected in (
        (index.search(Q, 4), cosine_topk(Q, layout(X), 4)),
        (index.search(Q, 4, exclude=[3, 50]), cosine_topk(Q, layout(X), 4, exclude=[3, 50])),
        (index.search_dissimilar(Q, 4), cosine_topk(Q, layout(X), 4, largest=False)),
        (
            index.search(Q, 4, threshold=0.99, allow=[1, 2, 3]),
            cosine_topk(Q, layout(X), 4, threshold=0.99, allow=[1, 2, 3]),
        ),
    ):
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_a_query_is_left_out_by_identity(rng):
    X = codes(rng, 50, 9)
    index = CosineIndex(X, names=[f"cat {i}" for i in range(50)])
    _, before = index.search(index[[30]], 5, exclude=[30])
    assert 30 not in before
    index.remove([0, 1, 2, 10])
    _, after = index.search(index[[30]], 5, exclude=[30])
    assert [i for i in before[0] if i not in (0, 1, 2, 10)] == after[0][
        : np.isin(before, [0, 1, 2, 10], invert=True).sum()
    ].tolist()
    assert len(index) == 46 and index.name(30) == "cat 30"
    np.testing.assert_array_equal(index[[30, 3]], X[[30, 3]])
    with pytest.raises(ValueError, match="number 10"):
        index.remove([10])
    assert len(index) == 46


def test_rows_are_added_with_new_identities(rng):
    X = codes(rng, 20, 5)
    index = CosineIndex(X[:15], names=list("abcdefghijklmno"))
    index.remove(14)
    ids = index.add(X[15:], names=list("pqrst"))
    assert ids.tolist() == [15, 16, 17, 18, 19]  # 14 is not given again
    fresh = CosineIndex(np.delete(X, 14, 0))
    scores, found = index.search(X, 3)
    expected_scores, expected = fresh.search(X, 3)
    np.testing.assert_array_equal(scores, expected_scores)
    np.testing.assert_array_equal(found, np.where(expected >= 14, expected + 1, expected))
    for names, codes_, match in (
        (None, X[:1], "has names"),
        (["x"], X[:1, :3], "3 columns"),
        (["x"], X[:2], "each of the 2"),
    ):
        with pytest.raises(ValueError, match=match):
            index.add(codes_, names)
    with pytest.raises(ValueError, match="has no names"):
        CosineIndex(X).add(X[:1], ["x"])
    assert len(index) == 19


@pytest.mark.parametrize("layout", [np.array, sparse.csr_matrix])
def test_saved_and_mapped_back(rng, tmp_path, layout):
    X = codes(rng, 60, 9)
    index = CosineIndex(layout(X), names=[f"ü{i}" for i in range(60)])
    index.remove([7])
    index.save(tmp_path / "cats.index")
    loaded = CosineIndex.load(tmp_path / "cats.index")
    numbers = loaded.codes if layout is np.array else loaded.codes.data
    while not isinstance(numbers, np.memmap):
        numbers = numbers.base
    for one, other in zip(index.search(X[:5], 6), loaded.search(X[:5], 6), strict=True):
        np.testing.assert_array_equal(one, other)
    assert loaded.names == index.names and loaded.add(layout(X[:1]), ["new"]).tolist() == [60]
    with np.load(tmp_path / "cats.index", allow_pickle=False) as archive:  # any numpy opens it
        assert "ids" in archive.files


def test_files_that_are_no_index(rng, tmp_path):
    path = tmp_path / "x"
    with pytest.raises(FileNotFoundError, match="no index file"):
        CosineIndex.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(IndexFileError, match="not a cosine index"):
        CosineIndex.load(path)
    with replacing(path) as file:
        np.savez(file, x=np.ones(3))
    with pytest.raises(IndexFileError, match="something else"):
        CosineIndex.load(path)
    CosineIndex(codes(rng, 30, 5)).save(path)
    whole = path.read_bytes()
    for at in range(0, len(whole), 97):  # any damage is told or does no harm; nothing else is raised
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(IndexFileError, ValueError):
            CosineIndex.load(path).search(np.ones((1, 5)), 2)
    path.write_bytes(whole[:-30])
    with pytest.raises(IndexFileError):
        CosineIndex.load(path)


# ---- on a device -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 40, 5), (150, 200, 16), (5, 70, 33), (4, 50, 70)])
@pytest.mark.parametrize("largest", [True, False])
def test_device_and_host_agree(rng, cupy, shape, stored, largest):
    q, n, m = shape
    Q, X = codes(rng, q, m), codes(rng, n, m, stored)
    k = 6
    wishes = {"largest": largest, "threshold": 0.2, "allow": np.arange(0, n, 2), "exclude": rng.integers(-1, n, (q, 2))}
    for kwargs in ({"largest": largest}, wishes):
        scores, rows = cosine_topk(cupy.asarray(Q), cupy.asarray(X), k, **kwargs)
        assert isinstance(scores, cupy.ndarray) and isinstance(rows, cupy.ndarray)
        expected = cosine_topk(Q, X, k, **kwargs)
        scores, rows = cupy.asnumpy(scores), cupy.asnumpy(rows)
        np.testing.assert_array_equal(rows < 0, expected[1] < 0)
        np.testing.assert_allclose(scores, expected[0], rtol=0, atol=4e-15)
        own = np.take_along_axis(ref.cosines(Q, X), np.maximum(rows, 0), 1).astype(float)
        np.testing.assert_allclose(np.where(rows < 0, 0, own - np.nan_to_num(scores)), 0, atol=4e-15)
        ordered = np.diff(np.where(rows < 0, -2 if largest else 2, scores), axis=1)
        assert (ordered <= 0 if largest else ordered >= 0).all()


def test_device_sparse_and_mixed(rng, cupy):
    Q, X = codes(rng, 7, 30), codes(rng, 40, 30)
    expected = cosine_topk(Q, X, 5)
    found = cosine_topk(cupy.asarray(Q), X, 5)  # the database on the host
    assert isinstance(found[0], np.ndarray)
    np.testing.assert_array_equal(found[1], expected[1])
    found = cosine_topk(Q, cupy.asarray(X), 5)  # queries on the host
    np.testing.assert_allclose(cupy.asnumpy(found[0]), expected[0], rtol=0, atol=4e-15)
    with pytest.raises(ValueError, match="29 columns"):
        cosine_topk(Q[:, :29], cupy.asarray(X), 5)
    with pytest.raises(ValueError, match="finite"):
        cosine_topk(Q, cupy.asarray(np.full((3, 30), np.nan)), 5)


def test_device_runs_are_merged(rng, cupy, monkeypatch):
    from nmfcore.backends import cuda_ops

    Q, X = codes(rng, 5, 6), np.tile(codes(rng, 50, 6), (6, 1))
    one = [cupy.asnumpy(a) for a in cosine_topk(cupy.asarray(Q), cupy.asarray(X), 8)]
    monkeypatch.setattr(cuda_ops, "plan_runs", lambda q, n, k, width: (70, -(-n // 70)))
    many = [cupy.asnumpy(a) for a in cosine_topk(cupy.asarray(Q), cupy.asarray(X), 8)]
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a, b)
