"""``nmfcore fit --from MODEL``: a fit that begins with the parts of an earlier one."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .common import Stop, open_model

if TYPE_CHECKING:
    import numpy as np

    from .._typing import Settings
    from ..images import Pictures
    from ..models import Model

_LIFT = 1e-4  # of the mean of H, to which zeros are lifted for a solver that keeps zeros


@dataclasses.dataclass(frozen=True)
class Beginning:
    """What a fit takes over from a model, where the command line does not say otherwise."""

    model: "Model"
    source: str
    k: int
    size: tuple[int, int] | None
    rgb: bool
    how: "Settings"
    solver: str | None

    def parts(self, pictures: "Pictures") -> "np.ndarray":
        """Return H, if the pictures fit it."""
        import numpy as np

        H = self.model.components
        if pictures.matrix.shape[1] != H.shape[1]:
            raise Stop(
                f"'{self.source}' has {pictures.matrix.shape[1]} features to the row and the model of --from "
                f"{H.shape[1]}: give data of the same kind, or leave out --from"
            )
        if self.k > min(pictures.matrix.shape):
            raise Stop(
                f"the model of --from has {self.k} parts, and {len(pictures.matrix):,} samples of "
                f"{H.shape[1]:,} features allow {min(pictures.matrix.shape)}: leave out --from"
            )
        if self.solver == "mu":  # a zero stays a zero under its updates
            H = np.maximum(H, _LIFT * H.mean())
        return H.astype(np.float32 if pictures.matrix.dtype.itemsize < 8 else np.float64)


def beginning(
    begin: str,
    source: str | None,
    k: int | str | None,
    settings: "Settings",
    size: tuple[int, int] | None,
    scheduler: str | None,
    how: "Settings",
) -> Beginning:
    """Check --from against the other options; put the start into `settings`."""
    from ..search.manifest import Manifest

    if settings["init"] is not None:
        raise Stop("--init and --from both say how to begin: give one of them")
    if scheduler is not None:
        raise Stop("--from begins a fit on this machine: leave out --scheduler")
    model = open_model(begin).model
    parts = len(model.components)
    if k not in (None, parts):
        raise Stop(f"the model of --from has {parts} parts, so -k {k} cannot begin with them: leave out one of the two")
    known = Manifest.of(model)
    if source is None:
        source = known.root if model.files is not None else model.source
        if not source or not os.path.lexists(Path(os.path.expanduser(source.partition("::")[0]))):
            raise Stop(f"the data that '{begin}' was made of ('{source}') are not there: give SOURCE")
        if model.files is not None:
            how = {**how, "recursive": how["recursive"] or known.recursive, "exclude": how["exclude"] or known.exclude}
    shape = model.shape
    if shape is not None and Path(os.path.expanduser(source)).is_dir():
        height, width = shape[:2]
        if size not in (None, (height, width)):
            raise Stop(
                f"the pictures of '{begin}' have {height}x{width} pixels, and --size says otherwise: leave it out"
            )
        size = (height, width)
        if settings["memory"] is not None:
            raise Stop("--from reads a folder of pictures into memory: leave out --memory")
        if model.decoding is not None:
            otherwise = how["crop"], how["background"] != "white", how["fit"] != "stretch", how["mask_transparent"]
            if any(otherwise):
                raise Stop(
                    f"pictures are decoded like those of '{begin}': leave out --crop, --background, --letterbox and "
                    "--mask-transparent"
                )
            how = {**how, "decoding": model.decoding}
    settings["init"] = "custom"
    frobenius = settings["beta_loss"] in ("frobenius", 2.0) and not settings["extrapolate"]
    solver = settings["solver"] or ("hals" if frobenius else "mu")
    return Beginning(model, source, parts, size, shape is not None and len(shape) == 3, how, solver)
