"""Pictures out: what an NMF learned, drawn with matplotlib.

Every function draws into one matplotlib ``Axes`` and returns it: the one given as ``axes``, or
that of a new ``Figure`` (``axes.figure.savefig("x.png")``). Nothing here touches pyplot or any
other global state, so the functions may run in threads, servers and notebooks alike.

A ``shape`` of (height, width) folds rows to grey pictures, (height, width, 3) to pictures in
colour; without one, rows are drawn as profiles over the features. Grey stands for intensity, and
all other colours are Okabe and Ito's, which people with any kind of colour vision tell apart.
"""

from .classes import (
    components_by_class,
    features_by_class,
    means_by_class,
    rebuilt_by_class,
    samples_by_class,
    samples_by_cluster,
)
from .curves import convergence, error_against_k, loss_against_k
from .pictures import (
    best_and_worst,
    components_grid,
    inpainting,
    neighbours,
    overlay,
    reconstructions,
    sample_features,
)

__all__ = [
    "best_and_worst",
    "components_by_class",
    "components_grid",
    "convergence",
    "error_against_k",
    "features_by_class",
    "inpainting",
    "loss_against_k",
    "means_by_class",
    "neighbours",
    "overlay",
    "rebuilt_by_class",
    "reconstructions",
    "sample_features",
    "samples_by_class",
    "samples_by_cluster",
]
