"""A study of stroke patterns: what parts digits are made of, which class uses which, and what is left out.

python examples/mnist_patterns.py                                       # scikit-learn's digits, in seconds
python examples/mnist_patterns.py train-images-idx3-ubyte.gz -k 15 45   # MNIST, a Kaggle .csv; without -k it finds a k
"""

import argparse
from pathlib import Path

import numpy as np

from nmfcore import NMF, analysis, plots, select_rank
from nmfcore.images import read_source

TIME = 120  # seconds in which k is looked for: that of large pictures with many parts would take much longer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", help="pictures with labels: an IDX file, a table, a .npz")
    parser.add_argument("-k", type=int, nargs="+", help="numbers of parts; by default the best to predict pixels")
    parser.add_argument("--out", type=Path, default=Path("patterns"), help="folder for the pictures")
    args = parser.parse_args()
    pictures = read_source(args.source)
    if pictures.labels is None:
        parser.error("the study compares classes: give pictures with labels")
    for k in args.k or [best_k(pictures, args.out)]:
        study(pictures, k, args.out / f"k{k}")


def best_k(pictures, out: Path) -> int:
    """Find the number of parts that best predict pixels that were left out, by tiles."""
    out.mkdir(parents=True, exist_ok=True)
    found = select_rank(pictures.matrix, "auto", tiles=pictures.shape, max_time=TIME, random_state=0)
    print(f"k = {found.best} of {list(map(int, found.k))}: {found.stop_reason}")
    found.plot().figure.savefig(out / "loss-against-k.png", bbox_inches="tight")
    return found.best


def study(pictures, k: int, out: Path) -> None:
    """Fit k parts and draw everything that they tell."""
    out.mkdir(parents=True, exist_ok=True)
    X, labels, shape = pictures.matrix, pictures.labels, pictures.shape
    model = NMF(k, solver="hals", random_state=0, max_iter=1000)
    W = model.fit_transform(X)
    H = model.components_
    errors = analysis.reconstruction_errors(X, W, H)
    print(f"k = {k}: {model.n_iter_} passes, {model.stop_reason_}; mean error of a picture {errors.mean():.3f}")

    def save(name: str, axes) -> None:
        axes.figure.savefig(out / f"{name}.png", bbox_inches="tight")
        print(f"  {out / name}.png")

    save("samples", plots.samples_by_class(X, labels, shape))
    save("components", plots.components_grid(H, shape))
    save("one-sample", plots.sample_features(W[0], H, shape, picture=X[0]))
    save("features-by-class", plots.features_by_class(W, labels, H))
    save("class-means", plots.means_by_class(W, labels, H))
    save("top-components", plots.components_by_class(W, H, labels, shape))
    save("rebuilt-classes", plots.rebuilt_by_class(W, H, labels, shape))
    few = np.linspace(0, len(X) - 1, 10).astype(int)
    save("reconstructions", plots.reconstructions(X[few], W[few] @ H, shape))
    save("best-and-worst", plots.best_and_worst(X, W, H, shape, relative=False))
    save("convergence", plots.convergence(model.history_, n_iter=model.n_iter_))

    classes, components, _ = analysis.top_components(W, labels, n=8, H=H)
    for name, strong in zip(classes, components, strict=True):
        print(f"  class {name}: parts {', '.join(map(str, strong[:3]))}")
    one = min(3, len(classes) - 1)  # of digits, the threes: eight of their parts make a 3
    heading = f"The {components.shape[1]} strongest parts of class {classes[one]}"
    save("overlay", plots.overlay(H, shape, components[one], heading=heading))


if __name__ == "__main__":
    main()
