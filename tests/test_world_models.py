"""Whatever can be fitted can be saved, and comes back whole: streams, names, devices, penalties, other versions."""

import copy
import json
import pickle
import pickletools
import warnings

import numpy as np
import pytest

import nmfcore
from nmfcore import NMF, MiniBatchNMF
from nmfcore.backends import cuda
from nmfcore.models import Model, ModelFileError, estimator_from, load, model_of, save

X = np.random.default_rng(0).integers(0, 256, (300, 24), dtype=np.uint8)


def through_file(estimator, W, path, **changes):
    save(model_of(estimator, W, **changes), path)
    return estimator_from(load(path))


def through_pickle(estimator, W, path):
    return pickle.loads(pickle.dumps(estimator))


WAYS = pytest.mark.parametrize("way", [through_file, through_pickle])


# --- streams --------------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("solver", ["hals", "mu"])
@pytest.mark.parametrize("penalties", [{}, {"alpha_W": 0.01, "alpha_H": 0.02, "l1_ratio": 0.5}])
def test_a_stream_goes_on_with_the_bits_of_one_that_was_never_saved(way, solver, penalties, tmp_path):
    model = MiniBatchNMF(4, solver=solver, random_state=0, **penalties)
    for first in range(0, 200, 50):
        model.partial_fit(X[first : first + 50])
    W = model.transform(X)
    again = way(model, W, tmp_path / "m.npz")
    assert not hasattr(again, "n_iter_") and again.n_steps_ == 4
    np.testing.assert_array_equal(again.transform(X), W)
    for each in (model, again):
        each.partial_fit(X[200:250]).partial_fit(X[250:])
    np.testing.assert_array_equal(again.components_, model.components_)
    assert again.n_steps_ == model.n_steps_ == 6


