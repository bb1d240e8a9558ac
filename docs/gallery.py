"""How the pictures of the tutorials are found: each block that draws assigns what it drew to ``axes``."""

from typing import Any

from sphinx_gallery.scrapers import figure_rst


class AxesScraper:
    """Save the figure of the variable ``axes`` after each block that has assigned it anew."""

    def __init__(self) -> None:
        self._last: Any = None

    def __repr__(self) -> str:  # part of the configuration, which must not change from build to build
        return "AxesScraper"

    def __call__(self, block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
        """Return the reStructuredText of a block's picture, or nothing.

        Parameters
        ----------
        block : tuple
            The block of the script.
        block_vars : dict
            Its variables and the paths for its pictures.
        gallery_conf : dict
            The configuration of sphinx-gallery.

        Returns
        -------
        str
        """
        axes = block_vars["example_globals"].get("axes")
        if axes is None or axes is self._last:
            return ""
        self._last = axes
        path = next(block_vars["image_path_iterator"])
        axes.figure.savefig(path, dpi=100, bbox_inches="tight")
        return figure_rst([path], gallery_conf["src_dir"])
