"""The search page: its answers, and what it refuses."""

import asyncio
import base64
import contextlib
import dataclasses
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from importlib import resources
from urllib.error import URLError
from urllib.parse import quote, unquote
from urllib.request import Request, urlopen

import numpy as np
import pytest

for module in ("starlette", "uvicorn"):
    pytest.importorskip(module, reason="the search page needs the extra 'serve'")
from browser import running  # noqa: E402
from PIL import Image  # noqa: E402

from nmfcore.analysis import clusters, map_of_codes  # noqa: E402
from nmfcore.images import InputError  # noqa: E402
from nmfcore.pages.serve import app as room  # noqa: E402
from nmfcore.pages.serve import create_app  # noqa: E402
from nmfcore.pages.serve.guard import HEADERS  # noqa: E402
from nmfcore.pages.serve.kept import Upload, Uploads  # noqa: E402
from nmfcore.search.engine import SearchEngine  # noqa: E402


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict
    content: bytes

    @property
    def text(self):
        return self.content.decode("utf-8", "replace")

    def json(self):
        return json.loads(self.content)


class Client:
    """Asks an application as a server would, without one: addresses arrive as they are written here."""

    def __init__(self, app, host="localhost:8765"):
        self.app, self.host = app, host

    def get(self, address, **headers):
        return self.request("GET", address, **headers)

    def post(self, address, content, **headers):
        return self.request("POST", address, content, **headers)

    def request(self, method, address, content=b"", **headers):
        chunks = [content] if isinstance(content, bytes) else content
        if isinstance(content, bytes) and content:
            headers = {"content_length": str(len(content)), **headers}
        given = {"host": self.host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        path, _, query = address.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": unquote(path), "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8765),
        }  # fmt: skip
        return asyncio.run(self.talk(scope, iter(chunks)))

    async def talk(self, scope, chunks):
        start, body = {}, []

        async def receive():
            chunk = next(chunks, None)
            return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

        async def send(message):
            start.update(message) if message["type"].endswith("start") else body.append(message.get("body", b""))

        await self.app(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in start.get("headers", ())}
        return Answer(start.get("status"), headers, b"".join(body))


def pixels_of(response):
    assert response.status == 200, response.text
    assert response.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(response.content)))


@pytest.fixture(scope="module")
def pictures():
    """Smooth grey pictures, brightest 255, which a few parts make well."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[0:12, 0:16]
    centres = rng.random((300, 2, 1, 1)) * [[[12]], [[16]]]
    blobs = np.exp(-((down - centres[:, 0]) ** 2 + (across - centres[:, 1]) ** 2) / 12)
    return np.uint8(255 * blobs / blobs.max(axis=(1, 2), keepdims=True))


@pytest.fixture(scope="module")
def folder(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "model"
    engine = SearchEngine(9).fit(pictures)
    names = tuple(f"cat {row}.png" for row in range(300))
    model = dataclasses.replace(engine.model, names=names, labels=np.arange(300) % 3)
    SearchEngine.from_model(model, engine.matrix()).save(folder)
    return folder


@pytest.fixture(scope="module")
def client(folder):
    return Client(create_app(folder))


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Wait for what takes long, however busy the machine is."""
    monkeypatch.setattr(room, "PATIENCE", 60)


# --- answers --------------------------------------------------------------------------------------


def test_neighbours_are_those_of_the_engine(client, folder):
    engine = SearchEngine.load(folder)
    told = client.get("/api/neighbours/17").json()
    assert told["query"]["row"] == 17
    assert told["query"]["title"] == "row 17, cat 17.png (2)"
    parts, shares = zip(*told["query"]["parts"], strict=True)
    made = engine.model.W[17].astype(float) * engine.model.components.sum(axis=1, dtype=float)  # of all pixels together
    np.testing.assert_allclose(shares, np.sort(made / made.sum())[::-1][: len(shares)])
    assert list(parts) == np.argsort(-made, kind="stable")[: len(parts)].tolist()
    assert sum(shares) >= 0.5 > sum(shares[:-1])  # as many as make up half
    for kind in ("similar", "dissimilar"):
        found = engine.search(17, 12, kind == "similar")
        assert [one["row"] for one in told[kind]] == found.indices.tolist()
        assert [one["score"] for one in told[kind]] == found.scores.tolist()
        for one, why in zip(told[kind], engine.reasons(found, 3), strict=True):
            assert [part for part, _ in one["parts"]] == why.components.tolist()
            assert [share for _, share in one["parts"]] == why.shares.tolist()


