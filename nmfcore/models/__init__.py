"""Models as plain data (model), their files (file), and what is made of a fitted estimator (estimators)."""

from .estimators import estimator_from, model_of
from .file import load, save, versions
from .model import PROPORTIONS, Model, ModelFileError, may_be_masked

__all__ = [
    "PROPORTIONS", "Model", "ModelFileError", "estimator_from", "load", "may_be_masked", "model_of", "save", "versions",
]  # fmt: skip
