"""The pages that are made from the code and the records, so that they cannot differ from them."""

import re
from pathlib import Path


def write_pages(docs: Path) -> None:
    """Write the page of the command line's options and that of the figures.

    Parameters
    ----------
    docs : Path
        The folder of the documentation.
    """
    _write(docs / "reference" / "command-line.md", command_line())
    _write(docs / "figures.md", figures(docs.parent / "benchmarks" / "results"))


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:  # what has not changed is not built again
        path.write_text(text, encoding="utf-8")


def command_line() -> str:
    """Return a page with every command, its arguments and its options."""
    import typer

    from nmfcore.cli import _app

    group = typer.main.get_command(_app())
    parts = [
        "# Command line options",
        "Every command with its arguments and options, made from the code. "
        "[The command line](../howto/command-line.md) shows how they are used.",
    ]
    for name, command in sorted(group.commands.items()):
        parts.append(f"## nmfcore {name}")
        parts.append(_plain(command.help or ""))
        rows = []
        for parameter in command.params:
            if parameter.name == "help":
                continue
            if parameter.param_type_name == "argument":
                given = f"`{parameter.metavar or parameter.name.upper()}`"
            else:
                given = ", ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts])
            shown = getattr(parameter, "show_default", None)
            default = parameter.default
            if isinstance(shown, str):
                default = shown
            elif default is None or default is False or callable(default) or parameter.param_type_name == "argument":
                default = ""
            text = _with_options(getattr(parameter, "help", "") or "")
            rows.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in (given, text, default)) + " |")
        if rows:
            parts.append("\n".join(["| option | meaning | default |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Return a command's help with its indented examples as code."""
    text = text.replace("\b", "").strip()
    text = re.sub(r"^Examples\n-+\n", "", text, flags=re.MULTILINE)
    text = "\n".join(line if line.startswith("    ") else _with_options(line) for line in text.split("\n"))
    return re.sub(r"(?:^ {4}\S.*\n?\n?)+", lambda found: _code(found.group()), text, flags=re.MULTILINE)


def _with_options(text: str) -> str:
    """Return a text whose options are code, so that their dashes stay two."""
    return re.sub(r"(?<![\w`-])--[a-z][a-z-]*", r"`\g<0>`", text)


def _code(block: str) -> str:
    lines = [line.strip() for line in block.splitlines() if line.strip()]
    return "```sh\n" + "\n".join(lines) + "\n```\n\n"


def figures(results: Path) -> str:
    """Return the page of all figures, with the pictures beside it."""
    text = (results / "figures.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[(.*?)\]\((.*?\.png)\)", r"![\1](../benchmarks/results/\2)", text)
    text = re.sub(
        r"^Made by .*$",
        "These tables are made by `python benchmarks/run.py --table` from the newest records in "
        "`benchmarks/results`. Under each figure stand the machine, the versions, the commit and the date, and what "
        "the machine itself reached in the same run. [Performance](explanation/performance.md) says how to read them.",
        text,
        count=1,
        flags=re.MULTILINE,
    )
    return text
