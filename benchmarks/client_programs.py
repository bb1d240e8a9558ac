"""Short programs of libraries that call scikit-learn's NMF; `clients.py` runs each in an environment of its own.

One process runs all programs of a client in one way and writes what they compute to an ``.npz`` file::

    python -P client_programs.py CLIENT WAY OUT

CLIENT is a key of `PROGRAMS`. WAY is "scikit-learn"; or "in its place", where the names of ``sklearn.decomposition``
and of its module ``_nmf`` are nmfcore's before the client is imported, and what scikit-learn computes with raises; or
"given", where the client has scikit-learn's names, and the program gives it objects of nmfcore's.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

WAYS = ("scikit-learn", "in its place", "given")
PUBLIC = ("NMF", "MiniBatchNMF", "non_negative_factorization")
VERSIONS = ("nmfcore", "scikit-learn", "numpy", "scipy", "numba")

Results = dict[str, Any]  # arrays that are compared, by name
Call = Callable[[Any], Results]  # takes the module with NMF and MiniBatchNMF


def substitute() -> None:
    """Give scikit-learn's names to nmfcore's, and make all functions raise that scikit-learn's NMF computes with."""
    import sklearn.decomposition

    import nmfcore
    import nmfcore._nmf

    own = importlib.import_module("sklearn.decomposition._nmf")
    for name in PUBLIC:
        setattr(sklearn.decomposition, name, getattr(nmfcore, name))
    sys.modules["sklearn.decomposition._nmf"] = sklearn.decomposition._nmf = nmfcore._nmf
    for name, value in list(vars(own).items()):
        if inspect.isfunction(value) and value.__module__ == own.__name__:
            setattr(own, name, _raising(name))


def _raising(name: str) -> Callable[..., Any]:
    def raise_delegated(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"scikit-learn's own {name} was called")

    return raise_delegated


# ---- data: made here, as nothing can be downloaded -----------------------------------------------------------------


def texts(documents: int = 150, topics: int = 5) -> list[str]:
    """Return documents in which each topic has words of its own, with some of all."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(40 * topics)])
    own = words.reshape(topics, -1)
    weights = 1.0 / np.arange(1, own.shape[1] + 1)
    made = []
    for number in range(documents):
        topic = number % topics
        chosen = rng.choice(own[topic], 40, p=weights / weights.sum()).tolist() + rng.choice(words, 10).tolist()
        made.append(" ".join(chosen))
    return made


def spectra(samples: int = 120, channels: int = 80, parts: int = 3) -> np.ndarray:
    """Return mixtures of a few peaks, with a little noise."""
    rng = np.random.default_rng(1)
    grid = np.linspace(0, 1, channels)
    H = np.exp(-0.5 * ((grid - np.linspace(0.2, 0.8, parts)[:, None]) / 0.08) ** 2)
    return rng.dirichlet(np.ones(parts), samples) @ H + 0.01 * rng.random((samples, channels))


def sound() -> tuple[np.ndarray, int]:
    """Return two seconds of four notes, one after the other and together."""
    rate = 8000
    t = np.arange(2 * rate) / rate
    notes = [(220, 0.0), (277, 0.5), (330, 1.0), (440, 1.5)]
    tones = [np.sin(2 * np.pi * f * t) * np.exp(-3 * np.maximum(t - at, 0)) * (t >= at) for f, at in notes]
    return np.sum(tones, axis=0) + 0.001 * np.random.default_rng(2).standard_normal(t.size), rate


def counts() -> Any:
    """Return a table of counts of 200 cells and 400 genes from four programs."""
    import pandas as pd

    rng = np.random.default_rng(3)
    mean = rng.dirichlet(np.ones(4) / 2, 200) @ rng.gamma(0.3, 20.0, (4, 400)) + 0.2
    cells, genes = [f"cell{i}" for i in range(200)], [f"gene{j}" for j in range(400)]
    return pd.DataFrame(rng.poisson(mean), cells, genes).astype(float)


def document_terms() -> Any:
    """Return the counts of the words of `texts` as CSR."""
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer().fit_transform(texts()).astype(float)


# ---- programs ------------------------------------------------------------------------------------------------------


class HashedEncoder:
    """Stands in for a sentence transformer, whose weights cannot be downloaded: a text is the sum of its words."""

    def encode(self, sentences: Any, **options: Any) -> np.ndarray:
        """Return an embedding for each text."""
        made = np.zeros((len(sentences), 48))
        for row, sentence in zip(made, sentences, strict=True):
            for word in str(sentence).split():
                seed = int.from_bytes(word.encode()[-8:], "little") % (1 << 32)
                row += np.random.RandomState(seed).rand(48)
        return made


def turftopic(documents: list[str]) -> Any:
    """Return a KeyNMF of turftopic's."""
    from sklearn.feature_extraction.text import CountVectorizer
    from turftopic import KeyNMF

    return KeyNMF(5, encoder=HashedEncoder(), vectorizer=CountVectorizer(), random_state=0, top_n=10)  # type: ignore[call-arg]


