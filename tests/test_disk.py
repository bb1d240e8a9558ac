"""X on disk: the bits of a fit from memory, read once a pass, in bounded memory; clear errors, and no thread left."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nmfcore
import nmfcore.rows.memory
from nmfcore import NMF, MiniBatchNMF, RowBlocks, _files, non_negative_factorization
from nmfcore.rows import disk
from nmfcore.rows.memory import as_rows

N, M, K = 9000, 200, 20  # several lanes, and several blocks of a lane where the test makes blocks small
KINDS = ["npy", "npy direct", "h5", "h5 path", "zarr", "zarr path", "blocks"]
SOLVERS = [("cd", 2), ("hals", 2), ("mu", 2), ("mu", 1)]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    late = [t for t in threading.enumerate() if t not in before and t.name == "nmfcore-read"]
    assert late == []


@pytest.fixture
def small_blocks(monkeypatch):
    """Cut X into lanes and blocks as a larger one would be."""
    monkeypatch.setattr(nmfcore.rows.memory, "LANE_WORK", 2e7)
    monkeypatch.setattr(nmfcore.rows.memory, "BLOCK_BYTES", 100_000)
    assert len(as_rows(matrix("uint8"), "float32").plan(K).lanes) > 4


def matrix(dtype, n=N):
    X = np.random.default_rng(1).integers(0, 200, (n, M))
    return np.ascontiguousarray(X.astype(dtype))


def ragged(X, seed=0, largest=1500):
    """Return a function that gives X in blocks of any height, empty ones included, cut elsewhere each time."""
    rng = np.random.default_rng(seed)

    def blocks():
        lo = 0
        while lo < len(X):
            hi = lo + int(rng.integers(0, largest))
            yield X[lo:hi]
            lo = min(hi, len(X))

    return blocks


@contextlib.contextmanager
def stored(X, kind, folder):
    """Give X in another place, and make sure that it comes from there."""
    if kind == "npy":
        np.save(folder / "x.npy", X)
        yield folder / "x.npy"
    elif kind == "npy direct":
        np.save(folder / "x.npy", X)
        yield disk.NpyFile(folder / "x.npy", direct=True)
    elif kind.startswith("h5"):
        h5py = pytest.importorskip("h5py", reason="the extra 'disk' is not installed")
        with h5py.File(folder / "x.h5", "w") as file:
            chunks = (700, 90) if kind == "h5" else None
            file.create_dataset("pictures/train", data=X, chunks=chunks)
            file["labels"] = np.arange(len(X))
            if kind == "h5":
                yield file["pictures/train"]
        if kind == "h5 path":
            yield str(folder / "x.h5")
    elif kind.startswith("zarr"):
        zarr = pytest.importorskip("zarr", reason="the extra 'disk' is not installed")
        array = zarr.open(str(folder / "x.zarr"), mode="w", shape=X.shape, chunks=(1000, M), dtype=X.dtype)
        array[:] = X
        yield array if kind == "zarr" else folder / "x.zarr"
    else:
        yield RowBlocks(ragged(X), X.shape, X.dtype)


def fitted(X, solver="hals", beta=2, **parameters):
    asked = {"init": "random", "random_state": 0, "max_iter": 3, "tol": 0, **parameters}
    model = NMF(K, solver=solver, beta_loss=beta, **asked)
    W = model.fit_transform(X)
    return {
        "W": W, "H": model.components_, "loss": model.history_["loss"], "error": model.reconstruction_err_,
        "kkt": model.kkt_residual_, "reason": model.stop_reason_,
    }, model  # fmt: skip


def assert_same(first, second):
    for name, value in first.items():
        assert np.asarray(value).dtype == np.asarray(second[name]).dtype, name
        np.testing.assert_array_equal(value, second[name], err_msg=name)


# ---- the same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("solver", "beta"), SOLVERS)
def test_bits_of_a_fit_from_memory(kind, solver, beta, tmp_path, small_blocks):
    X = matrix("uint8")
    expected, model = fitted(X, solver, beta)
    with stored(X, kind, tmp_path) as source:
        found, same = fitted(source, solver, beta)
        assert_same(expected, found)
        np.testing.assert_array_equal(model.transform(X[:900]), model.transform(X)[:900])
        np.testing.assert_array_equal(model.transform(X), same.transform(source))
        assert model.score(X) == same.score(source)


@pytest.mark.parametrize("kind", ["npy", "npy direct", "h5", "zarr", "blocks"])
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "float16", "float32", "int64", "float64", ">f4", ">i8"])
def test_bits_of_every_type(kind, dtype, tmp_path, small_blocks):
    X = (matrix("uint8", 4000) % 2 if dtype == "bool" else matrix("uint8", 4000) % 100).astype(dtype)
    with stored(X, kind, tmp_path) as source:
        assert_same(fitted(X)[0], fitted(source)[0])


@pytest.mark.parametrize("kind", ["npy", "npy direct", "blocks"])
@pytest.mark.parametrize("n_jobs", [1, 2, 3])
@pytest.mark.parametrize("memory", [1, 250_000, None])
def test_threads_and_memory_change_no_bit(kind, n_jobs, memory, tmp_path, small_blocks):
    X = matrix("float64")
    with stored(X, kind, tmp_path) as source:
        assert_same(fitted(X, n_jobs=1)[0], fitted(source, n_jobs=n_jobs, memory=memory)[0])


@given(heights=st.lists(st.integers(0, 500), min_size=1, max_size=30), m=st.integers(1, 40))
@settings(max_examples=25)
def test_blocks_of_any_height(heights, m):
    X = np.random.default_rng(0).random((sum(heights) + 3, m))
    cuts = np.cumsum(heights)
    stream = RowBlocks(lambda: np.split(X, cuts), X.shape, X.dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nmfcore.rows.memory, "LANE_WORK", 1e4)
        patch.setattr(nmfcore.rows.memory, "BLOCK_BYTES", 20_000)
        k = min(3, m)
        first, second = (NMF(k, init="random", random_state=0, max_iter=3, tol=0).fit(each) for each in (X, stream))
    np.testing.assert_array_equal(first.components_, second.components_)
    assert first.reconstruction_err_ == second.reconstruction_err_


@pytest.mark.parametrize("kind", ["npy", "h5", "blocks"])
@pytest.mark.parametrize("init", [None, "nndsvd", "nndsvda", "nndsvdar"])
def test_starts_need_no_matrix_in_memory(kind, init, tmp_path):
    X = matrix("uint8", 20000)
    solver = "hals" if init is None else "cd"  # of "hals" None is "auto": samples of rows, as X is tall
    with stored(X, kind, tmp_path) as source:
        assert_same(fitted(X, solver, init=init)[0], fitted(source, solver, init=init)[0])


def test_gram_start_of_few_features(tmp_path):
    """Where the start comes from XᵀX."""
    X = np.ascontiguousarray(matrix("uint8", 3000)[:, :60])
    np.save(tmp_path / "x.npy", X)
    assert_same(fitted(X, init="auto")[0], fitted(tmp_path / "x.npy", init="auto")[0])


def test_custom_start(tmp_path, rng):
    X, path = matrix("float64", 500), tmp_path / "x.npy"
    W, H = rng.random((500, K)), rng.random((K, M))
    np.save(path, X)
    for start in ({"W": W, "H": H}, {"H": H}):
        models = [NMF(K, init="custom", max_iter=3, tol=0) for _ in range(2)]
        given = [
            model.fit_transform(each, **start) for model, each in zip(models, (X, tmp_path / "x.npy"), strict=True)
        ]
        np.testing.assert_array_equal(*given)
    with pytest.raises(ValueError, match="give H, or W and H"):
        NMF(K, init="custom").fit(path, W=W)


def test_function_takes_them_too(tmp_path):
    X = matrix("float32", 500)
    np.save(tmp_path / "x.npy", X)
    asked = {"n_components": 4, "init": "random", "random_state": 0, "max_iter": 5, "tol": 0}
    for source in (tmp_path / "x.npy", RowBlocks(ragged(X), X.shape, X.dtype)):
        for first, second in zip(
            non_negative_factorization(X, **asked), non_negative_factorization(source, **asked), strict=True
        ):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_at_their_places(kind, tmp_path):
    X = matrix("float32", 3000)
    with stored(X, kind, tmp_path) as given:
        source = disk.source_of(given)
        assert len(source) == 3000
        for rows in (5, -1, slice(2, 7), slice(None, None, 401), [7, 3, 3, 2999], [0, 1, 2, 9, 10], slice(0, 0)):
            assert source[rows].shape == X[rows].shape
            np.testing.assert_array_equal(source[rows], X[rows])
        with pytest.raises(IndexError):
            source[3000]


def test_fortran_order_on_disk_is_read_through_a_mapping(tmp_path):
    X = np.asfortranarray(matrix("uint8", 2000))
    np.save(tmp_path / "x.npy", X)
    assert isinstance(disk.source_of(tmp_path / "x.npy"), np.memmap)
    assert_same(fitted(X)[0], fitted(tmp_path / "x.npy")[0])


# ---- read once a pass, in bounded memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npy", "npy direct", "h5", "zarr", "blocks"])
@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
def test_read_once_a_pass(kind, solver, tmp_path, small_blocks):
    X = matrix("uint8")
    with stored(X, kind, tmp_path) as given:
        source, seen = disk.source_of(given), []
        fitted(source, solver, tol=0, max_iter=5, callback=lambda _: seen.append(source.bytes_read))
        assert np.diff(seen).tolist() == [X.nbytes] * 4
        assert seen[0] == 2 * X.nbytes  # the opening look and the first pass
        assert source.bytes_read == 7 * X.nbytes  # and the error at the end


def test_samples_of_a_start_take_one_pass():
    X = matrix("uint8", 20000)
    stream = RowBlocks(ragged(X), X.shape, X.dtype)
    fitted(stream, init="auto", max_iter=2)
    # opening, samples, six candidates, two passes, the error at the end
    assert stream.bytes_read == (1 + 1 + 6 + 2 + 1) * X.nbytes


def test_chunks_are_decompressed_once_a_pass(tmp_path, small_blocks):
    """Whatever their height: blocks of rows begin and end within chunks."""
    X, read = matrix("uint8"), []

    class Chunked:
        shape, dtype, chunks = X.shape, X.dtype, (701, 50)

        def __getitem__(self, rows):
            read.append((rows.start, min(rows.stop, N)))
            return X[rows]

    for n_jobs in (1, 2, 3):
        data = disk.StoredRows(disk.Stored(Chunked()), np.float32, n_jobs)
        data.summary()
        read.clear()
        data.products(np.ones((M, K), np.float32))
        lanes = len(data.plan(K).lanes)
        assert lanes > 3
        # only chunks that lanes share are read twice
        assert len(read) <= -(-N // 701) + lanes - 1
        assert sum(hi - lo for lo, hi in read) >= N


def test_chunks_of_too_many_rows_are_warned_of():
    class Tall:
        shape, dtype, chunks = (10**7, 100), np.dtype("float64"), (10**6, 10)

    with pytest.warns(UserWarning, match="chunks of 1,000,000 rows"):
        disk.Stored(Tall())


def test_blocks_in_memory_are_bounded(small_blocks):
    """A slow visit lets the reader run ahead as far as it may."""
    X, (n, m) = matrix("float64"), (N, M)
    stream = RowBlocks(lambda: (X[lo : lo + 100] for lo in range(0, N, 100)), (n, m), X.dtype)
    data = disk.StoredRows(stream, np.float64, 2, memory=1_300_000)
    largest = max(hi - lo for lane in data.plan(K).lanes for lo, hi, _ in lane) * m * 8
    tracemalloc.start()
    data.visit_all(lambda *_: time.sleep(0.002), K)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 2 <= len(data._buffers) <= 1_300_000 // largest
    assert peak < 1_300_000 + 200_000 < X.nbytes / 9


def test_reading_and_computing_overlap(small_blocks):
    X, busy, both = matrix("uint8"), [0, 0], []

    def blocks():
        for lo in range(0, N, 500):
            busy[0] = 1
            time.sleep(0.002)
            both.append(busy[1])
            busy[0] = 0
            yield X[lo : lo + 500]

    def visit(*_):
        busy[1] = 1
        time.sleep(0.002)
        both.append(busy[0])
        busy[1] = 0

    disk.StoredRows(RowBlocks(blocks, X.shape, X.dtype), np.float32, 1).visit_all(visit, K)
    assert sum(both) > len(both) / 4


LIMITED = """
    import resource, sys
    import numpy as np
    from nmfcore import NMF, RowBlocks

    n, m = 400_000, 784  # 314 MB
    part = np.random.default_rng(0).integers(0, 255, (1000, m), dtype=np.uint8)
    stream = RowBlocks(lambda: (part for _ in range(n // 1000)), (n, m), np.uint8)
    model = NMF(8, solver="hals", init="random", random_state=0, max_iter=1, tol=0, memory="40MB", n_jobs=2)
    small = RowBlocks(lambda: [part], part.shape, np.uint8)
    model.fit(small).transform(small)  # compiled, and every thread there is
    with open("/proc/self/status") as status:
        held = next(int(line.split()[1]) for line in status if line.startswith("VmData")) * 1024
    limit = held + 40_000_000 + 5 * 4 * 8 * n + 40_000_000  # blocks, W and what goes with it, and something
    assert limit - held < n * m * 0.6
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    model.fit(stream)
    try:
        np.ones(n * m, np.uint8)
    except MemoryError:
        print("held")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA bounds mappings on Linux only")
def test_more_than_the_process_may_hold():
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(LIMITED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.stdout == "held\n", done.stderr


# ---- past the kernel's cache -----------------------------------------------------------------------------------------


def file_of(folder, version, shape=(3000, 601), dtype="uint8"):
    """Write numbers behind a header of another length, whose positions are multiples of nothing in particular."""
    X = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    path = folder / "x.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array(file, X, version=version)
        file.flush()
        os.fsync(file.fileno())
    return X, path


def through_blocks(source, height=700):
    """Read all rows as a pass does, into buffers with numbers around them that must stay."""
    (n, m), out = source.shape, []
    with source.opened() as read:
        for lo in range(0, n, height):
            hi = min(lo + height, n)
            buffer = np.full((hi - lo) * m * source.dtype.itemsize + disk.sources.SLACK, 77, np.uint8)
            rows = source.place(lo, hi, buffer)
            source.read(read, lo, hi, rows)
            before = rows.ctypes.data - buffer.ctypes.data
            assert 0 <= before <= disk.sources.SLACK
            assert (buffer[:before] == 77).all()
            assert (buffer[before + rows.nbytes :] == 77).all()
            out.append(rows.copy())
    return np.concatenate(out)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", ">f4"])
@pytest.mark.parametrize("m", [1, 601, 4096])
def test_rows_past_the_cache(version, dtype, m, tmp_path):
    X, path = file_of(tmp_path, version, (2100, m), dtype)
    np.testing.assert_array_equal(through_blocks(disk.NpyFile(path, direct=True)), X)


def direct_calls(monkeypatch, change=lambda got: got):
    """Count the bytes that preadv reads; `change` may say that it were fewer."""
    seen, preadv = [], os.preadv

    def watched(file, buffers, position):
        assert position % 4096 == 0
        assert all(np.asarray(each).ctypes.data % 4096 == len(each) % 4096 == 0 for each in buffers)
        seen.append(change(preadv(file, buffers, position)))
        return seen[-1]

    monkeypatch.setattr(os, "preadv", watched)
    return seen


needs_direct = pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="this system has no O_DIRECT")


@needs_direct
def test_what_goes_past_the_cache(tmp_path, monkeypatch):
    """All of it but the pages that a block shares with its neighbours."""
    X, path = file_of(tmp_path, (1, 0), (3000, 4000))
    if disk.direct._open_direct(path) is None:
        pytest.skip("the file system of the temporary folder does not offer it")
    seen = direct_calls(monkeypatch)
    np.testing.assert_array_equal(through_blocks(disk.NpyFile(path, direct=True)), X)
    assert X.nbytes - 2 * 4096 * 5 <= sum(seen) <= X.nbytes
    seen.clear()
    np.testing.assert_array_equal(through_blocks(disk.NpyFile(path, direct=False)), X)
    np.testing.assert_array_equal(disk.NpyFile(path, direct=True)[[5, 7, 8]], X[[5, 7, 8]])  # single rows
    assert seen == []


@needs_direct
@pytest.mark.parametrize("fault", ["open", "first read", "later read", "short", "nothing"])
def test_what_cannot_go_past_the_cache_goes_through_it(fault, tmp_path, monkeypatch):
    X, path = file_of(tmp_path, (1, 0), (3000, 4000))
    calls, opening = [], os.open

    def refused(*_):
        raise OSError(errno.EINVAL, "not here")

    def change(got):
        calls.append(got)
        if fault == "short":
            return min(got, 5000)
        if fault == "nothing":
            return 0
        return refused() if fault == "first read" or len(calls) > 1 else got

    if fault == "open":
        monkeypatch.setattr(
            os, "open", lambda name, flags, *a: (refused if flags & os.O_DIRECT else opening)(name, flags, *a)
        )
    else:
        monkeypatch.setattr(disk.direct, "_SPAN", 1 << 20)
        direct_calls(monkeypatch, change)
    np.testing.assert_array_equal(through_blocks(disk.NpyFile(path, direct=True)), X)


@needs_direct
def test_a_disk_that_fails_says_so(tmp_path, monkeypatch):
    _, path = file_of(tmp_path, (1, 0), (3000, 4000))

    def broken(*_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "preadv", broken)
    if disk.direct._open_direct(path) is None:
        pytest.skip("the file system of the temporary folder does not offer it")
    with pytest.raises(OSError, match="broken"):
        NMF(3, init="random", max_iter=2).fit(disk.NpyFile(path, direct=True))


def test_a_file_that_became_shorter(tmp_path):
    _, path = file_of(tmp_path, (1, 0))
    source = disk.NpyFile(path, direct=True)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match="has become shorter"):
        through_blocks(source)


@pytest.mark.parametrize(
    ("held", "group", "expected"),
    [(10_000_000, None, False), (3_000_000, None, True), (10_000_000, "3000000\n", True), (10_000_000, "max\n", False)],
)
def test_a_file_larger_than_the_cache_goes_past_it(held, group, expected, tmp_path, monkeypatch):
    _, path = file_of(tmp_path, (1, 0))  # 1.8 MB
    limit = tmp_path / "memory.max"
    if group is not None:
        limit.write_text(group)
    monkeypatch.setattr(_files, "CGROUPS", (str(limit),))
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": held // 1000, "SC_PAGE_SIZE": 1000}.__getitem__, raising=False)
    assert disk.NpyFile(path).direct is expected


def test_where_memory_cannot_be_asked_for_the_cache_is_used(tmp_path, monkeypatch):
    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", unknown, raising=False)
    assert disk.NpyFile(file_of(tmp_path, (1, 0))[1]).direct is False


# ---- W outside of memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [NMF(K, solver="hals"), NMF(K, solver="mu", init="random", n_init=2), MiniBatchNMF(K, batch_size=50)],
    ids=["one", "several", "batches"],
)
def test_an_interrupted_fit_fills_an_array_and_makes_no_file(model, tmp_path):
    X = matrix("float64", 200)
    seen = []

    def press(report):
        seen.append(report.iteration)
        if len(seen) == 4:
            raise KeyboardInterrupt

    out = np.full((200, K), np.nan)
    model.set_params(random_state=0, callback=press, tol=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit_transform(X, out=out)
    assert np.linalg.norm(X - out @ model.components_) < 0.9 * np.linalg.norm(X)
    if not isinstance(model, MiniBatchNMF):
        np.testing.assert_allclose(np.linalg.norm(X - out @ model.components_), model.reconstruction_err_)
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        model.fit_transform(X, out=tmp_path / "W.npy")
    assert not list(tmp_path.iterdir())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # max_iter is reached
        model.set_params(callback=None, max_iter=2).fit_transform(X, out=tmp_path / "W.npy")


@pytest.mark.parametrize("solver", ["cd", "hals", "mu"])
@pytest.mark.parametrize("kind", ["npy", "memory"])
def test_out_has_the_same_bits(solver, kind, tmp_path):
    X = matrix("uint8", 2000)
    np.save(tmp_path / "x.npy", X)
    given = X if kind == "memory" else tmp_path / "x.npy"
    asked = {"solver": solver, "init": "random", "random_state": 0, "max_iter": 4, "tol": 0}
    expected = NMF(K, **asked).fit_transform(X)
    filled = np.lib.format.open_memmap(tmp_path / "mapped.npy", "w+", np.float32, (2000, K))
    model = NMF(K, **asked)
    found = model.fit_transform(given, out=tmp_path / "W.npy")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.load(tmp_path / "W.npy"), expected)
    assert model.fit_transform(given, out=filled) is filled
    np.testing.assert_array_equal(filled, expected)
    codes = model.transform(X)
    np.testing.assert_array_equal(model.transform(given, out=tmp_path / "codes.npy"), codes)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["W.npy", "codes.npy", "mapped.npy", "x.npy"]
    with pytest.raises(FileExistsError, match=r"x\.npy' exists: give another path"):
        model.transform(given, out=tmp_path / "x.npy")


def test_out_holds_no_rows_in_memory(tmp_path, small_blocks):
    n, m, k = 200_000, 8, 8
    X = np.random.default_rng(0).random((1000, m)).astype(np.float32)
    stream = RowBlocks(lambda: (X for _ in range(n // 1000)), (n, m), X.dtype)
    model = NMF(k, solver="hals", init="random", random_state=0, max_iter=2, tol=0, memory="1MB")
    model.fit(X)  # compiled
    peaks = []
    for out in (None, tmp_path / "W.npy"):
        tracemalloc.start()
        model.fit_transform(stream, out=out)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    rows = n * k * 4
    assert peaks[0] > 3 * rows
    assert peaks[1] < 1.5 * rows  # for a moment, before it begins


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("W.txt", "must be the path of a .npy file"),
        ("no/W.npy", "there is no folder"),
        (np.zeros((3, K), np.float32), r"out has shape \(3, 20\), but W has 500 rows and 20 columns"),
        (np.zeros((500, 3), np.float32), "W has 500 rows and 20 columns"),
        (np.broadcast_to(np.zeros(K), (500, K)), "can be written"),
    ],
)
def test_out_that_cannot_be_is_refused_first(out, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = NMF(K, init="random", callback=lambda _: pytest.fail("it computed"))
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        model.fit_transform(matrix("uint8", 500), out=out)
    assert list(tmp_path.iterdir()) == []


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def stream_of(*blocks, n=10, m=4, dtype=float):
    return RowBlocks(lambda: iter(blocks), (n, m), dtype)


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (stream_of(np.ones((6, 4)), np.ones((3, 4))), "gave 9 rows in this pass; it was said to give 10 rows of 4"),
        (stream_of(np.ones((6, 4)), np.ones((5, 4))), "gave more than 10 rows"),
        (stream_of(np.ones((10, 4)), np.ones((1, 4))), "gave more than 10 rows"),
        (stream_of(np.ones((6, 4)), np.ones((4, 5))), r"gave a block of shape \(4, 5\) at row 6"),
        (stream_of(np.ones(10)), r"gave a block of shape \(10,\) at row 0"),
        (stream_of(np.ones((10, 4)), dtype="f4"), "gave a block of float64 at row 0; .* numbers, float32"),
        (stream_of(), "gave 0 rows"),
    ],
)
def test_streams_that_are_not_what_they_say(stream, said):
    with pytest.raises(ValueError, match=said):
        NMF(2, init="random").fit(stream)


def test_a_stream_that_runs_dry_in_a_later_pass(small_blocks):
    X, passes = matrix("uint8"), []

    def blocks():
        passes.append(1)
        yield X[:5000]
        yield X[5000 : N - (len(passes) > 2)]

    stream = RowBlocks(blocks, X.shape, X.dtype)
    model = NMF(K, init="random", max_iter=5)
    with pytest.raises(ValueError, match="gave 8,999 rows in this pass"):
        model.fit(stream)
    assert model.n_iter_ == 1 and not model.converged_  # what there was is kept


@pytest.mark.parametrize("kind", ["npy", "npy direct", "h5", "blocks"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.nan, "Input X contains NaN: row 8,765, column 12"),
        (np.inf, "Input X contains infinity .*: inf in row 8,765, column 12"),
        (-3.0, "Negative values in data passed to .*: X holds -3.0 in row 8,765, column 12"),
    ],
)
def test_numbers_that_are_refused_are_named(kind, value, said, tmp_path, small_blocks):
    X = matrix("float64")
    X[8765, 12] = value
    with stored(X, kind, tmp_path) as source, pytest.raises(ValueError, match=said):
        fitted(source)


