"""A local page for visual search: `create_app` makes it of a model's folder, ``nmfcore serve`` runs it."""

from .app import LOCAL, create_app

__all__ = ["LOCAL", "create_app"]
