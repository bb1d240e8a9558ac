"""How kernels are compiled: all that is built on the inside of Numba's compiler, cache and code generator.

Importing this raises ImportError or AttributeError where one of their names is missing; `_caching` then leaves kernels
to Numba's stock pipeline and cache. Nothing here changes how Numba treats other functions.
"""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import binding as llvm
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator, _SourceFileBackedLocatorMixin
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import LoweringPass, PassManager, register_pass
from numba.core.dispatcher import Dispatcher
from numba.core.runtime import rtsys
from numba.core.typed_passes import AnnotateTypes

from .. import compiling

logger = logging.getLogger("nmfcore")

# Names that are overridden or called below. An override of a name that Numba no longer has would raise no error later.
_NEEDED = (
    llvm.Linkage.linkonce_odr, llvm.Linkage.internal,
    JITCodeLibrary._finalize_final_module, JITCodeLibrary.enable_object_caching,
    JITCodeLibrary._finalize_dynamic_globals, JITCodeLibrary._verify_declare_only_symbols,
    JITCodeLibrary._optimize_final_module, JITCodeLibrary.get_pointer_to_function, JITCodeLibrary.codegen,
    CompilerBase.compile_extra, DefaultPassBuilder.define_nopython_pipeline, PassManager.add_pass_after,
    CompileResultCacheImpl._locator_classes, FunctionCache._impl_class,
    FunctionCache.load_overload, FunctionCache._load_overload, FunctionCache._guard_against_spurious_io_errors,
    FunctionCache.save_overload, Dispatcher.enable_caching, rtsys.initialize,
    _CacheLocator.get_suitable_cache_subpath,
)  # fmt: skip


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


class _NoEnvironment:
    """Stands for the code generator of code that is not loaded, and has no environment that could be set."""

    @staticmethod
    def set_env(name: str, environment: object) -> None:
        """Do nothing."""


class _Part(JITCodeLibrary):
    """LLVM's code of a function that kernels contain: no machine code is made of it on its own.

    Kernels are compiled with copies of their inner functions, and nothing else calls these.
    """

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0

    @property
    def codegen(self) -> type[_NoEnvironment]:
        return _NoEnvironment


class _OncePart(_Part):
    """LLVM's code of a part that is optimised as a part of its kernels only.

    To optimise all parts before, each with the parts that it calls, took a fifth of the time of compiling a kernel.
    """

    def _optimize_final_module(self) -> None:
        """Do nothing."""


class _LibraryPass(LoweringPass):
    library: type[JITCodeLibrary]

    def __init__(self) -> None:
        LoweringPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        state.library = self.library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return False


@register_pass(mutates_CFG=False, analysis_only=True)
class _KernelPass(_LibraryPass):
    _name = "nmfcore_kernel_library"
    library = _SelfContained


@register_pass(mutates_CFG=False, analysis_only=True)
class _PartPass(_LibraryPass):
    _name = "nmfcore_part_library"
    library = _Part


@register_pass(mutates_CFG=False, analysis_only=True)
class _OncePartPass(_LibraryPass):
    _name = "nmfcore_once_part_library"
    library = _OncePart


# Passes of Numba's that find nothing to do in a kernel: for closures, comprehensions, generators, array expressions,
# literals that select code, overloads to be inlined, and reports about threads. They took a tenth of Numba's own time.
_NOT_NEEDED = {
    "with_lifting", "inline_closure_likes", "Rewrite dynamic raises", "make_function_op_code_to_jit_function",
    "inline_inlinables", "find_literally", "literal_unroll", "LiteralPropagation", "inline_overloads",
    "nopython_rewrites", "nopython_supported_feature_validation", "dump_parfor_diagnostics",
}  # fmt: skip


def _pipeline_with(library: type[_LibraryPass], state: Any) -> list[PassManager]:
    """Return the passes of Numba that kernels need, with one more before the code is made."""
    passes = DefaultPassBuilder.define_nopython_pipeline(state)
    passes.passes = [(each, about) for each, about in passes.passes if each.name() not in _NOT_NEEDED]
    passes.add_pass_after(library, AnnotateTypes)
    passes.finalize()
    return [passes]


class PartCompiler(CompilerBase):
    """Numba's compiler, for functions that only kernels call."""

    def define_pipelines(self) -> list[PassManager]:
        """Return Numba's passes with ours."""
        return _pipeline_with(_PartPass, self.state)


