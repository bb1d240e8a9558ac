"""
Find the strokes that digits are made of
========================================

Which strokes do handwritten digits share, which of them make a 3, and what do twenty parts leave out?
"""

# %%
# The digits
# ----------
#
# scikit-learn brings 1,797 digits of 8 × 8 pixels. ``read_source("train-images-idx3-ubyte.gz")`` reads MNIST in the same way.

import numpy as np

from nmfcore import NMF, analysis, plots
from nmfcore.images import read_source

digits = read_source()
X, labels, shape = digits.matrix, digits.labels, digits.shape
axes = plots.samples_by_class(X, labels, shape)

# %%
# Twenty strokes
# --------------
#
# ``solver="hals"`` needs few passes over the pictures. ``stop_reason_`` says why it ended.

model = NMF(20, solver="hals", random_state=0, max_iter=1000)
W = model.fit_transform(X)
H = model.components_
print(model.n_iter_, "passes:", model.stop_reason_)
axes = plots.components_grid(H, shape, columns=10)

# %%
# The loss falls fast at first, and slowly later:

axes = plots.convergence(model.history_, n_iter=model.n_iter_)

# %%
# One digit, taken apart
# ----------------------
#
# The features of a digit are the weights of its strokes.

axes = plots.sample_features(W[0], H, shape, picture=X[0])

# %%
# The classes
# -----------
#
# Each class uses some strokes more than others. Here are the strongest of each, by their share of the pixels of the class:

axes = plots.components_by_class(W, H, labels, shape)

# %%
# As many strokes as make up half of a class rebuild the mean of that class:

axes = plots.rebuilt_by_class(W, H, labels, shape)

# %%
# All eight strongest strokes of the class 3, each in its own colour, laid over one another:

classes, strongest, _ = analysis.top_components(W, labels, n=8, H=H)
axes = plots.overlay(H, shape, strongest[3], heading=f"The eight strongest parts of class {classes[3]}")

# %%
# What is left out
# ----------------
#
# Some digits are far from every sum of twenty strokes:

axes = plots.best_and_worst(X, W, H, shape, relative=False)

# %%
# In numbers, the mean relative error of a picture, class by class:

errors = analysis.reconstruction_errors(X, W, H)
for name in classes:
    print(name, f"{np.mean(errors[labels == name]):.3f}")
