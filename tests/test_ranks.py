"""Which k: the planted number is found, the loss is that of a naive loop over scikit-learn, edges have answers."""

import copy
import csv
import io
import itertools
import pickle
import threading
import warnings

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from sklearn.decomposition import NMF as SklearnNMF
from sklearn.exceptions import ConvergenceWarning

import nmfcore
from nmfcore import NMF, MiniBatchNMF, RankSelection, RowBlocks, select_rank
from nmfcore.ranks import bicross, given, run
from nmfcore.ranks.bicross import cut
from nmfcore.ranks.selection import chosen, is_flat
from nmfcore.ranks.splits import cut_into, split, tile_labels
from nmfcore.rows.masks import Complement, Hashed

pytestmark = [  # what is warned of is asked for where it matters
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:(The test loss|Only k|rule=):UserWarning"),
]


def planted(k, seed, n=300, m=160, sparse=False):
    """Return Poisson counts of WH, divided by a number that makes the noise a tenth of the power (an SNR of 10).

    Their mean is WH. That of Gaussian noise that is cut off at zero is not, where WH is small: it has more components.
    """
    rng = np.random.default_rng(seed)
    W, H = rng.exponential(size=(n, k)), rng.exponential(size=(k, m))
    if sparse:
        W *= rng.random((n, k)) < 0.3
        H *= rng.random((k, m)) < 0.3
    X = W @ H
    scale = 10 * X.mean() / np.mean(X**2)
    return rng.poisson(scale * X) / scale


def same(a, b):
    """Whether two selections have the same bits, the seconds left aside."""
    columns = [name for name in a.table.columns if name != "seconds"]
    equal = all(np.array_equal(a.table[name], b.table[name]) for name in columns)
    arrays = all(np.array_equal(getattr(a, each), getattr(b, each)) for each in ("k", "train", "test", "spread"))
    return equal and arrays and a.best == b.best


# --------------------------------------------------------------------------------------------------
# what is found


@pytest.mark.parametrize("sparse", [False, True], ids=["dense factors", "sparse factors"])
@pytest.mark.parametrize(("k", "shape"), [(5, (300, 160)), (12, (500, 300))])
def test_the_planted_number_is_found(k, shape, sparse):
    around = range(k - 2, k + 3)
    found = [select_rank(planted(k, seed, *shape, sparse=sparse), around, random_state=seed).best for seed in range(2)]
    assert found == [k] * 2


@pytest.mark.slow
@pytest.mark.parametrize("sparse", [False, True], ids=["dense factors", "sparse factors"])
def test_thirty_planted_parts_are_found(sparse):
    X = planted(30, 0, 1500, 600, sparse=sparse)
    assert select_rank(X, range(28, 34), random_state=0).best == 30


def test_auto_finds_the_planted_number():
    found = select_rank(planted(7, 0), "auto", random_state=0)
    assert found.best == 7
    assert {2, 4, 8, 16} <= set(found.k.tolist())
    assert "golden section" in found.stop_reason
    assert not found.at_edge


@pytest.mark.parametrize(
    ("folds", "parameters"),
    [((2, 2), {}), ((3, 2), {"alpha_W": 1e-4, "alpha_H": 3e-4, "l1_ratio": 0.5})],
    ids=["plain", "penalties"],
)
def test_losses_are_those_of_a_naive_loop_over_scikit_learn(rng, folds, parameters):
    """The same splits and starts, iterated until nothing moves any more."""
    X = planted(3, 1, 60, 40)
    settings = {"init": "nndsvda", "tol": 1e-11, "max_iter": 2000, "random_state": 0, **parameters}
    found = select_rank(X, [2, 3], estimator=NMF(**settings), folds=folds, repeats=2, random_state=5, rule="min")
    expected = naive(X, [2, 3], settings, folds, 2, 5)
    np.testing.assert_allclose(found.test, [expected[k][1] for k in (2, 3)], rtol=1e-6)
    np.testing.assert_allclose(found.train, [expected[k][0] for k in (2, 3)], rtol=1e-6)


def naive(X, ks, settings, folds, repeats, seed):
    """Bicross-validation as it is written on paper."""
    entropy = np.random.RandomState(seed).randint(np.iinfo(np.int32).max, size=4).tolist()
    splits = [split(X.shape, folds, None, None, each) for each in np.random.SeedSequence(entropy).spawn(repeats)]
    losses = {}
    for k in ks:
        train, test = [], []
        for each in splits:
            left, right = np.zeros(2), np.zeros(2)
            for I in each.rows:  # noqa: E741
                for J in each.columns:
                    i, j = np.isin(np.arange(len(X)), I), np.isin(np.arange(X.shape[1]), J)
                    A, B, C, D = X[i][:, j], X[i][:, ~j], X[~i][:, j], X[~i][:, ~j]
                    model = SklearnNMF(k, **settings)
                    W_D = model.fit_transform(D)
                    W_A = model.transform(B)
                    swapped = SklearnNMF(k, **{**settings, "alpha_W": settings.get("alpha_H", 0.0)})
                    swapped.fit(np.abs(C.T) + 1)
                    swapped.components_ = np.ascontiguousarray(W_D.T)
                    H_A = swapped.transform(C.T).T
                    left += np.sum((D - W_D @ model.components_) ** 2), np.sum(D**2)
                    right += np.sum((A - W_A @ H_A) ** 2), np.sum(A**2)
            train.append(left[0] / left[1])
            test.append(right[0] / right[1])
        losses[k] = np.mean(train), np.mean(test)
    return losses