def test_an_upload_finds_itself(client, pictures):
    told = client.post("/api/neighbours", png(pictures[42])).json()
    assert told["query"]["row"] is None
    assert told["picture"].startswith("data:image/png;base64,")
    assert told["similar"][0]["row"] == 42
    assert told["similar"][0]["score"] == pytest.approx(1, abs=1e-4)
    assert told["dissimilar"][0]["score"] <= told["dissimilar"][-1]["score"] < 0.5


def test_pictures_are_what_the_model_holds(client, folder, pictures):
    engine = SearchEngine.load(folder)
    np.testing.assert_array_equal(pixels_of(client.get("/pictures/7.png")), pictures[7])
    made = np.clip(engine.reconstructions([7])[0].reshape(12, 16), 0, 255)
    np.testing.assert_allclose(pixels_of(client.get("/reconstructions/7.png")).astype(float), made, atol=1)
    assert pixels_of(client.get("/parts/8.png")).shape == (12, 16)
    for number in (0, 1, 2):
        sheet = pixels_of(client.get(f"/sheets/{number}.png"))
        rows = pictures[128 * number : 128 * number + 128]
        for place, picture in enumerate(rows):
            line, column = divmod(place, 16)
            tile = sheet[12 * line : 12 * line + 12, 16 * column : 16 * column + 16]
            np.testing.assert_array_equal(tile, picture)
        assert client.get(f"/api/titles/{number}").json() == [
            f"row {row}, cat {row}.png ({row % 3})" for row in range(128 * number, 128 * number + len(rows))
        ]


def test_what_the_page_is_told_first(client):
    told = client.get("/api/model").json()
    assert (told["rows"], told["parts"], told["height"], told["width"]) == (300, 9, 12, 16)
    assert told["perSheet"] == 128
    assert told["limit"] == 8 << 20
    assert len(told["mark"]) == 16


def test_the_mark_is_the_models(folder):
    engine = SearchEngine.load(folder)
    same = room._mark(SearchEngine.load(folder))
    assert room._mark(engine) == same
    engine.add(engine.originals([0]))
    assert room._mark(engine) != same


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("cat 12.png", [12]),
        ("CAT 12.PNG ", [12]),
        ("12", [12, 112, *range(120, 130), 212]),
        ("#299", [299]),
        ("300", []),
        ("dog", []),
        ("", []),
        ("9" * 5000, []),
    ],
)
def test_finding_by_name_and_number(client, text, rows):
    assert [one["row"] for one in client.get(f"/api/find?text={quote(text)}").json()] == rows


def test_a_number_means_the_file_of_that_name_and_the_row_is_said(folder):
    engine = SearchEngine.load(folder)
    model = dataclasses.replace(engine.model, names=tuple(f"{299 - row}.jpg" for row in range(300)))
    client = Client(create_app(SearchEngine.from_model(model, engine.matrix())))
    told = client.get("/api/find?text=12").json()
    assert told[0]["row"] == 287 and "row 12" in told[0]["note"]
    assert client.get("/api/find?text=row%2012").json()[0] == {"row": 12, "title": "row 12, 287.jpg (0)"}


def test_addresses_with_a_mark_are_kept_and_the_rest_asked_again(client):
    for address in ("/pictures/0.png", "/sheets/0.png", "/api/titles/0"):
        assert "immutable" in client.get(address).headers["cache-control"]
    for address in ("/", "/app.js", "/style.css"):
        assert client.get(address).headers["cache-control"] == "no-cache"


def test_a_model_without_names_is_searched_by_number_first():
    client = Client(create_app(SearchEngine(5).fit("digits")))
    found = client.get("/api/find?text=7").json()
    assert found[0] == {"row": 7, "title": "row 7 (7)"}
    assert all(one["title"].endswith(" (7)") for one in found)


# --- questions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "query", "settings"),
    [
        ("plus=17", [17], {}),
        ("plus=17,42&minus=3", [17, 42, 3], {"weights": [1, 1, -1]}),
        ("plus=17,42&label=2", [17, 42], {"labels": [2]}),
        ("minus=17&kind=dissimilar&n=5&offset=290", [17], {"weights": [-1], "similar": False, "n": 5, "offset": 290}),
        ("plus=17&n=240&offset=3", [17], {"n": 240, "offset": 3}),
    ],
)
def test_a_search_is_that_of_the_engine(client, folder, asked, query, settings):
    engine = SearchEngine.load(folder)
    found = engine.search(query, **{"n": 12, **settings})
    told = client.get(f"/api/search?{asked}").json()
    assert [one["row"] for one in told["found"]] == found.indices.tolist()
    assert [one["score"] for one in told["found"]] == found.scores.tolist()
    assert [one["title"] for one in told["found"]] == list(found.titles)
    assert [(one["row"], one["minus"]) for one in told["query"]["terms"]] == [
        (term.row, term.weight < 0) for term in found.terms
    ]
    assert told["more"] == (len(found) == settings.get("n", 12))


