"""nmfcore: X ≈ WH with W, H ≥ 0; scikit-learn's NMF with one pass over X per iteration.

The names below are looked up when first used, so ``import nmfcore`` costs next to nothing:
no numba, no scikit-learn module and no compiled kernel is loaded by it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .estimators import NMF, MiniBatchNMF, non_negative_factorization
    from .estimators.consensus import consensus
    from .estimators.progress_bar import ProgressBar
    from .forecast import estimate
    from .models import load, save
    from .ranks import RankSelection, select_rank
    from .rows.disk import RowBlocks
    from .search.cosine import cosine_topk
    from .search.index import CosineIndex

__version__ = "0.2.0"

__all__ = [
    "NMF",
    "CosineIndex",
    "MiniBatchNMF",
    "ProgressBar",
    "RankSelection",
    "RowBlocks",
    "__version__",
    "consensus",
    "cosine_topk",
    "estimate",
    "load",
    "non_negative_factorization",
    "save",
    "select_rank",
]

_HOMES = {
    "CosineIndex": "search.index",
    "NMF": "estimators.nmf",
    "MiniBatchNMF": "estimators.minibatch_nmf",
    "ProgressBar": "estimators.progress_bar",
    "RankSelection": "ranks",
    "RowBlocks": "rows.disk",
    "consensus": "estimators.consensus",
    "estimate": "forecast",
    "non_negative_factorization": "estimators.functional",
    "cosine_topk": "search.cosine",
    "load": "models",
    "save": "models",
    "select_rank": "ranks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
