"""What a notebook shows for the value of a cell's last line: small pictures, escaped names, or text."""

import base64
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("PIL", reason="the extra 'app' is not installed")

from nmfcore.images import Pictures, drawn_faces
from nmfcore.search import SearchEngine

FACES = drawn_faces(60, 24)


@pytest.fixture(scope="module")
def engine():
    return SearchEngine(6, max_iter=1000).fit(FACES, progress=None)


def pictures_in(page):
    """Return the PNG files in a piece of HTML."""
    return [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]


def test_pictures_show_the_first_ones_and_count_the_rest():
    page = FACES._repr_html_()
    found = pictures_in(page)
    assert len(found) == 20 and all(png.startswith(b"\x89PNG") for png in found)
    assert "and 40 more" in page and "face 19" in page and "face 20" not in page


def test_a_matrix_without_a_shape_shows_as_text():
    assert Pictures(np.zeros((3, 5)))._repr_html_() is None


def test_names_are_escaped():
    page = replace(FACES, names=("<script>alert(1)</script>", *FACES.names[1:]))._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_what_a_search_finds_shows_the_pictures_found(engine):
    found = engine.search(3, n=5)
    page = found._repr_html_()
    assert len(pictures_in(page)) == 5 and all(name in page for name in found.names)
    assert len(pictures_in(engine.search(3, n=30)._repr_html_())) == 20


def test_what_was_found_is_pickled_without_the_engine(engine):
    found = engine.search(3, n=5)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.indices, found.indices)
    assert again._repr_html_() is None and len(pickle.dumps(found)) < 3000


def test_an_engine_shows_its_parts(engine):
    assert len(pictures_in(engine._repr_html_())) == 6
    assert SearchEngine(6)._repr_html_() is None


@pytest.mark.parametrize("arguments", [{"n": 0}, {"size": 8}])
def test_faces_that_cannot_be_drawn_are_refused(arguments):
    with pytest.raises(ValueError, match="n must be at least 1, and size at least 16"):
        drawn_faces(**arguments)


def test_faces_depend_on_the_seed_alone():
    again = drawn_faces(60, 24)
    np.testing.assert_array_equal(again.matrix, FACES.matrix)
    assert (again.labels == FACES.labels).all() and len({row.tobytes() for row in FACES.matrix}) > 50
    assert not np.array_equal(drawn_faces(60, 24, random_state=1).matrix, FACES.matrix)
