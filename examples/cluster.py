"""A cluster of a scheduler and two workers, each its own process, and a fit on it.

::

    pip install 'nmfcore[dask]'
    python examples/cluster.py

On machines of your own run ``dask scheduler`` on one of them and ``dask worker tcp://scheduler:8786`` on the others,
all with nmfcore installed, and begin at ``Client("tcp://scheduler:8786")``. Here the data are made up, and the
processes are started and stopped by this script.
"""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import dask.array as da
import numpy as np
from distributed import Client

from nmfcore import NMF

DASK = [sys.executable, "-m", "dask"]


def start(stack, *words):
    """Start one of Dask's commands, and stop it when the stack is left."""
    process = subprocess.Popen([*DASK, *words], stderr=subprocess.DEVNULL)
    stack.callback(process.wait, timeout=30)
    stack.callback(process.terminate)
    return process


def address_of(file, process):
    """Wait for the scheduler to write down where it listens."""
    while not (file.exists() and file.read_text()):
        if process.poll() is not None:
            raise SystemExit("the scheduler did not start: run `dask scheduler` by hand to see why")
        time.sleep(0.1)
    return json.loads(file.read_text())["address"]


def made_block(rows, seed):
    """Make rows of X, on the worker that will keep them."""
    rng = np.random.default_rng(seed)
    parts = np.random.default_rng(0).gamma(0.3, 40.0, size=(5, 64))
    return np.minimum(rng.gamma(0.3, 1.0, size=(rows, 5)) @ parts, 255).astype(np.uint8)


def main():
    """Start, fit, transform, stop."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder) / "scheduler.json"
        here = ["--host", "127.0.0.1", "--scheduler-file", str(file), "--no-dashboard"]
        scheduler = start(stack, "scheduler", "--port", "0", *here)
        address = address_of(file, scheduler)
        for _ in range(2):
            start(stack, "worker", address, "--nthreads", "1", "--local-directory", folder, "--no-dashboard")

        client = stack.enter_context(Client(address))
        client.wait_for_workers(2)
        blocks = [
            da.from_delayed(block, (5000, 64), np.uint8) for block in client.map(made_block, [5000] * 4, range(4))
        ]
        X = da.concatenate(blocks)

        model = NMF(5, solver="hals", random_state=0)
        W = model.fit_transform(X)  # a Dask array: its blocks are on the workers
        print(f"{len(client.nthreads())} workers, X {X.shape}, {model.n_iter_} passes: {model.stop_reason_}")
        print(f"relative error {model.reconstruction_err_ / float(da.linalg.norm(X.astype(float))):.4f}")
        codes = model.transform(X[:10]).compute()
        print(f"W {W.shape} in blocks of {W.chunks[0]}; codes of the first rows {codes.shape}")
        client.shutdown()  # the scheduler and the workers leave by themselves


if __name__ == "__main__":
    main()
