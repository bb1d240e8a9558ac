"""The search page as a web application: pictures as a wall, a map, clusters and duplicates; search by some of them.

Everything that is sent comes from the model, from its originals or from this package; no request names a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import re
import threading
import zlib
from collections.abc import Callable, Collection
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from ..._text import printable
from ...analysis import Clusters, brightness_shares, clusters, components_for_share, map_of_codes
from ...images import InputError, picture_row
from ...images.thumbnails import brightness, data_uri, part_png, picture_png, sheet_png, thumbnail_shape
from ...models.model import may_be_masked
from ...search.duplicates import KIND_NAMES, Duplicates
from ...search.engine import Found, SearchEngine
from .colours import Colours
from .guard import Guard
from .kept import Results, Upload, Uploads
from .questions import FEW, MOST, Question, Refusal, label_in, number_in, one_of, question, rows_in

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise ImportError("the search page needs Starlette: pip install 'nmfcore[serve]'", name="starlette") from error

if TYPE_CHECKING:
    from typing import TypeVar, TypeVarTuple

    from ..._typing import Array

    T = TypeVar("T")
    Arguments = TypeVarTuple("Arguments")

__all__ = ["LOCAL", "UPLOAD_LIMIT", "create_app"]

LOCAL = frozenset({"127.0.0.1", "localhost", "[::1]"})
UPLOAD_LIMIT = 8 << 20  # bytes
DROPPED_LIMIT = 1 << 28  # bytes of a picture that is too large that are read before it is refused
BODY_SECONDS = 30  # in which a picture must have arrived
UPLOADS = 8  # pictures that may arrive, or wait to be decoded, at a time
PIXELS = 1 << 24  # of an upload, once decoded: 16 bits of grey take 20 bytes a pixel

COLUMNS, LINES = 16, 8  # pictures of a sheet of the wall
SPRITES = 32  # pictures side by side, and lines, of a sheet of the map
SPRITE, THUMBNAIL, SHOWN = 24, 96, 512  # pixels of the longer side: on the map, on the wall, and alone
SHARED, MATCHES, NEAREST = 3, 20, 12
LABELS = 200  # more labels than this are no classes but names
CLUSTERS = 30  # at most
MAP = 4096  # places of a map side by side
GROUPS = 200  # of duplicates
FEW_ROWS = 3000  # of which one thread makes a map about as soon as several
TSNE_ROWS = 20_000  # t-SNE of more takes longer than anybody waits
PATIENCE = 2.0  # seconds that a request waits for a result that is being made
_SCRIPTS = ("app", "address", "basics", "groups", "keys", "map", "panel", "wall")
_FILES = {"/": "index.html", "/style.css": "style.css", "/icon.svg": "icon.svg"} | {
    f"/{name}.js": f"{name}.js" for name in _SCRIPTS
}
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_CLOSE = {"Connection": "close"}
_FOR_EVER = "private, max-age=31536000, immutable"  # the address holds the model's mark


def create_app(
    model: str | os.PathLike[str] | SearchEngine,
    *,
    hosts: Collection[str] | None = LOCAL,
    addresses: bool = False,
) -> Guard:
    """Make the search page of a model.

    Parameters
    ----------
    model : path-like or SearchEngine
        The folder that ``nmfcore fit`` or `SearchEngine.save` wrote, or an engine.
    hosts : collection of str or None
        What the page may be called in the address bar, without ports; requests by other names are refused, since
        they come from pages elsewhere. None answers to any name: only where everyone may see the pictures.
    addresses : bool
        Whether the page may be called by any numerical address besides, as where other machines are let in.

    Returns
    -------
    ASGI application
        For uvicorn, or any other server.

    Raises
    ------
    FileNotFoundError
        When there is no such model.
    ModelFileError
        When it is damaged.
    InputError
        When its rows are no pictures, or its originals are nowhere to be found.
    ImportError
        When Starlette or Pillow is missing.
    """
    page = _Page(model if isinstance(model, SearchEngine) else SearchEngine.load(model))
    handlers = {HTTPException: _sentence, Refusal: _refused}
    return Guard(Starlette(routes=page.routes(), exception_handlers=handlers), hosts, addresses)


class _Page:
    """The routes, and what they need to answer.

    Parameters
    ----------
    engine : SearchEngine
        What is searched.

    Raises
    ------
    InputError
        When its rows are no pictures, or its originals are nowhere to be found.
    """

    def __init__(self, engine: SearchEngine):
        if engine.shape is None:
            raise InputError("the rows of this model are no pictures: fit once more, with --size HEIGHTxWIDTH")
        self.engine, self.shape = engine, engine.shape
        self.components = np.asarray(engine.model.components)
        self.top = brightness(engine.matrix())
        self.mark = _mark(engine)
        self.names = [self.name(row).casefold() for row in range(len(engine))]
        self.labels = _labels(engine)
        self.colours, self.sent, self.results = Colours(engine), Uploads(), Results()
        self.decoding, self.decoder, self.uploads = asyncio.Semaphore(1), threading.Lock(), 0
        files = resources.files("nmfcore.pages.serve")
        self.files = {path: files.joinpath(name).read_bytes() for path, name in _FILES.items()}
        # The kernels are compiled or loaded now, not when somebody clicks.
        first = engine.originals([0])[0]
        self.told(engine.search(first, 1))
        self.told(engine.search(first, 1, similar=False))
        if may_be_masked(engine.model.decoding) and engine.model.estimator == "NMF":
            engine.search(np.ma.MaskedArray(first, np.arange(len(first)) == 0), 1)

    def routes(self) -> list[Route]:
        """Return every address there is."""
        return [
            *(Route(path, self.file) for path in _FILES),
            Route("/api/model", self.about),
            Route("/api/titles/{number}", self.titles_of_sheet),
            Route("/api/rows", self.rows),
            Route("/api/labelled", self.labelled),
            Route("/api/find", self.find),
            Route("/api/search", self.search),
            Route("/api/parts/{number}", self.made_of_part),
            Route("/api/map", self.map),
            Route("/api/clusters", self.clusters),
            Route("/api/clusters/{number}", self.cluster),
            Route("/api/duplicates", self.duplicates),
            Route("/api/neighbours/{row}", self.neighbours),
            Route("/sheets/{number}.png", self.sheet),
            Route("/sprites/{number}.png", self.sprites),
            Route("/pictures/{row}.png", self.picture),
            Route("/reconstructions/{row}.png", self.reconstruction),
            Route("/parts/{number}.png", self.part),
            Route("/api/neighbours", self.upload, methods=["POST"]),
        ]

    # Functions that are not async run in Starlette's threads.

    def file(self, request: Request) -> Response:
        """Send the page itself."""
        path = request.url.path
        kind = _FILES[path].rpartition(".")[2]
        return Response(self.files[path], media_type=_TYPES[kind], headers={"Cache-Control": "no-cache"})

    def about(self, request: Request) -> Response:
        """Say what the page must know before it draws the wall."""
        model, engine = self.engine.model, self.engine
        height, width = thumbnail_shape(self.shape, THUMBNAIL)
        source = model.source.rstrip("/").rpartition("/")[2]
        return JSONResponse(
            {
                "rows": len(engine),
                "parts": len(self.components),
                "title": printable(source) or "pictures",
                "space": engine.space,
                "mark": self.mark,
                "height": height,
                "width": width,
                "columns": COLUMNS,
                "perSheet": COLUMNS * LINES,
                "perSprites": SPRITES * SPRITES,
                "sprites": SPRITES,
                "pixels": max(self.shape[:2]) <= 48,
                "labels": None if self.labels is None else [[name, len(rows)] for name, rows in self.labels.items()],
                "colours": self.colours.there,
                "smallFiles": self.colours.small,
                "methods": ["pca", "tsne"] if len(engine) <= TSNE_ROWS else ["pca"],
                "clusters": min(CLUSTERS, len(engine)),
                "few": FEW,
                "most": MOST,
                "error": model.relative_error if np.isfinite(model.relative_error) else None,
                "limit": UPLOAD_LIMIT,
            }
        )

    def titles_of_sheet(self, request: Request) -> Response:
        """Say what the pictures of one sheet are called."""
        rows = self.rows_of_sheet(request)
        return JSONResponse([self.title(row) for row in rows], headers={"Cache-Control": _FOR_EVER})

    def find(self, request: Request) -> Response:
        """Find rows by number, by name, or by part of a name."""
        text = request.query_params.get("text", "").strip()[:200]
        named = text.casefold()
        exact: list[int] = []
        within: list[int] = []
        for row, name in enumerate(self.names if named else ()):
            if name == named:
                exact.append(row)
            elif named in name and len(within) < MATCHES:
                within.append(row)
        number, note = self.meant(text)
        # "7" is the name of a picture first, and the class of many last.
        rows = [*exact, *number, *within] if self.engine.model.names is not None else [*number, *exact, *within]
        found = list(dict.fromkeys(rows))[:MATCHES]
        told = [{"row": row, "title": self.title(row)} for row in found]
        return JSONResponse([{**one, "note": note} if note and [one["row"]] == number else one for one in told])

    def meant(self, text: str) -> tuple[list[int], str | None]:
        """Return the row that a text names, if any, and a sentence where another could have been meant."""
        numbered = re.fullmatch(r"#([0-9]{1,12})", text)
        try:
            row, note = self.engine.meant(f"row {numbered[1]}" if numbered else text)
        except InputError:  # several pictures have that number for a name
            return [], None
        if not isinstance(row, int) or row >= len(self.engine):
            return [], None
        return [row], None if note is None else printable(note)

    def rows(self, request: Request) -> Response:
        """Say what some pictures are called."""
        rows = rows_in(request.query_params.get("rows", ""), len(self.engine))
        return JSONResponse([{"row": row, "title": self.title(row)} for row in rows])

    def labelled(self, request: Request) -> Response:
        """Say which pictures have a label."""
        label = label_in(request.query_params, self.labels or {})
        if label is None or self.labels is None:
            raise Refusal(400, "there is no label in the address: give label=LABEL")
        return JSONResponse(self.labels[label].tolist())

    def search(self, request: Request) -> Response:
        """Find what is most similar, or most dissimilar, to some pictures together."""
        asked = question(request.query_params, len(self.engine), self.labels or {})
        found = self.found(asked)
        told = self.told(found)
        return JSONResponse({"query": self.asked(found, asked), "found": told, "more": len(told) == asked.n})

    def made_of_part(self, request: Request) -> Response:
        """Find the pictures of which a part makes the largest share."""
        number = self.number(request, "number", len(self.components), "part")
        given = request.query_params
        label = label_in(given, self.labels or {})
        n, offset = number_in(given, "n", 1, MOST, FEW), number_in(given, "offset", 0, len(self.engine), 0)
        shares = brightness_shares(self.engine.model.W, self.components)[:, number]
        may = np.arange(len(shares)) if label is None or self.labels is None else self.labels[label]
        order = may[np.argsort(-shares[may], kind="stable")]
        order = order[shares[order] > 0]
        rows = order[offset : offset + n].tolist()
        told = [{"row": row, "title": self.title(row), "score": float(shares[row]), "parts": []} for row in rows]
        return JSONResponse({"found": told, "more": offset + n < len(order), "half": int((shares[may] >= 0.5).sum())})

    def map(self, request: Request) -> Response:
        """Say where every picture lies on the map."""
        method = one_of(request.query_params, "method", ("pca", "tsne"))
        if method == "tsne" and len(self.engine) > TSNE_ROWS:
            raise Refusal(400, f"t-SNE is for at most {TSNE_ROWS:,} pictures here, these are {len(self.engine):,}")
        threads = None if len(self.engine) < FEW_ROWS else -1

        def made() -> list[int]:
            W = self.engine.model.W
            return _placed(map_of_codes(W) if method == "pca" else map_of_codes(W, "tsne", n_jobs=threads))

        return self.slow("map", method, made)

    def clusters(self, request: Request) -> Response:
        """Say what is in every cluster: how many, and those nearest its centre."""
        n = number_in(request.query_params, "n", 1, min(CLUSTERS, len(self.engine)), min(8, len(self.engine)))
        groups = self.clustered(n)
        if groups is None:
            return _later()
        told = []
        for each, count in enumerate(groups.counts.tolist()):
            rows = groups.nearest(each, NEAREST).tolist()
            told.append({"count": count, "rows": [{"row": row, "title": self.title(row)} for row in rows]})
        return JSONResponse(told)

    def cluster(self, request: Request) -> Response:
        """Find the members of one cluster, those nearest its centre first."""
        given, most = request.query_params, min(CLUSTERS, len(self.engine))
        of = number_in(given, "of", 1, most, min(8, most))
        self.number(request, "number", of, "cluster")  # before the work begins
        n, offset = number_in(given, "n", 1, MOST, FEW), number_in(given, "offset", 0, len(self.engine), 0)
        label = label_in(given, self.labels or {})
        groups = self.clustered(of)
        if groups is None:
            return _later()
        rows = groups.nearest(self.number(request, "number", len(groups), "cluster"))
        if label is not None and self.labels is not None:
            rows = rows[np.isin(rows, self.labels[label])]
        shown = rows[offset : offset + n].tolist()
        told = [{"row": row, "title": self.title(row), "score": None, "parts": []} for row in shown]
        return JSONResponse({"found": told, "more": offset + n < len(rows), "count": len(rows)})

    def duplicates(self, request: Request) -> Response:
        """Say which pictures are there more than once."""
        return self.slow("duplicates", "", lambda: self.told_duplicates(self.engine.duplicates()))

    def told_duplicates(self, found: Duplicates) -> dict[str, object]:
        """Return groups of duplicates as plain values, the one to keep first."""
        groups: list[dict[str, object]] = []
        for group in found.groups[:GROUPS]:
            each = zip(group.rows.tolist(), group.scores.tolist(), group.mirrored.tolist(), strict=True)
            rows = [
                {"row": row, "title": self.title(row), "note": f"{score:.3f}{', mirrored' if mirrored else ''}"}
                for row, score, mirrored in list(each)[:MOST]
            ]
            rows[0]["note"] = "the best copy"
            groups.append({"kind": KIND_NAMES[group.kind], "count": len(group), "rows": rows})
        said = [repr(found).partition("\n")[0].rstrip(":"), *found.notes]
        if len(found) > GROUPS:
            said.append(f"the first {GROUPS} are shown, nmfcore duplicates lists all")
        return {"said": printable("; ".join(said)), "groups": groups}

    def neighbours(self, request: Request) -> Response:
        """Find what is most similar and most dissimilar to a picture on the wall."""
        row = self.number(request, "row", len(self.engine))
        return JSONResponse(self.both(row)[0])

    async def upload(self, request: Request) -> Response:
        """Find what is most similar and most dissimilar to a picture that is sent."""
        if self.uploads >= UPLOADS:
            raise HTTPException(503, "several pictures are being searched by: try again in a moment", _CLOSE)
        self.uploads += 1
        try:
            body = await self.body(request)
            if body is None:
                return Response(status_code=400)
            async with self.decoding:
                return JSONResponse(await _in_thread(self.answer_to_bytes, body))
        finally:
            self.uploads -= 1

    async def body(self, request: Request) -> bytes | None:
        """Return what is sent; None where the other side has gone."""
        large = f"the picture is larger than {UPLOAD_LIMIT >> 20} MB: send a smaller one"
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or len(declared) > 12:
            raise HTTPException(413, large, _CLOSE)
        # Many clients see an answer only when they have sent everything: what is too large is read and dropped.
        dropped = UPLOAD_LIMIT < int(declared) <= DROPPED_LIMIT
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                if int(declared) <= DROPPED_LIMIT:
                    async for chunk in request.stream():
                        if dropped:
                            continue
                        body += chunk
                        if len(body) > UPLOAD_LIMIT:
                            raise HTTPException(413, large, _CLOSE)
        except ClientDisconnect:
            return None
        except TimeoutError as error:
            raise HTTPException(408, f"the picture did not arrive within {BODY_SECONDS} seconds", _CLOSE) from error
        if dropped or int(declared) > DROPPED_LIMIT:
            raise HTTPException(413, large, _CLOSE)
        if not body:
            raise HTTPException(400, "there is no picture in the request: send the file as it is")
        return bytes(body)

    def answer_to_bytes(self, picture: bytes) -> dict[str, object]:
        """Search by a picture file, and keep it for questions to come."""
        try:
            with self.decoder:  # a request that was given up may still be decoding
                _check_pixels(picture, self.shape)
                told, pixels = self.both(io.BytesIO(picture))
                assert pixels is not None
                upload = Upload(pixels, self.shown(picture, np.asarray(pixels)))
        except InputError as error:
            said = str(error).replace("what was given", "the file")
            raise HTTPException(422, printable(said)) from error
        return {**told, "picture": data_uri(upload.png), "token": self.sent.keep(upload)}

    def shown(self, picture: bytes, pixels: Array) -> bytes:
        """Draw a picture that was sent: in colour where those of the model are shown so."""
        if self.colours.there:
            decoding = self.engine.model.decoding or {}
            return picture_png(
                picture_row(picture, self.colours.shape, decoding=decoding), self.colours.shape, 255, SHOWN
            )
        # A model of digits from 0 to 16 is asked about a picture from 0 to 255: both are shown on their own scale.
        return picture_png(pixels, self.shape, self.top_of(pixels), SHOWN)

    def sheet(self, request: Request) -> Response:
        """Draw a piece of the wall."""
        return self.drawn(request, self.rows_of_sheet(request), COLUMNS, THUMBNAIL)

    def sprites(self, request: Request) -> Response:
        """Draw some of the small pictures of the map."""
        return self.drawn(request, self.rows_of_sheet(request, SPRITES * SPRITES), SPRITES, SPRITE)

    def drawn(self, request: Request, rows: range, columns: int, longest: int) -> Response:
        """Draw pictures on a sheet, in colour where that is asked for."""
        if self.in_colour(request):
            return _png(sheet_png(self.colours.rows(rows), self.colours.shape, 255, columns, longest))
        return _png(sheet_png(self.engine.originals(rows), self.shape, self.top, columns, longest))

    def picture(self, request: Request) -> Response:
        """Draw one original."""
        row = self.number(request, "row", len(self.engine))
        if self.in_colour(request):
            return _png(picture_png(self.colours.rows([row])[0], self.colours.shape, 255, SHOWN))
        return _png(picture_png(self.engine.originals([row])[0], self.shape, self.top, SHOWN))

    def reconstruction(self, request: Request) -> Response:
        """Draw one picture as its parts make it."""
        row = self.number(request, "row", len(self.engine))
        return _png(picture_png(self.engine.reconstructions([row])[0], self.shape, self.top, SHOWN))

    def part(self, request: Request) -> Response:
        """Draw one part."""
        number = self.number(request, "number", len(self.components), "part")
        return _png(part_png(self.components[number], self.shape, SHOWN))

    # --- what the answers are made of -------------------------------------------------------------

    def title(self, row: int) -> str:
        """Return what a row is called, as a page can show it."""
        return printable(self.engine.title(row))

    def name(self, row: int) -> str:
        """Return what a row is found by: its name, else its label or number."""
        model = self.engine.model
        if model.names is not None:
            return printable(model.names[row])
        return f"row {row}" if model.labels is None else printable(str(model.labels[row]))

    def number(self, request: Request, name: str, limit: int, called: str | None = None) -> int:
        """Return a number of the address that is below a limit."""
        text = request.path_params[name]
        if not re.fullmatch("[0-9]{1,12}", text) or int(text) >= limit:
            raise HTTPException(404, f"there is no {called or name} {text[:20]!r}: they are numbered 0 to {limit - 1}")
        return int(text)

    def rows_of_sheet(self, request: Request, per_sheet: int = COLUMNS * LINES) -> range:
        """Return the rows on one sheet."""
        first = per_sheet * self.number(request, "number", -(-len(self.engine) // per_sheet))
        return range(first, min(first + per_sheet, len(self.engine)))

    def in_colour(self, request: Request) -> bool:
        """Return whether colours are asked for, and there."""
        return self.colours.there and request.query_params.get("colours") == "1"

    def top_of(self, pixels: Array) -> float:
        """Return what is white in a picture that need not be on the scale of the model."""
        return 255.0 if float(pixels.max()) > self.top else self.top

    def found(self, asked: Question) -> Found:
        """Search by rows and by pictures that were sent."""
        terms: list[int | Array] = []
        for term, _ in asked.terms:
            if isinstance(term, int):
                terms.append(term)
                continue
            upload = self.sent.get(term)
            if upload is None:
                raise Refusal(410, "a picture of this search is no longer kept: send it again")
            terms.append(upload.pixels)
        labels = None if asked.label is None else _values(self.engine, asked.label)
        weights = [weight for _, weight in asked.terms]
        try:
            return self.engine.search(
                terms, asked.n, asked.similar, weights=weights, labels=labels, offset=asked.offset
            )
        except ValueError as error:  # the pictures cancel each other
            raise Refusal(422, printable(str(error))) from error

    def both(self, query: int | io.BytesIO) -> tuple[dict[str, object], Array | None]:
        """Search from both ends by one picture; return its pixels, too, where it was sent."""
        found = self.engine.search(query, FEW)
        row, pixels = found.row, found.pixels
        if found.mask is not None:
            pixels = np.ma.MaskedArray(pixels, found.mask)
        other = self.engine.search(row if pixels is None else pixels, FEW, similar=False)  # type: ignore[arg-type]
        title = "your picture" if row is None else self.title(row)
        asked_about: dict[str, object] = {"row": row, "title": title, **self.made(found)}
        return {"query": asked_about, "similar": self.told(found), "dissimilar": self.told(other)}, pixels

    def asked(self, found: Found, asked: Question) -> dict[str, object]:
        """Say what was asked: the pictures with their signs, and what a single one is made of."""
        terms = []
        for (given, weight), term in zip(asked.terms, found.terms, strict=True):
            told: dict[str, object] = {"term": str(given), "minus": weight < 0, "row": term.row}
            told["title"] = "your picture" if term.row is None else self.title(term.row)
            upload = None if isinstance(given, int) else self.sent.get(given)
            if upload is not None:
                told["picture"] = data_uri(upload.png)
            terms.append(told)
        return {"terms": terms, **(self.made(found) if len(terms) == 1 else {})}

    def made(self, found: Found) -> dict[str, object]:
        """Say which parts make up half of a picture's brightness; draw one that was sent as all of them make it."""
        shares = brightness_shares(found.code[None], self.components)[0]
        order = np.argsort(-shares, kind="stable")
        half = int(components_for_share(shares[None, order])[0]) if shares.any() else 0
        told: dict[str, object] = {"parts": [[int(part), float(shares[part])] for part in order[:half]]}
        if found.pixels is not None:
            made = picture_png(found.code @ self.components, self.shape, self.top_of(found.pixels), SHOWN)
            told["reconstruction"] = data_uri(made)
        return told

    def told(self, found: Found) -> list[dict[str, object]]:
        """Return a search's results as plain values."""
        results = []
        reasons = self.engine.reasons(found, SHARED)
        for index, why in zip(found.indices.tolist(), reasons, strict=True):
            parts = list(zip(why.components.tolist(), why.shares.tolist(), strict=True))
            results.append({"row": index, "title": self.title(index), "score": why.score, "parts": parts})
        return results

    def clustered(self, n: int) -> Clusters | None:
        """Return n clusters; None where they are still being made."""
        return self.results.get("clusters", n, lambda: clusters(self.engine.model.W, n), PATIENCE)

    def slow(self, kind: str, key: str, make: Callable[[], object]) -> Response:
        """Answer with a result that takes long; 202 says that it is still being made."""
        made = self.results.get(kind, key, make, PATIENCE)
        return _later() if made is None else JSONResponse(made)


