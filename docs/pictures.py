"""Draw the README's pictures from drawn faces: python docs/pictures.py."""

from pathlib import Path

from nmfcore import plots
from nmfcore.images import drawn_faces
from nmfcore.search import SearchEngine

HERE = Path(__file__).parent
QUERY = 3


def main() -> None:
    """Write parts.png and search.png beside this file."""
    faces = drawn_faces()
    engine = SearchEngine(16, random_state=0, max_iter=1000).fit(faces)
    parts = plots.components_grid(
        engine.model.components, engine.shape, columns=8, heading="16 parts of 600 drawn faces"
    )
    found = engine.search(QUERY, 9)
    rows = [QUERY, *found.indices]
    neighbours = plots.neighbours(
        engine.originals(rows), engine.reconstructions(rows), engine.shape, [str(faces.labels[row]) for row in rows],
        found.scores, heading="Most similar to the framed one: originals over reconstructions",
    )  # fmt: skip
    for name, axes in (("parts", parts), ("search", neighbours)):
        axes.figure.savefig(HERE / f"{name}.png", dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