def test_too_large_for_the_compute_type(tmp_path):
    X = matrix("float64", 300)
    X[7, 3] = 1e200
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ValueError, match=r"too large for .*float32.* row 7, column 3"):
        fitted(tmp_path / "x.npy", dtype=np.float32)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: RowBlocks([np.ones((3, 2))], (3, 2), float), TypeError, "takes a function"),
        (lambda: RowBlocks(list, (3, 2, 2), float), ValueError, "expected two dimensions"),
        (lambda: RowBlocks(list, (3, 2), complex), ValueError, "Complex data not supported"),
        (lambda: RowBlocks(list, (3, 2), "U3"), ValueError, "expected real numbers"),
        (lambda: NMF(2).fit("no-such-file.npy"), FileNotFoundError, "there is no file or folder"),
        (lambda: NMF(2).fit(os.curdir), ValueError, "of no known kind"),
        (lambda: NMF(2).fit(RowBlocks(list, (0, 2), float)), ValueError, r"0 sample\(s\)"),
        (lambda: NMF(2, memory="much").fit(RowBlocks(list, (4, 2), float)), ValueError, "no amount of memory"),
        (lambda: NMF(2, device="cuda").fit(RowBlocks(list, (4, 2), float)), Exception, "cuda"),
        (lambda: MiniBatchNMF(2).fit(RowBlocks(list, (4, 2), float)), ValueError, "gave 0 rows"),
        (lambda: MiniBatchNMF(2).fit(RowBlocks(list, (4, 2), "U3")), ValueError, "expected real numbers"),
        (lambda: MiniBatchNMF(2, memory="much").fit(RowBlocks(list, (4, 2), float)), ValueError, "no amount of memory"),
        (lambda: MiniBatchNMF(2, device="cuda").fit(RowBlocks(list, (4, 2), float)), Exception, "cuda|CPU"),
    ],
)
def test_what_makes_no_sense_is_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_files_that_are_not_what_they_say(tmp_path):
    np.save(tmp_path / "cube.npy", np.ones((3, 4, 5)))
    np.save(tmp_path / "words.npy", np.array([["a", "b"]]))
    np.save(tmp_path / "short.npy", np.ones((50, 4)))
    os.truncate(tmp_path / "short.npy", 1000)
    (tmp_path / "noise.npy").write_bytes(b"noise")
    (tmp_path / "table.csv").write_text("1,2\n")
    for name, said in (
        ("cube.npy", "two dimensions"), ("words.npy", "real numbers"), ("short.npy", "cut short"),
        ("noise.npy", "is no .npy file"), ("table.csv", "of no known kind"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            NMF(2).fit(tmp_path / name)


def test_hdf5_and_zarr_of_several_matrices(tmp_path):
    h5py = pytest.importorskip("h5py", reason="the extra 'disk' is not installed")
    zarr = pytest.importorskip("zarr", reason="the extra 'disk' is not installed")
    X = matrix("float64", 50)
    group = zarr.open_group(str(tmp_path / "x.zarr"), mode="w")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name in ("a", "b"):
            file[name] = X
            made = getattr(group, "create_array", None) or group.create_dataset  # zarr 3, 2
            made(name, shape=X.shape, dtype=X.dtype, chunks=(20, M))[:] = X
    for name in ("x.h5", "x.zarr"):
        with pytest.raises(ValueError, match=r"the one meant must be named, as in .*::a'"):
            NMF(2).fit(tmp_path / name)
        found, expected = (NMF(2, init="random", random_state=0) for _ in range(2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_array_equal(found.fit_transform(f"{tmp_path / name}::b"), expected.fit_transform(X))
    with pytest.raises(ValueError, match="holds nothing named 'c'"):
        NMF(2).fit(f"{tmp_path / 'x.h5'}::c")


def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "x.h5").write_bytes(b"")
    with pytest.raises(ImportError, match=r"h5py is missing: pip install 'nmfcore\[disk\]'"):
        NMF(2).fit(tmp_path / "x.h5")


# ---- it stops cleanly ------------------------------------------------------------------------------------------------


class Broken(Exception):
    pass


def delete_a_chunk(folder):
    files = sorted(path for path in (folder / "x.zarr").rglob("*") if path.is_file())
    next(path for path in files if path.name != "zarr.json" and not path.name.startswith(".")).unlink()


def delete_all(folder):
    shutil.rmtree(folder / "x.zarr")


def other_numbers(folder):
    X = matrix("uint8")
    X[N // 2, 0] += 1
    np.save(folder / "y.npy", X)
    (folder / "y.npy").replace(folder / "x.npy")


@pytest.mark.parametrize(("kind", "change"), [
    ("zarr", delete_a_chunk), ("zarr path", delete_a_chunk), ("zarr path", delete_all), ("npy", other_numbers),
])  # fmt: skip
@pytest.mark.parametrize(("solver", "beta"), SOLVERS)
def test_what_changes_during_a_fit_is_noticed(kind, change, solver, beta, tmp_path, small_blocks):
    def changed(progress):
        if progress.iteration == 2:
            change(tmp_path)

    what = {"zarr": "this Array of zarr", "zarr path": r"'.*x\.zarr'", "npy": r"'.*x\.npy'"}[kind]
    with stored(matrix("uint8"), kind, tmp_path) as X, pytest.raises(RuntimeError, match=f"of {what} changed during"):
        fitted(X, solver, beta, callback=changed)


@pytest.mark.parametrize("solver", ["cd", "mu"])
def test_what_changes_before_rows_are_coded_is_noticed(solver, tmp_path, monkeypatch):
    pytest.importorskip("zarr", reason="the extra 'disk' is not installed")
    _, model = fitted(matrix("uint8"), solver)
    with stored(matrix("uint8"), "zarr path", tmp_path) as X:
        summary = disk.StoredRows.summary

        def then_change(self):
            known = self._summary
            seen = summary(self)
            if known is None:
                shutil.rmtree(X)
            return seen

        monkeypatch.setattr(disk.StoredRows, "summary", then_change)
        with pytest.raises(RuntimeError, match="changed during the fit"):
            model.transform(X)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-30, 1, 1e30])
def test_sums_of_any_cut_are_the_same(dtype, scale, tmp_path, small_blocks):
    """Blocks of the opening and of the last pass differ: their sums differ by rounding, also of numbers far apart."""
    rng = np.random.default_rng(0)
    X = (scale * rng.gamma(0.01, size=(N, M))).astype(dtype)
    with stored(X, "npy", tmp_path) as path:
        fitted(path, "cd")


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_an_exception_of_the_callers_function_comes_out(n_jobs, at, small_blocks):
    X, passes, closed = matrix("uint8"), [], []

    def blocks():
        passes.append(1)
        try:
            for lo in range(0, N, 1000):
                if len(passes) == at and lo == 4000:
                    raise Broken
                yield X[lo : lo + 1000]
        finally:
            closed.append(1)

    with pytest.raises(Broken):
        fitted(RowBlocks(blocks, X.shape, X.dtype), n_jobs=n_jobs)
    assert len(closed) == len(passes)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_exception_of_a_visit_closes_the_stream(n_jobs, small_blocks):
    X, closed = matrix("uint8"), []

    def blocks():
        try:
            yield from np.array_split(X, 50)
        finally:
            closed.append(threading.current_thread().name)

    def visit(lane, lo, hi, block):
        if lo > 2000:
            raise Broken

    data = disk.StoredRows(RowBlocks(blocks, X.shape, X.dtype), np.float32, n_jobs, memory="1MB")
    with pytest.raises(Broken):
        data.visit_all(visit, K)
    assert closed == ["nmfcore-read"]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_ctrl_c_while_a_block_is_awaited(n_jobs, small_blocks):
    """It takes effect as soon as the caller's function gives or ends its block, and keeps the last iteration."""
    X, passes = matrix("uint8"), []

    def blocks():
        passes.append(1)
        for lo in range(0, N, 1000):
            if len(passes) == 4 and lo == 3000:
                import _thread

                _thread.interrupt_main()
                time.sleep(0.3)
            yield X[lo : lo + 1000]

    model = NMF(K, init="random", random_state=0, max_iter=50, tol=0, n_jobs=n_jobs)
    with pytest.raises(KeyboardInterrupt):
        model.fit(RowBlocks(blocks, X.shape, X.dtype))
    assert model.n_iter_ == 2 and model.stop_reason_ == "interrupted"
    assert np.isfinite(model.components_).all()


def test_parse_bytes():
    for text, size in (
        ("2GB", 2 * 10**9),
        ("2g", 2 * 10**9),
        ("1 KiB", 1024),
        ("0.5 MiB", 1 << 19),
        (7, 7),
        ("7 B", 7),
    ):
        assert disk.parse_bytes(text) == size
    for wrong in ("", "GB", "-1", "1 QB", "i", "0", 0, "nan"):
        with pytest.raises(ValueError, match="no amount of memory"):
            disk.parse_bytes(wrong)


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command line in a folder of its own; give the exit code, the model it wrote, and stderr in one line."""
    for module in ("typer", "rich", "matplotlib", "PIL"):
        pytest.importorskip(module, reason="the command line needs the extra 'app'")
    from nmfcore import cli

    monkeypatch.chdir(tmp_path)

    def run(*arguments, out="out"):
        code = cli.main(["fit", *map(str, arguments), "-k", "4", "--max-iter", "8", "--tol", "0", "--out", out])
        told = " ".join(capsys.readouterr().err.split())
        return code, nmfcore.load(out) if code == 0 else None, told

    return run


@pytest.mark.parametrize("kind", ["npy", "h5 path", "zarr path"])
@pytest.mark.parametrize("shape", [(600, 30), (600, 5, 6)])
def test_command_line_fits_what_lies_on_disk(kind, shape, run, tmp_path):
    X = np.random.default_rng(0).integers(0, 200, shape, dtype=np.uint8)
    np.save(tmp_path / "memory.npy", X)
    expected = run("memory.npy")[1]
    if kind == "npy":
        source = "memory.npy"
    elif kind == "h5 path":
        h5py = pytest.importorskip("h5py", reason="the extra 'disk' is not installed")
        source = "x.h5"
        with h5py.File(source, "w") as file:
            file["pictures"] = X
    else:
        zarr = pytest.importorskip("zarr", reason="the extra 'disk' is not installed")
        source = "x.zarr"
        zarr.open(source, mode="w", shape=shape, chunks=(100, *shape[1:]), dtype=X.dtype)[:] = X
    code, model, told = run(source, "--memory", "2GB", out="other")
    assert code == 0, told
    np.testing.assert_array_equal(model.components, expected.components)
    np.testing.assert_array_equal(model.W, expected.W)
    assert model.shape == expected.shape and model.relative_error == expected.relative_error
    np.testing.assert_array_equal(np.load("other/pictures.npy"), X.reshape(600, 30))
    assert sorted(os.listdir("other")) == sorted(os.listdir("out"))


def test_command_line_names_the_folder_after_the_source(run, tmp_path):
    h5py = pytest.importorskip("h5py", reason="the extra 'disk' is not installed")
    from nmfcore import cli

    with h5py.File("many.h5", "w") as file:
        file["a"], file["b"] = np.ones((9, 4)), np.ones((9, 4))
    code, _, told = run("many.h5")
    assert code == 2 and "the one meant must be named, as in 'many.h5::a'" in told
    assert cli.main(["fit", "many.h5::b", "-k", "1"]) == 0
    assert (tmp_path / "nmfcore-many" / "model.npz").exists()


def test_a_folder_of_pictures_is_decoded_once(run, tmp_path, monkeypatch):
    from PIL import Image

    from nmfcore import images

    folder, rng = tmp_path / "cats", np.random.default_rng(0)
    folder.mkdir()
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (6, 5), dtype=np.uint8)).save(folder / f"{number}.png")
    expected, plain = run("cats")[1], images.load_images(folder)
    decoded = []
    monkeypatch.setattr(
        images.caches, "load_images", lambda *a, real=images.load_images, **k: decoded.append(1) or real(*a, **k)
    )
    for out in ("a", "b"):
        model = run("cats", "--memory", "1GB", out=out)[1]
        np.testing.assert_array_equal(model.components, expected.components)
        assert (model.names, model.shape) == (expected.names, expected.shape)
    assert len(decoded) == 1
    again = images.cached_images(folder)
    assert isinstance(again.matrix, np.memmap) and (again.names, again.shape) == (plain.names, plain.shape)
    np.testing.assert_array_equal(again.matrix, plain.matrix)
    assert images.cached_images(folder, mode="RGB").shape == (6, 5, 3) and len(decoded) == 2
    Image.fromarray(np.zeros((6, 5), np.uint8)).save(folder / "3.png")  # another picture under the same name
    assert not images.cached_images(folder).matrix[3].any() and len(decoded) == 3
    (tmp_path / "cats.nmfcore.npy").unlink()
    assert images.cached_images(folder).matrix.shape == (12, 30) and len(decoded) == 4
    (tmp_path / "cats.nmfcore.json").write_text("mine")
    with pytest.raises(images.InputError, match="is in the way"):
        images.cached_images(folder)


def test_command_line_goes_on_from_a_checkpoint(run, tmp_path):
    np.save("x.npy", matrix("uint8", 500))
    expected = run("x.npy")[1]
    code, _, told = run("x.npy", "--checkpoint", "fit.npz", "--max-time", "1e-9", out="first")
    assert code == 0 and (tmp_path / "fit.npz").exists()
    code, model, told = run("x.npy", "--checkpoint", "fit.npz", "--memory", "1MB", out="second")
    assert code == 0 and "going on from the checkpoint" in told
    np.testing.assert_array_equal(model.components, expected.components)
    assert not (tmp_path / "fit.npz").exists()
    (tmp_path / "fit.npz").write_text("mine")
    code, _, told = run("x.npy", "--checkpoint", "fit.npz", out="third")
    assert code == 2 and "no checkpoint" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x.npy", "--memory", "lots"), "'lots' is no amount of memory"),
        (("x.npy", "--memory", "1GB", "--size", "3x3"), "--size 3x3 makes 9 pixels but a row of 'x.npy' has 200"),
        (("no.h5",), "there is no file or folder 'no.h5'"),
        (("bad.npy", "--memory", "1GB"), "'bad.npy': Input X contains NaN: row 3, column 5"),
        (("x.npy", "--checkpoint", "no/fit.npz"), "there is no folder"),
    ],
)
def test_command_line_says_what_is_wrong_in_one_sentence(arguments, said, run):
    X = matrix("float64", 50)
    np.save("x.npy", X)
    X[3, 5] = np.nan
    np.save("bad.npy", X)
    code, _, told = run(*arguments)
    assert code == 2 and said in told and "Traceback" not in told, told
    assert not os.path.exists("out")


# ---- batches ---------------------------------------------------------------------------------------------------------


def batched(X, solver="hals", out=None, **parameters):
    asked = {"init": "random", "random_state": 0, "max_iter": 2, "tol": 0, "batch_size": 350, **parameters}
    model = MiniBatchNMF(6, solver=solver, max_no_improvement=None, **asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the start of "mu" beside numbers up to 200
        W = model.fit_transform(X, out=out)
    return {
        "W": W, "H": model.components_, "loss": model.history_["loss"], "error": model.reconstruction_err_,
        "kkt": model.kkt_residual_, "reason": model.stop_reason_, "steps": model.n_steps_,
    }, model  # fmt: skip


@pytest.mark.parametrize("kind", ["npy", "h5", "h5 path", "zarr", "blocks"])
@pytest.mark.parametrize(
    ("solver", "parameters"),
    [
        ("hals", {"init": None}), ("hals", {"memory": 200_000}), ("hals", {"batch_size": N}),
        ("mu", {"init": None}), ("mu", {"beta_loss": 1, "fresh_restarts": True, "memory": 1}),
    ],
)  # fmt: skip
def test_batches_have_the_bits_of_a_fit_from_memory(kind, solver, parameters, tmp_path, small_blocks):
    X = matrix("uint8", 1500)
    expected, model = batched(X, solver, **parameters)
    with stored(X, kind, tmp_path) as source:
        found, same = batched(source, solver, **parameters)
        assert_same(expected, found)
        np.testing.assert_array_equal(model.transform(X), same.transform(source))
        assert model.score(X) == same.score(source)


@pytest.mark.parametrize("kind", ["npy", "h5", "blocks"])
@pytest.mark.parametrize("dtype", ["bool", "uint16", "float16", "int64", ">f4"])
def test_batches_of_every_type(kind, dtype, tmp_path):
    X = (matrix("uint8", 800) % (2 if dtype == "bool" else 100)).astype(dtype)
    with stored(X, kind, tmp_path) as source:
        assert_same(batched(X)[0], batched(source)[0])


@pytest.mark.parametrize("kind", ["npy", "h5 path"])
def test_batches_of_runs_of_rows(kind, tmp_path, monkeypatch):
    """As those of an X that is large in memory are, too, whatever the type in the store."""
    monkeypatch.setattr("nmfcore.minibatch.batches.LARGE", 1000)
    monkeypatch.setattr("nmfcore.minibatch.batches.RUN", 5 * M * 8)
    X = matrix(">f4", 3000)
    with stored(X, kind, tmp_path) as source:
        assert_same(batched(X)[0], batched(source)[0])


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_batches_in_any_unit(unit, tmp_path):
    X = matrix("float32", 800) * np.float32(unit)
    with stored(X, "npy", tmp_path) as source:
        assert_same(batched(X)[0], batched(source)[0])


def test_a_custom_start_of_batches(tmp_path, rng):
    X, H = matrix("float64", 800), rng.random((6, M))
    with stored(X, "h5", tmp_path) as source:
        for solver in ("hals", "mu"):
            models = [
                MiniBatchNMF(6, solver=solver, init="custom", batch_size=300, max_iter=2, tol=0) for _ in range(2)
            ]
            np.testing.assert_array_equal(*[m.fit_transform(x, H=H) for m, x in zip(models, (X, source), strict=True)])


@pytest.mark.parametrize("kind", ["npy", "h5", "zarr path", "blocks"])
def test_a_matrix_on_disk_is_one_batch_of_a_stream(kind, tmp_path):
    X = matrix("uint8", 800)
    with stored(X, kind, tmp_path) as source:
        models = [MiniBatchNMF(6, solver="hals", random_state=0) for _ in range(2)]
        for _ in range(2):
            for model, each in zip(models, (X, source), strict=True):
                model.partial_fit(each)
    np.testing.assert_array_equal(models[0].components_, models[1].components_)


def test_one_batch_that_memory_cannot_hold(monkeypatch):
    monkeypatch.setattr("nmfcore.rows.front.machine_memory", lambda: 10**6)
    with pytest.raises(MemoryError, match=r"RowBlocks takes 8\.0 GB, and this machine has 0\.0 GB: give fewer rows"):
        MiniBatchNMF(2).partial_fit(RowBlocks(list, (10**6, 1000), float))


@pytest.mark.parametrize("solver", ["hals", "mu"])
def test_out_of_batches(solver, tmp_path):
    X = matrix("uint8", 800)
    expected = batched(X, solver)[0]["W"]
    with stored(X, "h5", tmp_path) as source:
        found = batched(source, solver, out=tmp_path / "W.npy")[0]["W"]
        assert isinstance(found, np.memmap)
        np.testing.assert_array_equal(expected, found)
        filled = np.zeros((800, 6), np.float32)
        assert batched(source, solver, out=filled)[0]["W"] is filled
        np.testing.assert_array_equal(expected, filled)
    with pytest.raises(ValueError, match="W has 800 rows and 6 columns"):
        batched(X, solver, out=np.zeros((3, 6), np.float32))
    with pytest.raises(FileExistsError, match="give another path"):
        batched(X, solver, out=tmp_path / "W.npy")


@pytest.mark.parametrize(("solver", "memory", "most"), [
    ("mu", 1, 1), ("hals", 4 * 350 * M, 2.01), ("hals", 100 * 350 * M, 0),
])  # fmt: skip
def test_how_often_batches_read_a_store(solver, memory, most, tmp_path):
    """Once an epoch in turn; from all over X as often as it is larger than the memory, and once if it is smaller."""
    X = matrix("uint8", 2100)  # six batches
    with stored(X, "h5", tmp_path) as given:
        source, seen = disk.source_of(given), []
        asked = {"callback": lambda _: seen.append(source.bytes_read), "memory": memory, "init": "random"}
        batched(source, solver, max_iter=3, **asked)
    epochs = np.diff(seen)[-12:].sum() / 2
    assert epochs <= most * X.nbytes
    assert epochs >= most * X.nbytes * 0.99


@pytest.mark.parametrize("solver", ["hals", "mu"])
def test_rows_of_a_file_are_read_alone_and_once_an_epoch(solver, tmp_path):
    X = matrix("uint8", 2100)
    with stored(X, "npy", tmp_path) as given:
        source, seen = disk.source_of(given), []
        batched(source, solver, max_iter=3, init="random", callback=lambda _: seen.append(source.bytes_read))
    assert np.diff(seen).tolist() == [350 * M] * 17


@pytest.mark.parametrize("solver", ["hals", "mu"])
@pytest.mark.parametrize("kind", ["npy", "h5 path", "zarr path"])
def test_a_few_batches_are_in_memory(solver, kind, tmp_path, small_blocks, monkeypatch):
    monkeypatch.setattr(disk.sources, "BLOCK_BYTES", 100_000)
    n, memory = 40_000, 1_000_000
    X = matrix("uint8", n)
    with stored(X, kind, tmp_path) as source:
        model = MiniBatchNMF(
            2, solver=solver, init="random", batch_size=500, max_iter=1, tol=0, max_no_improvement=None, n_jobs=1,
            memory=memory, random_state=0,
        )  # fmt: skip
        small = X[:2000].copy()
        nbytes = X.nbytes
        del X
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model.fit(small)  # compiled
            tracemalloc.start()
            model.fit(source, None)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert peak < 0.8 * nbytes  # blocks or batches, W and the state of the last pass, which rows a batch has


@pytest.mark.parametrize("solver", ["hals", "mu"])
@pytest.mark.parametrize("kind", ["npy", "h5 path"])
def test_a_store_that_vanishes_between_batches(solver, kind, tmp_path):
    X = matrix("uint8", 2100)

    def vanish(progress):
        if progress.iteration == 8:
            for each in tmp_path.iterdir():
                each.write_bytes(b"") if solver == "mu" else each.unlink()

    with stored(X, kind, tmp_path) as source:
        model = MiniBatchNMF(
            6, solver=solver, init="random", batch_size=350, tol=0, callback=vanish, random_state=0, memory=1
        )
        with warnings.catch_warnings(), pytest.raises((OSError, ValueError, RuntimeError), match=r"x\.(npy|h5)"):
            warnings.simplefilter("ignore", UserWarning)
            model.fit(source)
    assert model.n_steps_ >= 8
    assert model.components_.any()


@pytest.mark.parametrize("solver", ["hals", "mu"])
@pytest.mark.parametrize(("kind", "change"), [("zarr path", delete_a_chunk), ("npy", other_numbers)])
def test_what_changes_between_batches_is_noticed(solver, kind, change, tmp_path):
    def changed(progress):
        if progress.iteration == 2:
            change(tmp_path)

    with stored(matrix("uint8"), kind, tmp_path) as X, pytest.raises(RuntimeError, match="changed during the fit"):
        batched(X, solver, callback=changed)


@pytest.mark.parametrize("kind", ["npy", "h5", "blocks"])
def test_batches_with_numbers_that_are_refused_are_named(kind, tmp_path):
    X = matrix("float64", 800)
    X[500, 3] = -1
    with stored(X, kind, tmp_path) as source, pytest.raises(ValueError, match=r"MiniBatchNMF.*-1.0 in row 500, col"):
        batched(source)


def test_rows_of_chunks_are_read_with_those_chunks_only(tmp_path):
    h5py = pytest.importorskip("h5py", reason="the extra 'disk' is not installed")
    X = matrix("uint8", 5000)
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for chunks, most in (((50, 60), 50), ((701, M), 701), (None, (64 << 10) // M)):
            source = disk.source_of(file.create_dataset(f"{chunks}", data=X, chunks=chunks))
            for count in (0, 1, 5, 300, 5000):
                rows, before = np.sort(rng.choice(5000, count, replace=False)), source.bytes_read
                np.testing.assert_array_equal(source.take(rows), X[rows])
                assert source.bytes_read - before <= min(count * most, 5000) * M
