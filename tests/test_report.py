"""The report: it holds what the model allows, says what it lacks, and stands alone in a real browser."""

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest

for module in ("jinja2", "matplotlib", "PIL"):
    pytest.importorskip(module, reason="reports need the extra 'app'")
from browser import Watched, chromium  # noqa: E402
from PIL import Image  # noqa: E402

from nmfcore import models  # noqa: E402
from nmfcore.analysis import explained_share  # noqa: E402
from nmfcore.images import Pictures, load_images  # noqa: E402
from nmfcore.images.thumbnails import brightness, part_png, picture_png, sheet_png, thumbnail_shape  # noqa: E402
from nmfcore.pages import report as room  # noqa: E402
from nmfcore.pages.report import report  # noqa: E402
from nmfcore.search.engine import SearchEngine  # noqa: E402


class Page(HTMLParser):
    """What is on a page: headings, pictures, every address."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.images, self.addresses, self.headings, self.text = [], [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        given = dict(attributes)
        self.addresses += [given[name] for name in ("src", "href", "action", "data", "srcset") if name in given]
        if tag == "img":
            self.images.append(given)
        if tag == "h2":
            self.headings.append("")

    def handle_data(self, data):
        self.text += data
        if self.tags and self.tags[-1] == "h2" and not self.headings[-1]:
            self.headings[-1] = data


def decoded(address):
    head, _, body = address.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


@pytest.fixture(scope="module")
def engine():
    return SearchEngine(12).fit("digits")


@pytest.fixture(scope="module")
def page(engine):
    return report(engine)


def test_it_shows_everything_that_the_model_allows(engine, page):
    shown = Page(page)
    assert shown.headings == [
        *(
            "Parts",
            "Reconstructions",
            "Reconstructed best",
            "Reconstructed worst",
            "Convergence",
            "Classes",
            "Clusters",
            "Neighbours",
        )
    ]
    by_alt = {image["alt"]: image["src"] for image in shown.images}
    for part in range(12):
        expected = np.asarray(Image.open(io.BytesIO(part_png(engine.model.components[part], (8, 8)))))
        np.testing.assert_array_equal(decoded(by_alt[f"part {part}"]), expected)
    for digit in range(10):
        assert f"mean of class {digit}" in by_alt
    first = next(image["src"] for image in shown.images if image["alt"] == "row 0 (0), original")
    np.testing.assert_allclose(decoded(first).ravel(), engine.originals([0])[0] / 16 * 255, atol=0.5)
    for name, value in (("relative error", f"{engine.model.relative_error:.4f}"), ("iterations", engine.model.n_iter)):
        assert re.search(rf"<dt>{name}</dt><dd>{value}</dd>", page)
    found = engine.search(599, 6)  # one of the rows that are spread evenly
    assert f"<b>{found.scores[0]:.2f}</b>" in page


def test_it_stands_alone(page):
    shown = Page(page)
    anchors = {address for address in shown.addresses if address.startswith("#")}
    assert all(f'id="{anchor[1:]}"' in page for anchor in anchors)
    assert len(anchors) == len(shown.headings)
    assert all(address.startswith("data:image/png;base64,") for address in set(shown.addresses) - anchors)
    assert not {"script", "link", "iframe", "object", "form"} & set(shown.tags)
    assert "url(" not in page and "@import" not in page
    assert all(image["alt"].strip() for image in shown.images)


def test_it_says_how_the_model_was_made(engine, page):
    assert "Made by <code>nmfcore fit -k 12 --solver hals" in page
    assert "--seed 0" in page
    assert re.search(r"<dt>seed</dt><dd>0</dd>", page)
    assert re.search(rf"<dt>seconds</dt><dd>{engine.model.history['seconds'][-1]:.3g}</dd>", page)


def test_the_command_names_subfolders_and_what_was_left_out(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for number in range(4):
        Image.fromarray(np.full((6, 5), 40 * number + 9, np.uint8)).save(tmp_path / "in" / "sub" / f"{number}.png")

    def command(**options):
        engine = SearchEngine(1, max_iter=3).fit(load_images(tmp_path / "in", progress=None, **options))
        return report(engine), report(SearchEngine.from_model(dataclasses.replace(engine.model, files=None)))

    page, earlier = command(recursive=True, exclude=["*.gif", "my drafts"])
    assert "--recursive --exclude &#39;*.gif&#39; --exclude &#39;my drafts&#39;" in page
    assert "--recursive" in earlier and "--exclude" not in earlier  # earlier models know names only
    (tmp_path / "in" / "sub").rename(tmp_path / "flat")
    page = report(SearchEngine(1, max_iter=3).fit(tmp_path / "flat", progress=False))
    assert "nmfcore fit" in page and "--recursive" not in page and "--exclude" not in page


@pytest.mark.parametrize("count", range(1, 61))
def test_no_tile_is_alone_in_its_row(count):
    for columns in map(int, re.findall(r": (\d+)", room._columns(count))):
        assert 1 <= columns <= 10
        assert count <= columns or count % columns != 1


def test_a_dark_picture_is_no_multiple_of_itself_worse(rng):
    X = rng.random((20, 4, 5))
    X[7] = 1e-6
    model = SearchEngine(2, max_iter=5, tol=0, init="random").fit(X).model
    model = dataclasses.replace(model, W=model.W + 0.1)
    html = report(SearchEngine.from_model(model, X.reshape(20, -1)))
    assert not re.search(r"\d{5,} %", html)


def test_names_and_labels_are_escaped(engine):
    evil = "<script>alert(1)</script>\"'&"
    names = tuple(f"{evil}{row}" for row in range(len(engine)))
    model = dataclasses.replace(engine.model, names=names, source=evil, stop_reason=evil)
    labels = np.where(np.arange(len(engine)) % 2, evil, "b")
    shown = Page(report(SearchEngine.from_model(model, engine.matrix()), labels=labels, title=evil))
    assert "script" not in shown.tags
    assert evil in shown.text
    assert any(image["alt"] == f"mean of class {evil}" for image in shown.images)


def test_labels_may_be_given_and_must_fit(engine):
    labels = np.where(engine.model.labels % 2, "odd", "even").astype(object)
    shown = Page(report(engine, labels=labels))
    assert "mean of class even" in {image["alt"] for image in shown.images}
    assert "mean of class 3" not in {image["alt"] for image in shown.images}
    with pytest.raises(ValueError, match=r"expected one label per row \(1797\), got labels of shape \(5,\)"):
        report(engine, labels=np.arange(5))


def test_names_are_no_classes(engine):
    assert "Classes" not in Page(report(engine, labels=np.arange(1797))).headings
    assert "Classes" not in Page(report(engine, labels=np.zeros(1797))).headings


def test_without_originals_it_says_so(rng, tmp_path):
    SearchEngine(3).fit(rng.random((20, 4, 5))).save(tmp_path / "m", pictures=False)
    html = report(SearchEngine.load(tmp_path / "m"))
    shown = Page(html)
    assert shown.headings == ["Without the originals", "Parts", "Convergence", "Neighbours"]
    assert "has no pictures.npy: fit once more" in shown.text


def test_rows_that_are_no_pictures(rng):
    engine = SearchEngine(3).fit(Pictures(rng.random((30, 12)), None, None, np.arange(30) % 3))
    shown = Page(report(engine))
    assert shown.headings == ["Parts", "Convergence", "Classes", "Neighbours"]
    assert "The 3 components as profiles" in {image["alt"] for image in shown.images}
    assert f"{engine.search(6, 6).scores[0]:.2f}" in shown.text


def test_very_small_models(rng):
    for n, k in ((1, 1), (2, 1), (3, 2)):
        Page(report(SearchEngine(k, max_iter=5, tol=0, init="random").fit(rng.random((n, 4, 5)))))


def test_colours(rng):
    pixels = rng.integers(0, 256, (20, 4, 5, 3), dtype=np.uint8)
    shown = Page(report(SearchEngine(3).fit(pixels)))
    first = next(image["src"] for image in shown.images if image["alt"] == "row 0, original")
    np.testing.assert_allclose(decoded(first).astype(int), pixels[0], atol=1)


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib", "PIL"])
def test_a_missing_library_is_named(engine, missing, monkeypatch):
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install 'nmfcore\[app\]'"):
        report(engine)


# --- in a browser ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True])
def test_in_a_real_browser(page, tmp_path, dark):
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    with chromium() as browser:
        for width in (400, 1600):
            watched = Watched(browser, width, file.as_uri(), dark)
            watched.page.goto(file.as_uri())
            watched.until("[...document.images].every(image => image.complete)")
            assert watched.page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            watched.check()
            # Readable: no text smaller than 11 pixels, and every picture large enough to be looked at.
            texts = "[...document.querySelectorAll('figcaption,p,dd,dt')]"
            sizes = watched.page.evaluate(f"{texts}.map(text => parseFloat(getComputedStyle(text).fontSize))")
            assert min(sizes) >= 11
            assert min(watched.page.evaluate("[...document.images].map(i => i.getBoundingClientRect().width)")) >= 30
            light = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (int(re.findall(r"\d+", light)[0]) < 100) == dark


def test_the_browser_test_can_fail(tmp_path):
    file = tmp_path / "report.html"
    file.write_text(
        "<img src='https://example.invalid/x.png'><p style='width: 9000px'>wide</p><script>throw 1</script>"
    )
    with chromium() as browser:
        watched = Watched(browser, 400, file.as_uri())
        watched.page.goto(file.as_uri())
        watched.until("document.images[0].complete")
        assert watched.strangers == ["https://example.invalid/x.png"]
        assert len(watched.complaints) >= 1
        with pytest.raises(AssertionError):
            watched.check()
        watched.complaints.clear()
        watched.strangers.clear()
        with pytest.raises(AssertionError):
            watched.check()


# --- tiles ----------------------------------------------------------------------------------------


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 3)])
def test_a_sheet_holds_the_pictures_in_their_places(rng, shape):
    rows = rng.integers(0, 256, (7, int(np.prod(shape))), dtype=np.uint8)
    sheet = pixels_of(sheet_png(rows, shape, 255, columns=3, longest=96))
    assert sheet.shape == (18, 27, *shape[2:])
    for number, row in enumerate(rows):
        line, column = divmod(number, 3)
        tile = sheet[6 * line : 6 * line + 6, 9 * column : 9 * column + 9]
        np.testing.assert_array_equal(tile, row.reshape(shape))
        np.testing.assert_array_equal(pixels_of(picture_png(row, shape, 255)), row.reshape(shape))
    assert not sheet[12:, 9:].any()


def test_large_pictures_shrink_on_a_sheet():
    assert thumbnail_shape((300, 200), 96) == (96, 64)
    assert thumbnail_shape((30, 20, 3), 96) == (30, 20)
    assert thumbnail_shape((5000, 1), 96) == (96, 1)
    rows = np.full((2, 300 * 200), 0.5)
    sheet = pixels_of(sheet_png(rows, (300, 200), 1.0, columns=2, longest=96))
    assert sheet.shape == (96, 128)
    assert set(sheet.ravel()) == {128}
    assert pixels_of(picture_png(rows[0], (300, 200), 1.0, 96)).shape == (96, 64)


def test_the_scale_goes_from_zero_to_the_brightest():
    X = np.array([[0.0, 2.0], [8.0, 1.0]])
    assert brightness(X) == 8
    assert pixels_of(picture_png(X[0], (1, 2), 8)).tolist() == [[0, 64]]
    assert pixels_of(picture_png([-1, 99], (1, 2), 8)).tolist() == [[0, 255]]
    assert brightness(np.zeros((3, 2))) == 1
    assert pixels_of(part_png(np.zeros(4), (2, 2))).tolist() == [[0, 0], [0, 0]]


def test_parts_are_in_the_order_of_their_shares(engine, page):
    shares = explained_share(engine.matrix(), engine.model.W, engine.model.components)
    captions = re.findall(r"<b>part (\d+)</b> \(([^)]+)\)", page.replace("\u00a0", " "))
    assert [int(number) for number, _ in captions] == np.argsort(-shares).tolist()
    assert [share for _, share in captions] == [f"{100 * share:.1f} %" for share in np.sort(shares)[::-1]]
    assert "less than 0.1 %" not in page


def test_parts_that_explain_next_to_nothing_are_named(engine):
    model = engine.model
    dead = dataclasses.replace(
        model,
        W=np.hstack([model.W, np.zeros((len(model.W), 2), model.W.dtype)]),
        components=np.vstack([model.components, np.ones((2, 64), model.components.dtype)]),
    )
    page = report(SearchEngine.from_model(dead, engine.matrix()))
    assert page.replace("\u00a0", " ").count("(below 0.1 %)") == 2
    assert "%. 2 parts explain less than 0.1 % each" in page


def test_how_many_and_how_stable_where_the_model_knows(engine, page, tmp_path):
    assert "how stable" not in page
    stability = np.linspace(0.5, 1, 12)
    rank = {"k": np.array([4.0, 8, 16]), "test": np.array([0.5, 0.4, 0.45]), "spread": np.array([0.01, np.nan, 0.02])}
    known = dataclasses.replace(engine.model, component_stability=stability, rank_selection=rank | {"best": 8})
    both = report(SearchEngine.from_model(known, engine.matrix()))
    assert Page(both).headings[1] == "How many parts, how stable"
    assert "Chosen: 8." in both and "<p>A part of the pictures was left out" in both  # nobody knows which
    for method, said in (("bicross", "Rows and columns of the pictures were"), ("holdout", "Pixels of the pictures, ")):
        models.save(dataclasses.replace(known, rank_selection=rank | {"best": 8, "method": method}), tmp_path / "m.npz")
        again = report(SearchEngine.from_model(models.load(tmp_path / "m.npz"), engine.matrix()))
        assert f"<p>{said}" in again and "A part of the pictures" not in again
    assert int(re.search(r"(\d+) parts are below 0.8", both)[1]) == (stability < 0.8).sum()
    for number, value in enumerate(stability):
        assert f"<b>part {number}</b> · {value:.2f}" in both
    ranked = dataclasses.replace(engine.model, rank_selection=rank | {"best": 8})
    alone = report(SearchEngine.from_model(ranked, engine.matrix()))
    assert "number of parts" in alone
    assert "from other starts" not in alone
    stable = report(SearchEngine.from_model(dataclasses.replace(known, rank_selection=None), engine.matrix()))
    assert "Chosen" not in stable
    assert "from other starts" in stable
