"""What other libraries do with an NMF: subclass it, clone it, test its class, call its private names."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import sklearn
from scipy import sparse
from sklearn.base import clone
from sklearn.decomposition import _nmf as theirs

from nmfcore import NMF, MiniBatchNMF, _nmf, non_negative_factorization

RNG = np.random.default_rng(0)
X = RNG.random((40, 12))
W0, H0 = RNG.random((40, 4)), RNG.random((4, 12))
FORMS = {"dense": X, "csr": sparse.csr_matrix(X * (X > 0.5)), "csc": sparse.csc_matrix(X * (X > 0.5))}


# --- subclasses ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("base", [NMF, MiniBatchNMF])
def test_a_subclass_with_fewer_parameters_is_fitted_and_cloned(base):
    class Topics(base):
        def __init__(self, n_components=3, *, max_iter=30):
            super().__init__(n_components, max_iter=max_iter, random_state=0, tol=0)

    class Bare(base):
        """Does not even call the __init__ of its base."""

        def __init__(self, n_components=3):
            self.n_components = n_components

    for cls in (Topics, Bare):
        model = cls(2)
        copy = clone(model)
        assert copy.get_params() == model.get_params() and copy.n_components == 2
        assert copy.fit_transform(X).shape == copy.transform(X).shape == (40, 2)


@pytest.mark.parametrize("base", [NMF, MiniBatchNMF])
def test_a_subclass_that_passes_parameters_on_has_them(base):
    class Passes(base):
        def __init__(self, extra=1, **rest):
            self.extra = extra
            super().__init__(**rest)

    class Again(Passes):
        def __init__(self, more=2, **rest):
            self.more = more
            super().__init__(**rest)

    for cls in (Passes, Again):
        model = cls(n_components=4, max_iter=7, extra=3)
        assert clone(model).get_params() == model.get_params()
        assert clone(model).set_params(tol=0.5).get_params() == model.get_params() | {"tol": 0.5}
        assert (model.get_params()["n_components"], model.get_params()["extra"]) == (4, 3)


def test_codes_of_another_width_are_named_with_the_components():
    model = NMF(4, init="random", random_state=0, max_iter=3, tol=0.5).fit(X)
    for codes in (X, sparse.csr_matrix(X)):
        with pytest.raises(ValueError, match="X has 12 columns, but this NMF has 4 components"):
            model.inverse_transform(codes)


def test_a_clone_keeps_the_callback_of_a_subclass_that_has_one():
    def callback(progress):
        return True

    assert clone(NMF(2, callback=callback)).callback is callback


@pytest.mark.parametrize("order", ["nmfcore first", "scikit-learn first"])
def test_ours_passes_for_scikit_learns_class(order):
    imports = ["from nmfcore import NMF, MiniBatchNMF", "import sklearn.decomposition"]
    script = "\n".join(imports if order == "nmfcore first" else imports[::-1])
    script += textwrap.dedent(
        """
        assert isinstance(NMF(2), sklearn.decomposition.NMF)
        assert isinstance(MiniBatchNMF(2), sklearn.decomposition.MiniBatchNMF)
        assert not isinstance(NMF(2), sklearn.decomposition.MiniBatchNMF)
        assert sklearn.decomposition.NMF is not NMF
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


