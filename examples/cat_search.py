"""A visual search engine: learn the parts of pictures, then find the most similar and the most dissimilar ones.

python examples/cat_search.py                         # scikit-learn's digits, in seconds
python examples/cat_search.py pictures/ -k 50         # a folder of pictures, any size
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans

from nmfcore import NMF, plots
from nmfcore.search import SearchEngine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="digits", help="a folder of pictures, or a file with many")
    parser.add_argument("-k", type=int, default=20, help="parts to learn")
    parser.add_argument("--query", type=int, default=3, help="row to search by")
    parser.add_argument("--out", type=Path, default=Path("cat-search"), help="folder for the pictures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    def save(name: str, axes) -> None:
        axes.figure.savefig(args.out / f"{name}.png", bbox_inches="tight")
        print(f"{args.out / name}.png")

    engine = SearchEngine(args.k, random_state=0).fit(args.source)
    model, X = engine.model, engine.matrix()
    print(engine, f"relative error {model.relative_error:.4f}", sep="\n")
    save("parts", plots.components_grid(model.components, model.shape))
    few = np.linspace(0, len(X) - 1, 10).astype(int)
    save("reconstructions", plots.reconstructions(X[few], model.reconstruct(few), model.shape))
    save("best-and-worst", plots.best_and_worst(X, model.W, model.components, model.shape, model.names, relative=False))

    for similar in (True, False):
        found = engine.search(args.query, 9, similar=similar)
        print(found)
        rows = [args.query, *found.indices]
        axes = plots.neighbours(
            engine.originals(rows), engine.reconstructions(rows), model.shape,
            [engine.title(row) for row in rows], found.scores,
            heading=f"Most {'similar' if similar else 'dissimilar'}",
        )  # fmt: skip
        save("similar" if similar else "dissimilar", axes)
        if similar:  # the reason for the first match
            why = engine.explain(args.query, found.indices[0])
            shares = ", ".join(f"part {t}: {share:.0%}" for t, share in zip(why.components, why.shares, strict=True))
            print(f"row {args.query} and row {found.indices[0]} share {shares}")

    codes = model.W / np.maximum(np.linalg.norm(model.W, axis=1, keepdims=True), 1e-12)
    clusters = KMeans(8, n_init=3, random_state=0).fit_predict(codes)
    save("clusters", plots.samples_by_cluster(X, codes, clusters, model.shape))

    ks = [k for k in (2, 5, 10, 20, 35, 50, 75) if k <= min(X.shape)]
    sample = X[np.sort(np.random.RandomState(0).choice(len(X), min(len(X), 4000), replace=False))]
    norm = np.sqrt(sum(np.square(row, dtype=np.float64).sum() for row in sample))
    errors = [NMF(k, solver="hals", random_state=0).fit(sample).reconstruction_err_ / norm for k in ks]
    save("error-against-k", plots.error_against_k(ks, errors, chosen=args.k if args.k in ks else None))
    engine.save(args.out / "model", overwrite=True)
    print(f"look around in it: nmfcore serve {args.out / 'model'}")


if __name__ == "__main__":
    main()
