"""X as blocks of rows, wherever it lies: in memory, on disk, on a GPU."""