@WAYS
def test_a_fit_of_batches_comes_back(way, tmp_path):
    model = MiniBatchNMF(4, solver="hals", random_state=0, batch_size=64, max_iter=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        W = model.fit_transform(X)
    again = way(model, W, tmp_path / "m.npz")
    for name in ("n_iter_", "n_steps_", "reconstruction_err_", "converged_", "stop_reason_"):
        assert getattr(again, name) == getattr(model, name)
    for each in (model, again):
        each.partial_fit(X[:100])
    np.testing.assert_array_equal(again.components_, model.components_)


# --- everything else ------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize(
    "parameters",
    [
        {"device": "cpu"},
        {"dtype": np.float64},
        {"dtype": np.dtype("float32")},
        {"dtype": "float64"},
        {"alpha_W": 1e-3, "alpha_H": "same", "l1_ratio": 1.0},
        {"solver": "mu", "beta_loss": 1.5, "init": "nndsvda", "extrapolate": True},
        {"solver": "cd", "shuffle": True, "random_state": np.random.RandomState(3), "n_jobs": 2, "max_time": 60.0},
        {"n_components": np.int64(3), "tol": np.float32(1e-3)},
    ],
)
def test_every_parameter_can_be_saved(way, parameters, tmp_path):
    model = NMF(**{"n_components": 3, "random_state": 0, "max_iter": 500, "tol": 1e-2} | parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        W = model.fit_transform(X)
    again = way(model, W, tmp_path / "m.npz")
    np.testing.assert_array_equal(again.transform(X), model.transform(X))
    assert again.alpha_W == model.alpha_W and again.l1_ratio == model.l1_ratio


@WAYS
def test_feature_names_come_back(way, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=[f"pixel {number}" for number in range(24)])
    model = NMF(3, solver="hals", random_state=0).set_output(transform="pandas")
    W = model.fit_transform(frame)
    again = way(model, W, tmp_path / "m.npz")
    assert again.feature_names_in_.tolist() == frame.columns.tolist()
    np.testing.assert_array_equal(np.asarray(again.transform(frame)), np.asarray(model.transform(frame)))
    with pytest.raises(ValueError, match="feature names"):
        again.transform(frame.rename(columns=str.upper))


@pytest.mark.parametrize(
    "labels", [np.arange(300), np.array(["a", "$b"] * 150), np.ones(300, bool), np.linspace(0, 1, 300)]
)
def test_labels_come_back(labels, tmp_path):
    model = NMF(2, solver="hals", random_state=0)
    save(model_of(model, model.fit_transform(X), labels=labels), tmp_path / "m.npz")
    back = load(tmp_path / "m.npz").labels
    assert back.dtype == labels.dtype
    np.testing.assert_array_equal(back, labels)


def test_labels_of_other_types_are_kept_as_text_or_refused_before_a_file_is_written(tmp_path):
    model = NMF(2, solver="hals", random_state=0)
    W = model.fit_transform(X)
    days = np.datetime64("2024-01-01") + np.arange(300)
    for labels, first in (
        (days, "2024-01-01"),
        (np.array([b"caf\xe9"] * 300), "caf\ufffd"),
        ([None, "a"] * 150, "None"),
    ):
        save(model_of(model, W, labels=labels), tmp_path / "m.npz")
        assert load(tmp_path / "m.npz").labels[0] == first
    for labels in (np.eye(300)[:, :2], [("a", 1)] * 300):
        with pytest.raises(ValueError, match=r"labels must be one number or text for each row of W, got"):
            save(model_of(model, W, labels=labels), tmp_path / "none.npz")
    assert not (tmp_path / "none.npz").exists()


def test_an_estimator_of_ones_own_is_saved_as_ours(tmp_path):
    class Mine(NMF):
        def __init__(self, n_components=2, *, colour="red", solver="hals", random_state=0):
            super().__init__(n_components, solver=solver, random_state=random_state)
            self.colour = colour

    model = Mine(3)
    W = model.fit_transform(X)
    again = through_file(model, W, tmp_path / "m.npz")
    assert type(again) is NMF
    np.testing.assert_array_equal(again.transform(X), model.transform(X))


# --- a model goes where its data goes -------------------------------------------------------------


@pytest.mark.skipif(cuda.probe(0) is None, reason="a GPU is here, and this is about machines without one")
@pytest.mark.parametrize("kind", [NMF, MiniBatchNMF])
def test_an_estimator_that_is_given_for_a_model_is_told_how(kind, tmp_path):
    X = np.random.default_rng(0).random((20, 5))
    estimator = kind(2, random_state=0, max_iter=5000).fit(X)
    with pytest.raises(TypeError, match=r"save writes a Model, not .*: nmfcore\.models\.model_of\(estimator, W\)"):
        nmfcore.save(estimator, tmp_path / "m.npz")
    assert not list(tmp_path.iterdir())
    nmfcore.save(nmfcore.models.model_of(estimator, estimator.transform(X)), tmp_path / "m.npz")
    np.testing.assert_array_equal(nmfcore.load(tmp_path / "m.npz").components, estimator.components_)


@pytest.mark.parametrize("kind", [NMF, MiniBatchNMF])
def test_a_model_for_a_gpu_computes_without_one(kind):
    model = kind(3, solver="hals", random_state=0).fit(X)
    codes, score = model.transform(X), model.score(X)
    model = pickle.loads(pickle.dumps(model.set_params(device="cuda")))
    np.testing.assert_array_equal(model.transform(X), codes)
    assert model.score(X) == score
    np.testing.assert_array_equal(model.inverse_transform(codes), codes @ model.components_)
    with pytest.raises((cuda.DeviceError, NotImplementedError)):  # a fit never falls back
        model.fit(X)


# --- names and versions ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [NMF, MiniBatchNMF])
def test_pickles_hold_no_inner_path(kind):
    model = kind(3, solver="hals", random_state=0).fit(X)
    named, words = set(), []
    for opcode, argument, _ in pickletools.genops(pickle.dumps(model)):
        if isinstance(argument, str):
            words.append(argument)
        if opcode.name == "STACK_GLOBAL":
            named.update(word for word in words if word.startswith("nmfcore"))
    assert named == {"nmfcore"}
    assert (kind.__module__, nmfcore.RowBlocks.__module__, nmfcore.CosineIndex.__module__) == ("nmfcore",) * 3


@pytest.mark.parametrize("kind", [NMF, MiniBatchNMF])
def test_a_pickle_of_an_earlier_version_has_defaults_for_what_is_new(kind):
    model = kind(3, solver="hals", random_state=0, tol=1e-2).fit(X)
    state = model.__getstate__()
    for name in ("device", "n_jobs", "callback", "_nmfcore_version"):
        del state[name]
    state["history_"] = {name: values for name, values in model.history_.items() if name != "accepted"}
    earlier = kind.__new__(kind)
    earlier.__setstate__(state)
    assert earlier.get_params() == model.get_params()
    assert earlier.history_["accepted"].dtype == bool
    assert earlier.history_["accepted"].tolist() == [True] * len(earlier.history_["loss"]) != []
    np.testing.assert_array_equal(earlier.transform(X), model.transform(X))


def test_a_pickle_of_a_later_version_is_refused():
    state = NMF(3).__getstate__()
    assert state["_nmfcore_version"] == nmfcore.__version__
    with pytest.raises(ValueError, match=r"this NMF was pickled by nmfcore 99\.1, and this is nmfcore .*: upgrade"):
        NMF.__new__(NMF).__setstate__({**state, "_nmfcore_version": "99.1"})


def test_copies_are_not_pickles():
    model = MiniBatchNMF(3, solver="hals", random_state=0).partial_fit(X)
    for other in (copy.copy(model), copy.deepcopy(model)):
        np.testing.assert_array_equal(other.partial_fit(X).components_.shape, model.components_.shape)


def rewritten(path, change):
    """Change the JSON of a model file, and its arrays."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    meta = json.loads(str(arrays["meta"]))
    change(meta, arrays)
    arrays["meta"] = np.array(json.dumps(meta))
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def test_a_file_of_an_earlier_version_has_defaults_for_what_is_new(tmp_path):
    model = NMF(3, solver="hals", random_state=0, dtype=np.float64)
    W = model.fit_transform(X)
    save(model_of(model, W), tmp_path / "m.npz")

    def earlier(meta, arrays):
        for name in ("decoding", "feature_names", "n_steps", "state", "kkt_residual", "stop_reason", "versions"):
            del meta[name]
        for name in ("device", "extrapolate", "memory", "checkpoint", "checkpoint_every"):
            meta["parameters"].pop(name, None)
        del arrays["history_accepted"]

    rewritten(tmp_path / "m.npz", earlier)
    back = load(tmp_path / "m.npz")
    assert back.decoding is None and np.isnan(back.kkt_residual)
    for history in (back.history, estimator_from(back).history_):
        assert history["accepted"].dtype == bool
        assert history["accepted"].tolist() == [True] * len(model.history_["loss"]) != []
    np.testing.assert_array_equal(estimator_from(back).transform(X), model.transform(X))


def test_the_version_is_recorded(tmp_path):
    model = NMF(2, solver="hals", random_state=0)
    save(model_of(model, model.fit_transform(X)), tmp_path / "m.npz")
    assert set(load(tmp_path / "m.npz").versions) == {"nmfcore", "numpy", "python"}
    assert len(repr(load(tmp_path / "m.npz"))) < 120


# --- contents that no fit makes -------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    model = NMF(3, solver="hals", random_state=0)
    names = tuple(f"{number}.png" for number in range(300))
    changes = {"shape": (4, 6), "names": names, "labels": np.arange(300)}
    save(model_of(model, model.fit_transform(X), **changes), folder / "nmf.npz")
    stream = MiniBatchNMF(3, solver="hals", random_state=0).partial_fit(X)
    save(model_of(stream, stream.transform(X)), folder / "stream.npz")
    return folder


def parameter(**values):
    return lambda meta, arrays: meta["parameters"].update(values)


def told(**values):
    return lambda meta, arrays: meta.update(values)


def array(name, change):
    def changed(meta, arrays):
        arrays[name] = change(arrays[name])

    return changed


def without(name):
    return lambda meta, arrays: arrays.pop(name)


def spoiled(value):
    def change(A):
        A = A.copy()
        A.flat[-1] = value
        return A

    return change


HOSTILE = [
    *(array(name, spoiled(value)) for name in ("W", "components") for value in (np.nan, np.inf, -1)),
    *(array(name, lambda A, kind=kind: A.astype(kind)) for name in ("W", "components") for kind in ("U9", "c16", "i8")),
    *(array("W", change) for change in (lambda A: A[:-1], lambda A: A[:, :-1], np.ravel, lambda A: A[None])),
    *(array("labels", change) for change in (lambda A: A[:9], lambda A: A.reshape(-1, 1), lambda A: A.astype("c16"))),
    *(
        array("history_loss", change)
        for change in (lambda A: A[:-1], lambda A: A.reshape(1, -1), lambda A: A.astype("U9"))
    ),
    *(
        array("history_accepted", change)
        for change in (lambda A: A[:-1], lambda A: A.astype("U9"), lambda A: A + 0.5, lambda A: A * np.nan)
    ),
    *(without(name) for name in ("W", "components", "meta")),
    *(
        told(shape=shape)
        for shape in ([-4, -6], [4, 6, 1, 1], [True, 24], ["4", "6"], [4.0, 6.0], 24, "ab", [1e400, 1])
    ),
    *(told(names=names) for names in ([1] * 300, ["a"], "x" * 300, [None] * 300, {"a": 1}, 7)),
    *(told(n_iter=number) for number in (float("inf"), -1, "many", None, 1e300, 1 << 70, True)),
    *(told(reconstruction_err=number) for number in ("x", None, [])),
    *(told(version=version) for version in (3, "1", None, float("inf"), [])),
    *(told(parameters=each) for each in (7, [1], "abc", {"W": [1]}, {"n_components": {"a": 1}})),
    *(told(decoding=each) for each in ({"levels": -1}, {"proportions": "x"}, 7, [1, 2], {"background": "#fff"})),
    *(told(feature_names=each) for each in (["a"], [1] * 24, 3)),
    *(told(versions=each) for each in (7, [1])),
    told(format="other"),
]
REFUSED_BY_THE_ESTIMATOR = [
    told(estimator="KernelNMF"),
    *(
        parameter(**each)
        for each in (
            {"dtype": "float99"}, {"dtype": "int8"}, {"solver": "x"}, {"n_jobs": 0}, {"n_jobs": "many"}, {"tol": "x"},
            {"tol": -1}, {"max_iter": 0}, {"max_iter": 10**18, "tol": 0}, {"init": "x"}, {"beta_loss": "x"},
            {"n_components": -1}, {"alpha_W": -1.0}, {"l1_ratio": 2}, {"callback": "print"}, {"random_state": "x"},
            {"max_time": -1}, {"memory": 0}, {"unknown": 1}, {"tol": float("nan")}, {"checkpoint_every": -1},
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_contents_that_no_fit_makes_are_refused(models, tmp_path, number):
    (tmp_path / "m.npz").write_bytes((models / "nmf.npz").read_bytes())
    with np.load(tmp_path / "m.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    meta = json.loads(str(arrays["meta"]))
    HOSTILE[number](meta, arrays)
    if "meta" in arrays:
        arrays["meta"] = np.array(json.dumps(meta))
    with open(tmp_path / "m.npz", "wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(ModelFileError, match=r"m\.npz' (is|was) ") as caught:
        load(tmp_path / "m.npz")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


@pytest.mark.parametrize("number", range(len(REFUSED_BY_THE_ESTIMATOR)))
def test_parameters_that_are_not_allowed_never_compute(models, tmp_path, number):
    (tmp_path / "m.npz").write_bytes((models / "nmf.npz").read_bytes())
    rewritten(tmp_path / "m.npz", REFUSED_BY_THE_ESTIMATOR[number])
    with pytest.raises(ModelFileError) as caught:
        estimator_from(load(tmp_path / "m.npz"))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "change",
    [
        *(
            array("state_XtW", change)
            for change in (spoiled(np.nan), np.ravel, lambda A: A.astype("U9"), lambda A: A[:2])
        ),
        without("state_WtW"),
        lambda meta, arrays: meta["state"].update(kind="Other"),
        lambda meta, arrays: meta["state"].update(rows="x"),
        lambda meta, arrays: meta["state"].update(seen=float("inf")),
        lambda meta, arrays: meta["state"].update(_rho="x"),
        lambda meta, arrays: meta["state"].pop("_period"),
        lambda meta, arrays: meta["state"].update(extra=1),
    ],
)
def test_a_memory_that_no_stream_leaves_is_refused(models, tmp_path, change):
    (tmp_path / "m.npz").write_bytes((models / "stream.npz").read_bytes())
    rewritten(tmp_path / "m.npz", change)
    with pytest.raises(ModelFileError):
        estimator_from(load(tmp_path / "m.npz"))


def test_a_model_as_data_is_never_refused_for_what_it_lacks(tmp_path):
    save(Model(W=np.ones((3, 1)), components=np.ones((1, 4))), tmp_path / "m.npz")
    assert estimator_from(load(tmp_path / "m.npz")).transform(np.ones((2, 4))).shape == (2, 1)