class OnceCompiler(CompilerBase):
    """Numba's compiler, for functions that only kernels call and that LLVM optimises with these only."""

    def define_pipelines(self) -> list[PassManager]:
        """Return Numba's passes with ours."""
        return _pipeline_with(_OncePartPass, self.state)


class _InFolder(_SourceFileBackedLocatorMixin, _CacheLocator):
    """Numba's cache of one function, in the folder of `KernelCompiler`."""

    def __init__(self, py_func: Any, py_file: str) -> None:
        self._py_file = py_file
        self._lineno = py_func.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return os.path.join(KernelCompiler.folder or "", self.get_suitable_cache_subpath(self._py_file))


class _FolderImpl(CompileResultCacheImpl):
    _locator_classes = [_InFolder]


# What is waited for, by the names of the kernels that a first fit needs.
_WORK = {
    "product_pass": "products with X",
    "frobenius_pass": "descent",
    "beta_pass": "multiplicative steps",
    "code_pass": "codes",
    "filled_pass": "descent on what is observed",
}


class _Notice:
    """Log lines that explain the wait, once compiling kernels takes longer than a second: one for each kind of work."""

    def __init__(self) -> None:
        self.depth = 0
        self.timer: threading.Timer | None = None
        self.lock = threading.Lock()
        self.said: set[str] = set()

    def _say(self, work: str) -> None:
        if work in self.said:
            return
        self.said.add(work)
        if len(self.said) > 1:
            logger.warning("... now those for: %s", work)
            return
        kept = "later processes load them" if KernelCompiler.kept else "no folder to keep them in can be written"
        logger.warning("nmfcore compiles its kernels for this processor, once (%s); first those for: %s", kept, work)

    @contextmanager
    def compiling(self, func: Any) -> Iterator[None]:
        """Hold this while a kernel is compiled or waited for; kernels that it calls may be compiled meanwhile."""
        name = func.__name__
        with self.lock:
            self.depth += 1
            if self.depth == 1:
                self.timer = threading.Timer(1.0, self._say, [_WORK.get(name, name.replace("_", " "))])
                self.timer.daemon = True
                self.timer.start()
        try:
            yield
        finally:
            with self.lock:
                self.depth -= 1
                if self.depth == 0 and self.timer is not None:
                    self.timer.cancel()


_notice = _Notice()


class KernelCache(FunctionCache):
    """Numba's cache of one kernel, which waits for a second process that is compiling it."""

    def load_overload(self, sig: object, target_context: object) -> Any:
        """Return what the cache holds for these types, maybe after waiting; None if it holds nothing.

        Numba would load all that it can compile before, which takes as long as the rest of loading kernels; machine
        code needs the memory of its arrays only. Where nothing is found, Numba does so when it compiles.
        """
        rtsys.initialize(target_context)
        found = self._found(sig, target_context)
        if found is None:
            with _notice.compiling(self._py_func):
                made = compiling.awaited(self._py_func.__qualname__)
            found = self._found(sig, target_context) if made else None
        return found

    def _found(self, sig: object, target_context: object) -> Any:
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


class _FolderCache(KernelCache):
    _impl_class = _FolderImpl


class KernelCompiler(CompilerBase):
    """Numba's compiler, for functions whose machine code is the same whether it was compiled here or loaded."""

    folder: str | None = None  # where kernels are kept if Numba cannot keep them; set by `_caching`
    kept = True  # whether they are kept at all

    def __init__(self, typingctx: object, targetctx: Any, *rest: object) -> None:
        super().__init__(typingctx, targetctx, *rest)
        self._target = targetctx  # the base has one of these options only

    def compile_extra(self, func: Any) -> object:
        """Return what the function compiles to, or what was compiled before and lies in the folder."""
        if self.folder is None:
            with _notice.compiling(func):
                return super().compile_extra(func)
        cache = _FolderCache(func)
        signature = self.state.args
        found = cache.load_overload(signature, self._target)
        if found is not None:
            self._target.insert_user_function(found.entry_point, found.fndesc, [found.library])
            return found
        with _notice.compiling(func):
            compiled = super().compile_extra(func)
        cache.save_overload(signature, compiled)
        return compiled

    def define_pipelines(self) -> list[PassManager]:
        """Return Numba's passes with ours."""
        return _pipeline_with(_KernelPass, self.state)