def test_pages_of_everything_neither_repeat_nor_skip(client, folder):
    engine = SearchEngine.load(folder)
    used = int((engine.model.W[:, 3] > 0).sum())
    for address, everything in (("search?plus=5", 299), ("parts/3?", used), ("clusters/0?of=1", 300)):
        pages = [client.get(f"/api/{address}&n=100&offset={first}").json() for first in (0, 100, 200)]
        rows = [one["row"] for page in pages for one in page["found"]]
        assert len(rows) == len(set(rows)) == everything
        assert [page["more"] for page in pages] == [everything > end for end in (100, 200, 300)]


def test_the_pictures_that_a_part_makes_most_of(client, folder):
    engine = SearchEngine.load(folder)
    made = engine.model.W.astype(float) * engine.model.components.astype(float).sum(axis=1)
    shares = made[:, 4] / made.sum(axis=1)
    told = client.get("/api/parts/4?n=20").json()
    assert [one["row"] for one in told["found"]] == np.argsort(-shares, kind="stable")[:20].tolist()
    np.testing.assert_allclose([one["score"] for one in told["found"]], np.sort(shares)[::-1][:20])
    assert told["half"] == int((shares >= 0.5).sum())
    labelled = client.get("/api/parts/4?n=20&label=1").json()["found"]
    assert [one["row"] for one in labelled] == [row for row in np.argsort(-shares, kind="stable") if row % 3 == 1][:20]


def test_pictures_that_were_sent_are_part_of_later_questions(client, pictures, folder):
    engine = SearchEngine.load(folder)
    marks = [client.post("/api/neighbours", png(pictures[row])).json()["token"] for row in (42, 77)]
    told = client.get(f"/api/search?plus={marks[0]},5&minus={marks[1]}").json()
    found = engine.search([pictures[42], 5, pictures[77]], 12, weights=[1, 1, -1])
    assert [one["row"] for one in told["found"]] == found.indices.tolist()
    assert [one["title"] for one in told["query"]["terms"]][::2] == ["your picture"] * 2
    assert told["query"]["terms"][0]["picture"].startswith("data:image/png;base64,")
    gone = client.get(f"/api/search?plus=u{'0' * 32}")
    assert gone.status == 410
    assert gone.json()["error"] == "a picture of this search is no longer kept: send it again"


def test_only_so_many_pictures_are_kept():
    kept = Uploads(most=3)
    marks = [kept.keep(Upload(np.zeros(2), bytes([number]))) for number in range(4)]
    assert [kept.get(mark) is None for mark in marks] == [True, False, False, False]
    kept.get(marks[1])
    kept.keep(Upload(np.zeros(2), b""))
    assert kept.get(marks[1]) is not None and kept.get(marks[2]) is None  # what was asked for last stays


def test_labels_clusters_and_the_map(client, folder):
    engine = SearchEngine.load(folder)
    assert client.get("/api/model").json()["labels"] == [["0", 100], ["1", 100], ["2", 100]]
    assert client.get("/api/labelled?label=1").json() == list(range(1, 300, 3))
    groups = clusters(engine.model.W, 5)
    told = client.get("/api/clusters?n=5").json()
    assert [one["count"] for one in told] == groups.counts.tolist()
    for number, one in enumerate(told):
        assert [row["row"] for row in one["rows"]] == groups.nearest(number, 12).tolist()
    members = client.get("/api/clusters/2?of=5&n=240").json()
    assert [one["row"] for one in members["found"]] == groups.nearest(2).tolist()
    some = client.get("/api/clusters/2?of=5&n=240&label=0").json()
    assert [one["row"] for one in some["found"]] == [row for row in groups.nearest(2) if row % 3 == 0]
    places = np.array(client.get("/api/map?method=pca").json()).reshape(-1, 2)
    assert len(places) == 300 and places.min() >= 0 and places.max() == room.MAP
    exact = map_of_codes(engine.model.W)
    scale = room.MAP / np.ptp(exact, axis=0).max()
    np.testing.assert_allclose(places - places[0], (exact - exact[0]) * scale, atol=1)


