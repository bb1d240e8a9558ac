"""Options that several commands have, and how the texts of options are read."""

from typing import Any

__all__ = [
    "beta_loss_option",
    "force_option",
    "model_argument",
    "number_of_parts",
    "numbers_of_parts",
    "space_option",
]


def model_argument() -> Any:
    """Return the argument that names a model."""
    from typer import Argument

    return Argument(metavar="MODEL", help="The folder that nmfcore fit wrote.", show_default=False)


def space_option() -> Any:
    """Return the option that says where similarity is measured."""
    from typer import Option

    return Option(
        help="Where similarity is measured: codes (the same parts), reconstruction (pictures that look alike, "
        "whatever the scale of the parts), or centred (the same deviations from the average).",
        show_default="codes; centred for dissimilar pictures",
    )


def force_option() -> Any:
    """Return the option that replaces a file."""
    from typer import Option

    return Option("--force", help="Replace an existing file.")


def number_of_parts(text: str | None) -> Any:
    """Read -k of a fit: a number, or auto."""
    return None if text is None else _parsed(text, several=False)


def numbers_of_parts(text: str) -> Any:
    """Read -k of a comparison: FIRST:LAST, FIRST:LAST:STEP, a list, or auto."""
    return _parsed(text, several=True)


def _parsed(text: str, several: bool) -> Any:
    import typer

    from ..rank import parse_k

    try:
        return parse_k(text, several)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def beta_loss_option(text: str) -> str | float:
    """Read --beta-loss: a number, or a name."""
    try:
        return float(text)
    except ValueError:
        return text
