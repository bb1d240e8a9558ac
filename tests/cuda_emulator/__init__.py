"""CUDA without a GPU: `emulator.h` runs kernels on the host, `module` compiles them, `fake_cupy` stands for CuPy."""
