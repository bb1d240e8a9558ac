"""A visual search engine: learn the parts of pictures, then find the most similar and the most dissimilar ones.

python examples/cat_search.py                         # scikit-learn's digits, in seconds
python examples/cat_search.py pictures/ -k 50         # a folder of pictures, any size; without -k it finds a k
"""

import argparse
from pathlib import Path

import numpy as np

from nmfcore import analysis, plots, select_rank
from nmfcore.images import read_source
from nmfcore.search import SearchEngine

TIME = 120  # seconds in which k is looked for: that of large pictures with many parts would take much longer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", help="a folder of pictures, or a file with many")
    parser.add_argument("-k", type=int, help="parts to learn; those that predict left-out pixels best by default")
    parser.add_argument("--query", type=int, default=3, help="row to search by")
    parser.add_argument("--out", type=Path, default=Path("cat-search"), help="folder for the pictures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    def save(name: str, axes) -> None:
        axes.figure.savefig(args.out / f"{name}.png", bbox_inches="tight")
        print(f"{args.out / name}.png")

    pictures = read_source(args.source)
    k = args.k
    if k is None:  # pixels are left out by tiles, as neighbouring ones share their noise
        ranks = select_rank(pictures.matrix, "auto", tiles=pictures.shape, max_rows=4000, max_time=TIME, random_state=0)
        k = ranks.best
        print(f"k = {k} of {list(map(int, ranks.k))}: {ranks.stop_reason}")
        save("loss-against-k", ranks.plot())
    engine = SearchEngine(k, random_state=0).fit(pictures)
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

    groups = analysis.clusters(model.W, 8)
    print(groups)
    codes = model.W / np.maximum(np.linalg.norm(model.W, axis=1, keepdims=True), 1e-12)
    save("clusters", plots.samples_by_cluster(X, codes, groups.labels, model.shape))

    engine.save(args.out / "model", overwrite=True)
    print(f"look around in it: nmfcore serve {args.out / 'model'}")


if __name__ == "__main__":
    main()
