"""What analysis says equals what the formulas say, whatever X is stored as."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import nmfcore
from nmfcore import analysis
from nmfcore.analysis import (
    class_means,
    explained_share,
    rank,
    rebuild,
    reconstruction_errors,
    shared_parts,
    top_components,
)


@pytest.fixture
def factors(rng):
    W, H = rng.random((23, 4)), rng.random((4, 11))
    W[rng.random(W.shape) < 0.3] = 0
    X = np.rint(40 * W @ H * rng.random((23, 11))).astype(np.uint8)
    X[7] = 0
    return X, 40 * W, H


class RowsOnly:
    """What is not an array, but hands out rows, as a file does."""

    def __init__(self, X):
        self.X, self.shape, self.largest = X, X.shape, 0

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        self.largest = max(self.largest, rows.stop - rows.start)
        return self.X[rows]


STORED = {
    "uint8": lambda X: X,
    "float32": lambda X: X.astype(np.float32),
    "fortran": lambda X: np.asfortranarray(X.astype(float)),
    "strided": lambda X: np.repeat(X, 2, axis=0)[::2],
    "list": lambda X: X.tolist(),
    "csr": sp.csr_matrix,
    "csc": lambda X: sp.csc_matrix(X.astype(np.float32)),
    "csr_array": sp.csr_array,
    "rows": RowsOnly,
}


@pytest.mark.parametrize("block", [1, 37, 1 << 21])
@pytest.mark.parametrize("stored", STORED)
def test_errors_and_shares_of_every_kind_of_x(factors, stored, block, monkeypatch):
    monkeypatch.setattr(analysis, "_BLOCK", block)
    X, W, H = factors
    residual = X - W @ H
    given = STORED[stored](X)
    errors = reconstruction_errors(given, W, H, relative=False)
    assert errors.dtype == np.float64
    np.testing.assert_allclose(errors, np.linalg.norm(residual, axis=1), rtol=1e-12)
    norms = np.linalg.norm(X.astype(float), axis=1)
    norms[norms == 0] = 1  # a zero row's error is left as it is
    np.testing.assert_allclose(reconstruction_errors(given, W, H), errors / norms, rtol=1e-12)
    shares = explained_share(given, W, H)
    np.testing.assert_allclose(shares.sum(), 1 - (residual**2).sum() / (X.astype(float) ** 2).sum(), rtol=1e-12)


def test_x_is_left_alone_and_read_by_blocks(factors, monkeypatch):
    X, W, H = factors
    floats = X.astype(float)
    before = floats.copy()
    reconstruction_errors(floats, W, H)
    np.testing.assert_array_equal(floats, before)
    monkeypatch.setattr(analysis, "_BLOCK", 50)
    rows = RowsOnly(X)
    reconstruction_errors(rows, W, H)
    assert rows.largest == 50 // 11


def test_a_frame_and_repeated_entries(factors):
    pandas = pytest.importorskip("pandas")
    X, W, H = factors
    expected = reconstruction_errors(X, W, H)
    frame = pandas.DataFrame(X, index=np.arange(len(X))[::-1])
    np.testing.assert_allclose(reconstruction_errors(frame, W, H), expected, rtol=1e-12)
    whole = sp.coo_matrix(X.astype(float))
    twice = sp.csr_matrix(
        (np.tile(whole.data / 2, 2), (np.tile(whole.row, 2), np.tile(whole.col, 2))), shape=X.shape, copy=True
    )
    doubled = sp.csr_matrix((3, 4))
    doubled.data, doubled.indices, doubled.indptr = np.array([1.0, 2.0]), np.array([1, 1]), np.array([0, 2, 2, 2])
    np.testing.assert_allclose(reconstruction_errors(twice, W, H), expected)
    np.testing.assert_allclose(reconstruction_errors(doubled, np.ones((3, 1)), [[0, 3, 0, 0]]), [0, 3, 3])
    assert doubled.nnz == 2


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_an_exact_fit(kind, rng):
    W, H = rng.integers(0, 5, (30, 3)), rng.integers(0, 5, (3, 20))
    H[:, rng.random(20) < 0.5] = 0
    errors = reconstruction_errors(kind(W @ H), W, H)
    assert errors.max() < 1e-7
    np.testing.assert_allclose(explained_share(kind(W @ H), W, H).sum(), 1)


def test_shares_of_a_converged_fit(digits):
    model = nmfcore.NMF(6, solver="hals", init="nndsvd", tol=1e-7, max_iter=2000)
    W = model.fit_transform(digits)
    shares = explained_share(digits, W, model.components_)
    relative = model.reconstruction_err_ / np.linalg.norm(digits)
    np.testing.assert_allclose(shares.sum(), 1 - relative**2, rtol=1e-9)
    # At a stationary point ⟨X − WH, w_t h_t⟩ = 0, so a share is what component t has of ‖WH‖².
    WH = W @ model.components_
    own = [np.vdot(np.outer(W[:, t], model.components_[t]), WH) for t in range(6)]
    np.testing.assert_allclose(shares, np.array(own) / np.linalg.norm(digits) ** 2, atol=1e-4)
    scale = np.array([3.0, 0.1, 1, 7, 2, 1e-3])
    np.testing.assert_allclose(explained_share(digits, W * scale, model.components_ / scale[:, None]), shares)


def test_shares_of_disjoint_parts_are_their_energies():
    W, H = np.diag([3.0, 2.0, 0.0]), np.eye(3)
    np.testing.assert_allclose(explained_share(W, W, H), [9 / 13, 4 / 13, 0])
    assert explained_share(np.zeros((3, 3)), W, H).tolist() == [0, 0, 0]


@given(st.lists(st.integers(0, 5) | st.just(np.nan), min_size=1, max_size=30), st.integers(0, 40))
def test_rank_is_a_sort_with_ties_to_the_lower_row(errors, n):
    best, worst = rank(errors, n)

    def key(row, sign):
        return (np.isnan(errors[row]), 0 if np.isnan(errors[row]) else sign * errors[row], row)

    assert best.tolist() == sorted(range(len(errors)), key=lambda row: key(row, 1))[:n]
    assert worst.tolist() == sorted(range(len(errors)), key=lambda row: key(row, -1))[:n]


@pytest.mark.parametrize("labels", [np.arange(23) % 3, np.array(["b", "a", "ccc"])[np.arange(23) % 3], np.zeros(23)])
def test_means_and_top_components_of_classes(factors, labels):
    _, W, H = factors
    classes, means = class_means(W, labels)
    assert classes.tolist() == sorted(set(labels.tolist()))
    expected = np.array([W[labels == one].mean(axis=0) for one in classes])
    np.testing.assert_allclose(means, expected)
    for H_given, scaled in ((None, expected), (H, expected * np.linalg.norm(H, axis=1))):
        for n in (0, 2, 4, 9):
            same, components, weights = top_components(W, labels, n, H_given)
            assert same.tolist() == classes.tolist()
            assert components.shape == weights.shape == (len(classes), min(n, 4))
            for row, chosen, values in zip(scaled, components, weights, strict=True):
                assert chosen.tolist() == sorted(range(4), key=lambda t: (-row[t], t))[:n]
                np.testing.assert_allclose(values, row[chosen])


def test_top_components_with_h_do_not_depend_on_the_scale(factors):
    _, W, H = factors
    labels = np.arange(23) % 3
    scale = np.array([1e-3, 1, 5, 1e4])
    one, other = top_components(W, labels, 4, H), top_components(W * scale, labels, 4, H / scale[:, None])
    np.testing.assert_array_equal(one[1], other[1])
    np.testing.assert_allclose(one[2], other[2])


@given(st.lists(st.lists(st.floats(0, 9), min_size=4, max_size=4), min_size=1, max_size=5), st.floats(0.05, 1))
def test_components_for_a_share(weights, share):
    weights = -np.sort(-np.array(weights), axis=1)
    for row, count in zip(weights, analysis.components_for_share(weights, share), strict=True):
        assert 1 <= count <= 4
        assert row[:count].sum() >= share * row.sum() * (1 - 1e-12)
        assert count == 1 or row[: count - 1].sum() < share * row.sum()


codes = st.lists(st.floats(0, 100).map(lambda x: round(x, 3)), min_size=5, max_size=5)


@given(codes, codes, st.booleans())
def test_shared_parts_split_the_similarity(a, b, with_H):
    H = np.random.default_rng(0).random((5, 8)) * (np.random.default_rng(1).random((5, 8)) < 0.5)
    a, b = np.array(a), np.array(b)
    components, shares = shared_parts(a, b, H if with_H else None, n=None)
    total = (a @ H) @ (b @ H) if with_H else a @ b
    if total == 0:
        assert len(components) == len(shares) == 0
        return
    np.testing.assert_allclose(shares.sum(), 1)
    assert (np.diff(shares) <= 0).all()
    assert (shares > 0).all()
    assert len(set(components.tolist())) == len(components)
    other = shared_parts(b, a, H if with_H else None, n=None)
    np.testing.assert_allclose(np.sort(other[1]), np.sort(shares))
    few = shared_parts(a, b, H if with_H else None, n=2)
    assert few[0].tolist() == components[:2].tolist()
    for t, share in zip(components, shares, strict=True):
        alone = np.where(np.arange(5) == t, 1, 0)
        part = ((a * alone) @ H) @ (b @ H) / 2 + (a @ H) @ ((b * alone) @ H) / 2 if with_H else a[t] * b[t]
        np.testing.assert_allclose(share, part / total)


@pytest.mark.parametrize("how", ["mean", "median", "min", "max"])
def test_rebuild(factors, how):
    _, W, H = factors
    mask = np.arange(23) % 3 == 1
    weights = getattr(np, how)(W[mask], axis=0)
    expected = weights[2] * H[2] + weights[0] * H[0]
    for rows in (mask, np.flatnonzero(mask), slice(1, None, 3)):
        np.testing.assert_allclose(rebuild(W, H, rows, [2, 0], how), expected)
    np.testing.assert_allclose(rebuild(W, H, [5], range(4), how), W[5] @ H)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reconstruction_errors(np.ones((3, 4)), np.ones((3, 2)), np.ones((2, 5))), r"X \(3, 4\) is not"),
        (lambda: reconstruction_errors(np.ones((3, 4)), np.ones((3, 2)), np.ones((3, 4))), "has 3 components"),
        (lambda: explained_share(np.ones((3, 4)), np.ones(3), np.ones((2, 4))), r"W must be a matrix .* \(3,\)"),
        (lambda: rank(np.ones((2, 2))), "one number per sample"),
        (lambda: rank([1.0], -1), "n must be at least 0, got -1"),
        (lambda: class_means(np.ones((3, 2)), [1, 2]), r"one label per row of W \(3\)"),
        (lambda: top_components(np.ones((3, 2)), [1, 2, 3], 2, np.ones((3, 4))), "has 3 components"),
        (lambda: shared_parts([1, 2], [1, 2, 3]), "vectors of one length"),
        (lambda: shared_parts([1, 2], [1, 2], np.ones((3, 4))), "has 3 components"),
        (lambda: rebuild(np.ones((3, 2)), np.ones((2, 4)), [False] * 3, [0]), "no sample was chosen"),
        (lambda: rebuild(np.ones((3, 2)), np.ones((2, 4)), [0], [0], "mode"), "'mean', 'median', 'min', 'max'"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_components_and_rows_that_do_not_exist():
    with pytest.raises(IndexError):
        rebuild(np.ones((3, 2)), np.ones((2, 4)), [3], [0])
    with pytest.raises(IndexError):
        rebuild(np.ones((3, 2)), np.ones((2, 4)), [0], [2])


# --- clusters, maps, brightness -------------------------------------------------------------------


def test_shares_of_brightness_add_up_and_do_not_depend_on_the_scale(factors):
    _, W, H = factors
    W[3] = 0
    shares = analysis.brightness_shares(W, H)
    for row, code in zip(shares, W, strict=True):
        made = (code[:, None] * H).sum(axis=1)
        np.testing.assert_allclose(row, made / made.sum() if code.any() else made)
    scale = np.linspace(0.5, 3, len(H))
    np.testing.assert_allclose(analysis.brightness_shares(W * scale, H / scale[:, None]), shares)


def test_clusters_are_those_that_were_planted(rng):
    centres = np.eye(5)[[0, 2, 4]]
    truth = rng.permutation(np.repeat([0, 1, 2], [30, 50, 20]))
    W = (centres[truth] + 0.05 * rng.random((100, 5))) * rng.uniform(0.1, 9, (100, 1))  # bright and dark ones
    found = analysis.clusters(W, 3)
    assert found.counts.tolist() == [50, 30, 20]
    assert [set(found.labels[truth == each]) for each in (1, 0, 2)] == [{0}, {1}, {2}]
    unit = W / np.linalg.norm(W, axis=1, keepdims=True)
    for each in range(3):
        members = np.flatnonzero(found.labels == each)
        np.testing.assert_allclose(found.centres[each], unit[members].mean(axis=0))
        distances = np.linalg.norm(unit[members] - unit[members].mean(axis=0), axis=1)
        np.testing.assert_allclose(found.distances[members], distances)
        assert found.nearest(each, 4).tolist() == members[np.argsort(distances)[:4]].tolist()
        assert sorted(found.nearest(each)) == members.tolist()
    same = analysis.clusters(W * 7, 3)
    assert same.labels.tolist() == found.labels.tolist()


def test_fewer_codes_than_clusters(rng):
    W = np.repeat([[1.0, 0], [0, 2], [0, 0]], [4, 3, 2], axis=0)
    found = analysis.clusters(W, 6)  # three codes differ
    assert found.counts.tolist() == [4, 3, 2]
    assert found.nearest(0, 2).tolist() == [0, 1]
    with pytest.raises(ValueError, match="n_clusters must be 1 to 9"):
        analysis.clusters(W, 10)
    with pytest.raises(IndexError, match="there is no cluster 3"):
        found.nearest(3)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_a_map_keeps_near_what_is_near(rng, method):
    truth = np.repeat([0, 1, 2], 12)
    W = (np.eye(4)[truth] + 0.02 * rng.random((36, 4))) * rng.uniform(1, 50, (36, 1))
    places = analysis.map_of_codes(W, method)
    assert places.shape == (36, 2)
    apart = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (truth[apart.argmin(axis=1)] == truth).all()
    np.testing.assert_array_equal(analysis.map_of_codes(W, method), places)
    np.testing.assert_allclose(analysis.map_of_codes(3 * W), analysis.map_of_codes(W), atol=1e-12)


def test_a_map_by_pca_is_scikit_learns(rng):
    from sklearn.decomposition import PCA

    W = rng.random((40, 6))
    exact = PCA(2, svd_solver="full").fit_transform(W / np.linalg.norm(W, axis=1, keepdims=True))
    places = analysis.map_of_codes(W)
    np.testing.assert_allclose(np.abs(places), np.abs(exact), atol=1e-12)


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1), (2, 2), (9, 1), (9, 3)])
def test_a_map_of_little(shape, method, rng):
    for W in (np.ones(shape), np.zeros(shape), rng.random(shape)):
        places = analysis.map_of_codes(W, method)
        assert places.shape == (shape[0], 2)
        assert np.isfinite(places).all()
    with pytest.raises(ValueError, match="method must be 'pca' or 'tsne'"):
        analysis.map_of_codes(np.ones(shape), "umap")
