"""One changed import: the numbers of scikit-learn's NMF, sooner; and how much sooner with nmfcore's own solver.

python examples/drop_in.py                                # scikit-learn's digits
python examples/drop_in.py train-images-idx3-ubyte.gz     # MNIST: minutes, most of them scikit-learn's
"""

import argparse
import time
import warnings

import numpy as np
import sklearn.decomposition

import nmfcore
from nmfcore.images import read_source


def timed(model, X):
    """Fit; return seconds and the factors."""
    start = time.perf_counter()
    W = model.fit_transform(X)
    return time.perf_counter() - start, W


def tell(who, seconds, model):
    """Print a line of the table."""
    print(f"{who:<26}{seconds:8.2f} s  error {model.reconstruction_err_:.6g}  {model.n_iter_} iterations")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", help="pictures: a folder, an IDX file, a table, a .npy")
    parser.add_argument("-k", type=int, default=15)
    args = parser.parse_args()
    pixels = read_source(args.source).matrix
    X = pixels.astype(np.float64)  # what scikit-learn computes with
    settings = {"n_components": args.k, "init": "nndsvd", "max_iter": 1000, "random_state": 0}
    nmfcore.NMF(**settings).fit(X[:200])  # compiles the kernels, the first time on this machine
    nmfcore.NMF(args.k, solver="hals").fit(pixels[:200])

    warnings.simplefilter("ignore")  # scikit-learn's remark that max_iter was reached
    theirs = sklearn.decomposition.NMF(**settings)
    before, W = timed(theirs, X)
    ours = nmfcore.NMF(**settings)
    after, same = timed(ours, X)
    tell("scikit-learn", before, theirs)
    tell("nmfcore, import changed", after, ours)
    print(f"largest difference of the codes: {np.abs(W - same).max() / W.max():.1e} of the largest code")
    fast = nmfcore.NMF(args.k, solver="hals", max_iter=1000, tol=1e-4, random_state=0)
    least, _ = timed(fast, pixels)  # one byte a pixel is enough
    tell("nmfcore, solver=hals", least, fast)


if __name__ == "__main__":
    main()
