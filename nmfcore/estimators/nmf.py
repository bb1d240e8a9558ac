"""`NMF` under scikit-learn's name, with its parameters, attributes and messages."""

from __future__ import annotations

import time
import warnings
import zlib
from numbers import Integral, Real
from os import PathLike
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from .. import _compat, rows, scale
from .._compat import Interval, StrOptions
from .._typing import Array, Factor, Matrix
from ..backends import cuda
from ..loop.checkpoint import Checkpoint, held
from ..loop.session import Limits
from ..loop.solve import Coded, Solution, factorize
from ..loop.stopping import StopReason
from ..objective import beta_of, divergence, penalty
from ..rows import Rows
from ..solvers import SOLVERS, Fixed, Solver, handles, reads_columns
from ..starts.samples import sample_rows
from . import _arrangement, _restarts
from ._base import BaseNMF, maximum_reached, zero_solution
from ._missing import check_masked, impute, warn_of_unobserved, without_unobserved
from ._validation import Checks, Output, not_of_dask
from .progress_bar import shown

__all__ = ["NMF"]

# A "cd" fit that has converged warns if all three hold: its tol is at most _EARLY_TOL, its loss fell by more than
# _EARLY_FALL of itself in the last iteration, and ‖X − WH‖² / ‖X‖² is above _EXACT (a nearly exact fit falls for ever).
_EARLY_TOL = 1e-3
_EARLY_FALL = 1e-3
_EXACT = 1e-6
# Parameters that a fit may be continued with other values of.
_NO_MATTER = (
    *("callback", "checkpoint", "checkpoint_every", "max_iter", "max_time", "memory", "n_jobs", "verbose"),
    *("normalize", "sort_components"),
)


