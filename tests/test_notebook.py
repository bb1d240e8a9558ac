"""What a Jupyter notebook shows: its cells are run by nbclient, and their outputs hold pictures and bars."""

import base64
import re
import subprocess
import sys

import pytest

pytest.importorskip("nbclient", reason="the extra 'test' is not installed")
pytest.importorskip("ipykernel", reason="the extra 'test' is not installed")

CELLS = {
    "pictures": """
        from nmfcore import NMF, ProgressBar, plots, select_rank
        from nmfcore.images import drawn_faces
        from nmfcore.search import SearchEngine
        faces = drawn_faces(60, size=16)
        settings = {"solver": "hals", "max_iter": 30, "tol": 0.01, "random_state": 0}
        faces""",
    "bar": "model = NMF(4, **settings, callback=ProgressBar()).fit(faces.matrix)",
    "no bar left": "NMF(4, **settings, callback=ProgressBar(transient=True)).fit(faces.matrix).n_iter_",
    "plot": "plots.components_grid(model.components_, faces.shape)",
    "engine": "engine = SearchEngine(4, random_state=0).fit(faces)\nengine",
    "found": "engine.search(3, 5)",
    "ranks": "select_rank(faces.matrix, [2, 3], repeats=2, random_state=0)",
}
RUN = """
import sys, nbclient, nbformat
book = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(book, timeout=200, kernel_name="python3").execute()
nbformat.write(book, sys.argv[1])
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Return the outputs of each cell, as a notebook keeps them."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    path = tmp_path_factory.mktemp("notebook") / "book.ipynb"
    cells = [new_code_cell("\n".join(line.strip() for line in code.splitlines())) for code in CELLS.values()]
    nbformat.write(new_notebook(cells=cells), path)
    # In a process of its own, as the libraries of notebooks warn of themselves.
    done = subprocess.run([sys.executable, "-c", RUN, path], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return dict(zip(CELLS, (cell.outputs for cell in nbformat.read(path, 4).cells), strict=True))


def page_of(found):
    """Return the only HTML among the outputs of a cell; a bar that is gone leaves an empty one."""
    (page,) = (html for one in found if (html := one.get("data", {}).get("text/html")))
    return page


@pytest.mark.parametrize("cell", ["pictures", "engine", "found"])
def test_what_holds_pictures_shows_some(outputs, cell):
    shown = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page_of(outputs[cell]))
    assert shown and all(base64.b64decode(each).startswith(b"\x89PNG") for each in shown)


def test_a_plot_that_ends_a_cell_is_shown(outputs):
    (one,) = outputs["plot"]
    assert base64.b64decode(one.data["image/png"]).startswith(b"\x89PNG")


def test_a_rank_selection_is_a_table(outputs):
    page = page_of(outputs["ranks"])
    assert page.count("<tr>") == 3 and "k = " in page


def test_a_bar_ends_full_and_needs_no_widgets(outputs):
    page = page_of(outputs["bar"])
    ((value, most),) = re.findall(r'<progress value="(\d+)" max="(\d+)"></progress>', page)
    assert value == most and 0 < int(value) <= 30 and "loss " in page
    for each in outputs.values():
        assert not any("widget" in kind for one in each for kind in one.get("data", {}))


def test_a_bar_that_does_not_stay_is_gone(outputs):
    bar, value = outputs["no bar left"]
    assert bar.data["text/html"] == "" and value.data["text/plain"].isdigit()