def test_a_map_that_would_take_too_long_is_refused(folder, monkeypatch):
    monkeypatch.setattr(room, "TSNE_ROWS", 299)
    client = Client(create_app(folder))
    assert client.get("/api/model").json()["methods"] == ["pca"]
    answer = client.get("/api/map?method=tsne")
    assert answer.status == 400
    assert answer.json()["error"] == "t-SNE is for at most 299 pictures here, these are 300"


def test_what_takes_long_is_made_once_and_asked_for_again(folder, monkeypatch):
    monkeypatch.setattr(room, "PATIENCE", 0.01)
    begun, go_on = [], threading.Event()

    def slow(W):
        begun.append("pca")
        assert go_on.wait(30)
        if len(begun) == 1:
            raise MemoryError
        return map_of_codes(W)

    monkeypatch.setattr(room, "map_of_codes", slow)
    client = Client(create_app(folder))
    for _ in range(3):
        answer = client.get("/api/map")
        assert (answer.status, answer.json()) == (202, {"later": True})
    assert begun == ["pca"]
    assert client.get("/api/clusters").status in (200, 202)  # another kind does not wait
    go_on.set()
    monkeypatch.setattr(room, "PATIENCE", 30)
    with pytest.raises(MemoryError):
        client.get("/api/map")
    assert client.get("/api/map").status == 200  # a failure is not kept
    assert begun == ["pca", "pca"]


def test_duplicates_are_told_with_the_best_copy_first(folder):
    engine = SearchEngine.load(folder)
    rows = engine.matrix().copy()
    rows[9] = rows[3]
    copies = SearchEngine.from_model(dataclasses.replace(engine.model, names=None), rows)
    told = Client(create_app(copies)).get("/api/duplicates").json()
    found = copies.duplicates()
    assert [[one["row"] for one in group["rows"]] for group in told["groups"]] == [
        group.rows.tolist() for group in found.groups[: room.GROUPS]
    ]
    first = told["groups"][0]
    assert first["kind"] == "equal pixels"
    assert [one["note"] for one in first["rows"]] == ["the best copy", "1.000"]
    assert told["said"].startswith(f"{len(found):,} groups of duplicates")


# --- colours --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Coloured files, and a grey model of them."""
    home = tmp_path_factory.mktemp("coloured") / "cats"
    home.mkdir()
    colours = np.random.default_rng(1).integers(40, 255, (12, 6, 8, 3), dtype=np.uint8)
    for row, picture in enumerate(colours):
        (home / f"{row}.png").write_bytes(png(picture))
    return home, colours, SearchEngine(2, max_iter=5, tol=0, init="random").fit(home, progress=None)


def test_a_grey_model_is_shown_in_the_colours_of_its_files(coloured):
    _, colours, engine = coloured
    client = Client(create_app(engine))
    assert client.get("/api/model").json()["colours"] is True
    np.testing.assert_array_equal(pixels_of(client.get("/pictures/7.png?colours=1")), colours[7])
    assert pixels_of(client.get("/pictures/7.png")).ndim == 2
    sheet = pixels_of(client.get("/sheets/0.png?colours=1"))
    np.testing.assert_array_equal(sheet[:, 8:16], colours[1])
    np.testing.assert_array_equal(pixels_of(client.get("/sprites/0.png?colours=1"))[:, 80:88], colours[10])
    sent = client.post("/api/neighbours", png(colours[3])).json()["picture"]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(sent.partition(",")[2]))))
    np.testing.assert_array_equal(shown, colours[3])


@pytest.mark.parametrize("change", ["gone", "another", "broken", "outside", "absolute"])
def test_a_file_that_is_not_what_it_was_is_not_shown(coloured, tmp_path, change):
    home, colours, engine = coloured
    place = tmp_path / "cats"
    shutil.copytree(home, place)
    names, grey = list(engine.model.names), engine.originals([5])[0].reshape(6, 8)
    if change == "gone":
        (place / "5.png").unlink()
    elif change == "another":
        (place / "5.png").write_bytes(png(255 - colours[5]))
    elif change == "broken":
        (place / "5.png").write_bytes(b"no picture")
    else:  # a model that somebody else wrote must not name files anywhere
        (tmp_path / "5.png").write_bytes(png(colours[5]))
        names[5] = "../5.png" if change == "outside" else str(tmp_path / "5.png")
    model = dataclasses.replace(engine.model, names=tuple(names), source=str(place))
    client = Client(create_app(SearchEngine.from_model(model, engine.matrix())))
    assert client.get("/api/model").json()["colours"] is True
    np.testing.assert_array_equal(
        pixels_of(client.get("/pictures/5.png?colours=1")), np.repeat(grey[..., None], 3, axis=2)
    )
    np.testing.assert_array_equal(pixels_of(client.get("/pictures/6.png?colours=1")), colours[6])


