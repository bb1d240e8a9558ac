"""The folder that a model lives in: what its files are called, and how all of them are replaced at once."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from .._files import sync_folder

__all__ = ["MASK", "MODEL", "PICTURES", "SETTINGS", "replaced_folder"]

MODEL, PICTURES, MASK, SETTINGS = "model.npz", "pictures.npy", "mask.npy", "search.json"


@contextmanager
def replaced_folder(home: Path, ours: Collection[str] = (PICTURES, MASK, SETTINGS, MODEL)) -> Iterator[Path]:
    """Give a new folder whose files take the place of those in `home`, all of them or none.

    The new folder is made beside `home` and renamed. The working directory, and a folder in one that cannot be
    written to, keep their places: there the files are replaced one after the other, the model last.

    Parameters
    ----------
    home : Path
        The folder. If it does not exist, it is made; if it does, only the files in `ours` are replaced or removed.
        Other files stay, those too that came into it while the new folder was being filled.
    ours : collection of str
        Names of the files that may be replaced or removed.

    Yields
    ------
    folder : Path
        An empty folder to write to. It takes its place when the block ends, and is removed when the block raises.

    Raises
    ------
    OSError
        When the folder cannot be made or replaced; `home` is then as it was.
    """
    real, token = Path(os.path.realpath(home)), secrets.token_hex(6)
    there = real.is_dir()
    beside = not there or (os.access(real.parent, os.W_OK | os.X_OK) and not os.path.samefile(real, os.curdir))
    staging = (real.parent if beside else real) / f".nmfcore-{token}.part"
    staging.mkdir()
    try:
        yield staging
        sync_folder(staging)
        if not there:
            staging.rename(real)
        elif beside:
            _swap(staging, real, real.with_name(f".nmfcore-{token}.former"), ours)
        else:
            for name in sorted(ours, key=lambda name: name == MODEL):  # a model with too many pictures still opens
                if (staging / name).exists():
                    (staging / name).replace(real / name)
                else:
                    (real / name).unlink(missing_ok=True)
            staging.rmdir()
        sync_folder(real if there and not beside else real.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _swap(staging: Path, real: Path, former: Path, ours: Collection[str]) -> None:
    """Put `staging` in the place of `real`, with the files of `real` that are not ours."""
    shutil.copymode(real, staging)
    real.rename(former)
    try:
        staging.rename(real)
    except BaseException:
        former.rename(real)
        raise
    for entry in former.iterdir():
        if entry.name not in ours:
            entry.rename(real / entry.name)
    shutil.rmtree(former, ignore_errors=True)
