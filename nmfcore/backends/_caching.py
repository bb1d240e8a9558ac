"""Where compiled kernels are kept between processes, decided before the first kernel is defined.

Numba keeps them beside the source file, or in the user's cache folder when that is read-only. Where neither can be
written (a system service without a home), a private folder below the temporary one serves; without even that, kernels
are compiled anew in each process.
"""

import contextlib
import logging
import os
import stat
import tempfile
import threading
from typing import Any

from llvmlite import binding as llvm
from numba import config
from numba.core import event
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import LoweringPass, register_pass
from numba.core.typed_passes import AnnotateTypes

logger = logging.getLogger("nmfcore")


def _writable(folder: str) -> bool:
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _private_folder() -> str | None:
    """Return a folder of this user's below the temporary one: nobody else may plant compiled code there."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = os.path.join(tempfile.gettempdir(), f"nmfcore-kernels-{user}")
    with contextlib.suppress(OSError):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.lstat(folder)
        private = not hasattr(os, "getuid") or (
            stat.S_ISDIR(found.st_mode)
            and found.st_uid == os.getuid()
            and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        )
        if private and _writable(folder):
            return folder
    return None


def _find_cache() -> bool:
    if config.CACHE_DIR:
        return _writable(config.CACHE_DIR)
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__pycache__")
    if _writable(here):
        return True
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if _writable(os.path.join(home, "numba")):
        return True
    folder = _private_folder()
    if folder:
        config.CACHE_DIR = folder
    return folder is not None


CACHE = _find_cache()


class _SelfContained(JITCodeLibrary):
    """Compiled code that calls the copies of its inner functions which came with it, and no others.

    Numba gives them to every kernel as weak symbols. In the process that compiles, each inner function also exists on
    its own, optimised once, and wins; a process that loads the kernel from the cache runs the kernel's copy, optimised
    twice: sums differed in the last bit between the two.
    """

    def _finalize_final_module(self) -> None:
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == llvm.Linkage.linkonce_odr:
                function.linkage = llvm.Linkage.internal
        super()._finalize_final_module()


@register_pass(mutates_CFG=False, analysis_only=True)
class _OwnLibrary(LoweringPass):
    _name = "nmfcore_own_library"

    def __init__(self) -> None:
        LoweringPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        state.library = _SelfContained(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return False


class KernelCompiler(CompilerBase):
    """Numba's compiler, for functions whose machine code is the same whether it was compiled here or loaded."""

    def define_pipelines(self) -> list[Any]:
        """Return Numba's passes with ours before the code is made."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_OwnLibrary, AnnotateTypes)
        passes.finalize()
        return [passes]


class _CompileNotice(event.Listener):
    """Says what the wait is for when compiling our kernels takes longer than a second."""

    def __init__(self) -> None:
        self.depth = 0
        self.timer: threading.Timer | None = None
        self.lock = threading.Lock()
        self.said = False

    @staticmethod
    def _ours(seen: event.Event) -> bool:
        function = getattr(seen.data.get("dispatcher"), "py_func", None)
        return getattr(function, "__module__", "").startswith("nmfcore.")

    def _say(self) -> None:
        self.said = True
        kept = "later processes load them" if CACHE else "no folder to keep them in can be written"
        logger.warning("nmfcore compiles its kernels for this processor, once (%s) ...", kept)

    def on_start(self, seen: event.Event) -> None:
        if self._ours(seen):
            with self.lock:
                self.depth += 1
                if self.depth == 1 and not self.said:
                    self.timer = threading.Timer(1.0, self._say)
                    self.timer.daemon = True
                    self.timer.start()

    def on_end(self, seen: event.Event) -> None:
        if self._ours(seen):
            with self.lock:
                self.depth -= 1
                if self.depth == 0 and self.timer is not None:
                    self.timer.cancel()


event.register("numba:compile", _CompileNotice())
