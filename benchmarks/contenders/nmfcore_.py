"""nmfcore: scikit-learn's API, so nothing but names (the underscore avoids shadowing nmfcore)."""

from __future__ import annotations

from benchmarks.contenders.scikit_learn import ScikitLearnAPI


class Nmfcore(ScikitLearnAPI):
    """The engine this suite measures."""

    name = "nmfcore"
    module = "nmfcore"
    package = "nmfcore"
