"""The house rules that a machine can check: imports, lightness, docstrings, the README.

DESIGN: imports point rightward only,

    cli → pages → search → ranks → plots → analysis → images → models → forecast → estimators → minibatch → starts →
    loop → solvers → scale → objective → rows → backends
"""

import ast
import doctest
import importlib
import importlib.metadata
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import sklearn

import nmfcore

PACKAGE = Path(nmfcore.__file__).parent
ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"

# From the highest room to the lowest. The package's own name stands for its lazy public names, which only the command
# line may use; `_nmf` holds scikit-learn's private names for those who import them.
ORDER = (
    "__main__ → cli → nmfcore → pages → search → ranks → plots → analysis → images → models → forecast "
    "→ _nmf → estimators → minibatch → starts → loop → solvers → scale → objective → rows → backends → _second "
    "→ _files → _text → _compat → _typing"
)
RANK = {room: height for height, room in enumerate(reversed(ORDER.split(" → ")))}

# Who may import a heavy library; every other file gets it handed to it or does without.
ONLY_IN = {
    "cupy": {"backends/cuda.py"},
    "cupyx": {"backends/cuda.py"},
    "dask": {"rows/cluster/__init__.py", "rows/cluster/hidden.py", "rows/cluster/spread.py"},
    "distributed": {"rows/cluster/__init__.py", "rows/cluster/workers.py"},
    "h5py": {"rows/disk/paths.py"},
    "zarr": {"rows/disk/paths.py"},
    "starlette": {"pages/serve/app.py"},
    "uvicorn": {"cli/server.py"},
    "sklearn.decomposition": set(),
}

# These are handed their backend and their data; naming their types for a type checker is fine.
HANDED = {"solvers", "objective"}

# What importing nmfcore must leave alone (pandas is loaded by scikit-learn itself).
HEAVY = {"numba", "cupy", "dask", "distributed", "h5py", "zarr", "matplotlib", "PIL", "sklearn.decomposition"}


# --- the arrows of import ------------------------------------------------------------------------


def public_homes(package):
    """Return {public name: its room}, read from the TYPE_CHECKING block of __init__."""
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name: node.module.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        for alias in node.names
    }


def imports_of(tree):
    """Yield (node, level, module, names, for types only) of every import, lazy ones included."""
    typing_only = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for child in ast.walk(statement)
    }
    for node in ast.walk(tree):
        quiet = node in typing_only
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, 0, alias.name, [], quiet
        elif isinstance(node, ast.ImportFrom):
            yield node, node.level, node.module or "", [a.name for a in node.names], quiet
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            named = node.args[0] if node.args else None
            if isinstance(named, ast.Constant) and isinstance(named.value, str):
                module = named.value.lstrip(".")
                yield node, len(named.value) - len(module), module, [], quiet


def targets(path, package, homes, level, module, names):
    """Yield the absolute dotted names that one import statement may bind."""
    if level:
        here = [package.name, *path.relative_to(package).parent.parts]
        base = here[: len(here) - level + 1]
        module = ".".join([*base, module] if module else base)
    if not names:
        yield module
    for name in names:
        if module == package.name and name in homes:
            yield f"{module}.{homes[name]}"
        elif module == package.name and name == "__version__":
            continue  # a constant; it pulls nothing in
        else:
            yield f"{module}.{name}"


def room_of(path, package):
    """Return the room a file belongs to: its folder or its own name below the package."""
    first = path.relative_to(package).parts[0].removesuffix(".py")
    return package.name if first == "__init__" else first


def faults_of_file(path, package, homes):
    """Yield one sentence for every import in the file that the layout forbids."""
    here = room_of(path, package)
    short = path.relative_to(package).as_posix()
    if here not in RANK:
        yield f"{short}: the room {here!r} has no place in the order of rooms"
        return
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node, level, module, names, quiet in imports_of(tree):
        for target in targets(path, package, homes, level, module, names):
            parts = target.split(".")
            at = f"{short}:{node.lineno}: imports {target}"
            if parts[0] != package.name:
                for library, allowed in ONLY_IN.items():
                    if f"{target}.".startswith(f"{library}.") and short not in allowed:
                        yield f"{at}, which is for {sorted(allowed) or 'nobody'}"
                continue
            there = parts[1] if len(parts) > 1 and parts[1] in RANK else package.name
            if there == here:
                continue
            if here == "_compat" or RANK[there] >= RANK[here]:
                yield f"{at}: the arrow points up from {here} to {there}"
            elif here in HANDED and there in {"rows", "backends"} and not quiet:
                yield f"{at}: {here} is handed its data and its backend"


