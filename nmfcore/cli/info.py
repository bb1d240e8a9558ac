"""``nmfcore info``: what there is, and what is missing with how to get it."""

import importlib.util

EXTRAS = {
    "app": ("PIL", "matplotlib", "typer", "rich", "jinja2"),
    "heic": ("pillow_heif",),
    "gpu": ("cupy",),
    "disk": ("h5py", "zarr"),
    "dask": ("dask", "distributed"),
    "serve": ("starlette", "uvicorn"),
}


def print_info() -> None:
    """Print a table of what there is, and of what is missing with how to get it."""
    import platform

    import numba
    import numpy
    import scipy
    import sklearn
    from rich.console import Console
    from rich.table import Table

    from .. import __version__
    from ..backends import cuda
    from ..backends.cpu import kernels
    from ..rows.threads import effective_threads

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (
        ("nmfcore", __version__),
        ("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"),
        ("numpy", numpy.__version__),
        ("scipy", scipy.__version__),
        ("numba", numba.__version__),
        ("scikit-learn", sklearn.__version__),
        ("threads", str(effective_threads(None))),
        ("SIMD", f"{8 * kernels().VECTOR_BYTES} bits"),
        ("GPU", cuda.describe()),
    ):
        table.add_row(name, value)
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        needs = f"missing {', '.join(missing)}: pip install 'nmfcore[{extra}]'" if missing else "installed"
        table.add_row(f"extra {extra}", needs)
    Console(highlight=False, markup=False).print(table)