@pytest.mark.parametrize("beta", [1, 0, 0.5])
def test_the_loss_is_the_estimators_own(beta):
    X = planted(3, 2, 80, 50) + 0.05
    estimator = NMF(solver="mu", beta_loss=beta, init="nndsvda", random_state=0, max_iter=400)
    found = select_rank(X, [1, 3], estimator=estimator, repeats=1, folds=(2, 2), random_state=3, rule="min")
    entropy = np.random.RandomState(3).randint(np.iinfo(np.int32).max, size=4).tolist()
    (each,) = (split(X.shape, (2, 2), None, None, seed) for seed in np.random.SeedSequence(entropy).spawn(1))
    lost = whole = 0.0
    for cell in each.cells:
        A, B, C, D = cut(X, each, cell)
        model = copy.copy(estimator).set_params(n_components=3).fit(D)
        W_D = copy.copy(model).fit_transform(D)
        transposed = copy.copy(model)
        transposed.components_ = np.ascontiguousarray(W_D.T)
        transposed.n_features_in_ = C.shape[0]
        lost += divergence(A, model.transform(B) @ transposed.transform(C.T).T, beta)
        whole += divergence(A, np.full_like(A, X.mean()), beta)
    np.testing.assert_allclose(found.test[1], lost / whole, rtol=1e-6)
    assert found.test[1] < found.test[0]


def divergence(X, Y, beta):
    """D_β for positive X, Y."""
    if beta == 1:
        return np.sum(X * np.log(X / Y) - X + Y)
    if beta == 0:
        return np.sum(X / Y - np.log(X / Y) - 1)
    return np.sum((X**beta + (beta - 1) * Y**beta - beta * X * Y ** (beta - 1)) / (beta * (beta - 1)))


# --------------------------------------------------------------------------------------------------
# splits


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("labelled", [False, True])
def test_folds_hold_every_member_once_and_are_of_one_size(rng, parts, labelled):
    labels = np.repeat(np.arange(20), 5) if labelled else None
    folds = cut_into(parts, 100, labels, rng)
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(100))
    assert max(map(len, folds)) - min(map(len, folds)) <= (5 if labelled else 1)
    if labelled:
        assert all(set(labels[a]).isdisjoint(labels[b]) for a, b in itertools.pairwise(folds))
    again = cut_into(parts, 100, labels, rng)
    assert not all(np.array_equal(a, b) for a, b in zip(folds, again, strict=True))


def test_every_entry_is_left_out_once():
    X = np.arange(35 * 11).reshape(35, 11)
    each = split(X.shape, (3, 2), None, None, np.random.SeedSequence(0))
    out = np.concatenate([cut(X, each, cell).A.ravel() for cell in each.cells])
    assert np.array_equal(np.sort(out), np.arange(X.size))
    for cell in each.cells:
        A, B, C, D = cut(X, each, cell)
        assert A.size + B.size + C.size + D.size == X.size
        assert min(D.shape) >= each.largest_k


def test_tiles_are_contiguous_and_keep_channels_together():
    labels, size = tile_labels((16, 24, 3), 16 * 24 * 3)
    assert size == (2, 3)
    picture = labels.reshape(16, 24, 3)
    assert (picture == picture[:, :, :1]).all()
    for label in np.unique(labels):
        y, x = np.nonzero(picture[:, :, 0] == label)
        assert (y.max() - y.min() + 1) * (x.max() - x.min() + 1) == len(y)
    assert tile_labels(((5, 7), (2, 3)), 35)[0].max() == 8