# --- private names ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("update_H", [True, False])
def test_fit_transform_with_an_underscore(update_H):
    options = {"init": "custom", "tol": 1e-6, "max_iter": 300}
    W, H, n_iter = NMF(4, **options)._fit_transform(X, W=None if not update_H else W0, H=H0, update_H=update_H)
    expected = non_negative_factorization(X, W=W0 if update_H else None, H=H0, update_H=update_H, **options)
    np.testing.assert_array_equal(W, expected[0])
    np.testing.assert_array_equal(H, expected[1])
    assert n_iter == expected[2]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_sweep_is_scikit_learns(form, shuffle):
    ours, other = W0.copy(), W0.copy()
    Ht = np.ascontiguousarray(H0.T)
    found = _nmf._update_coordinate_descent(FORMS[form], ours, Ht, 0.1, 0.2, shuffle, np.random.RandomState(0))
    expected = theirs._update_coordinate_descent(FORMS[form], other, Ht, 0.1, 0.2, shuffle, np.random.RandomState(0))
    np.testing.assert_allclose(ours, other, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    ours, other = Ht.copy(), Ht.copy()  # of H by symmetry
    _nmf._update_coordinate_descent(FORMS[form].T, ours, W0, 0.0, 0.0, False, None)
    theirs._update_coordinate_descent(FORMS[form].T, other, W0, 0.0, 0.0, False, None)
    np.testing.assert_allclose(ours, other, rtol=1e-10, atol=1e-12)


def test_the_fit_of_sweeps_is_scikit_learns():
    options = {"tol": 1e-3, "max_iter": 60, "l1_reg_W": 0.01, "l2_reg_H": 0.02}
    W, H, n_iter = _nmf._fit_coordinate_descent(X, W0, H0, **options)
    expected = theirs._fit_coordinate_descent(X, W0.copy(), H0.copy(), **options)
    np.testing.assert_allclose(W, expected[0], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(H, expected[1], rtol=1e-8, atol=1e-10)
    assert n_iter == expected[2]


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("beta", [0, 0.5, 1, 1.5, 2, 3])
def test_multiplicative_updates_are_scikit_learns(beta, form):
    data = FORMS[form] + 0.1 if form == "dense" else FORMS[form]
    if form == "csr" and beta <= 0:
        pytest.skip("zeros of X with beta <= 0")
    gamma = 1 / (2 - beta) if beta < 1 else 1 / (beta - 1) if beta > 2 else 1.0
    found = _nmf._multiplicative_update_w(data, W0.copy(), H0, beta, 0.1, 0.2, gamma)
    expected = theirs._multiplicative_update_w(data, W0.copy(), H0, beta, 0.1, 0.2, gamma)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)
    assert (found[2] is None) == (expected[2] is None) and (beta != 2 or np.allclose(found[2], expected[2]))
    if beta == 1:  # scikit-learn adds the penalty to the sums that it returns
        np.testing.assert_allclose(found[1], expected[1] - 0.1)
    found = _nmf._multiplicative_update_h(data, W0, H0.copy(), beta, 0.1, 0.2, gamma)
    expected = theirs._multiplicative_update_h(data, W0, H0.copy(), beta, 0.1, 0.2, gamma)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    A, B = np.ones((2, 4, 12))
    found = _nmf._multiplicative_update_h(data, W0, H0.copy(), beta, 0.1, 0.2, gamma, A.copy(), B.copy(), 0.7)
    expected = theirs._multiplicative_update_h(data, W0, H0.copy(), beta, 0.1, 0.2, gamma, A.copy(), B.copy(), 0.7)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_private_base_class():
    assert issubclass(NMF, _nmf._BaseNMF) and issubclass(MiniBatchNMF, _nmf._BaseNMF)


# --- configuration, and types of factors --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_assume_finite_leaves_finiteness_to_the_caller():
    broken = X.copy()
    broken[3, 3] = np.nan
    with sklearn.config_context(assume_finite=True):
        NMF(2, init="random", max_iter=2, random_state=0).fit(broken)
    with pytest.raises(ValueError, match="contains NaN"):
        NMF(2).fit(broken)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [NMF, MiniBatchNMF])
def test_masked_arrays_are_fitted_by_their_masks_or_refused(kind):
    """What lies beneath a mask is no data; without a masked number the mask means nothing."""
    X = np.ma.array(np.random.default_rng(0).random((20, 5)), mask=False)
    np.testing.assert_array_equal(
        *(kind(2, random_state=0, max_iter=5, tol=0).fit(each).components_ for each in (X, X.data))
    )
    model = kind(2, random_state=0).fit(X)
    X[3, 1] = X[0, 0] = np.ma.masked
    if kind is NMF:
        masked, given = NMF(2, random_state=0).fit(X), NMF(2, random_state=0).fit(X.data, mask=X.mask)
        np.testing.assert_array_equal(masked.components_, given.components_)
        np.testing.assert_array_equal(model.transform(X), model.transform(X.data, mask=X.mask))
        return
    for call in (kind(2).fit, model.transform, model.score):
        with pytest.raises(ValueError, match="MiniBatchNMF takes no mask, no masked array"):
            call(X)


@pytest.mark.parametrize("solver", ["cd", "mu", "hals"])
def test_a_factor_in_float64_is_cast_for_x_in_float32(solver):
    options = {"n_components": 4, "init": "custom", "solver": solver, "max_iter": 20, "tol": 0}
    found = non_negative_factorization(X.astype(np.float32), W0, H0, **options)
    expected = non_negative_factorization(X.astype(np.float32), W0.astype("f4"), H0.astype("f4"), **options)
    for one, other in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("type_X", ["float32", "float64"])