def turftopic_fit(module: Any) -> Results:
    """Fit, and transform other documents: _initialize_nmf, NMF._fit_transform with update_H True and False."""
    documents = texts()
    model = turftopic(documents)
    W = model.fit_transform(documents)
    return {"W": W, "H": model.components_, "codes": model.transform(documents[::-3])}


def turftopic_online(module: Any) -> Results:
    """Learn from batches: MiniBatchNMF.partial_fit with W and H."""
    documents = texts()
    model = turftopic(documents)
    for first in range(0, len(documents), 50):
        model.partial_fit(documents[first : first + 50])
    return {"H": model.components_}


def turftopic_dynamic(module: Any) -> Results:
    """Fit topics over time: _update_coordinate_descent."""
    from datetime import datetime, timedelta

    documents = texts()
    model = turftopic(documents)
    when = [datetime(2020, 1, 1) + timedelta(days=i) for i in range(len(documents))]
    W = model.fit_transform_dynamic(documents, timestamps=when, bins=3)
    return {"W": W, "H": model.components_, "over time": model.temporal_components_}


def cnmf(module: Any) -> Results:
    """Prepare, factorize, combine, find a consensus: non_negative_factorization, many times, and with H given."""
    from cnmf import cNMF, load_df_from_npz

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "counts.txt"
        counts().to_csv(table, sep="\t")
        model = cNMF(output_dir=folder, name="run")
        model.prepare(counts_fn=str(table), components=[4], n_iter=8, seed=14, num_highvar_genes=200)
        model.factorize(worker_i=0, total_workers=1)
        model.combine()
        model.consensus(k=4, density_threshold=2.0, show_clustering=False)
        found = {}
        for name in ("consensus_spectra", "consensus_usages", "gene_spectra_score", "gene_spectra_tpm"):
            found[name] = load_df_from_npz(model.paths[name] % (4, "2_0")).to_numpy()
        return found


def topicwizard(module: Any) -> Results:
    """Fit a pipeline of CountVectorizer and NMF, prepare its data, draw a figure."""
    import topicwizard.figures
    from sklearn.feature_extraction.text import CountVectorizer
    from topicwizard.pipeline import make_topic_pipeline

    documents = texts()
    pipeline = make_topic_pipeline(CountVectorizer(), module.NMF(5, random_state=0, max_iter=500)).fit(documents)
    data = pipeline.prepare_topic_data(documents)
    topicwizard.figures.topic_barcharts(data)
    return {"W": data["document_topic_matrix"], "H": data["topic_term_matrix"]}


def librosa_default(module: Any) -> Results:
    """decompose.decompose(S, n_components=4, sort=True): NMF is made by librosa."""
    import librosa

    y, _ = sound()
    S = np.abs(librosa.stft(y, n_fft=512))
    W, H = librosa.decompose.decompose(S, n_components=4, sort=True, init="nndsvda")
    return {"W": W, "H": H}