class NMF(BaseNMF):
    r"""Non-negative matrix factorisation, X ≈ WH with W, H ≥ 0.

    Minimises over W (n_samples × n_components) and H (n_components × n_features)

    .. math::

        D_\beta(X | WH) + \alpha_W m \big(\rho \|W\|_1 + \tfrac{1 - \rho}{2} \|W\|_F^2\big)
                        + \alpha_H n \big(\rho \|H\|_1 + \tfrac{1 - \rho}{2} \|H\|_F^2\big)

    with :math:`\rho` the `l1_ratio`, n samples, m features, and :math:`D_2 = \frac12\|X - WH\|_F^2`
    the half squared Frobenius norm, :math:`D_1` the generalised Kullback-Leibler and :math:`D_0`
    the Itakura-Saito divergence. A drop-in for ``sklearn.decomposition.NMF``.

    With weights u of the rows (`sample_weight` of `fit`) and v of the columns (`feature_weight`), each
    entry of X counts u_i v_j times, in the loss d_β and in the penalties p alike:

    .. math::

        \sum_{ij} u_i v_j \big(d_\beta(x_{ij} | (WH)_{ij}) + \alpha_W\, p(w_i) + \alpha_H\, p(h_j)\big),
        \qquad p(f) = \rho \|f\|_1 + \tfrac{1 - \rho}{2} \|f\|_2^2

    which for weights of 1 is the objective above. The loss, `reconstruction_err_`, `history_` and
    `kkt_residual_` are those of the weighted objective.

    Parameters
    ----------
    n_components : int, "auto" or None, default="auto"
        Number of components, k. With "auto" it is that of a given W or H, and otherwise the number
        of features. None means the number of features.
    init : {"random", "nndsvd", "nndsvda", "nndsvdar", "custom", "auto"} or None, default=None
        Start of the fit. "random" draws both factors. "nndsvd" takes the nonnegative parts of the
        leading singular vectors of X [5]_; "nndsvda" replaces their zeros by the mean of X,
        "nndsvdar" by small random numbers. "custom" uses the W and H that are passed to the fit,
        and solves for the one that is missing. "auto", for "hals" only, begins with fits of samples
        of the rows where X is tall, and with "nndsvd" elsewhere; it is for the Frobenius norm. None
        means "auto" for "hals" with that norm; for other solvers and losses it means "nndsvda" where
        k ≤ min(n_samples, n_features), else "random".
    solver : {"cd", "hals", "mu"}, default="cd"
        Algorithm. "cd" is the coordinate descent of scikit-learn [1]_, for the Frobenius norm only.
        "hals" is accelerated and extrapolated coordinate descent [3]_, [4]_, for the Frobenius norm and
        the Kullback-Leibler divergence; for the latter [7]_, [8]_ it takes an X in the memory of the CPU,
        without weights and without missing entries, and reads it by rows and by columns. "mu" makes
        multiplicative updates [2]_, for any loss.
    beta_loss : float or {"frobenius", "kullback-leibler", "itakura-saito"}, default="frobenius"
        The loss :math:`D_\beta`: its name, or β, which is 2, 1 and 0 for the three names. For β ≤ 0
        X must not contain zeros. "cd" takes "frobenius" only, "hals" also "kullback-leibler".
    tol : float, default=1e-4
        Tolerance of the stop rule. "cd" stops when the sum of the projected gradients is at most
        `tol` times that of the first iteration; "mu" when √(2 D_β) has fallen by less than `tol`
        times its first value in 10 iterations; "hals" when the error √(2 loss), in proportion to X, has
        fallen by less than `tol` times itself in 10 iterations, when `kkt_residual_` is at most
        ``tol / 10`` while the error has fallen by less than half of `tol` in 5 iterations, or at most
        ``tol / 100``, or when steps in the compute type lower the loss no further. With 0, "mu" and
        "hals" make all iterations.
    max_iter : int, default=200
        Largest number of iterations, each of which is one pass over X; of "hals" on an X of at most
        four million entries, up to 32 passes from the 101st iteration on, as a fit that has not
        ended by then is a slow one. The iterations over samples in the start "auto" are not counted.
    random_state : int, RandomState or None, default=None
        Seed, or generator, of random starts, of the randomised SVD, of the samples of "auto" and of
        `shuffle`. None uses numpy's global generator.
    alpha_W : float, default=0.0
        Weight of the penalties on W. It is multiplied by the number of features.
    alpha_H : float or "same", default="same"
        Weight of the penalties on H. It is multiplied by the number of samples. "same" means
        `alpha_W`.
    l1_ratio : float, default=0.0
        Share of the L1 norm in the penalties, between 0 and 1. The rest is the squared L2 norm.
    verbose : int, default=0
        Whether to print the progress of the fit, in the format of scikit-learn.
    shuffle : bool, default=False
        Whether "cd" and "hals" go through the components in a new random order in every iteration.
    extrapolate : bool, default=False
        Whether "mu" with 1 ≤ β ≤ 2 takes its steps from points ahead of W and H [6]_, which saves
        iterations: the loss of 50 plain ones was reached in 29 to 32, that of 200 in 50 to 104. The
        loss of accepted iterations does not rise. The fit also keeps the W of the iteration before
        and, for β < 2, the best W. It has no effect on `transform`.
    device : {None, "cpu", "cuda", "cuda:1", …, "auto"}, default=None
        Where to compute. None computes where X is: on the GPU for arrays of CuPy, torch or another
        library that are on one, with results of the same kind, and on the CPU for all other X.
        "cuda" computes an X in host memory on a GPU, and raises an error if none works; "auto" uses
        the CPU then.
    dtype : {None, numpy.float32, numpy.float64}, default=None
        Type of the computations and of the factors. None means float32 for X of type float32,
        float16, bool and integers of up to 16 bits, and float64 for all other types.
    n_jobs : int or None, default=None
        Number of threads. −1 means all processors, None as many as the limits of BLAS, OpenMP,
        joblib and the processors allow. Results have the same bits for any number.
    max_time : float or None, default=None
        Seconds from the call after which no further iteration begins; at least one is made. The
        start "auto" ends at that time, too; other starts are made to their end. None means no limit.
    callback : callable or None, default=None
        Called after each accepted iteration with an object that has the attributes ``iteration``,
        ``loss``, ``kkt`` and ``seconds``, and a method ``factors()`` that returns copies of W and H.
        The fit ends if it returns True. A `ProgressBar` shows how far the fit is.
    memory : int, str or None, default=None
        How much of an X on disk may be in memory at a time, in bytes or as text such as "2GB". None
        means "512MB". It limits how far a thread reads ahead, and does not change the result. W, H
        and sums of the size of H come in addition, in float64: two for each thread, and up to seven.
        It has no effect on an X in memory, nor on a ``numpy.memmap``, which the operating system
        keeps in memory as far as it can.
    checkpoint : path-like or None, default=None
        File that stores the state of the fit while it runs. If it exists, the fit continues from it
        and ends with the same bits as if it had not been interrupted. It must come from the same X
        and the same parameters, except those that do not change the result (and, for a Dask array,
        from the same row chunks); otherwise ValueError is raised. X is compared by its sums and by a
        digest of its numbers, a Dask array by its sums, and one with missing entries by a digest of
        what is observed, too. The file is also written after Ctrl-C, and
        when `max_time` or, with `tol` > 0, `max_iter` ends the fit, which can then be continued with
        a larger limit. It is removed when the fit ends otherwise and its results are safe. Only one
        fit at a time can use a file. Of a Dask array, W is brought to this machine for it.
    checkpoint_every : float, default=600
        Seconds between two writings of `checkpoint`.
    sort_components : bool, default=False
        Whether the components are sorted after the fit, those first that explain most of X (see
        `nmfcore.analysis.explained_share`). This reads X once more; of a fit that was interrupted,
        an X on disk or on a cluster is not read, and ⟨w_t h_t, WH⟩ is taken for the share of
        component t, which is the same where the fit has converged. Nothing else depends on it.
    normalize : {"l1", "l2", "max"} or None, default=None
        Which norm of each row of H is 1 after the fit. Columns of W are multiplied by the norms that
        the rows had, so that WH stays as it is. A row of zeros is left as it is. None leaves W and H
        as the fit ended with them. It is refused with penalties, whose value depends on the scales.
    fixed_components : array-like of bool of shape (n_components,) or of int, default=None
        Which rows of the H of the call are kept, bit for bit, while the others are learned: a truth
        value for each row, or the numbers of the rows. It needs ``init="custom"`` and H. These rows
        are neither sorted nor normalised, `kkt_residual_` and the stop rules count the other rows
        only, and if all rows are fixed, W is solved for as `transform` does. None keeps none of them.
    n_init : int, default=1
        Number of runs from different starts. The run with the lowest loss is kept, of equal ones the
        first. Each run is, to the bit, a fit of its own, whose seed does not depend on the number of
        runs. All runs share each pass over an X on disk, and W of all of them is in memory; of an X in
        memory as many as have together no more rows of W than X or 1 GB. On a GPU or on Dask one run
        follows the other. With several runs, ``init=None`` and "auto" begin with fits of samples where
        "hals" draws them, and else mean "random", since an NNDSVD is the same for all runs. "custom",
        "nndsvd" and "nndsvda" raise an error then, and so does `checkpoint`. After `max_time` no further
        run begins. `callback` is called for each run, whose number is ``run``, and ends that run if it
        returns True. `verbose` prints a line for each run.
        An exception or Ctrl-C ends all runs, and the best so far is kept.
    missing_values : {None, numpy.nan, 0}, default=None
        The number of X that stands for a missing entry. NaN may be in an X of floats only; an X of
        integers takes a mask, see `fit_transform`. With 0, zeros are unobserved, and of a sparse X the
        stored numbers alone are read. None means that all entries are observed, and NaN is an error.
    feature_weight : array-like of shape (n_features,) or None, default=None
        How much each column of X counts: v_j ≥ 0 in the weighted objective, in `fit`, `transform` and
        `score`. None is 1 for every column.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features), float32 or float64
        The factor H.
    n_components_ : int
        Number of components.
    reconstruction_err_ : float
        √(2 D_β(X | WH)) of the fitted factors, without penalties.
    n_iter_ : int
        Number of iterations, rejected ones included. Each is a pass over X, or several, see `max_iter`.
    n_features_in_ : int
        Number of features of the fitted X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, defined if X has names that are all strings.
    converged_ : bool
        Whether the stop rule was met.
    stop_reason_ : str
        Why the fit ended, in one sentence.
    history_ : dict of str to ndarray of shape (`n_iter_`,)
        "loss", the objective with penalties (for "mu" with β ≠ 2 it is known every 10 iterations,
        and NaN between); "violation", the sum of the projected gradients (NaN for "mu"); "seconds"
        since the call, in which the start is included, all three float64; and "accepted", bool. An
        iteration of "hals", or of "mu" with `extrapolate`, that raises the loss is rejected: its
        factors are dropped, and "loss" is that of the dropped pair. Accepted losses do not rise,
        except by rounding.
    kkt_residual_ : float
        Distance from a stationary point, which is 0 at one.
    scales_ : ndarray of shape (n_components,), float64
        With `normalize`, what the columns of W were multiplied by and the rows of H divided by; 1 for
        a fixed component.
    init_losses_ : ndarray of shape (n_init,), float64
        The loss of each run with penalties, NaN for a run that was not begun. Defined if `n_init` is
        larger than 1; all other attributes are those of the run with the lowest loss.
    component_stability_ : ndarray of shape (n_components,), float64
        For each component the mean, over the other runs, of its cosine to their component that it is
        matched with: 1 if every run has found it. Components are matched one to one, so that the
        cosines add up to the most. NaN if there is no other run. Defined if `n_init` is larger than 1.

    See Also
    --------
    MiniBatchNMF : Learns from a batch of samples at a time.

    References
    ----------
    .. [1] A. Cichocki, A.-H. Phan, "Fast local algorithms for large scale nonnegative matrix and
       tensor factorizations", IEICE Trans. Fundamentals E92-A(3), 2009.
    .. [2] C. Févotte, J. Idier, "Algorithms for nonnegative matrix factorization with the
       β-divergence", Neural Computation 23(9), 2011.
    .. [3] N. Gillis, F. Glineur, "Accelerated multiplicative updates and hierarchical ALS
       algorithms for nonnegative matrix factorization", Neural Computation 24(4), 2012.
    .. [4] A. M. S. Ang, N. Gillis, "Accelerating nonnegative matrix factorization algorithms using
       extrapolation", Neural Computation 31(2), 2019.
    .. [5] C. Boutsidis, E. Gallopoulos, "SVD based initialization: A head start for nonnegative
       matrix factorization", Pattern Recognition 41(4), 2008.
    .. [6] L. T. K. Hien, V. Leplat, N. Gillis, "Block majorization minimization with extrapolation
       and application to β-NMF", arXiv 2401.06646, 2024.
    .. [7] C.-J. Hsieh, I. Dhillon, "Fast coordinate descent methods with variable selection for
       non-negative matrix factorization", KDD 2011.
    .. [8] P. Carbonetto, A. Sarkar, Z. Wang, M. Stephens, "Non-negative matrix factorization algorithms
       greatly improve topic model fits", arXiv 2105.13440, 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfcore import NMF
    >>> X = np.random.default_rng(0).random((30, 8))
    >>> model = NMF(3, random_state=0, max_iter=500)
    >>> W = model.fit_transform(X)
    >>> W.shape, model.components_.shape, model.converged_
    ((30, 3), (3, 8), True)
    >>> bool(np.isclose(model.reconstruction_err_, np.linalg.norm(X - W @ model.components_)))
    True
    """

    _parameter_constraints: dict = {
        **BaseNMF._parameter_constraints,
        "init": [StrOptions({"random", "nndsvd", "nndsvda", "nndsvdar", "custom", "auto"}), None],
        "solver": [StrOptions(set(SOLVERS))],
        "shuffle": ["boolean"],
        "extrapolate": ["boolean"],
        "memory": [Interval(Integral, 1, None, closed="left"), str, None],
        "missing_values": [Real, None],
        "feature_weight": ["array-like", None],
        "checkpoint": [str, PathLike, None],
        "checkpoint_every": [Interval(Real, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
    }
    __module__ = "nmfcore"  # the name that is imported, so that pickles hold no inner path
    _negative_at_transform = "X in NMF"

    # Parameters of a subclass whose __init__ does not have all of ours.
    shuffle: bool = False
    extrapolate: bool = False
    __metadata_request__transform = {"mask": None}
    __metadata_request__score = {"mask": None}
    _takes_masks = True
    missing_values: float | None = None
    feature_weight: ArrayLike | None = None
    checkpoint: str | PathLike[str] | None = None
    checkpoint_every: float = 600
    n_init: int = 1
    component_stability_: Array

    def __init__(
        self,
        n_components="auto",
        *,
        init=None,
        solver="cd",
        beta_loss="frobenius",
        tol=1e-4,
        max_iter=200,
        random_state=None,
        alpha_W=0.0,
        alpha_H="same",
        l1_ratio=0.0,
        verbose=0,
        shuffle=False,
        extrapolate=False,
        device=None,
        dtype=None,
        n_jobs=None,
        max_time=None,
        callback=None,
        memory=None,
        checkpoint=None,
        checkpoint_every=600,
        sort_components=False,
        normalize=None,
        fixed_components=None,
        n_init=1,
        missing_values=None,
        feature_weight=None,
    ):
        self.n_components = n_components
        self.init = init
        self.solver = solver
        self.beta_loss = beta_loss
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.alpha_W = alpha_W
        self.alpha_H = alpha_H
        self.l1_ratio = l1_ratio
        self.verbose = verbose
        self.shuffle = shuffle
        self.extrapolate = extrapolate
        self.device = device
        self.dtype = dtype
        self.n_jobs = n_jobs
        self.max_time = max_time
        self.callback = callback
        self.memory = memory
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.sort_components = sort_components
        self.normalize = normalize
        self.fixed_components = fixed_components
        self.n_init = n_init
        self.missing_values = missing_values
        self.feature_weight = feature_weight

    def fit(
        self, X: Matrix, y: object = None, sample_weight: ArrayLike | None = None, *, mask: Matrix | None = None,
        **params: ArrayLike | None,
    ) -> Self:  # fmt: skip
        """Learn W and H from X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Non-negative numbers of any real type, see `fit_transform`.
        y : Ignored
            Present by convention.
        sample_weight : array-like of shape (n_samples,), number or None, default=None
            How much each row counts, see `fit_transform`.
        mask : array-like, sparse matrix or store of bool, default=None
            True where an entry of X, or a column, is left out, see `fit_transform`.
        **params : dict
            ``W`` and ``H``, see `fit_transform`.

        Returns
        -------
        self : object
        """
        return super().fit(X, y, sample_weight=sample_weight, mask=mask, **params)

    @_compat.fit_context(prefer_skip_nested_validation=True)
    def fit_transform(
        self,
        X: Matrix,
        y: object = None,
        W: ArrayLike | None = None,
        H: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        mask: Matrix | None = None,
        out: PathLike[str] | str | Array | None = None,
    ) -> Array:
        """Learn W and H from X, and return W.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Non-negative numbers of any real type, dense, CSR or CSC; X is not copied as a whole. Or a
            matrix on disk, of which a few blocks of rows are in memory at a time: a
            ``numpy.memmap``, the path of a ``.npy`` file, an h5py dataset, a Zarr array, the path
            of either ("file.h5::name"), or a stream of row blocks (`RowBlocks`). It is read once in
            every iteration, once before and once after the fit (twice where entries are missing), and
            several times by the start (an NNDSVD reads it up to 16 times, "auto" up to 7 times). The
            result has the bits of a fit from memory. Or a Dask array, whose rows of W are returned as one.
        y : Ignored
            Present by convention.
        W : array-like of shape (n_samples, n_components), default=None
            Start of W, for ``init="custom"``. Not written. Of the type of X, or float64 for an X
            that is computed on in float32.
        H : array-like of shape (n_components, n_features), default=None
            Start of H, for ``init="custom"``, as W.
        sample_weight : array-like of shape (n_samples,), number or None, default=None
            How much each row counts: u_i ≥ 0 in the weighted objective of `NMF`. A row that counts
            twice is a row that X holds twice, and one that counts 0 gets its row of W and has no other
            influence. The start of the fit does not depend on the weights, except that "auto" draws
            samples of rows that count, and fits them with their weights. Not for a Dask array, nor on
            a GPU, nor with a mask of single entries. None is 1 for every row.
        mask : array-like, sparse matrix or store of bool, default=None
            True where an entry of X is left out, as in ``numpy.ma``: of the shape of X, or of shape
            (n_features,) for columns that are left out as a whole. A boolean array, a memory map, a
            sparse matrix, or the path, h5py dataset or Zarr array of one beside an X on disk. A
            ``numpy.ma.MaskedArray`` brings its mask with it. What X holds where it is left out has no
            influence, and may be NaN. Losses are sums over observed entries; penalties are scaled as
            without a mask. A row or a column of which nothing is observed is zero in W or H. For a
            Dask array, a mask is in memory, and each block is sent its rows; or it is a Dask array, too,
            in any chunks of known heights. A mask is not taken on a GPU.
        out : path-like or ndarray of shape (n_samples, n_components), default=None
            Where W is written instead of into memory. A path is that of a new ``.npy`` file, which is
            written at the end of the fit and returned as a memory map; during the fit, W and the
            other row-aligned arrays of the solver lie in nameless files in its folder. An array is
            filled and returned; if it is a ``numpy.memmap``, its folder is used in the same way. When
            Ctrl-C or the callback ends the fit, an array is filled with the W that belongs to
            ``components_`` before the exception is raised, and no file is made: the same path can be
            given again.

        Returns
        -------
        W : ndarray of shape (n_samples, n_components), float32 or float64

        Raises
        ------
        ValueError
            If a parameter is invalid, if X, W or H has a wrong shape, or negative or missing values
            (for an X on disk after the first pass over it, with the row and column), or if the
            checkpoint is that of another fit.
        TypeError
            If W or H is float32 and X is computed on in float64.
        """
        if rows.is_lazy(X):
            not_of_dask(out=out)
        _restarts.check(self)
        begun = time.perf_counter()
        with held(self.checkpoint), shown(self.callback, self.max_iter), np.errstate(under="ignore"):
            output = Output(out)
            checks = self._fit_checks()
            with self._open(X, checks, mask=mask, sample_weight=sample_weight) as data:
                output.check(data, self._resolve(data.given_shape[1])[0])
                tasks = _compat.FitTasks(self, X, self.max_iter * self.n_init)
                solution, view, checkpoint = self._factorize(data, W, H, tasks, begun)
                with output.held_by(lambda: data.rows_to_caller(solution.W)):
                    self._keep(
                        solution,
                        data.to_caller(data.spread(solution.Ht)),
                        solution.n_iter,
                        solution.divergence,
                        solution.kkt,
                        view.power,
                    )
                codes = output.filled(data.rows_to_caller(solution.W))
                self._warn(solution, view)  # may raise, and then the checkpoint is all that is left of W
                tasks.close()
                self._over(solution, checkpoint)
                return codes

    def impute(self, X: Matrix, mask: Matrix | None = None) -> Array:
        """Return X with W · ``components_`` where it is missing.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Non-negative numbers of any real type, in memory or on disk; not sparse. Or a Dask array.
        mask : array-like, sparse matrix or store of bool, default=None
            True where an entry of X, or a column, is missing, see `fit_transform`. Entries that
            `missing_values` marks are missing, too.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), float32 or float64
            A copy. Observed entries are those of X, in the type that is computed in; the others
            are those of ``transform(X, mask=mask) @ components_``. Of a Dask array it is a Dask array,
            which is computed block by block.

        Raises
        ------
        ValueError
            If X is sparse, or not a matrix of nonnegative numbers.

        Examples
        --------
        >>> import numpy as np
        >>> from nmfcore import NMF
        >>> X = np.outer([1.0, 2, 3, 4], [2.0, 1, 3])
        >>> X[1, 2] = np.nan
        >>> model = NMF(1, missing_values=np.nan, tol=1e-10, max_iter=1000).fit(X)
        >>> bool(np.isclose(model.impute(X)[1, 2], 6))
        True
        """
        return impute(self, X, mask)

    def _fit_transform(
        self, X: Matrix, y: object = None, W: ArrayLike | None = None, H: ArrayLike | None = None, update_H: bool = True
    ) -> tuple[Array, Array, int]:
        """Return W, H and the number of iterations: a private method of scikit-learn's NMF that others call.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : Ignored
        W : array-like of shape (n_samples, n_components), default=None
        H : array-like of shape (n_components, n_features), default=None
        update_H : bool, default=True
            Whether H is learned, and the estimator fitted; else H is given, and only W is solved for.

        Returns
        -------
        W : ndarray of shape (n_samples, n_components)
        H : ndarray of shape (n_components, n_features)
        n_iter : int
        """
        if update_H:
            return self.fit_transform(X, W=W, H=H), self.components_, self.n_iter_
        with np.errstate(under="ignore"), self._open(X, self._checks("NMF initialization", reset=False)) as data:
            coded, Ht = self._code(data, H, given=True)
            return data.rows_to_caller(coded.W), data.to_caller(Ht).T, coded.n_iter

    def _fit_checks(self, named: bool = True) -> Checks:
        """Return what is checked of the X of a fit."""
        checks = self._checks("NMF initialization", reset=True, named=named)
        if reads_columns(self.solver, beta_of(self.beta_loss)):
            checks.read_by_columns = self.solver, self.beta_loss
        return checks

    def _check_solver(self, warn: bool) -> None:
        if not handles(self.solver, beta_of(self.beta_loss)):
            raise ValueError(
                f"Invalid beta_loss parameter: solver {self.solver!r} does not handle beta_loss = {self.beta_loss!r}"
            )
        if self.init == "auto" and not self._auto:
            of_loss = "" if self.solver != "hals" else f" with beta_loss={self.beta_loss!r}"
            raise ValueError(
                f"init='auto' is for solver='hals'{' and the Frobenius norm' if of_loss else ''}; solver="
                f"{self.solver!r}{of_loss} takes None, 'random', 'nndsvd', 'nndsvda', 'nndsvdar' or 'custom'."
            )
        if self.extrapolate and not (self.solver == "mu" and 1 <= beta_of(self.beta_loss) <= 2):
            raise ValueError(
                f"extrapolate=True with solver={self.solver!r} and beta_loss={self.beta_loss!r}: only solver='mu' with "
                "1 <= beta_loss <= 2 extrapolates. Set extrapolate=False, or choose such a solver and loss."
            )
        if warn and self.solver == "mu" and self.init == "nndsvd":
            warnings.warn(
                "The multiplicative update ('mu') solver cannot update zeros present in the "
                "initialization, and so leads to poorer results when used jointly with "
                "init='nndsvd'. You may try init='nndsvda' or init='nndsvdar' instead.",
                UserWarning,
                stacklevel=2,
            )

    def _factorize(
        self, data: Rows, W: Factor, H: Factor, tasks: _compat.FitTasks, begun: float
    ) -> tuple[Solution, Rows, Checkpoint | None]:
        """Return what a fit ends with, X as it was read (the divergence is in its unit), and the checkpoint."""
        self._n_components, self._beta_loss = self._resolve(data.given_shape[1])
        self._check_solver(warn=True)
        if data.masked or data.chosen is not None:
            check_masked(self, data)
        warn_of_unobserved(data)
        _arrangement.check(self)
        fixed = _arrangement.fixed_rows(self.fixed_components, self.init, H)
        self._check_zeros(data, self._beta_loss)
        for name in ("init_losses_", "component_stability_"):  # of an earlier fit
            self.__dict__.pop(name, None)
        if fixed is not None and not fixed.width:
            return self._all_fixed(data, fixed, W, H, begun)
        checkpoint = self._checkpoint(data, W, H)
        data = self._seen(data, self._beta_loss, W, H)
        if self.n_init > 1:
            return self._finished(self._restarted(data, W, H, tasks, begun), data, fixed, H), data, None
        kept = None if checkpoint is None else checkpoint.found()
        if kept is None:
            W, Ht = self._start(data, W, H, begun)
        else:  # only the loop may hold W, so that its memory is free when the loop drops it
            W, Ht = None, kept.Ht
            assert checkpoint is not None
            self._check_passes(checkpoint)
        if data.masked:
            Ht = without_unobserved(data, Ht)
        del kept
        if data.summary().total == 0:
            return self._finished(zero_solution(W, Ht, self.solver, begun), data, fixed, H), data, checkpoint
        solution = factorize(
            data,
            self._solver_of(data, Ht.shape[1], fixed),
            W,
            Ht,
            Limits(self.tol, self.max_iter, self.max_time, begun),
            callback=scale.watched(self._watch(tasks), data.power, self._beta_loss),
            verbose=self.verbose,
            checkpoint=checkpoint,
            overwrite_W=self.init != "custom",
        )
        return self._finished(solution, data, fixed, H), data, checkpoint

    def _finished(self, solution: Solution, view: Rows, fixed: Fixed | None, H: Factor) -> Solution:
        """Return a solution in the unit of X, with its components in their order and scale; H has the fixed ones."""
        solution, found = self._arranged(view, solution, fixed)
        if found is not None and self.n_init > 1:
            self.component_stability_ = self.component_stability_[found.order]
        Ht = self._with_fixed(solution.Ht, view, fixed, H)
        return solution._replace(Ht=Ht, history=scale.history(solution.history, view.power, self._beta_loss))

    def _all_fixed(
        self, data: Rows, fixed: Fixed, W: Factor, H: Factor, begun: float
    ) -> tuple[Solution, Rows, Checkpoint | None]:
        """Solve for W alone, as `transform` does, and return what `_factorize` does."""
        for name in ("checkpoint", "callback", "max_time"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name} has no meaning where fixed_components names all rows of H and every row of W is solved "
                    "for alone: leave it out."
                )
        if W is not None:
            warnings.warn(
                "All components are fixed, and every row of W is solved for from H alone: the W of the call is not "
                "used.",
                RuntimeWarning,
                stacklevel=4,
            )
        coded, Ht = self._code_given(data, H)
        self._n_components = Ht.shape[1]
        view = self._seen(data, self._beta_loss, H)
        solver = self._solver(self._penalties(view.counts, view), self._beta_loss, fixed=fixed)
        W, Ht = scale.times(coded.W, view.power), view.backend.asarray(scale.times(Ht, view.power))
        left = coded.unsettled > 0 and self.tol > 0
        reason = StopReason.MAX_ITER.given(max_iter=self.max_iter) if left else StopReason.FIXED.given()
        loss, kkt = divergence(view, W, Ht, solver.beta), 0.0
        if view.summary().total:  # one pass more, of which nothing is kept but the residual
            kkt = factorize(view, solver, W, Ht, Limits(0, 1), measure=False).kkt
        history = {
            "loss": np.array([loss + penalty(solver.penalties, W, Ht, view)]),
            "violation": np.full(1, np.nan),
            "seconds": np.array([time.perf_counter() - begun]),
            "accepted": np.ones(1, np.bool_),
        }
        solution = Solution(W, Ht, coded.n_iter, reason, history, loss, kkt, None, 0.0)
        return self._finished(solution, view, fixed, H), view, None

    def _solver_of(self, data: Rows, k: int, fixed: Fixed | None = None) -> Solver:
        """Return the solver of a fit with k components, of X as `data` reads it."""
        options: dict[str, Any] = {"extrapolate": self.extrapolate, "fixed": fixed}
        if self.shuffle:
            options["shuffle"] = check_random_state(self.random_state)
        if data.masked:
            options["masked"] = data.masked
        elif self._auto and sample_rows(*data.shape, k):
            options["trusted"] = True
        return self._solver(self._penalties(data.given_counts, data), self._beta_loss, **options)

    def _restarted(self, data: Rows, W: Factor, H: Factor, tasks: _compat.FitTasks, begun: float) -> Solution:
        """Return what the best of several runs ends with, and set the attributes that tell of all runs."""
        if data.summary().total == 0:
            W, Ht = self._start(data, W, H, begun)
            self.init_losses_, self.component_stability_ = np.zeros(self.n_init), np.zeros(Ht.shape[1])
            return zero_solution(W, Ht, self.solver, begun)
        watch = scale.watched(self._watch(tasks), data.power, self._beta_loss)
        runs = _restarts.restarted(self, data, W, H, watch, begun)
        self.init_losses_ = scale.times(runs.losses, -scale.of_loss(data.power, self._beta_loss))
        self.component_stability_ = runs.stability(data.backend)
        self._runs_ended(runs)
        return runs.best

    def _runs_ended(self, runs: _restarts.Restarted) -> None:
        """Take note of the runs of a fit, which a subclass may."""

    def _check_passes(self, checkpoint: Checkpoint) -> None:
        if checkpoint.passes is not None and checkpoint.passes > self.max_iter:
            raise ValueError(
                f"the checkpoint '{checkpoint.path}' is of iteration {checkpoint.passes}, but max_iter = "
                f"{self.max_iter}: give a larger max_iter to go on from it, or another path, or delete it."
            )

    def _over(self, solution: Solution, checkpoint: Checkpoint | None) -> None:
        """Remove the checkpoint, now that the results are safe, unless the fit can go on from it."""
        termination = solution.termination
        unfinished = termination.out_of_time or (termination.out_of_iterations and self.tol > 0)
        if checkpoint is not None and not unfinished:
            checkpoint.remove()

    def _checkpoint(self, data: Rows, W: Factor, H: Factor) -> Checkpoint | None:
        """Return where the fit is to be kept, with what must be the same for another fit to go on from it."""
        if self.checkpoint is None:
            return None
        no_matter = set(_NO_MATTER)
        if self.init == "custom" and (W is None or H is None):  # the start itself depends on it
            no_matter.remove("max_iter")
        settings = {name: value for name, value in self.get_params(deep=False).items() if name not in no_matter}
        identity = {name: _written(value) for name, value in settings.items()}
        identity["dtype"] = str(data.dtype)  # what None stands for
        identity["device"] = data.backend_name
        identity["shape of X"], identity["dtype of X"] = str(data.shape), str(data.given_dtype)
        identity["blocks of X"] = data.cut
        opening = data.summary()
        identity["sums of X"] = f"{opening.minimum!r}, {opening.total!r}, {opening.squares!r}"
        identity["contents of X"] = data.digest()
        if self.init == "custom":
            for name, F in (("W", W), ("H", H)):
                numbers = None if F is None else np.ascontiguousarray(cuda.to_host(F))
                identity[f"the start {name}"] = "None" if numbers is None else f"{zlib.crc32(numbers.tobytes()):08x}"
        checkpoint = Checkpoint(self.checkpoint, self.checkpoint_every, identity, not data.state_in_memory)
        data.keep_in(checkpoint)
        return checkpoint

    def _warn(self, solution: Solution, data: Rows) -> None:
        if data.summary().total == 0:
            return
        self._warn_if_empty(data, solution.W, solution.Ht)
        # scikit-learn warns even if the rule fired in the very last iteration; hals, which is ours, does not.
        if self.solver != "hals" or not solution.termination.converged:
            self._warn_of_end(solution.n_iter, solution.termination)
        early = self.solver == "cd" and solution.termination.converged and self.tol <= _EARLY_TOL
        matters = 2 * solution.divergence > _EXACT * data.summary().squares
        if early and matters and solution.still_falling > _EARLY_FALL:
            warnings.warn(
                f"Stopped after {solution.n_iter} iterations, as tol={self.tol:g} was met, while "
                f"the loss still fell by {100 * solution.still_falling:.2g} % in the last one: "
                f"the rule compares with the first iteration, which the start made large. Decrease tol, or use "
                'solver="hals", whose rule does not depend on the start.',
                ConvergenceWarning,
                stacklevel=3,
            )

    def _code_given(self, data: Rows, H: Factor, typed: bool = True) -> tuple[Coded, Array]:
        """Solve for W with H fixed; `typed` is whether H must have the type of X."""
        k, beta = self._resolve(data.given_shape[1])
        H, dtype = self._factor(H, (k, data.given_shape[1]), "H")
        H = data.picked(H)
        if typed:
            self._check_types(data, H=dtype)
        Ht = np.ascontiguousarray(H.T, data.dtype)
        return self._coded(data, Ht, beta, self.tol, max_iter=self.max_iter), Ht

    def _code(self, data: Rows, H: Factor, given: bool = False) -> tuple[Coded, Array]:
        """Solve for W with H fixed; an H that the caller has `given` must have the type of X."""
        beta = beta_of(self.beta_loss)
        self._check_solver(warn=given)
        self._check_zeros(data, beta)
        coded, Ht = self._code_given(data, H, given)
        if coded.unsettled and self.tol > 0:
            rows = f"({coded.unsettled} of {data.shape[0]} rows reached it.)"
            message = f"{maximum_reached(self.max_iter)} {rows}"
            warnings.warn(message, ConvergenceWarning, stacklevel=3)
        return coded, Ht


def _written(value: object) -> str:
    """Return a parameter as text, by which two values of it are compared."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return f"a {type(value).__name__}" if isinstance(value, np.random.RandomState) else repr(value)