def test_a_factor_of_another_byte_order_is_cast(type_X):
    rng = np.random.default_rng(0)
    X, W, H = rng.random((20, 6)).astype(type_X), rng.random((20, 3)), rng.random((3, 6))
    for kind in (NMF, MiniBatchNMF):
        models = [kind(3, init="custom", max_iter=3) for _ in range(2)]
        np.testing.assert_array_equal(
            models[0].fit_transform(X, W=W, H=H), models[1].fit_transform(X, W=W.astype(">f8"), H=H.astype(">f8"))
        )


def test_a_factor_in_float32_is_refused_for_x_in_float64_with_both_types():
    said = "H should have the same dtype as X. Got H.dtype = float32. X.dtype = float64: give H.astype('float64')."
    with pytest.raises(TypeError, match=f"^{re.escape(said)}$"):
        non_negative_factorization(X, H=H0.astype("f4"), update_H=False)


# --- the programs of benchmarks/clients.py ------------------------------------------------------------------------


def test_a_client_whose_names_are_replaced_computes_with_ours():
    script = textwrap.dedent(
        """
        import numpy as np
        import sklearn.decomposition
        from sklearn.decomposition import _nmf as own
        from benchmarks.client_programs import substitute
        theirs = vars(own).copy()
        substitute()
        from sklearn import decomposition
        from sklearn.decomposition import NMF, MiniBatchNMF, non_negative_factorization
        from sklearn.decomposition._nmf import NMF as other, _initialize_nmf, _update_coordinate_descent
        import nmfcore
        assert NMF is other is decomposition.NMF is nmfcore.NMF and MiniBatchNMF is nmfcore.MiniBatchNMF
        X = np.random.default_rng(0).random((20, 8))
        W, H = _initialize_nmf(X, 3, random_state=0)
        W, H, n_iter = NMF(3, init="custom", tol=1e-2)._fit_transform(X, W=W, H=H, update_H=True)
        assert _update_coordinate_descent(X, W, np.ascontiguousarray(H.T), 0, 0, False, None) >= 0
        try:
            theirs["NMF"](3, init="random", tol=0.9).fit(X)
        except AssertionError as error:
            assert "scikit-learn's own" in str(error)
        else:
            raise SystemExit("scikit-learn has computed")
        """
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, cwd=root)
    assert done.returncode == 0, done.stderr


def test_the_table_of_clients_says_what_differs(tmp_path):
    from benchmarks import clients, records

    head = {"client": "librosa", "date": "2026-01-02T03:04:05", "commit": "abc", "python": "3.13"}
    versions = {"librosa": "1.0", **dict.fromkeys(clients.VERSIONS, "2.0")}
    told = {"versions": versions, "calls": {"f(x)": {"seconds": 2.0, "warnings": ["Some: a|b"]}}}
    other = {"versions": versions, "calls": {"f(x)": {"seconds": 0.5, "warnings": []}}}
    A = np.array([1.0, 4.0, np.nan])
    theirs, ours = {"f(x)/W": A, "f(x)/H": A}, {"f(x)/W": A + np.array([0, 2, 0]), "f(x)/H": A}
    good = clients.compared("f(x)", "in its place", (told, theirs), (other, ours), head)
    assert good["difference"] == {"W": 0.5, "H": 0.0}
    unlike = clients.compared("f(x)", "given", (told, theirs), (other, {"f(x)/W": A[:1], "f(x)/H": A}), head)
    broken = {"versions": versions, "calls": {"f(x)": {"error": "TypeError: no"}}}
    failed = clients.compared("f(x)", "given", (told, theirs), (broken, {}), head)
    absent = {**head, "client": "textacy", "status": "not installed", "why": "no wheel"}
    records.append(tmp_path / "c.jsonl", [{**good, "date": "2025-01-01T00:00:00"}])
    records.append(tmp_path / "c.jsonl", [good, unlike, failed, absent])
    lines = clients.page(clients.newest(tmp_path / "c.jsonl")).splitlines()
    rows = [line for line in lines if line.startswith(("| librosa", "| textacy"))]
    assert rows == [
        "| librosa | 1.0 | f(x) | in its place | 5.0e-01 (W) | only scikit-learn: Some: a\\|b | 2 s | 500 ms |",
        "| librosa | 1.0 | f(x) | given | results do not match | only scikit-learn: Some: a\\|b | 2 s | 500 ms |",
        "| librosa | 1.0 | f(x) | given | **failed**: with nmfcore: TypeError: no |  |  |  |",
        "| textacy |  |  |  | **not installed**: no wheel |  |  |  |",
    ]