def librosa_transformer(module: Any) -> Results:
    """decompose.decompose(S, transformer=NMF(solver="mu", beta_loss=1)), then with fit=False."""
    import librosa

    y, _ = sound()
    S = np.abs(librosa.stft(y, n_fft=512))
    model = module.NMF(4, init="nndsvda", solver="mu", beta_loss="kullback-leibler", max_iter=300, random_state=0)
    W, H = librosa.decompose.decompose(S, transformer=model)
    again, codes = librosa.decompose.decompose(S[:, ::2], transformer=model, fit=False)
    return {"W": W, "H": H, "W again": again, "codes": codes}


def librosa_minibatch(module: Any) -> Results:
    """decompose.decompose(S, transformer=MiniBatchNMF)."""
    import librosa

    y, _ = sound()
    S = np.abs(librosa.stft(y, n_fft=512))
    model = module.MiniBatchNMF(4, init="nndsvda", random_state=0, batch_size=32)
    W, H = librosa.decompose.decompose(S, transformer=model)
    return {"W": W, "H": H}


def hyperspy(algorithm: Any) -> Results:
    """Return factors and loadings that hyperspy finds."""
    import hyperspy.api as hs

    hs.preferences.General.show_progressbar = False
    signal = hs.signals.Signal1D(spectra().reshape(12, 10, -1).copy())
    options = {"output_dimension": 3, "print_info": False}
    if algorithm == "NMF":
        options |= {"random_state": 0, "init": "nndsvda"}
    signal.decomposition(algorithm=algorithm, **options)
    found = signal.learning_results
    return {"factors": found.factors, "loadings": found.loadings}


def hyperspy_named(module: Any) -> Results:
    """Signal1D.decomposition(algorithm="NMF")."""
    return hyperspy("NMF")


def hyperspy_given(module: Any) -> Results:
    """Signal1D.decomposition(algorithm=NMF(…))."""
    return hyperspy(module.NMF(3, init="nndsvda", random_state=0))


def cvanmf_ranks(module: Any) -> Results:
    """denovo.rank_selection, which fits and cross-validates over ranks.

    It shuffles X by a generator without a seed, whatever `seed` is (cvanmf 1.0.0), so that two calls with
    scikit-learn's NMF differ as well, rss of rank 3 by 0.8 of itself; here such generators have the seeds 0, 1, ….
    """
    import pandas as pd
    from cvanmf import denovo

    made, seeds = np.random.default_rng, itertools.count()
    X = pd.DataFrame(spectra().T)
    X.index, X.columns = [f"f{i}" for i in X.index], [f"s{j}" for j in X.columns]
    with mock.patch.object(np.random, "default_rng", lambda seed=None: made(next(seeds) if seed is None else seed)):
        found = denovo.rank_selection(X, ranks=[2, 3], shuffles=2, seed=4298, progress_bar=False)
    return {
        f"{name} of rank {rank}": [getattr(each, name) for each in results]
        for rank, results in found.items()
        for name in ("r_squared", "cosine_similarity", "rss")
    }


def cvanmf_decompositions(module: Any) -> Results:
    """denovo.decompositions, and reapply to other samples (non_negative_factorization with H given)."""
    import pandas as pd
    from cvanmf import denovo

    X = pd.DataFrame(spectra().T)
    X.index, X.columns = [f"f{i}" for i in X.index], [f"s{j}" for j in X.columns]
    found = denovo.decompositions(X, ranks=[3], random_starts=4, seed=4298, progress_bar=False)
    best = found[3][0]
    again = best.reapply(X.iloc[:, ::2])
    return {"W": best.w.to_numpy(), "H": best.h.to_numpy(), "H again": again.h.to_numpy()}