def test_random_columns_leak_where_noise_is_shared_and_tiles_do_not():
    """Neighbouring pixels share their noise: tiles find the planted number, random columns many more."""
    rng = np.random.default_rng(0)
    k, side, n = 4, 16, 500
    y, x = np.mgrid[:side, :side]
    centres = rng.uniform(2, side - 2, (k, 2))
    H = np.array([np.exp(-((y - a) ** 2 + (x - b) ** 2) / 40) for a, b in centres]).reshape(k, -1)
    noise = rng.random((n, side // 2, side // 2)).repeat(2, 1).repeat(2, 2).reshape(n, -1)  # of 2×2 pixels
    X = rng.exponential(size=(n, k)) @ H + 0.5 * noise
    ks = [2, 4, 5, 8, 16, 24]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        leaking = select_rank(X, ks, random_state=0)
        tiled = select_rank(X, ks, tiles=((side, side), (4, 4)), random_state=0)
    assert leaking.best >= 16
    assert tiled.best in (4, 5)  # the mean of the noise is a part of its own


def test_groups_keep_near_copies_together():
    """Each row three times: copies on both sides make the noise predictable."""
    X = np.repeat(planted(3, 3, 80, 60), 3, axis=0) * np.random.default_rng(1).uniform(0.9, 1.1, (240, 60))
    groups = np.array([f"person {i // 3}" for i in range(240)])
    found = select_rank(X, [2, 3, 4, 5], groups=groups, random_state=0)
    assert found.best == 3
    labels = np.unique(groups, return_inverse=True)[1]
    each = split(X.shape, (2, 2), labels, None, np.random.SeedSequence(0))
    assert set(labels[each.rows[0]]).isdisjoint(labels[each.rows[1]])


# --------------------------------------------------------------------------------------------------
# X of every kind


def test_same_bits_for_any_number_of_threads():
    X = planted(4, 0, 200, 90)
    found = [select_rank(X, [2, 4, 6], random_state=0, n_jobs=n_jobs) for n_jobs in (1, 2, 5)]
    assert same(found[0], found[1]) and same(found[0], found[2])


def test_same_bits_where_fits_are_not_side_by_side(monkeypatch):
    X = planted(4, 0, 200, 90)
    found = select_rank(X, [2, 4], random_state=0, n_jobs=2)
    monkeypatch.setattr(run, "_SIDE_BY_SIDE", 0)
    assert same(found, select_rank(X, [2, 4], random_state=0, n_jobs=2))


def test_what_else_is_tried_changes_nothing():
    X = planted(4, 0, 200, 90)
    found, more = select_rank(X, [4, 6], random_state=0), select_rank(X, [2, 4, 5, 6, 8], random_state=0)
    assert found.test.tolist() == more.test[[1, 3]].tolist()


def test_every_way_to_give_x_has_the_same_bits(tmp_path):
    h5py, zarr = pytest.importorskip("h5py"), pytest.importorskip("zarr")
    X = np.uint8(np.minimum(planted(3, 0, 120, 30) * 8, 255))
    path = tmp_path / "x.npy"
    np.save(path, X)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = X
    zarr.save(str(tmp_path / "x.zarr"), X)
    blocks = RowBlocks(lambda: (X[a : a + 50] for a in range(0, 120, 50)), X.shape, X.dtype)
    ways = [
        np.asfortranarray(X),
        np.load(path, mmap_mode="r"),
        np.load(path, mmap_mode="r")[:],
        path,
        str(tmp_path / "x.h5::x"),
        str(tmp_path / "x.zarr"),
        blocks,
    ]
    for max_rows in (None, 80):
        expected = select_rank(X, [2, 3], random_state=0, repeats=2, max_rows=max_rows)
        assert expected.n_rows == (max_rows or 120)
        for way in ways:
            assert same(expected, select_rank(way, [2, 3], random_state=0, repeats=2, max_rows=max_rows)), way


def test_a_dask_array(tmp_path):
    da = pytest.importorskip("dask.array")
    X = planted(4, 0, 200, 60)
    expected = select_rank(X, [3, 4, 5], random_state=0)
    assert same(expected, select_rank(da.from_array(X, chunks=(50, 60)), [3, 4, 5], random_state=0))


@pytest.mark.parametrize("make", [sp.csr_matrix, sp.csc_matrix, sp.csr_array])
def test_sparse_x_is_never_made_dense(make, monkeypatch):
    X = planted(4, 0, 300, 80, sparse=True)
    X *= np.quantile(X, 0.5) <= X
    expected = select_rank(X, [3, 4, 5], random_state=0, estimator=NMF(solver="hals", init="random", random_state=0))
    for kind in (sp.csr_matrix, sp.csc_matrix, sp.csr_array):
        monkeypatch.setattr(kind, "toarray", None)
        monkeypatch.setattr(kind, "todense", None)
    estimator = NMF(solver="hals", init="random", random_state=0)
    found = select_rank(make(X), [3, 4, 5], random_state=0, estimator=estimator)
    assert found.best == expected.best
    np.testing.assert_allclose(found.test, expected.test, rtol=2e-3)


def test_blocks_have_the_type_of_x_and_no_memory_of_the_size_of_x_is_widened():
    import tracemalloc

    X = np.uint8(np.random.default_rng(0).integers(0, 255, (4000, 1000)))
    each = split(X.shape, (2, 2), None, None, np.random.SeedSequence(0))
    assert all(block.dtype == np.uint8 and block.flags.c_contiguous for block in cut(X, each, (0, 1)))
    estimator = NMF(solver="hals", init="random", max_iter=3)
    select_rank(X, [2, 3], estimator=estimator, repeats=1, rule="min", random_state=0, n_jobs=2)  # compiles
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            select_rank(X, [2, 3], estimator=estimator, repeats=1, rule="min", random_state=0, n_jobs=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * X.nbytes  # the blocks of two folds, and factors; widened it would be 4 times as much and more


def test_any_unit(rng):
    X = planted(4, 0, 150, 60)
    expected = select_rank(X, [3, 4, 5], random_state=0)
    for power in (-400, 400):
        found = select_rank(X * 2.0**power, [3, 4, 5], random_state=0)
        np.testing.assert_allclose(found.test, expected.test, rtol=1e-9)
        np.testing.assert_allclose(found.train, expected.train, rtol=1e-9)


# --------------------------------------------------------------------------------------------------
# edges


def test_one_component_works():
    found = select_rank(planted(1, 0, 100, 40), [1, 2, 3], random_state=0)
    assert found.best == 1
    assert not found.at_edge  # there is nothing below


def test_a_k_larger_than_a_block_is_refused_before_any_fit(monkeypatch):
    monkeypatch.setattr(NMF, "fit_transform", None)
    with pytest.raises(ValueError, match=r"k = 21 is larger than a block: .*\(2, 2\) the largest k possible is 20"):
        select_rank(np.ones((60, 40)), [2, 21])
    with pytest.raises(ValueError, match="the largest k possible is 26"):
        select_rank(np.ones((60, 40)), [27], folds=(2, 3))


def test_the_largest_k_possible_works():
    with pytest.warns(UserWarning):
        assert select_rank(planted(3, 0, 60, 20), [3, 10], random_state=0).k.tolist() == [3, 10]


@pytest.mark.parametrize(
    ("ks", "said"), [([2, 3, 4], "the largest that was tried"), ([7, 8, 9], "the smallest that was")]
)
def test_an_optimum_at_the_edge_warns(ks, said):
    with pytest.warns(UserWarning, match=said):
        found = select_rank(planted(6, 0, 200, 80), ks, random_state=0)
    assert found.at_edge
    assert "at the edge" in repr(found)


def test_a_flat_curve_warns():
    """Penalties that leave nothing make every k as bad."""
    with pytest.warns(UserWarning, match="same for all k from 2 to 4"):
        found = select_rank(
            planted(3, 0, 60, 30), [2, 3, 4], estimator=NMF(solver="hals", alpha_W=1e6, l1_ratio=1), random_state=0
        )
    assert found.at_edge
    np.testing.assert_allclose(found.test, 1)


def test_one_k_cannot_be_compared():
    with pytest.warns(UserWarning, match="Only k = 3 was tried"):
        found = select_rank(planted(3, 0, 60, 30), 3, random_state=0)
    assert (found.best, found.at_edge) == (3, True)


def test_a_single_repeat_has_no_spread_and_says_so():
    with pytest.warns(UserWarning, match="there is one: the k with the least test loss was chosen"):
        found = select_rank(planted(3, 0, 100, 40), [2, 3, 4], repeats=1, random_state=0)
    assert found.rule == "min"
    assert np.isnan(found.spread).all()
    assert found.best == found.k[np.argmin(found.test)]
    assert "nan" not in found._repr_html_()


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_a_column_of_zeros_in_a_fold(kind):
    X = planted(3, 0, 80, 30)
    X[:, 4] = 0
    X[5:, 7] = 0  # zero in most folds, not in all
    X[9] = 0
    found = select_rank(kind(X), [2, 3, 4], random_state=0)
    assert found.best == 3
    assert np.isfinite(found.table["test"]).all()


def test_a_fold_of_zeros_only():
    X = np.zeros((40, 20))
    X[:2, :2] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = select_rank(X, [1, 2], random_state=0)
    assert np.isfinite(found.test).all()


def test_x_of_zeros_is_refused():
    with pytest.raises(ValueError, match="Every value of X is 0"):
        select_rank(np.zeros((20, 10)), [1, 2])


@pytest.mark.parametrize(
    ("X", "said"), [(np.full((20, 10), np.nan), "contains NaN"), (-np.ones((20, 10)), "Negative values")]
)
def test_x_is_checked_as_a_fit_checks_it(X, said):
    with pytest.raises(ValueError, match=said):
        select_rank(X, [1, 2])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": "all"}, "or 'auto'"),
        ({"k": []}, "at least one number"),
        ({"k": [0, 2]}, "at least one number of components, each a whole number"),
        ({"k": [2.5]}, "each a whole number"),
        ({"method": "cophenetic"}, "expected 'bicross' or 'holdout'"),
        ({"holdout": 0}, "holdout = 0: give the share"),
        ({"holdout": 1.0}, "above 0 and below 1"),
        ({"holdout": "0.1"}, "give the share"),
        ({"method": "holdout", "holdout": 0.01}, "leaves out about 2 of 200 entries"),
        ({"method": "holdout", "tiles": ((2, 5), (2, 5)), "groups": np.arange(20)}, "of 20 tiles of groups of rows"),
        ({"method": "holdout", "k": [11]}, "larger than X: with 20 rows and 10 columns the largest k possible is 10"),
        ({"method": "holdout", "estimator": NMF(n_init=2)}, "n_init=2 is for an X without missing entries"),
        ({"method": "holdout", "estimator": NMF(solver="mu", extrapolate=True)}, "extrapolate=True is for"),
        (
            {"method": "holdout", "estimator": NMF(solver="hals", beta_loss="kullback-leibler")},
            "without missing entries, but entries of X are missing",
        ),
        ({"folds": (1, 2)}, "each at least 2"),
        ({"folds": 2}, "each at least 2"),
        ({"folds": (21, 2)}, "21 folds of rows need 21 rows, but X has 20"),
        ({"repeats": 0}, "repeats = 0"),
        ({"max_rows": 2}, "max_rows = 2"),
        ({"rule": "2se"}, "expected '1se' or 'min'"),
        ({"max_time": 0}, "max_time = 0"),
        ({"tiles": (3, 4)}, "pictures of 3×4 have 12 numbers, but X has 10 columns"),
        ({"tiles": "4x4"}, "is no shape of pictures"),
        ({"tiles": (2, 5, 1, 1)}, "is no shape of pictures"),
        ({"tiles": ((2, 5), (2, 5))}, "2 folds of columns need 2 tiles, but X has 1"),
        ({"groups": [1, 2]}, r"groups has shape \(2,\), but X has 20 rows"),
        ({"groups": np.ones(20)}, "2 folds of rows need 2 groups, but X has 1"),
        ({"estimator": MiniBatchNMF()}, "must be an NMF"),
        ({"estimator": NMF(init="custom")}, "init='custom'"),
        ({"estimator": NMF(checkpoint="x")}, "for one fit: leave it out"),
        ({"estimator": NMF(max_time=1)}, "a max_time of its own"),
        ({"estimator": NMF(callback=print)}, "a callback of its own"),
        ({"estimator": NMF(solver="cd", beta_loss=1)}, "does not handle beta_loss"),
        ({"estimator": NMF(tol=-1)}, "The 'tol' parameter of NMF"),
        ({"estimator": NMF(device="tpu")}, "device"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_fit(monkeypatch, options, said):
    monkeypatch.setattr(NMF, "fit_transform", None)
    with pytest.raises(ValueError, match=said):
        select_rank(np.ones((20, 10)), **{"k": [1, 2], **options})


def test_an_estimator_is_left_as_it_is():
    estimator = NMF(7, solver="hals", tol=1e-3)
    before = dict(vars(estimator))
    select_rank(planted(3, 0, 80, 30), [2, 3, 4], estimator=estimator, random_state=0)
    assert vars(estimator) == before


def test_x_is_never_written():
    X = planted(3, 0, 80, 30)
    X.setflags(write=False)
    groups = np.arange(80)
    groups.setflags(write=False)
    assert select_rank(X, [2, 3, 4], groups=groups, random_state=0).best == 3


def test_fits_that_reach_max_iter_are_counted_in_one_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        select_rank(planted(3, 0, 80, 30), [2, 3, 4], estimator=NMF(max_iter=2), random_state=0)
    (said,) = [str(each.message) for each in caught if issubclass(each.category, ConvergenceWarning)]
    assert said.startswith("36 of 36 fits reached max_iter = 2 before their stop rule was met")


# --------------------------------------------------------------------------------------------------
# single entries that are left out


def left_out(shape, seed, repeats, share, rows=None, columns=None):
    """Return the masks of the repeats of ``select_rank(random_state=seed)``."""
    entropy = np.random.RandomState(seed).randint(np.iinfo(np.int32).max, size=4).tolist()
    seeds = [int(each.generate_state(1, np.uint64)[0]) for each in np.random.SeedSequence(entropy).spawn(repeats)]
    i, j = (np.arange(count) if label is None else label for count, label in zip(shape, (rows, columns), strict=True))
    return [Hashed(each, share, i, j).hidden(0, shape[0], None) for each in seeds]


def test_the_hash_is_splitmix64():
    assert reference.splitmix64(1234567, 5) == [  # the first numbers of the authors' program
        *(6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821)
    ]
    for seed in (0, 1234567, 2**64 - 1):
        mask = Hashed(seed, 0.3, np.arange(23), np.arange(17))
        expected = np.array(
            [[h < 0.3 * 2.0**64 for h in reference.splitmix64(s, 17)] for s in reference.splitmix64(seed, 23)]
        )
        assert np.array_equal(mask.hidden(0, 23, None), expected)
        assert np.array_equal(mask.hidden(5, 9, None), expected[5:9])
        assert np.array_equal(mask.T.hidden(2, 17, None), expected.T[2:17])
        assert np.array_equal(mask.take(np.array([3, 8])).T.hidden(0, 17, None), expected[[3, 8]].T)
        assert np.array_equal(Complement(mask).take(np.array([3, 8])).hidden(0, 2, None), ~expected[[3, 8]])


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_a_share_is_hidden_everywhere(share):
    hidden = Hashed(7, share, np.arange(400), np.arange(300)).hidden(0, 400, None)
    five = 5 * np.sqrt(share * (1 - share))  # standard errors
    assert abs(hidden.mean() - share) <= five / np.sqrt(hidden.size)
    for axis, length in ((0, 400), (1, 300)):
        assert (np.abs(hidden.mean(axis=axis) - share) <= five / np.sqrt(length)).all()
    both = (hidden[:, 1:] & hidden[:, :-1]).mean(), (hidden[1:] & hidden[:-1]).mean()
    assert all(abs(each - share**2) <= 5 * share / np.sqrt(hidden.size) for each in both)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense factors", "sparse factors"])
@pytest.mark.parametrize(("k", "shape"), [(5, (300, 160)), (12, (500, 300))])
def test_the_planted_number_is_found_by_entries(k, shape, sparse):
    around = range(k - 2, k + 3)
    found = [
        select_rank(planted(k, seed, *shape, sparse=sparse), around, method="holdout", random_state=seed).best
        for seed in range(2)
    ]
    assert found == [k] * 2


@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "cd", "init": "nndsvda", "alpha_W": 1e-4, "alpha_H": 3e-4, "l1_ratio": 0.5},
        {"solver": "mu", "beta_loss": 1, "init": "nndsvda"},
        {"solver": "hals", "missing_values": np.nan},
    ],
    ids=["penalties", "kullback-leibler", "with gaps"],
)
def test_losses_are_those_of_fits_with_a_mask(settings):
    X = planted(3, 1, 60, 40) + 0.05
    gaps = np.zeros(X.shape, bool)
    if "missing_values" in settings:
        gaps[3:9, 5:30] = True
        X[gaps] = np.nan
    beta, settings = settings.get("beta_loss", 2), {"random_state": 0, "max_iter": 40, "tol": 0, **settings}
    found = select_rank(
        X, [2, 3], estimator=NMF(**settings), method="holdout", holdout=0.2, repeats=2, random_state=5, rule="min"
    )
    mean = np.nanmean(X)
    for at, k in enumerate((2, 3)):
        train, test = [], []
        for mask in left_out(X.shape, 5, 2, 0.2):
            model = NMF(k, **settings)
            WH = model.fit_transform(X, mask=mask) @ model.components_
            for losses, of in ((train, ~mask & ~gaps), (test, mask & ~gaps)):
                whole = np.full(of.sum(), mean if beta != 2 else 0)
                losses.append(of_entries(X[of], WH[of], beta) / of_entries(X[of], whole, beta))
        np.testing.assert_allclose(found.train[at], np.mean(train), rtol=1e-8)
        np.testing.assert_allclose(found.test[at], np.mean(test), rtol=1e-8)
    assert set(found.table["fold"].tolist()) == {0} and len(found.table) == 4


def of_entries(x, y, beta):
    return np.sum((x - y) ** 2) / 2 if beta == 2 else divergence(x, y, beta)


def test_entries_have_the_same_bits_for_any_number_of_threads(monkeypatch):
    X = planted(4, 0, 200, 90)
    options = {"method": "holdout", "random_state": 0}
    found = [select_rank(X, [2, 4, 6], n_jobs=n_jobs, **options) for n_jobs in (1, 2, 5)]
    assert same(found[0], found[1]) and same(found[0], found[2])
    fewer = select_rank(X, [4], rule="min", **options)
    assert fewer.test[0] == found[0].test[1]
    monkeypatch.setattr(run, "_SIDE_BY_SIDE", 0)
    assert same(found[0], select_rank(X, [2, 4, 6], n_jobs=2, **options))


def test_entries_of_every_way_to_give_x_have_the_same_bits(tmp_path):
    h5py, zarr, da = (pytest.importorskip(name) for name in ("h5py", "zarr", "dask.array"))
    X = np.uint8(np.minimum(planted(3, 0, 120, 30) * 8, 255))
    path = tmp_path / "x.npy"
    np.save(path, X)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = X
    zarr.save(str(tmp_path / "x.zarr"), X)
    ways = [
        np.asfortranarray(X),
        np.load(path, mmap_mode="r"),
        path,
        str(tmp_path / "x.h5::x"),
        str(tmp_path / "x.zarr"),
        RowBlocks(lambda: (X[a : a + 50] for a in range(0, 120, 50)), X.shape, X.dtype),
        da.from_array(X, chunks=(40, 30)),
    ]
    for max_rows in (None, 80):
        options = {"random_state": 0, "repeats": 2, "max_rows": max_rows, "method": "holdout"}
        expected = select_rank(X, [2, 3], **options)
        assert expected.n_rows == (max_rows or 120)
        for way in ways:
            assert same(expected, select_rank(way, [2, 3], **options)), way


def test_a_matrix_on_disk_is_not_brought_into_memory(tmp_path, monkeypatch):
    from nmfcore.rows.disk import Source

    np.save(tmp_path / "x.npy", planted(3, 0, 120, 30))
    monkeypatch.setattr(Source, "take", None)
    assert select_rank(tmp_path / "x.npy", [2, 3, 4], method="holdout", random_state=0).best == 3


def test_zeros_of_a_sparse_x_are_observed():
    X = planted(4, 0, 300, 80, sparse=True)
    X *= np.quantile(X, 0.5) <= X
    options = {"estimator": NMF(solver="hals", init="random", random_state=0), "method": "holdout", "random_state": 0}
    expected, found = (select_rank(each, [3, 4, 5], **options) for each in (X, sp.csr_matrix(X)))
    assert found.best == expected.best
    np.testing.assert_allclose(found.test, expected.test, rtol=1e-6)


def test_of_a_sparse_x_whose_zeros_are_missing_stored_numbers_are_left_out():
    rng = np.random.default_rng(0)
    X = planted(3, 0, 200, 60) + 0.05
    X[rng.random(X.shape) < 0.6] = 0
    settings = {"solver": "hals", "random_state": 0, "missing_values": 0, "max_iter": 60}
    found = select_rank(
        sp.csr_matrix(X), [3], estimator=NMF(**settings), method="holdout", repeats=1, holdout=0.1, random_state=2
    )
    (mask,) = left_out(X.shape, 2, 1, 0.1)
    model = NMF(3, **settings)
    WH = model.fit_transform(sp.csr_matrix(np.where(mask, 0, X))) @ model.components_
    of = mask & (X > 0)
    np.testing.assert_allclose(found.test[0], np.sum((X - WH)[of] ** 2) / np.sum(X[of] ** 2), rtol=1e-6)


@pytest.mark.parametrize("max_rows", [None, 150])
def test_what_lies_under_a_mask_does_not_matter_to_any_k(max_rows):
    X = planted(3, 0, 200, 60)
    hidden = np.random.default_rng(1).random(X.shape) < 0.1
    options = {"method": "holdout", "random_state": 0, "max_rows": max_rows}
    found = [
        select_rank(np.ma.MaskedArray(np.where(hidden, under, X), hidden), [2, 3, 4], **options) for under in (0, 1e9)
    ]
    gaps = select_rank(
        np.where(hidden, np.nan, X), [2, 3, 4], estimator=NMF(solver="hals", tol=given.TOL, missing_values=np.nan),
        **options,
    )  # fmt: skip
    assert found[0].best == 3 and same(found[0], found[1]) and same(found[0], gaps)


def test_blocks_are_refused_where_entries_are_missing():
    X = np.ma.MaskedArray(planted(3, 0, 60, 40), np.random.default_rng(1).random((60, 40)) < 0.1)
    with pytest.raises(ValueError, match=r"X has missing entries, .*: use method='holdout'"):
        select_rank(X, [2, 3])


def test_tiles_and_groups_are_left_out_together():
    labels, groups = tile_labels(((8, 6), (2, 3)), 48)[0], np.repeat(np.arange(50), 3)
    X = planted(3, 0, 150, 48)
    (mask,) = left_out(X.shape, 4, 1, 0.1, groups, labels)
    for label in np.unique(labels):
        assert (mask[:, labels == label] == mask[:, labels == label][:, :1]).all()
    assert (mask[::3] == mask[1::3]).all() and 0 < mask.mean() < 0.3
    settings = {"solver": "hals", "random_state": 0}
    found = select_rank(
        X, [3], method="holdout", holdout=0.1, tiles=((8, 6), (2, 3)), groups=groups, repeats=1, random_state=4,
        estimator=NMF(**settings),
    )  # fmt: skip
    model = NMF(3, **settings)
    WH = model.fit_transform(X, mask=mask) @ model.components_
    np.testing.assert_allclose(found.test[0], np.sum((X - WH)[mask] ** 2) / np.sum(X[mask] ** 2), rtol=1e-8)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_fits_of_entries_that_are_cut_short_leave_what_is_there(n_jobs):
    X, seen = planted(3, 0, 80, 30), []

    def stop(progress):
        seen.append(progress)
        return progress.done >= 5

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = select_rank(X, [2, 3, 4], method="holdout", random_state=0, callback=stop, n_jobs=n_jobs)
        whole = select_rank(X, [2, 3, 4], method="holdout", random_state=0)
    assert seen[0].total == 9
    if n_jobs == 1:  # which fits end first is not fixed otherwise
        assert found.repeats == 1 and found.k.tolist() == [2, 3, 4]
    assert found.stop_reason.startswith(f"the callback returned True; {len(found.table)} of 9 fits were made")
    rows = dict(zip(zip(whole.table["k"], whole.table["repeat"], strict=True), whole.table["test"], strict=True))
    for k, repeat, test in zip(*(found.table[name] for name in ("k", "repeat", "test")), strict=True):
        assert rows[k, repeat] == test


def test_the_largest_k_of_entries_is_that_of_x():
    with pytest.warns(UserWarning):
        assert select_rank(planted(3, 0, 60, 20), [3, 20], method="holdout", random_state=0).k.tolist() == [3, 20]


# --------------------------------------------------------------------------------------------------
# interruptions


def test_progress_is_told_in_the_calling_thread():
    seen, threads = [], set()

    def callback(progress):
        seen.append(progress)
        threads.add(threading.get_ident())

    select_rank(planted(3, 0, 80, 30), [2, 3, 4], random_state=0, callback=callback, n_jobs=2)
    assert [each.done for each in seen][-1] == len(seen) == seen[-1].total == 36
    assert threads == {threading.get_ident()}
    assert seen[-1].seconds_left == 0 and seen[0].seconds_left > 0
    every = {(k, repeat, fold) for k in (2, 3, 4) for repeat in range(3) for fold in range(4)}
    assert {(each.k, each.repeat, each.fold) for each in seen} == every


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize(
    ("after", "repeats", "ks"), [(14, 1, [2, 3, 4]), (29, 2, [2, 3, 4]), (5, 1, [2, 3, 4]), (2, 1, [2, 3])]
)
def test_a_callback_that_returns_true_gets_what_is_there(after, repeats, ks, n_jobs):
    if n_jobs > 1 and after < 5:
        pytest.skip("which k ends first is not fixed")
    X = planted(3, 0, 80, 30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = select_rank(X, [2, 3, 4], random_state=0, callback=lambda now: now.done >= after, n_jobs=n_jobs)
        whole = select_rank(X, [2, 3, 4], random_state=0)
    assert found.repeats == repeats
    assert found.k.tolist() == ks
    assert found.stop_reason.startswith(f"the callback returned True; {len(found.table)} of 36 fits were made")
    rows = {(k, r, f): t for k, r, f, t in zip(*(whole.table[n] for n in ("k", "repeat", "fold", "test")), strict=True)}
    for k, r, f, t in zip(*(found.table[name] for name in ("k", "repeat", "fold", "test")), strict=True):
        assert rows[k, r, f] == t


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_ctrl_c_returns_what_is_there(n_jobs):
    def press(progress):
        if progress.done >= 14:
            raise KeyboardInterrupt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = select_rank(planted(3, 0, 80, 30), [2, 3, 4], random_state=0, callback=press, n_jobs=n_jobs)
    assert found.stop_reason.startswith("interrupted; ")
    assert found.repeats == 1


def test_ctrl_c_before_there_is_anything_is_raised(monkeypatch):
    def press(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(NMF, "fit_transform", press)
    with pytest.raises(KeyboardInterrupt):
        select_rank(planted(3, 0, 80, 30), [2, 3, 4], random_state=0)


def test_an_exception_of_the_callback_is_raised():
    def fail(progress):
        raise LookupError("no window")

    with pytest.raises(LookupError, match="no window"):
        select_rank(planted(3, 0, 80, 30), [2, 3, 4], random_state=0, callback=fail, n_jobs=2)


def test_out_of_time_returns_what_is_there(monkeypatch):
    """A clock that a fit takes two seconds of, and nothing else any."""
    now = [0.0]
    real = bicross.predict

    def predict(*args):
        now[0] += 2
        return real(*args[:-1], None)

    monkeypatch.setattr(bicross, "predict", predict)
    monkeypatch.setattr(run.time, "perf_counter", lambda: now[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = select_rank(planted(3, 0, 80, 30), [2, 3, 4], random_state=0, max_time=30, n_jobs=1)
        assert found.stop_reason.startswith("out of time; 15 of 36 fits were made, of which 12 count")
        assert found.repeats == 1
        now[0] = 0
        auto = select_rank(planted(3, 0, 80, 30), "auto", random_state=0, max_time=60, n_jobs=1)
    assert auto.k.tolist() == [2, 4] and auto.repeats == 3
    assert auto.stop_reason.startswith("out of time; 30 of 36 fits")


def test_time_that_is_over_before_the_first_fit_is_an_error():
    X = np.random.default_rng(0).random((3000, 400))
    with pytest.raises(ValueError, match="were over before one fit had ended: give more time"):
        select_rank(X, [60], max_time=1e-4, random_state=0)


# --------------------------------------------------------------------------------------------------
# the result


@pytest.fixture(scope="module")
def found():
    return select_rank(planted(3, 0, 100, 40), [2, 3, 4, 5], random_state=0)


def test_the_table_makes_the_curves(found, tmp_path):
    table = found.table
    assert table.columns == ("k", "repeat", "fold", "train", "test", "n_iter", "seconds")
    assert len(table) == 4 * 3 * 4
    read = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [float(row["test"]) for row in read] == table["test"].tolist()
    assert table.to_csv(tmp_path / "fits.csv") is None
    assert (tmp_path / "fits.csv").read_text() == table.to_csv()
    for at, k in enumerate(found.k):  # folds are of nearly one size
        assert table["test"][table["k"] == k].mean() == pytest.approx(found.test[at], rel=0.02)
        assert table["train"][table["k"] == k].mean() == pytest.approx(found.train[at], rel=0.02)
    assert (np.diff(found.train) < 0).all()
    pd = pytest.importorskip("pandas")
    frame = table.to_pandas()
    # Read as text and then converted: by default, pandas < 3 rounds the last digit of the numbers that it reads.
    written = pd.read_csv(tmp_path / "fits.csv", dtype=str).astype(frame.dtypes)
    pd.testing.assert_frame_equal(frame, written, check_exact=True)


def test_it_is_shown_drawn_and_pickled(found):
    assert repr(found).startswith("<RankSelection: k = 3 of 2 … 5, test loss 0.")
    page = found._repr_html_()
    assert page.count("<tr>") == 5 and "<th>3</th>" in page and "k = 3" in page
    assert "48 fits" in repr(found.table) and found.table._repr_html_().count("<tr>") == 49
    axes = found.plot()
    assert axes.lines[0].get_ydata().tolist() == found.test.tolist()
    assert any(text.get_text() == "k = 3" for text in axes.texts)
    assert found.plot(axes) is axes
    again = pickle.loads(pickle.dumps(found))
    assert same(found, again) and isinstance(again, RankSelection)


def test_without_pandas_the_table_says_what_to_do(found, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas, or use to_csv"):
        found.table.to_pandas()


def test_rules(rng):
    flat = np.array([[0.9, 0.51, 0.50, 0.52], [0.8, 0.40, 0.41, 0.42], [0.7, 0.31, 0.29, 0.35]])
    assert chosen(flat, "min") == (2, 2)
    assert chosen(flat, "1se") == (1, 2)
    assert chosen(flat[:1], "1se") == (2, 2)
    assert not is_flat(flat, 2)
    assert is_flat(np.full((1, 3), 0.4), 0)
    for _ in range(20):
        test = rng.random((4, 6))
        at, least = chosen(test, "1se")
        assert at <= least == np.argmin(test.mean(axis=0))
        differences = test[:, :at] - test[:, [least]]
        assert (differences.mean(axis=0) > differences.std(axis=0, ddof=1) / 2).all()


def test_names_are_public():
    assert nmfcore.RankSelection.__module__ == "nmfcore"
    assert {"select_rank", "RankSelection", "estimate"} <= set(nmfcore.__all__)
