"""Visits to the search page with a real browser: by mouse and by keyboard, at three widths."""

import dataclasses
import io
import os

import numpy as np
import pytest

for module in ("starlette", "uvicorn"):
    pytest.importorskip(module, reason="the search page needs the extra 'serve'")
from browser import Watched, axe, chromium, running, violations  # noqa: E402
from PIL import Image  # noqa: E402

from nmfcore.pages.serve import create_app  # noqa: E402
from nmfcore.search.engine import SearchEngine  # noqa: E402

WIDTHS = (400, 1000, 1600)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A grey model of coloured pictures in files; the last two have one content."""
    folder = tmp_path_factory.mktemp("pictures") / "cats"
    folder.mkdir()
    rng = np.random.default_rng(0)
    down, across = np.mgrid[0:12, 0:16]
    tints = rng.uniform(0.2, 1, (300, 3))
    for row, (y, x) in enumerate(rng.random((300, 2)) * (12, 16)):
        blob = np.exp(-((down - y) ** 2 + (across - x) ** 2) / 12)
        blob = np.uint8(255 * blob[..., None] * tints[row])
        Image.fromarray(blob).save(folder / f"cat {row}.png")
    (folder / "cat 299.png").write_bytes((folder / "cat 298.png").read_bytes())
    engine = SearchEngine(9).fit(folder, progress=None)
    assert engine.model.names[3] == "cat 3.png"
    model = dataclasses.replace(engine.model, labels=np.arange(300) % 3)
    return SearchEngine.from_model(model, engine.matrix())


@pytest.fixture(scope="module")
def home(engine):
    with running(create_app(engine)) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(params=WIDTHS)
def watched(request, browser, home):
    """A page that has loaded, at every width; the narrow one is dark."""
    watched = Watched(browser, request.param, home, dark=request.param == 400)
    watched.page.goto(home)
    watched.page.wait_for_selector('.tile[aria-label="row 3, cat 3.png (0)"]')
    yield watched
    watched.page.close()


def heading(watched, text):
    watched.until(f"document.querySelector('#panel h2')?.textContent.startsWith('{text}')")


def focused(page):
    return page.evaluate("(e => e.getAttribute('aria-label') ?? e.title ?? e.id)(document.activeElement)")


def shown(page):
    return page.eval_on_selector_all("#panel .results > li > a", "all => all.map(a => Number(a.hash.slice(1)))")


def test_a_visit(watched, engine, tmp_path):
    page = watched.page
    (tmp_path / "mine.png").write_bytes(_file(engine, 250))
    (tmp_path / "not.png").write_bytes(b"no picture")
    assert "300 pictures · 9 parts" in page.inner_text("#facts")
    watched.check()

    # Click one: its neighbours appear, in their order, and their pictures load.
    page.click('.tile[data-row="3"]')
    heading(watched, "row 3, cat 3.png (0)")
    for kind in ("similar", "dissimilar"):
        page.click(f"#kind-{kind}")
        watched.until(f"document.querySelector('#kind-{kind}').getAttribute('aria-selected') === 'true'")
        found = engine.search(3, 12, kind == "similar")
        assert shown(page) == found.indices.tolist()
        assert page.locator("#panel .caption b").all_inner_texts() == [f"{score:.2f}" for score in found.scores]
    watched.until(
        "[...document.querySelectorAll('#panel img')].some(image => image.complete && image.naturalWidth > 0)"
    )
    watched.check()

    # Go on to the most dissimilar one, and back, to the tab that was open.
    page.locator("#panel .results a").nth(0).click()
    heading(watched, f"row {found.indices[0]},")
    page.go_back()
    heading(watched, "row 3,")
    assert page.get_attribute("#kind-dissimilar", "aria-selected") == "true"
    page.click("#panel .close")
    page.wait_for_selector("#panel", state="hidden")

    # Search by a picture: Back closes the panel, Forward finds it again. A refusal changes nothing.
    page.set_input_files("#file", tmp_path / "mine.png")
    heading(watched, "your picture")
    assert shown(page)[0] == 250
    page.go_back()
    page.wait_for_selector("#panel", state="hidden")
    page.go_forward()
    heading(watched, "your picture")
    address = page.url
    page.set_input_files("#file", tmp_path / "not.png")
    page.wait_for_selector("#message:visible")
    assert "is not a picture that can be read" in page.inner_text("#message")
    assert page.url == address and page.inner_text("#panel h2") == "your picture"
    # The browser itself reports the refusal, as it does every answer of 4xx; nothing else.
    assert [said for said in watched.complaints if "422" not in said] == []
    watched.complaints.clear()

    # Several at once are one question, and the one that is refused is left out.
    page.set_input_files("#file", [tmp_path / "mine.png", tmp_path / "not.png", tmp_path / "mine.png"])
    heading(watched, "2 pictures as one question")
    assert "not.png: " in page.inner_text("#message")
    assert shown(page)[0] == 250
    watched.complaints.clear()

    # Close, find by name; the wall scrolls to the picture.
    page.keyboard.press("Escape")
    page.wait_for_selector("#panel", state="hidden")
    page.fill("#text", "cat 299")
    page.press("#text", "Enter")
    heading(watched, "row 299, cat 299.png")
    page.click("#panel .close")
    page.wait_for_selector('.tile[data-row="299"]')
    watched.until("document.activeElement.dataset.row === '299'")
    page.fill("#text", "no such cat")
    page.press("#text", "Enter")
    watched.until("document.querySelector('#message').textContent.includes('no such cat')")
    watched.check()


def test_questions_by_the_keyboard_alone(watched, engine):
    page = watched.page
    press = page.keyboard.press

    # The wall is one stop of the Tab key.
    page.focus("#file")
    press("Tab")
    assert page.evaluate("document.activeElement.dataset.row") == "0"
    for key, row in (("ArrowRight", 1), ("End", 299), ("ArrowLeft", 298), ("Home", 0), ("ArrowRight", 1)):
        press(key)
        watched.until(f"document.activeElement.dataset.row === '{row}'")
    assert page.locator('.tile[tabindex="0"]').count() == 1
    press("Enter")
    heading(watched, "row 1, cat 1.png (1)")
    watched.until("document.activeElement.id === 'panel'")

    # So is every list of the panel: close, add pictures, parts, kinds, results, more.
    stops = []
    for _ in range(6):
        press("Tab")
        stops.append(focused(page) or page.evaluate("document.activeElement.textContent"))
    assert stops[0] == "Close" and stops[1].startswith("Add") and stops[2].startswith("part ")
    assert stops[3] == "Most similar" and stops[5] == "More"
    found = engine.search(1, 24)
    titles = list(found.titles)
    assert stops[4] == titles[0]

    # Inside the list the arrow keys move, Home and End too; Enter on + adds to the question.
    press("Shift+Tab")
    for key, title in (("ArrowRight", titles[1]), ("End", titles[11]), ("ArrowLeft", titles[10]), ("Home", titles[0])):
        press(key)
        assert focused(page) == title
    press("ArrowDown")
    assert focused(page) == f"add {titles[0]} to the question"
    press("ArrowRight")
    assert focused(page) == f"add {titles[1]} to the question"
    press("ArrowUp")
    assert focused(page) == titles[1]

    # More: the focus goes on to the first of the new ones, and the address holds their number.
    press("Tab")
    press("Enter")
    watched.until(f"document.activeElement.title === {titles[12]!r}")
    assert shown(page) == found.indices.tolist()
    assert page.url.endswith("#q=1&n=24")

    # Add one, lead away from another, choose a label; all of it is in the address.
    press("Home")
    press("ArrowDown")
    press("Enter")
    heading(watched, "2 pictures as one question")
    first = int(found.indices[0])
    assert page.url.endswith(f"#q=1,{first}")
    page.locator("#panel .results button[aria-label^='lead away']").nth(2).focus()
    away = shown(page)[2]
    press("Enter")
    heading(watched, "3 pictures as one question")
    page.focus("#label")
    press("ArrowDown")
    watched.until("document.querySelector('#panel').textContent.includes('only those labelled 0')")
    expected = engine.search([1, first, away], 12, weights=[1, 1, -1], labels=[0])
    assert shown(page) == expected.indices.tolist()
    assert page.url.endswith(f"#q=1,{first}&not={away}&label=0")
    watched.until("document.querySelectorAll('.tile').length <= 100")
    assert page.eval_on_selector_all(".tile", "all => all.every(tile => tile.dataset.row % 3 === 0)")

    # A bookmark shows the same, and Back takes one step after the other back.
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    heading(watched, "3 pictures as one question")
    assert shown(page) == expected.indices.tolist()
    page.go_back()  # to the blank page
    page.go_back()
    heading(watched, "3 pictures as one question")
    page.go_back()
    watched.until("document.querySelector('#label').value === ''")
    heading(watched, "3 pictures as one question")
    page.go_back()
    heading(watched, "2 pictures as one question")
    press("Escape")
    page.wait_for_selector("#panel", state="hidden")
    watched.check()


def test_axe_core_looks_at_every_view():
    """Skips with the reason where the visits below are made without it."""
    assert "axe" in axe()


def test_parts_and_views(watched, engine):
    page = watched.page
    source = axe() if os.environ.get("NMFCORE_AXE") else None
    wrong = []

    def look(state):
        watched.check()
        if source:
            wrong.extend(f"{state}: {said}" for said in violations(page, source))

    look("the wall")
    page.click('.tile[data-row="3"]')
    heading(watched, "row 3,")
    watched.until("document.querySelectorAll('#panel .results > li').length === 12")
    look("neighbours")

    # A part: the pictures that it makes most of.
    page.locator("#panel .parts a").nth(0).click()
    heading(watched, "Part ")
    part = int(page.inner_text("#panel h2").split()[1])
    made = engine.model.W * engine.model.components.sum(axis=1)
    shares = made[:, part] / made.sum(axis=1)
    assert shown(page) == np.argsort(-shares, kind="stable")[:12].tolist()
    assert page.locator("#panel .caption b").nth(0).inner_text() == f"{round(100 * shares.max())} %"
    look("a part")
    page.keyboard.press("Escape")
    page.wait_for_selector("#panel", state="hidden")

    # Views by the keyboard; their tabs are one stop.
    page.focus("#tab-wall")
    page.keyboard.press("ArrowRight")
    watched.until("!document.querySelector('#map').hidden && document.activeElement.id === 'tab-map'")
    watched.until(
        "document.querySelector('#making').textContent === '' && document.querySelector('#canvas').width > 300"
    )
    assert page.url.endswith("#view=map")
    page.wait_for_timeout(100)
    page.focus("#canvas")
    page.keyboard.press("Enter")
    heading(watched, "300 pictures on the map")
    look("the map")
    page.keyboard.press("Escape")
    page.wait_for_selector("#panel", state="hidden")

    # A line that is drawn around the left half lists what is inside.
    page.click("#lasso")
    box = page.locator("#canvas").bounding_box()
    left, top, middle, bottom = box["x"] + 2, box["y"] + 2, box["x"] + box["width"] / 2, box["y"] + box["height"] - 2
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((middle, top), (middle, bottom), (left, bottom), (left, (top + bottom) / 2)):
        page.mouse.move(x, y, steps=4)
    page.mouse.up()
    watched.until("document.querySelector('#panel h2')?.textContent.endsWith('on the map')")
    inside = int(page.inner_text("#panel h2").split()[0])
    assert 0 < inside < 300
    places = np.array(page.evaluate("fetch('/api/map').then(answer => answer.json())")).reshape(-1, 2)
    from_left = set(np.argsort(places[:, 0], kind="stable")[: inside + 3].tolist())
    assert set(shown(page)) <= from_left
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    heading(watched, f"{inside} pictures on the map")
    page.click("#panel .close")
    page.wait_for_selector("#panel", state="hidden")

    page.focus("#tab-map")
    page.keyboard.press("ArrowRight")
    watched.until("document.querySelectorAll('#clusters section').length === 8")
    counts = page.locator("#clusters h2 small").all_inner_texts()
    assert sum(int(count.split()[0]) for count in counts) == 300
    look("clusters")
    page.locator("#clusters section button").nth(1).click()
    heading(watched, "Cluster 2 of 8")
    look("a cluster")
    page.keyboard.press("Escape")
    page.wait_for_selector("#panel", state="hidden")

    page.focus("#tab-clusters")
    page.keyboard.press("End")
    watched.until("document.querySelectorAll('#duplicates section').length > 0")
    assert "equal files" in page.inner_text("#duplicates section >> nth=0")
    look("duplicates")
    assert page.url.endswith("#view=duplicates")
    assert wrong == []


def test_a_model_of_grey_levels_is_shown_in_the_colours_of_its_files(browser, home, engine):
    watched = Watched(browser, 1000, home)
    page = watched.page
    page.goto(f"{home}#3")
    heading(watched, "row 3,")
    assert "colours=1" in page.get_attribute("#panel .query img", "src")
    page.uncheck("#coloured")
    watched.until("!document.querySelector('#panel .query img').src.includes('colours')")
    assert "colours" not in page.locator(".tile").nth(0).evaluate("tile => tile.style.backgroundImage")
    assert page.url.endswith("#q=3&colours=0")
    watched.check()
    page.close()


def test_a_long_wall_has_few_elements(browser):
    """Scrolled from end to end, the page never holds more than what is about in view."""
    rng = np.random.default_rng(0)
    engine = SearchEngine(4, max_iter=5, tol=0, init="random").fit(rng.integers(0, 256, (40, 8, 8), dtype=np.uint8))
    rows = np.arange(15_747) % 40
    model = dataclasses.replace(engine.model, W=engine.model.W[rows])
    large = SearchEngine.from_model(model, engine.matrix()[rows])
    with running(create_app(large)) as home:
        watched = Watched(browser, 1600, home)
        page = watched.page
        page.goto(home)
        page.wait_for_selector(".tile")
        most = 0
        for share in (0.0, 0.3, 0.31, 0.7, 1.0):
            wall = page.locator("#wall")
            wall.evaluate(f"wall => wall.scrollTop = {share} * (wall.scrollHeight - wall.clientHeight)")
            page.wait_for_timeout(50)
            most = max(most, page.locator(".tile").count())
        page.wait_for_selector('.tile[data-row="15746"]')
        assert most < 700
        watched.check()
        page.close()


def _file(engine, row):
    file = io.BytesIO()
    Image.fromarray(engine.originals([row])[0].reshape(engine.shape)).save(file, "PNG")
    return file.getvalue()