def test_models_without_colours_say_so(client, coloured):
    home, _, engine = coloured
    assert client.get("/api/model").json()["colours"] is False
    assert pixels_of(client.get("/pictures/7.png?colours=1")).ndim == 2
    gone = dataclasses.replace(engine.model, source=str(home / "nowhere"))
    shown = Client(create_app(SearchEngine.from_model(gone, engine.matrix())))
    assert shown.get("/api/model").json()["colours"] is False


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("/api/search", 400, "there is nothing to search by: give plus=ROW,ROW"),
        ("/api/search?plus=,", 400, "there is nothing to search by"),
        ("/api/search?plus=300", 404, "there is no row '300': they are numbered 0 to 299"),
        ("/api/search?plus=-1", 404, "there is no row '-1'"),
        ("/api/search?plus=\u0663", 404, "there is no row"),
        ("/api/search?plus=../model.npz", 404, "there is no row"),
        (f"/api/search?plus={'9' * 5000}", 404, "there is no row"),
        (f"/api/search?plus={','.join(map(str, range(17)))}", 400, "17 pictures are too many to search by at once"),
        ("/api/search?plus=4&minus=4", 422, ""),
        ("/api/search?plus=4&kind=best", 400, "kind='best' is unknown: give similar or dissimilar"),
        ("/api/search?plus=4&label=9", 404, "no picture has the label '9'"),
        ("/api/search?plus=4&n=0", 400, "n='0' is not possible: give a whole number from 1 to 240"),
        ("/api/search?plus=4&n=1e2", 400, "n='1e2' is not possible"),
        ("/api/search?plus=4&offset=301", 400, "offset='301' is not possible"),
        ("/api/parts/9", 404, "there is no part '9': they are numbered 0 to 8"),
        ("/api/parts/3?label=%1b", 404, r"no picture has the label '\x1b'"),
        ("/api/labelled", 400, "there is no label in the address"),
        ("/api/labelled?label=x", 404, "no picture has the label 'x'"),
        ("/api/map?method=umap", 400, "method='umap' is unknown: give pca or tsne"),
        ("/api/clusters?n=31", 400, "n='31' is not possible: give a whole number from 1 to 30"),
        ("/api/clusters/5?of=5", 404, "there is no cluster '5': they are numbered 0 to 4"),
        ("/api/clusters/0?of=x", 400, "of='x' is not possible"),
        ("/api/rows?rows=1,x", 404, "there is no row 'x'"),
        (f"/api/rows?rows={'1,' * 240}1", 400, "241 rows are too many at once: ask for at most 240"),
        ("/sprites/1.png", 404, "there is no number '1': they are numbered 0 to 0"),
    ],
)
def test_questions_that_make_no_sense_are_refused_in_a_sentence(client, address, status, said):
    answer = client.get(address)
    assert answer.status == status
    assert answer.json()["error"].startswith(said)
    assert "\n" not in answer.json()["error"] and len(answer.content) < 300
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "address",
    [
        *("/pictures/300.png", "/pictures/-1.png", "/pictures/1e2.png", "/pictures/1.jpg", "/pictures/²9.png"),
        *("/parts/9.png", "/sheets/3.png", "/reconstructions/300.png", "/api/neighbours/300", "/api/titles/3"),
        *(f"/pictures/{'9' * 5000}.png", "/pictures/", "/model.npz", "/pictures.npy", "/app.py", "/guard.py"),
        *(
            "/..%2fmodel.npz",
            "/pictures/..%2f..%2fmodel.npz",
            "/%2e%2e/pyproject.toml",
            "//etc/passwd",
            "/static/app.js",
        ),
        *("/docs", "/openapi.json", "/favicon.ico", "/pictures/0.png/", "/app.js/"),
    ],
)
def test_there_is_nothing_else(client, address):
    response = client.get(quote(address, safe="/%"))
    assert response.status in (404, 307)
    if response.status == 307:  # only to a page of ours
        assert response.headers["location"].startswith("http://localhost:8765/")
    assert len(response.content) < 200