def textacy_named(module: Any) -> Results:
    """TopicModel("nmf", n_topics=5): NMF is made by textacy."""
    import textacy.tm

    model = textacy.tm.TopicModel("nmf", n_topics=5, init="nndsvda", random_state=0)
    X = document_terms()
    model.fit(X)
    W = model.get_doc_topic_matrix(X, normalize=False)
    return {"W": W, "H": model.model.components_, "weights": model.topic_weights(W)}


def textacy_given(module: Any) -> Results:
    """TopicModel(NMF(…)): isinstance decides."""
    import textacy.tm

    model = textacy.tm.TopicModel(module.NMF(5, init="nndsvda", random_state=0))
    X = document_terms()
    model.fit(X)
    return {"W": model.get_doc_topic_matrix(X, normalize=False), "H": model.model.components_}


def spectrochempy(module: Any) -> Results:
    """scp.NMF(n_components=3).fit, transform, components."""
    import spectrochempy as scp

    model = scp.NMF(n_components=3, init="nndsvda", random_state=0)
    model.fit(scp.NDDataset(spectra()))
    return {"W": model.transform().data, "H": model.components.data}


# For each client: its calls, in words, and whether they take an object, and so can be given one of nmfcore's.
PROGRAMS: dict[str, dict[str, tuple[Call, bool]]] = {
    "turftopic": {
        "KeyNMF: _initialize_nmf, NMF._fit_transform, update_H=False": (turftopic_fit, False),
        "KeyNMF.partial_fit: MiniBatchNMF with W and H": (turftopic_online, False),
        "KeyNMF.fit_transform_dynamic: _update_coordinate_descent": (turftopic_dynamic, False),
    },
    "cnmf": {"prepare, factorize, combine, consensus: non_negative_factorization": (cnmf, False)},
    "topic-wizard": {"make_topic_pipeline(CountVectorizer(), NMF())": (topicwizard, True)},
    "librosa": {
        "decompose(S, n_components=4)": (librosa_default, False),
        'decompose(S, transformer=NMF(solver="mu", β=1)), fit=False': (librosa_transformer, True),
        "decompose(S, transformer=MiniBatchNMF())": (librosa_minibatch, True),
    },
    "hyperspy": {
        'decomposition(algorithm="NMF")': (hyperspy_named, False),
        "decomposition(algorithm=NMF())": (hyperspy_given, True),
    },
    "cvanmf": {
        "rank_selection": (cvanmf_ranks, False),
        "decompositions, reapply: non_negative_factorization": (cvanmf_decompositions, False),
    },
    "textacy": {
        'TopicModel("nmf")': (textacy_named, False),
        "TopicModel(NMF()): isinstance": (textacy_given, True),
    },
    "spectrochempy": {"NMF.fit, transform, components": (spectrochempy, False)},
}


def run(client: str, way: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Run all programs of a client in one way; return what is told of each, and the arrays."""
    if way == "in its place":
        substitute()
    module = importlib.import_module("nmfcore" if way == "given" else "sklearn.decomposition")
    facts: dict[str, Any] = {"versions": {name: metadata.version(name) for name in (client, *VERSIONS)}, "calls": {}}
    arrays = {}
    for what, (call, takes_object) in PROGRAMS[client].items():
        if way == "given" and not takes_object:
            continue
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                call(module)  # kernels are compiled, modules imported
                caught.clear()
                begun = time.perf_counter()
                results = call(module)
                seconds = time.perf_counter() - begun
        except Exception as error:
            facts["calls"][what] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
            continue
        said = sorted({f"{each.category.__name__}: {' '.join(str(each.message).split())}" for each in caught})
        facts["calls"][what] = {"seconds": seconds, "warnings": said}
        arrays |= {f"{what}/{name}": np.asarray(values, dtype=float) for name, values in results.items()}
    return facts, arrays


if __name__ == "__main__":
    facts, arrays = run(*sys.argv[1:3])
    with open(sys.argv[3], "wb") as file:
        np.savez(file, facts=np.array(json.dumps(facts)), **{f"a{i}": each for i, each in enumerate(arrays.values())},
                 names=np.array(list(arrays)))  # fmt: skip
