"""Draw the README's pictures from drawn faces: python docs/pictures.py.

The extras 'app' and 'serve', playwright and a Chromium on PATH are needed, the last two for page.png and report.png.
"""

import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from nmfcore import plots
from nmfcore.images import drawn_faces
from nmfcore.search import SearchEngine

HERE = Path(__file__).parent
QUERY = 3
PORT = 8799
COLOURS = 128  # of the two screenshots, so that each has about 100 kB


def draw(engine: SearchEngine, labels: list[str]) -> None:
    """Write parts.png and search.png beside this file."""
    parts = plots.components_grid(
        engine.model.components, engine.shape, columns=8, heading="16 parts of 600 drawn faces"
    )
    found = engine.search(QUERY, 9)
    rows = [QUERY, *found.indices]
    neighbours = plots.neighbours(
        engine.originals(rows), engine.reconstructions(rows), engine.shape, [labels[row] for row in rows],
        found.scores, heading="Most similar to the framed one: originals over reconstructions",
    )  # fmt: skip
    for name, axes in (("parts", parts), ("search", neighbours)):
        axes.figure.savefig(HERE / f"{name}.png", dpi=100, bbox_inches="tight")


def photograph(folder: Path) -> None:
    """Write page.png, the search page with the answers to a question, and report.png, the top of the report."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "nmfcore"]
    subprocess.run([*command, "report", str(folder)], check=True)
    address = f"http://127.0.0.1:{PORT}/"
    server = subprocess.Popen([*command, "serve", str(folder), "--port", str(PORT)])
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(address).close()
                break
            except OSError:
                time.sleep(0.1)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1100, "height": 640})
            for name, shown in (("page", f"{address}#{QUERY}"), ("report", (folder / "report.html").as_uri())):
                page.goto(shown)
                page.wait_for_load_state("networkidle")
                page.wait_for_timeout(1000)
                page.screenshot(path=HERE / f"{name}.png")
                with Image.open(HERE / f"{name}.png") as picture:
                    few = picture.convert("RGB").quantize(COLOURS)
                few.save(HERE / f"{name}.png", optimize=True)
            browser.close()
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Write all pictures beside this file."""
    faces = drawn_faces()
    engine = SearchEngine(16, random_state=0, max_iter=1000).fit(faces)
    draw(engine, [str(label) for label in faces.labels])
    with tempfile.TemporaryDirectory() as place:
        engine.save(Path(place) / "faces")
        photograph(Path(place) / "faces")


if __name__ == "__main__":
    main()