def test_only_the_methods_that_are_meant(client):
    for method, address in (("POST", "/"), ("PUT", "/api/neighbours"), ("DELETE", "/pictures/0.png")):
        assert client.request(method, address).status == 405
    assert client.get("/api/neighbours").status == 405


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 400, "there is no picture in the request"),
        (b"no picture", 422, "the file is not a picture that can be read"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), 422, "the file is"),
        (bytes((8 << 20) + 1), 413, "the picture is larger than 8 MB: send a smaller one"),
    ],
)
def test_uploads_that_are_refused_in_a_sentence(client, content, status, said):
    response = client.post("/api/neighbours", content)
    assert response.status == status
    assert response.json()["error"].startswith(said)
    assert "\n" not in response.json()["error"]


def test_an_upload_of_unknown_length_is_cut_off(client):
    taken = []

    def chunks():
        for number in range(100):
            taken.append(number)
            yield bytes(1 << 20)

    assert client.post("/api/neighbours", chunks()).status == 413
    assert len(taken) == 9  # no more of it was read than what was too much
    response = client.post("/api/neighbours", b"x", content_length="1e3")
    assert response.status == 413


def test_a_picture_of_too_many_pixels_is_refused(client, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    response = client.post("/api/neighbours", png(np.zeros((50, 50), np.uint8)))
    assert response.status == 422
    assert "too many" in response.json()["error"]


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b", "[::2]", "localhost:x"]
)
def test_other_names_than_this_machines_are_refused(client, host):
    response = client.get("/api/model", host=host)
    assert response.status == 403
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:8765"])
def test_names_of_this_machine_are_answered(client, host):
    assert client.get("/api/model", host=host).status == 200


def test_any_name_is_answered_where_the_user_wants_that(folder):
    client = Client(create_app(folder, hosts=None), "cats.example")
    assert client.get("/api/model").status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:9999", "https://localhost"])
def test_pages_elsewhere_may_not_post(client, pictures, origin):
    response = client.post("/api/neighbours", png(pictures[0]), origin=origin)
    assert response.status == 403
    own = client.post("/api/neighbours", png(pictures[0]), origin="http://localhost:8765")
    assert own.status == 200


@pytest.mark.parametrize("host", ["cats.example", "evil.example:8765", "localhost"])
@pytest.mark.parametrize("address", ["192.168.1.5", "[fe80::1]:8765", "10.0.0.1:80"])
def test_other_machines_come_by_address_or_by_a_name_that_is_listed(folder, host, address):
    app = create_app(folder, hosts={"localhost", "cats.example"}, addresses=True)
    allowed = host != "evil.example:8765"
    assert Client(app, host).get("/api/model").status == (200 if allowed else 403)
    assert Client(app, address).get("/api/model").status == 200
    assert Client(create_app(folder), address).get("/api/model").status == 403


@pytest.mark.parametrize(
    "origin",
    ["http://[", "http://[::1", "//localhost:8765", "https://localhost:8765", "http://localhost:8765/", "", "http:///"],
)
def test_an_origin_that_makes_no_sense_is_refused(client, pictures, origin):
    response = client.post("/api/neighbours", png(pictures[0]), origin=origin)
    assert response.status == 403
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_request_that_takes_too_long_is_given_up(folder):
    from nmfcore.pages.serve.guard import Guard

    async def slow(scope, receive, send):
        await asyncio.sleep(30)

    response = Client(Guard(slow, {"localhost"}, seconds=0.05)).get("/")
    assert response.status == 503
    assert response.headers["x-frame-options"] == "DENY"


def test_a_body_that_does_not_arrive_is_given_up(folder, monkeypatch):
    monkeypatch.setattr(room, "BODY_SECONDS", 0.05)
    app = create_app(folder)

    async def never():
        await asyncio.sleep(30)

    client = Client(app)
    talk = client.talk

    async def hanging(scope, chunks):
        start = {}

        async def send(message):
            start.update(message) if message["type"].endswith("start") else None

        await app(scope, never, send)
        return start["status"]

    client.talk = hanging
    assert client.post("/api/neighbours", b"x" * 100) == 408
    client.talk = talk
    assert client.get("/api/model").status == 200


def test_what_is_too_large_is_read_to_its_end(client):
    taken = []

    def chunks():
        for number in range(20):
            taken.append(number)
            yield bytes(1 << 20)

    response = client.post("/api/neighbours", chunks(), content_length=str(20 << 20))
    assert response.status == 413
    assert len(taken) == 20
    taken.clear()
    assert client.post("/api/neighbours", chunks(), content_length=str(1 << 40)).status == 413
    assert not taken


