"""CPU or GPU: what this machine has, and the same fit on each of them.

python examples/choose_backend.py                                # scikit-learn's digits
python examples/choose_backend.py train-images-idx3-ubyte.gz     # MNIST
"""

import argparse
import time

from nmfcore import NMF
from nmfcore.backends import cuda
from nmfcore.images import read_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", help="pictures: a folder, an IDX file, a table, a .npy")
    parser.add_argument("-k", type=int, default=15)
    args = parser.parse_args()
    X = read_source(args.source).matrix
    print(f"GPU: {cuda.describe()}")

    devices = ["cpu"]
    reason = cuda.probe()  # None where a GPU answers, else what is missing, in a sentence
    if reason is None:
        devices.append("cuda")
    for device in devices:
        model = NMF(args.k, solver="hals", random_state=0, device=device)
        model.fit(X)  # compiles what this machine has not compiled yet
        start = time.perf_counter()
        model.fit(X)
        seconds = time.perf_counter() - start
        print(f"{device:<5}{seconds:8.3f} s  error {model.reconstruction_err_:.6g}  {model.n_iter_} passes")

    # "auto" takes a GPU if one works; device=None follows X: a cupy or torch array is computed with where it lives.
    model = NMF(args.k, solver="hals", random_state=0, device="auto").fit(X)
    print(f"auto: {type(model.components_).__module__} arrays, as X is one of numpy's")


if __name__ == "__main__":
    main()
