"""The CPU kernels: compiled functions that work through a block of rows of X, by chapter.

Kernels are serial, hold no GIL, and write into given outputs. Each walks its block in *tiles*: a few rows of X, widened
once from the type that X is stored in to the compute type, into a buffer that stays in the second-level cache. Every
product that needs these rows takes them from there. A tile is whole multiples of the register tiles and padded with
zeros, so that the bits of a row do not depend on the rows beside it.

X is described by a `Block`. Shapes: X is n × m, F (rows of W, or of Ht) n × k, Ht m × k. ``kp`` is k rounded up to
whole vectors; flat buffers whose names end in p have rows of that length, with zeros beyond k.

========================  ==========================================================================================
`passes`                  the names of all kernels but those of the search
`arguments`               the description of a block of X
`buffers`, `reading`      aligned and padded memory; X in any storage type, dense or CSR, into a tile
`product`                 X·Ht, Xᵀ·F and FᵀF of tiles and of CSR rows; the pass that leaves F as it is
`descent`                 coordinate descent, and the fused pass of the Frobenius loss
`multiplicative`          the multiplicative step from given numerators and denominators
`powers`, `beta`          powers and logarithms that vectorise; the fused pass of the β-divergences
`_ratios`                 their ratios and powers of a tile, in LLVM's language
`newton`                  coordinate descent for the Kullback-Leibler divergence
`coding`                  rows of W alone, H fixed
`topk`                    the exact cosine search
`_simd`                   register tiles and other building blocks in LLVM's language
`_decorators`             how all of this is compiled; `_caching`, `_pipeline`, `_digest`: and kept between processes
========================  ==========================================================================================

Importing a chapter imports Numba; importing this package does not.
"""
