"""How Sphinx builds the documentation: python -m sphinx -W docs docs/_build."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
os.environ.setdefault("MPLBACKEND", "Agg")

from gallery import AxesScraper  # noqa: E402
from pages import write_pages  # noqa: E402

import nmfcore  # noqa: E402

project = "nmfcore"
author = "The nmfcore developers"
copyright = f"{author}. BSD 3-Clause"
version = release = nmfcore.__version__

extensions = [
    "mathml",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "tutorials/README.txt"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = [
    "config.cache",
    "myst.xref_missing",  # tests/test_docs.py follows the links
    "ref.ref",  # of scikit-learn's own docstrings, which the estimators inherit
    "ref.term",
]

autosummary_generate = True
templates_path = ["_templates"]
numpydoc_show_class_members = False
numpydoc_attributes_as_param_list = True
copybutton_exclude = ".linenos, .gp, .go"

sphinx_gallery_conf = {
    "examples_dirs": [str(HERE.parent / "examples" / "tutorials")],
    "gallery_dirs": ["tutorials"],
    "filename_pattern": r"/plot_",
    "download_all_examples": False,
    "remove_config_comments": True,
    "plot_gallery": True,
    "image_scrapers": (AxesScraper(),),
    "abort_on_example_error": True,
    "show_memory": False,
    "min_reported_time": 1000,
}

html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"nmfcore {version}"
html_show_sphinx = False
html_copy_source = False

write_pages(HERE)
