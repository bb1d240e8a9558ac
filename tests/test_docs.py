"""The documentation: its code runs, its commands exist, its pages are linked, and it names every public name."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = {"figures.md", "command-line.md"}  # by docs/pages.py, at each build
PAGES = sorted(
    path
    for path in DOCS.rglob("*.md")
    if not {"_build", "generated", "tutorials"} & set(path.parts)
    and (path.name not in MADE or path.parent.name == "howto")
)
BLOCKS = [
    pytest.param(page, number, id=f"{page.relative_to(DOCS)}-{number}")
    for page in PAGES
    for number in range(len(re.findall(r"^```python$", page.read_text(encoding="utf-8"), re.MULTILINE)))
    if page.name != "design.md"
]


def blocks(page, language):
    """Return the fenced blocks of a page in one language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_there_are_pages_with_code():
    assert len(PAGES) > 15 and len(BLOCKS) > 8


@pytest.mark.parametrize("page, number", BLOCKS)
def test_code_of_the_documentation_runs(page, number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = compile(blocks(page, "python")[number], f"{page.name}, block {number}", "exec")
    exec(code, {"__name__": "docs"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_commands_of_the_documentation_exist(page):
    pytest.importorskip("typer", reason="the extra 'app' is not installed")
    import typer

    from nmfcore import cli

    commands = typer.main.get_command(cli._app()).commands
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            words = line.split("#")[0].split()
            if not words or words[0] != "nmfcore":
                continue
            assert words[1] in commands, line
            known = {option for parameter in commands[words[1]].params for option in parameter.opts}
            assert {word for word in words[2:] if re.fullmatch(r"--?[a-z-]+", word)} <= known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_of_the_documentation_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        made = path.name in MADE or "tutorials" in path.parts
        assert made or path.exists(), f"{page.name} links to {target}"


def test_every_public_name_is_in_the_reference():
    listed = set(re.findall(r"^   (nmfcore\.[\w.]+)$", (DOCS / "reference" / "api.rst").read_text(), re.MULTILINE))
    public = set()
    for home in ("nmfcore", "nmfcore.models", "nmfcore.images", "nmfcore.search", "nmfcore.analysis", "nmfcore.plots"):
        for name in import_module(home).__all__:
            if not name.startswith("_") and name != "SPACES":
                public.add(f"{home}.{name}")
    elsewhere = {name for name in public if f"nmfcore.{name.rsplit('.', 1)[1]}" in listed}
    elsewhere |= {f"nmfcore.images.{name}" for name in ("model_of", "estimator_from")}  # listed with the models
    assert public - listed - elsewhere == set()
    for name in listed:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for page in PAGES:
        for body in re.findall(
            r":::+\{toctree\}\n(.*?)\n:::+$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            for entry in body.splitlines():
                if entry and not entry.startswith(":"):
                    listed.add((page.parent / entry.strip()).resolve())
    for page in PAGES:
        assert (page.name == "index.md" and page.parent == DOCS) or page.with_suffix("").resolve() in listed, page
