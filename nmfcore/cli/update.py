"""``nmfcore update``: a model follows its folder of pictures."""

import shlex

from .._files import expanded
from .common import Stop, about_writing, count, note, open_model, print_pairs, reading_bar, refusals, warnings_as_notes
from .console import interrupts_held


def update(folder: str, pictures: str | None, yes: bool) -> None:
    """Run the command."""
    from rich.console import Console

    from ..search.folders import PICTURES

    notes = Console(stderr=True)
    engine = open_model(folder)
    former, path = engine.model, expanded(folder)
    home = path if path.is_dir() else path.parent
    with warnings_as_notes(notes), refusals(), reading_bar(notes) as progress:
        try:
            changes = engine.update(pictures, yes=yes, progress=progress)
        except OSError as error:
            raise Stop(f"'{error.filename or pictures}' cannot be read: {error.strerror or error}") from error
    if engine.model is not former:
        try:
            with interrupts_held(), refusals():
                engine.save(home, pictures=(home / PICTURES).exists(), overwrite=True)
        except OSError as error:
            raise Stop(about_writing(error, home, "the model is what it was")) from error
    lines = changes.lines() or [("changes", "none")]
    lines.append(("pictures", f"{count(len(engine), 'row')}, {changes.unchanged:,} files as they were"))
    print_pairs([*lines, ("written to" if engine.model is not former else "model", str(home))])
    if changes.drifted:
        again = shlex.join(["nmfcore", "fit", "--from", folder, "--out", "NEW"])
        errors = f"{changes.error:.3f}, that of the others {changes.former_error:.3f}"
        note(
            notes,
            f"the mean error of the new pictures is {errors}: these parts suit them less, and {again} learns others, "
            "beginning with these",
        )
