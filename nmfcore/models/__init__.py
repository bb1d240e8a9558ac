"""Models as plain data (model), their files (file), and what is made of a fitted estimator (estimators)."""

from .estimators import estimator_from, model_of
from .file import load, save
from .model import Model, ModelFileError

__all__ = ["Model", "ModelFileError", "estimator_from", "load", "model_of", "save"]