def _labels(engine: SearchEngine) -> dict[str, Array] | None:
    """Return the rows of every label, in the order of the labels; None where there are none, or too many."""
    if engine.model.labels is None:
        return None
    given = np.asarray(engine.model.labels)
    values, numbers = np.unique(given, return_inverse=True)
    if not 1 < len(values) <= LABELS:
        return None
    rows: dict[str, list[Array]] = {}
    for number, value in enumerate(values):
        rows.setdefault(printable(str(value)), []).append(np.flatnonzero(numbers.reshape(-1) == number))
    return {name: np.sort(np.concatenate(each)) for name, each in rows.items()}


def _values(engine: SearchEngine, label: str) -> list[object]:
    """Return the labels that are shown as this one."""
    return [value for value in np.unique(np.asarray(engine.model.labels)) if printable(str(value)) == label]


def _placed(places: Array) -> list[int]:
    """Return places as whole numbers x, y, x, y, … from 0 to MAP, on one scale."""
    low = places.min(axis=0)
    spread = float((places.max(axis=0) - low).max()) or 1.0
    middle = (spread - (places.max(axis=0) - low)) / 2
    return ((places - low + middle) * (MAP / spread)).round().astype(int).ravel().tolist()


def _check_pixels(picture: bytes, shape: tuple[int, ...]) -> None:
    """Refuse a picture that unfolds to too many pixels before it is decoded."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(picture)) as opened:
            opened.draft(None, (2 * max(shape[:2]),) * 2)  # a JPEG is decoded at a fraction of its size
            pixels = opened.width * opened.height
    except Exception:  # it is refused where it is decoded
        return
    if pixels > PIXELS:
        raise InputError(f"the file has {pixels / 1e6:.0f} megapixels, too many to be decoded here: send a smaller one")


async def _in_thread(function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """Call a function in a thread that the process does not wait for when it ends."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if not future.done():  # the request was given up
            future.set_result(result) if error is None else future.set_exception(error)

    def work() -> None:
        result, error = None, None
        try:
            result = function(*arguments)
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="nmfcore-upload", daemon=True).start()
    return await future


def _mark(engine: SearchEngine) -> str:
    """Make a mark of the model, which the addresses of its pictures hold: a browser keeps them until it changes."""
    digest = hashlib.sha256(np.ascontiguousarray(engine.model.components).tobytes())
    digest.update(f"{len(engine)} {engine.shape} {zlib.crc32(np.ascontiguousarray(engine.model.W).tobytes())}".encode())
    return digest.hexdigest()[:16]


def _png(data: bytes) -> Response:
    return Response(data, media_type="image/png", headers={"Cache-Control": _FOR_EVER})


def _later() -> Response:
    return JSONResponse({"later": True}, status_code=202, headers={"Cache-Control": "no-store"})


def _refused(request: Request, error: Exception) -> Response:
    """Answer a question that makes no sense with its sentence."""
    assert isinstance(error, Refusal)
    return JSONResponse({"error": printable(error.sentence)}, status_code=error.status)


def _sentence(request: Request, error: Exception) -> Response:
    """Answer a refusal with its sentence."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)
