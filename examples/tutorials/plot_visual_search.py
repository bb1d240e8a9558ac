"""
Build a search engine for pictures
==================================

A folder of pictures becomes searchable by likeness: learn the parts that the pictures are made of, describe each picture
by the parts that are in it, and compare the descriptions.
"""

# %%
# The pictures
# ------------
#
# We draw 600 faces, so that the tutorial needs no download. Each row of ``faces.matrix`` is a picture of 48 × 48 bytes.
# With pictures of your own, write ``faces = load_images("folder")``; pictures of any size are brought to one.

import numpy as np

from nmfcore import NMF, plots
from nmfcore.images import drawn_faces
from nmfcore.search import SearchEngine

faces = drawn_faces()
print(faces)
axes = plots.samples_by_class(faces.matrix, faces.labels, faces.shape)

# %%
# The parts
# ---------
#
# ``SearchEngine`` fits a model with the fast solver, ``hals``, and keeps the codes of all pictures. Twenty parts are
# enough to tell these faces apart.

engine = SearchEngine(20, random_state=0, max_iter=1000).fit(faces)
print(engine, f"relative error {engine.model.relative_error:.3f}")
axes = plots.components_grid(engine.model.components, engine.shape, columns=10)

# %%
# Every face is a sum of these parts. What the parts cannot say is missing from the reconstruction:

rows = [0, 1, 2, 3, 4, 5, 6, 7]
axes = plots.reconstructions(engine.originals(rows), engine.reconstructions(rows), engine.shape)

# %%
# The search
# ----------
#
# The similarity of two pictures is the cosine of their codes. The search is exact.

query = 3
found = engine.search(query, n=9)
print(found)
rows = [query, *found.indices]
axes = plots.neighbours(
    engine.originals(rows),
    engine.reconstructions(rows),
    engine.shape,
    [str(faces.labels[row]) for row in rows],
    found.scores,
    heading="Most similar to the framed one",
)

# %%
# A code is more than a number: ``explain`` names the parts that two pictures share.

print(engine.explain(query, found.indices[0]))

# %%
# How good is the search? The faces have labels, the kind of their hair, which the engine has not seen. Count how many of
# the nearest nine have the label of the query:

hits = [
    (faces.labels[engine.search(row, n=9).indices] == faces.labels[row]).mean()
    for row in range(0, len(faces.matrix), 10)
]
print(f"{sum(hits) / len(hits):.0%} of the neighbours have the same hair")

# %%
# How many parts?
# ---------------
#
# With more parts the error falls. Where the curve bends, further parts say little that is new.

ks = [2, 5, 10, 15, 20, 30, 40]
fits = [NMF(k, solver="hals", random_state=0, max_iter=1000).fit(faces.matrix) for k in ks]
length = np.linalg.norm(faces.matrix.astype(float))  # the error of a reconstruction that is all zeros
errors = [fit.reconstruction_err_ / length for fit in fits]
axes = plots.error_against_k(ks, errors, chosen=20)

# %%
# Keep it
# -------
#
# ``engine.save("faces")`` writes a folder that ``SearchEngine.load`` maps back into memory. ``nmfcore serve faces`` shows it
# as a wall of pictures in the browser.
