"""The search page as a web application: a wall of pictures, the neighbours of one, a picture to search by.

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
from ...images import InputError
from ...images.thumbnails import brightness, data_uri, part_png, picture_png, sheet_png, thumbnail_shape
from ...models import may_be_masked
from ...search.engine import Found, SearchEngine
from .guard import Guard

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise ImportError("the search page needs Starlette: pip install 'nmfcore[serve]'", name="starlette") from error

if TYPE_CHECKING:
    from typing import BinaryIO, TypeVar, TypeVarTuple

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
THUMBNAIL, SHOWN = 96, 512  # pixels of the longer side: on the wall, and alone
NEIGHBOURS, SHARED, STRONGEST, MATCHES = 12, 3, 6, 20
_FILES = {"/": "index.html", "/app.js": "app.js", "/style.css": "style.css", "/icon.svg": "icon.svg"}
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
    return Guard(Starlette(routes=page.routes(), exception_handlers={HTTPException: _sentence}), hosts, addresses)


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
        # What counts is how much of a picture a part makes, whatever the scale of W and H.
        self.lengths = np.linalg.norm(self.components.astype(np.float64), axis=1)
        self.top = brightness(engine.matrix())
        self.mark = _mark(engine)
        self.titles = [self.title(row).casefold() for row in range(len(engine))]
        self.decoding, self.decoder, self.uploads = asyncio.Semaphore(1), threading.Lock(), 0
        files = resources.files("nmfcore.pages.serve")
        self.files = {path: files.joinpath(name).read_bytes() for path, name in _FILES.items()}
        # The kernels are compiled or loaded now, not when somebody clicks.
        first = engine.originals([0])[0]
        self.answer(engine.search(first, 1), engine.search(first, 1, similar=False))
        if may_be_masked(engine.model.decoding) and engine.model.estimator == "NMF":
            engine.search(np.ma.MaskedArray(first, np.arange(len(first)) == 0), 1)

    def routes(self) -> list[Route]:
        """Return every address there is."""
        return [
            *(Route(path, self.file) for path in _FILES),
            Route("/api/model", self.about),
            Route("/api/titles/{number}", self.titles_of_sheet),
            Route("/api/find", self.find),
            Route("/api/neighbours/{row}", self.neighbours),
            Route("/api/neighbours", self.upload, methods=["POST"]),
            Route("/sheets/{number}.png", self.sheet),
            Route("/pictures/{row}.png", self.picture),
            Route("/reconstructions/{row}.png", self.reconstruction),
            Route("/parts/{number}.png", self.part),
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
                "pixels": max(self.shape[:2]) <= 48,
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
        for row, title in enumerate(self.titles if named else ()):
            if title == named:
                exact.append(row)
            elif named in title and len(within) < MATCHES:
                within.append(row)
        numbered = re.fullmatch(r"#?([0-9]{1,12})", text)
        number = [int(numbered[1])] if numbered and int(numbered[1]) < len(self.engine) else []
        # "7" is the name of a picture first, and the class of many last.
        rows = [*exact, *number, *within] if self.engine.model.names is not None else [*number, *exact, *within]
        found = list(dict.fromkeys(rows))[:MATCHES]
        return JSONResponse([{"row": row, "title": self.title(row)} for row in found])

    def neighbours(self, request: Request) -> Response:
        """Find what is most similar and most dissimilar to a picture on the wall."""
        row = self.number(request, "row", len(self.engine))
        return JSONResponse(self.answer(*self.both(row)))

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
        """Search by a picture file."""
        try:
            with self.decoder:  # a request that was given up may still be decoding
                _check_pixels(picture, self.shape)
                found = self.both(io.BytesIO(picture))
        except InputError as error:
            said = str(error).replace("what was given", "the file")
            raise HTTPException(422, printable(said)) from error
        return self.answer(*found)

    def sheet(self, request: Request) -> Response:
        """Draw a piece of the wall."""
        rows = self.engine.originals(self.rows_of_sheet(request))
        return _png(sheet_png(rows, self.shape, self.top, COLUMNS, THUMBNAIL))

    def picture(self, request: Request) -> Response:
        """Draw one original."""
        row = self.number(request, "row", len(self.engine))
        return _png(picture_png(self.engine.originals([row])[0], self.shape, self.top, SHOWN))

    def reconstruction(self, request: Request) -> Response:
        """Draw one picture as its parts make it."""
        row = self.number(request, "row", len(self.engine))
        return _png(picture_png(self.engine.reconstructions([row])[0], self.shape, self.top, SHOWN))

    def part(self, request: Request) -> Response:
        """Draw one part."""
        number = self.number(request, "number", len(self.components))
        return _png(part_png(self.components[number], self.shape, SHOWN))

    # --- what the answers are made of -------------------------------------------------------------

    def title(self, row: int) -> str:
        """Return what a row is called, as a page can show it."""
        return printable(self.engine.title(row))

    def number(self, request: Request, name: str, limit: int) -> int:
        """Return a number of the address that is below a limit."""
        text = request.path_params[name]
        if not re.fullmatch("[0-9]{1,12}", text) or int(text) >= limit:
            raise HTTPException(404, f"there is no {name} {text[:20]!r}: they are numbered 0 to {limit - 1}")
        return int(text)

    def rows_of_sheet(self, request: Request) -> range:
        """Return the rows on one sheet."""
        per_sheet = COLUMNS * LINES
        first = per_sheet * self.number(request, "number", -(-len(self.engine) // per_sheet))
        return range(first, min(first + per_sheet, len(self.engine)))

    def both(self, query: int | BinaryIO) -> tuple[Found, Found]:
        """Search from both ends."""
        found = self.engine.search(query, NEIGHBOURS)
        again = found.row if found.pixels is None else found.pixels
        if found.mask is not None:
            again = np.ma.MaskedArray(found.pixels, found.mask)
        return found, self.engine.search(again, NEIGHBOURS, similar=False)  # type: ignore[arg-type]

    def answer(self, similar: Found, dissimilar: Found) -> dict[str, object]:
        """Say what was found, and why."""
        made_of = np.asarray(similar.code, dtype=np.float64) * self.lengths
        strongest = [int(part) for part in np.argsort(-made_of, kind="stable")[:STRONGEST] if made_of[part] > 0]
        query: dict[str, object] = {
            "row": similar.row,
            "title": printable(similar.title) if similar.pixels is None else "your picture",
            "label": self.label(similar.row),
            "parts": [[part, float(made_of[part] / made_of.sum())] for part in strongest],
        }
        if similar.pixels is not None:
            # A model of digits from 0 to 16 is asked about a picture from 0 to 255: both are shown on their own scale.
            top = 255.0 if float(similar.pixels.max()) > self.top else self.top
            query["picture"] = data_uri(picture_png(similar.pixels, self.shape, top, SHOWN))
            query["reconstruction"] = data_uri(picture_png(similar.code @ self.components, self.shape, top, SHOWN))
        return {"query": query, "similar": self.told(similar), "dissimilar": self.told(dissimilar)}

    def told(self, found: Found) -> list[dict[str, object]]:
        """Return a search's results as plain values."""
        results = []
        reasons = self.engine.reasons(found, SHARED)
        for index, name, why in zip(found.indices.tolist(), found.names, reasons, strict=True):
            parts = list(zip(why.components.tolist(), why.shares.tolist(), strict=True))
            result = {
                "row": index,
                "title": printable(name),
                "label": self.label(index),
                "score": why.score,
                "parts": parts,
            }
            results.append(result)
        return results

    def label(self, row: int | None) -> str | None:
        """Return a row's label, where it says more than the title does."""
        labels = self.engine.model.labels
        if row is None or labels is None or self.engine.model.names is None:
            return None
        return printable(str(labels[row]))


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


def _sentence(request: Request, error: Exception) -> Response:
    """Answer a refusal with its sentence."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)