def faults(package):
    """Return every fault of a package's imports, one sentence each."""
    homes = public_homes(package)
    files = sorted(package.rglob("*.py"))
    return [fault for path in files for fault in faults_of_file(path, package, homes)]


def test_imports_point_one_way():
    assert faults(PACKAGE) == []


PLANTED = {
    "rows/memory.py": ("from ..loop import solve", "up from rows to loop"),
    "objective.py": ("def f():\n    from nmfcore import rows", "handed"),
    "solvers/cd.py": ("from ..backends import cpu", "handed"),
    "solvers/mu.py": ("import nmfcore.starts.nndsvd", "up from solvers to starts"),
    "solvers/hals.py": ("import numpy\nfrom nmfcore.rows.memory import Blocks", "handed"),
    "estimators/nmf.py": ("from . import models\nfrom .. import save", "up from estimators to models"),
    "loop/solve.py": ("import nmfcore", "up from loop to nmfcore"),
    "backends/cpu.py": ("import cupy", "for ['backends/cuda.py']"),
    "estimators.py": ("import dask.array as da", "for ['rows/cluster/__init__.py', "),
    "_nmf.py": ("def f():\n    from sklearn.decomposition import _nmf", "nobody"),
    "search/cosine.py": ("import importlib\nimportlib.import_module('nmfcore.cli')", "up from"),
    "images/sources.py": ("from sklearn import decomposition", "nobody"),
    "_compat.py": ("from . import rows", "up from _compat to rows"),
    "stray.py": ("", "no place"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_checker_catches_a_planted_fault(tmp_path, name):
    source, said = PLANTED[name]
    package = plant(tmp_path, {name: source})
    found = faults(package)
    assert len(found) == 1, found
    assert found[0].startswith(name) and said in found[0]


def test_checker_lets_the_right_arrows_pass(tmp_path):
    package = plant(
        tmp_path,
        {
            "cli.py": "from . import NMF, load\nimport nmfcore\nfrom .plots import grid",
            "estimators.py": "from .loop.solve import fit\nfrom . import __version__, _compat",
            "solvers/cd.py": "from typing import TYPE_CHECKING\nfrom ..objective import penalty\n"
            "from . import shared\nif TYPE_CHECKING:\n    from ..rows import Blocks",
            "backends/cuda.py": "import cupy as cp\nfrom cupyx import jit\nfrom . import shared",
            "rows/cluster/spread.py": "def f():\n    import dask\n    from ..memory import Blocks",
            "_compat.py": "import sklearn\nfrom sklearn.utils import validation",
        },
    )
    assert faults(package) == []


def plant(folder, files):
    """Make a package of the given files and of __init__, in a folder of the test's own."""
    package = folder / "nmfcore"
    init = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    for name, source in {"__init__.py": init, **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return package


# --- private names of others ---------------------------------------------------------------------

BORROWED = ("sklearn", "joblib")


def is_private(name):
    """Whether a part of a dotted name is private; dunder names are the language's."""
    return any(part.startswith("_") and not part.endswith("__") for part in name.split("."))


def private_faults(package, inherited=frozenset()):
    """Yield every private name of scikit-learn or joblib that a file other than _compat.py touches.

    `inherited` are the private names that the estimators have from scikit-learn's base classes.
    """
    for path in sorted(package.rglob("*.py")):
        short = path.relative_to(package).as_posix()
        if short == "_compat.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        bound = set(BORROWED)
        for node, level, module, names, _ in imports_of(tree):
            if level or module.split(".")[0] not in BORROWED:
                continue
            yield from (
                f"{short}:{node.lineno}: {target}"
                for target in ([f"{module}.{name}" for name in names] or [module])
                if is_private(target)
            )
            if isinstance(node, ast.Import | ast.ImportFrom):
                bound |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        for node in ast.walk(tree):
            chain = None
            if isinstance(node, ast.Attribute):
                chain = f"{ast.unparse(node.value)}.{node.attr}"
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
                named = node.args[1]
                if isinstance(named, ast.Constant):
                    chain = f"{ast.unparse(node.args[0])}.{named.value}"
            if chain is None:
                continue
            root, _, rest = chain.partition(".")
            if (root in bound and is_private(rest)) or chain.rpartition(".")[2] in inherited:
                yield f"{short}:{node.lineno}: {chain}"


def test_private_names_of_scikit_learn_and_joblib_stay_in_one_file():
    from nmfcore.estimators._base import BaseNMF

    files = [cls for cls in BaseNMF.__mro__ if cls.__module__ != "nmfcore._compat"]  # where theirs are overridden
    ours = {name for cls in files if cls.__module__.startswith("nmfcore") for name in vars(cls)}
    theirs = {name for cls in BaseNMF.__mro__ if cls.__module__.startswith("sklearn") for name in vars(cls)}
    inherited = {name for name in theirs - ours if is_private(name)}
    assert "_validate_params" in inherited
    assert list(private_faults(PACKAGE, inherited)) == []


@pytest.mark.parametrize(
    "source",
    [
        "from sklearn.base import _fit_context",
        "from sklearn.utils._param_validation import Interval",
        "def f():\n    import sklearn.utils._tags",
        "import joblib\ndef f():\n    return joblib.parallel._backend",
        "import joblib as j\nf = getattr(j.parallel, '_backend', None)",
        "from joblib import parallel\nparallel._backend",
        "def f(estimator):\n    estimator._validate_params()",
    ],
)
def test_checker_catches_a_planted_private_name(tmp_path, source):
    found = list(private_faults(plant(tmp_path, {"data.py": source}), {"_validate_params"}))
    assert len(found) == 1 and found[0].startswith("data.py:"), found
    (tmp_path / "nmfcore" / "data.py").rename(tmp_path / "nmfcore" / "_compat.py")
    assert list(private_faults(tmp_path / "nmfcore", {"_validate_params"})) == []


# --- lightness -----------------------------------------------------------------------------------


def modules_after(script):
    """Return the names in sys.modules of a new process that has run the script, or as it prints them before."""
    script = textwrap.dedent(script) + "\nimport sys\nprint('MODULES', *sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=280, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(next(line for line in done.stdout.splitlines() if line.startswith("MODULES")).split()[1:])


@pytest.mark.parametrize("module", ["nmfcore", "nmfcore.estimators", "nmfcore.models"])
def test_import_is_light(module):
    assert modules_after(f"import {module}") & HEAVY == set()


def test_plain_import_does_not_even_load_numpy():
    assert modules_after("import nmfcore") & {"numpy", "scipy", "sklearn"} == set()


def test_the_fit_of_the_command_line_loads_what_it_uses(tmp_path):
    """What libraries import for other purposes is put off, and works when it is used after all."""
    loaded = modules_after(
        f"""
        import gc, sys
        from nmfcore.cli import main
        threshold = gc.get_threshold()
        assert main(["fit", "--out", {str(tmp_path / "model")!r}, "-k", "2", "--max-iter", "2"]) == 0
        assert gc.get_threshold() == threshold
        assert not [each for each in sys.meta_path if type(each).__module__.startswith("nmfcore.cli")]
        print("MODULES", *sorted(sys.modules))
        import scipy.stats
        from scipy.special import expit
        from scipy.optimize import linear_sum_assignment
        assert scipy.stats.norm.cdf(0.0) == 0.5 == expit(0.0)
        assert linear_sum_assignment([[1, 0], [0, 1]])[1].tolist() == [1, 0]
        """
    )
    unused = {"pandas", "matplotlib.pyplot", "sklearn.datasets", "sklearn.preprocessing", "sklearn.decomposition"}
    unused |= {"dask", "distributed", "h5py", "zarr", "cupy", "starlette", "jinja2"}
    unused |= {"nmfcore.pages", "nmfcore.ranks", "nmfcore.search.engine", "nmfcore.search.cosine"}
    assert unused & loaded == set()
    put_off: tuple[str, ...] = ("scipy.stats.",)
    if tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 9):  # 1.6 uses both while it is imported
        put_off += ("scipy.optimize.", "scipy.special.")
    executed = {name for name in loaded if name.startswith(put_off)}
    assert executed == set()


def test_what_is_put_off_is_put_off_in_the_command_line_only():
    script = "from nmfcore import NMF\nimport scipy.stats\nassert 'norm' in vars(scipy.stats)"
    assert "scipy.stats._stats_py" in modules_after(script)


def test_fits_never_load_scikit_learns_own_nmf():
    loaded = modules_after(
        """
        import warnings
        import numpy as np
        import scipy.sparse as sp
        from nmfcore import NMF, MiniBatchNMF, non_negative_factorization
        from nmfcore.solvers import SOLVERS

        warnings.simplefilter("ignore")
        X = np.random.default_rng(0).random((30, 12))
        X[X < 0.3] = 0
        dense = [X, X.astype(np.float32), np.uint8(255 * X)]
        for data in [*dense, sp.csr_matrix(X), sp.csc_matrix(X)]:
            for solver in SOLVERS:
                for init in ("random", "nndsvd", "nndsvda", "nndsvdar"):
                    NMF(3, solver=solver, init=init, max_iter=5).fit(data).transform(data)
            NMF(3, solver="mu", beta_loss=1, max_iter=5).fit(data).transform(data)
            model = MiniBatchNMF(3, batch_size=10, max_iter=3).fit(data)
            model.partial_fit(data).transform(data)
            W, H, _ = non_negative_factorization(data, n_components=3, max_iter=5)
        NMF(3, solver="mu", beta_loss=0.5, init="random", max_iter=5).fit(X).score(X)
        assert "numba" in __import__("sys").modules  # it did compute
        """
    )
    assert "sklearn.decomposition" not in loaded
    assert not [name for name in loaded if name.startswith("sklearn.decomposition.")]


# --- public names and docstrings -----------------------------------------------------------------


def test_all_agrees_with_reality():
    assert len(set(nmfcore.__all__)) == len(nmfcore.__all__)
    assert set(dir(nmfcore)) >= set(nmfcore.__all__)
    assert set(public_homes(PACKAGE)) == set(nmfcore.__all__) - {"__version__"}
    for name in nmfcore.__all__:
        value = getattr(nmfcore, name)
        if name != "__version__":
            home = f"nmfcore.{public_homes(PACKAGE)[name]}"
            assert f"{defined_in(value)}.".startswith(f"{home}."), name
            # Pickles and skops name a class by its module: the public one, which no move inside the package changes.
            assert not inspect.isclass(value) or value.__module__ == "nmfcore", name
    with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
        _ = nmfcore.nonesuch


def test_version_is_the_installed_one():
    assert importlib.metadata.version("nmfcore") == nmfcore.__version__


def test_lower_bounds_are_the_oldest_set():
    """CI proves the oldest set; a bound below it would be a promise nobody has tried."""
    text = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").lower()
    oldest = dict(re.findall(r"^([\w-]+)==([\d.]+)$", text, re.MULTILINE))
    bounds = {}
    for requirement in importlib.metadata.requires("nmfcore"):
        wanted, _, extra = requirement.lower().partition(";")
        if not extra or re.search("extra == .(app|disk|serve|test)\\b", extra):
            bounds |= dict(re.findall(r"^([\w-]+)>=([\d.]+)", wanted))
    assert bounds.keys() <= oldest.keys()
    assert {"numpy", "scikit-learn", "pillow", "pytest"} <= bounds.keys()
    assert [name for name, bound in bounds.items() if not f"{oldest[name]}.".startswith(bound)] == []


def test_every_module_opens_with_what_it_is_for():
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    assert [path.name for path, tree in trees.items() if not ast.get_docstring(tree)] == []


# A user calls these; the rest of the house documents arguments where their names do not say enough.
FOR_USERS = {"nmfcore", "estimators", "forecast", "persistence", "images", "plots", "search", "report", "serve"}


def documented():
    """Yield (qualified name, object, is it for users) of all public classes and functions."""
    for module in modules():
        for name, value in vars(module).items():
            value = getattr(value, "py_func", value)  # the function under a numba dispatcher
            if name.startswith("_") or not (inspect.isfunction(value) or inspect.isclass(value)):
                continue
            if defined_in(value) != module.__name__:
                continue
            room = module.__name__.split(".")[1]
            yield f"{module.__name__}.{name}", value, room in FOR_USERS
            if inspect.isclass(value):
                for method, function in vars(value).items():
                    function = getattr(function, "__func__", function)
                    if not method.startswith("_") and inspect.isfunction(function):
                        yield f"{module.__name__}.{name}.{method}", function, room in FOR_USERS


def defined_in(value):
    """Return the module in which a function or class is written down, whatever its `__module__` says."""
    if inspect.isfunction(value):
        return inspect.unwrap(value).__globals__["__name__"]
    if not value.__module__.startswith("nmfcore"):
        return value.__module__
    functions = [each for each in vars(value).values() if inspect.isfunction(each)]
    ours = {each.__globals__["__name__"] for each in functions} - {"dataclasses", "typing"}
    ours = {name for name in ours if name.startswith(f"{value.__module__}.") or name == value.__module__}
    return ours.pop() if len(ours) == 1 else value.__module__


def modules():
    """Import and yield every public module that the installed extras allow."""
    for found in pkgutil.walk_packages([str(PACKAGE)], "nmfcore."):
        if any(part.startswith("_") for part in found.name.split(".")[1:]):
            continue
        try:
            yield importlib.import_module(found.name)
        except ImportError as error:
            # Only the libraries of extras may be missing, and only where they are allowed.
            if (error.name or "").split(".")[0] not in ONLY_IN:
                raise


def parameters_section(docstring, title="Parameters"):
    """Return the names listed in a numpydoc section; None without such a section."""
    section = re.search(
        rf"^{title}\n-{{{len(title)}}}\n(.*?)(?=^\S[^\n]*\n-{{3,}}\n|\Z)",
        inspect.cleandoc(docstring),
        re.MULTILINE | re.DOTALL,
    )
    if section is None:
        return None
    heads = re.findall(r"^(\S[^:\n]*?)(?: ?:.*)?$", section[1], re.MULTILINE)
    return [name.strip().lstrip("*") for head in heads for name in head.split(",")]


def parameters_of(value):
    """Return the names that a caller gives: of the constructor for a class."""
    if inspect.isclass(value):
        if hasattr(value, "_fields"):  # a named tuple
            return list(value._fields)
        value = value.__init__
        # Not a function: object's or an exception's own. From typing: a protocol's placeholder.
        if not inspect.isfunction(value) or value.__module__ == "typing":
            return []
    return [name for name in inspect.signature(value).parameters if name not in ("self", "cls")]


def docstring_faults(name, value, for_users):
    """Yield what the docstring of one class or function lacks."""
    docstring = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    if not docstring:
        yield f"{name}: no docstring"
        return
    listed, given = parameters_section(docstring), parameters_of(value)
    if listed is None and (hasattr(value, "__dataclass_fields__") or hasattr(value, "_fields")):
        listed = parameters_section(docstring, "Attributes")  # the fields are both
    if listed is None and given and for_users:
        yield f"{name}: no Parameters section for {given}"
    elif listed is not None and inspect.isclass(value) and not given:
        yield f"{name}: Parameters {listed} of a class without a constructor"
    elif listed is not None and listed != given:
        yield f"{name}: Parameters lists {listed}, the signature {given}"
    if for_users and not inspect.isclass(value) and "return" in value.__annotations__:
        returns = str(value.__annotations__["return"]) not in ("None", "NoReturn")
        if returns and not re.search(r"^\s*(Returns|Yields)\n\s*-+$", docstring, re.MULTILINE):
            yield f"{name}: no Returns section"


def test_docstrings_agree_with_signatures():
    assert [fault for entry in documented() for fault in docstring_faults(*entry)] == []


def test_docstring_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for module in modules():
        # The finder passes numba's dispatchers by; kernels have naive twins instead of examples.
        result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
        assert result.failed == 0, f"{module.__name__}: {result}"


def test_docstring_examples_of_public_classes_run():
    """Those whose `__module__` is not the one they are written down in, which doctest passes over."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    moved = [getattr(nmfcore, name) for name in nmfcore.__all__ if inspect.isclass(getattr(nmfcore, name))]
    tests = [test for each in moved for test in doctest.DocTestFinder().find(each, each.__name__, module=False)]
    assert sum(len(test.examples) for test in tests) > len(moved) > 3
    for test in tests:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_docstring_checker_catches_a_planted_fault():
    def f(a, b):
        """Add.

        Parameters
        ----------
        a : int
            One: the first.
        c : int
            The other.

        Returns
        -------
        int
        """

    assert parameters_section(f.__doc__) == ["a", "c"]
    assert len(list(docstring_faults("f", f, True))) == 1
    assert len(list(docstring_faults("f", lambda a: a, True))) == 1


# --- what the sources may not contain ------------------------------------------------------------


FLAGS = {"fast", "nnan", "ninf", "nsz", "arcp", "contract", "afn", "reassoc"}


def fastmath_faults(package):
    """Return what is wrong with where and how a package writes down LLVM's fast-math flags."""
    faults, sets = [], []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Set | ast.List | ast.Tuple):
                flags = {c.value for c in node.elts if isinstance(c, ast.Constant)} & FLAGS
                sets += [(path.name, flags)] if flags else []
                if flags & {"fast", "nnan", "ninf"}:
                    faults.append(f"{path.name}:{node.lineno}: {flags} lose NaN or infinity")
            elif isinstance(node, ast.keyword) and node.arg == "fastmath":
                faults += fastmath_true(path, node.value)
            elif isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "fastmath":
                        faults += fastmath_true(path, value)
    # Beside the one set, the same file may name a part of it for arithmetic that must be exact.
    whole = [flags for _, flags in sets if all(flags >= other for _, other in sets)]
    if len({name for name, _ in sets}) != 1 or len(whole) != 1:
        faults.append(f"flags are written down more than once, or never: {sets}")
    return faults


def fastmath_true(path, value):
    """Return a fault if all flags, nnan and ninf included, are switched on."""
    if isinstance(value, ast.Constant) and value.value is True:
        return [f"{path.name}:{value.lineno}: fastmath=True loses NaN and infinity"]
    return []


def test_fastmath_is_defined_once():
    """Kernels name the flags; they are written down in one place, without nnan and ninf."""
    assert fastmath_faults(PACKAGE) == []


@pytest.mark.parametrize(
    "second",
    [
        "f = njit(fastmath=True)(g)",
        "OPTIONS = {'fastmath': True}",
        "f = njit(fastmath={'nsz', 'arcp'})(g)",
        "OPTIONS = {'fastmath': {'nsz', 'ninf'}}",
    ],
)
def test_fastmath_checker_catches_a_planted_fault(tmp_path, second):
    first = "FASTMATH = {'nsz', 'arcp'}\nOPTIONS = {'fastmath': FASTMATH}\nEXACT = {'nsz'}"
    assert fastmath_faults(plant(tmp_path, {"backends/kernels/_decorators.py": first})) == []
    assert fastmath_faults(plant(tmp_path, {"solve.py": second})) != []


def test_nothing_prints_but_the_command_line():
    """Besides, the stop rules print scikit-learn's lines with `verbose`, as the contract says."""
    prints = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).as_posix() not in ("cli/duplicates.py", "cli/search.py", "loop/stopping.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert prints == []


# --- the README ----------------------------------------------------------------------------------


def readme_blocks(language):
    """Return the fenced blocks of the README in one language."""
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def readme_command(name):
    """Return the one line that follows the comment `<!-- command: name -->`."""
    text = README.read_text(encoding="utf-8")
    found = re.findall(rf"^<!-- command: {name} -->\n```sh\n(.+)\n```$", text, re.MULTILINE)
    assert len(found) == 1, f"one line under 'command: {name}', found {found}"
    return found[0]


def test_readme_has_python_blocks():
    assert readme_blocks("python")


@pytest.mark.parametrize("number", range(len(readme_blocks("python"))))
def test_readme_code_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = compile(readme_blocks("python")[number], f"README.md, block {number}", "exec")
    exec(code, {"__name__": "readme"})


def test_readme_commands_exist():
    assert readme_command("run").endswith("nmfcore fit")
    assert readme_command("test").endswith("-m pytest")
    metadata = importlib.metadata.metadata("nmfcore")
    extras = set(metadata.get_all("Provides-Extra"))
    for name in ("run", "test"):
        assert set(re.findall(r"\[([\w,-]+)\]", readme_command(name))) <= extras
    assert {entry.name for entry in importlib.metadata.entry_points(group="console_scripts")} >= {"nmfcore"}


def test_readme_options_exist():
    pytest.importorskip("typer", reason="the extra 'app' is not installed")
    lines = [line for block in readme_blocks("sh") for line in block.splitlines()]
    ours = [shlex.split(line, comments=True) for line in lines if line.startswith("nmfcore ")]
    assert ours
    env = {**os.environ, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    for command in sorted({words[1] for words in ours}):
        done = subprocess.run(
            [sys.executable, "-m", "nmfcore", command, "--help"],
            capture_output=True,
            text=True,
            timeout=120,
            env=env,
        )
        assert done.returncode == 0, done.stderr
        used = {word for words in ours if words[1] == command for word in words if word[0] == "-"}
        missing = {option for option in used if not re.search(rf"{option}\b", done.stdout)}
        assert not missing, f"nmfcore {command} has no {missing}"