def test_one_picture_is_decoded_at_a_time(folder, pictures, monkeypatch):
    app = create_app(folder)
    page = app.app.router.routes[-1].endpoint.__self__
    both, now, most = page.both, [], []

    def slow(query):
        now.append(1)
        most.append(len(now))
        time.sleep(0.05)
        try:
            return both(query)
        finally:
            now.pop()

    monkeypatch.setattr(page, "both", slow)
    with running(app) as home:
        results = []
        request = Request(f"{home}api/neighbours", data=png(pictures[0]))
        threads = [
            threading.Thread(target=lambda: results.append(urlopen(request, timeout=30).status)) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [200] * 6
    assert most == [1] * 6


def test_a_picture_of_a_large_size_is_refused_before_it_is_decoded(client, monkeypatch):
    pixels = np.zeros((3600, 4800), np.uint16)
    picture = png(pixels)
    assert len(picture) < 1 << 18
    before = time.monotonic()
    response = client.post("/api/neighbours", picture)
    assert response.status == 422
    assert response.json()["error"] == "the file has 17 megapixels, too many to be decoded here: send a smaller one"
    assert time.monotonic() - before < 1
    file = io.BytesIO()
    Image.fromarray(np.zeros((3600, 4800), np.uint8)).save(file, "JPEG")  # is decoded at an eighth
    assert client.post("/api/neighbours", file.getvalue()).status == 200


def test_names_of_any_kind_are_sent(folder):
    engine = SearchEngine.load(folder)
    names = tuple(f"\udce9\x1b[31m\u202e\n{row}" for row in range(300))
    model = dataclasses.replace(engine.model, names=names, labels=np.full(300, "\x07"), source="\udcff\n")
    client = Client(create_app(SearchEngine.from_model(model, engine.matrix())))
    for address in ("/api/model", "/api/titles/0", "/api/find?text=7", "/api/neighbours/0"):
        answer = client.get(address)
        assert answer.status == 200
        assert not [letter for letter in answer.content if letter < 32]
        assert not any(ord(letter) < 32 or letter in "\u202e" for letter in str(answer.json()))
    assert client.get("/api/titles/0").json()[3] == r"row 3, \xe9\x1b[31m\u202e\n3 (\x07)"


@pytest.mark.parametrize("address", ["/", "/app.js", "/pictures/0.png", "/nothing", "/api/model"])
def test_every_answer_has_careful_headers(client, address):
    response = client.get(address)
    for name, value in HEADERS.items():
        assert response.headers[name.lower()] == value
    assert "access-control-allow-origin" not in response.headers
    assert "unsafe" not in response.headers["content-security-policy"]


def test_websockets_are_refused(client):
    said = []

    async def send(message):
        said.append(message)

    asyncio.run(client.app({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert said == [{"type": "websocket.close", "code": 1008}]


def test_models_that_cannot_be_shown(rng, tmp_path):
    with pytest.raises(InputError, match="are no pictures: fit once more, with --size HEIGHTxWIDTH"):
        create_app(SearchEngine(2).fit(rng.random((9, 10))))
    SearchEngine(2).fit(rng.random((9, 2, 5))).save(tmp_path / "m", pictures=False)
    with pytest.raises(InputError, match=r"has no pictures\.npy"):
        create_app(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match="there is no model file"):
        create_app(tmp_path / "nothing")


def test_without_starlette_the_extra_is_named():
    code = (
        "import sys; sys.modules['starlette'] = None\n"
        "try:\n    import nmfcore.pages.serve\nexcept ImportError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "the search page needs Starlette: pip install 'nmfcore[serve]'"


def test_the_package_carries_its_files():
    files = {entry.name for entry in resources.files("nmfcore.pages.serve").iterdir()}
    assert {"index.html", "app.js", "style.css", "icon.svg"} <= files
    scripts = {name for name in files if name.endswith(".js")}
    assert {f"{name}.js" for name in room._SCRIPTS} == scripts
    # Nothing that the page itself would load from elsewhere.
    for name in ("index.html", "style.css", *scripts):
        text = resources.files("nmfcore.pages.serve").joinpath(name).read_text(encoding="utf-8")
        assert "http://" not in text and "https://" not in text
        assert "innerHTML" not in text and "style=" not in text


# --- the command ----------------------------------------------------------------------------------


@contextmanager
def serving(folder, *options, before=None):
    """Run the command; give the process and the port."""
    command = [sys.executable, "-m", "nmfcore", "serve", str(folder), "--port", "0", *options]
    env = {**os.environ, "COLUMNS": "200"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, preexec_fn=before) as process:
        try:
            for line in process.stderr:
                if "300 pictures at http://" in line:
                    break
            port = int(line.split(" at ")[1].split("/")[2].rpartition(":")[2])
            deadline = time.monotonic() + 30
            while True:
                try:
                    urlopen(f"http://127.0.0.1:{port}/api/model", timeout=10).close()
                    break
                except URLError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield process, port
        finally:
            process.kill()


posix = pytest.mark.skipif(os.name != "posix", reason="sends signals")


@posix
@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_the_command_ends_at_once_whatever_hangs(folder, number):
    import signal

    with contextlib.ExitStack() as opened:
        process, port = opened.enter_context(serving(folder))
        half, upload, _ = (opened.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(3))
        half.sendall(b"GET / HT")
        head = f"POST /api/neighbours HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 1000\r\n\r\nabc"
        upload.sendall(head.encode())
        time.sleep(0.3)
        process.send_signal(getattr(signal, number))
        start = time.monotonic()
        said = process.stderr.readline()
        assert time.monotonic() - start < 2.5
        assert said == ("stopped\n" if number == "SIGINT" else "")
        process.wait(10)


@posix
def test_half_requests_do_not_keep_others_out(folder):
    import resource

    def few_files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

    with serving(folder, before=few_files) as (process, port):
        with contextlib.ExitStack() as half:
            for _ in range(200):
                connection = half.enter_context(socket.create_connection(("127.0.0.1", port)))
                with contextlib.suppress(OSError):
                    connection.sendall(b"GET / HTTP/1.1\r\nHo")
            for _ in range(3):
                with urlopen(f"http://127.0.0.1:{port}/api/model", timeout=5) as answer:
                    assert answer.status == 200
        process.terminate()
        assert len(process.stderr.read()) < 500


@posix
def test_headers_must_arrive_in_time(folder, monkeypatch):
    from nmfcore.cli import server as web

    monkeypatch.setattr(web, "HEADER_SECONDS", 0.3)
    listening = web.listen("127.0.0.1", 0)
    server = web.server(create_app(folder), print)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        place = listening.getsockname()
        complete = f"GET /api/model HTTP/1.1\r\nHost: localhost:{place[1]}\r\n\r\n".encode()
        for first in (b"", b"GET / HTTP", complete):
            with socket.create_connection(place, timeout=10) as connection:
                connection.sendall(first)
                if first == complete:
                    assert b"200 OK" in connection.recv(100_000)
                    connection.sendall(b"GET / HTTP/1.1\r\nHo")
                start = time.monotonic()
                with contextlib.suppress(ConnectionError):
                    while connection.recv(100_000):
                        pass
                assert time.monotonic() - start < 3
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


def test_what_counts_as_this_machine_alone():
    from nmfcore.cli import server as web

    for host, alone in (("127.0.0.1", True), ("localhost", True), ("2130706433", True), ("0.0.0.0", False)):
        with web.listen(host, 0) as listening:
            assert web.is_loopback(listening) == alone
    if socket.has_ipv6:
        for host, alone in (("::1", True), ("::ffff:127.0.0.1", True), ("::", False)):
            try:
                listening = web.listen(host, 0)
            except web.Stop:
                pytest.skip("this machine has no IPv6")
            with listening:
                assert web.is_loopback(listening) == alone


@pytest.mark.parametrize(
    ("host", "port", "advice"),
    [
        ("300.1.1.1", 0, "give --host an address of this machine"),
        ("no-such-host.invalid", 0, "give --host an address of this machine"),
        ("a" * 80, 0, "give --host an address of this machine"),
        ("203.0.113.7", 0, "this machine has no such address: give --host 127.0.0.1"),
        ("127.0.0.1", "taken", "choose another --port"),
    ],
)
def test_advice_about_hosts_and_ports_can_be_followed(host, port, advice):
    from nmfcore.cli import server as web

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(web.Stop, match=advice) as refused:
            web.listen(host, other.getsockname()[1] if port == "taken" else port)
    assert ("--port" in str(refused.value)) == (port == "taken")


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a signal")
def test_the_command_serves_until_ctrl_c(folder):
    import signal

    command = [sys.executable, "-m", "nmfcore", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}) as process:
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if "300 pictures at http://127.0.0.1:" in line:
                    break
            else:
                pytest.fail("".join(lines))
            address = lines[-1].split(" at ")[1].split()[0]
            deadline = time.monotonic() + 30
            while True:
                try:
                    with urlopen(f"{address}api/model", timeout=10) as answer:
                        assert json.load(answer)["rows"] == 300
                    break
                except URLError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
            assert process.wait(30) == 0
            assert said.strip() == "stopped"
        finally:
            process.kill()
