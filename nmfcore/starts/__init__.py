"""Where a fit begins: random factors, NNDSVD, or fits of samples of the rows."""
