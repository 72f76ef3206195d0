"""What the CPU kernels share.

    machine.py    what this CPU offers: features, the tier, cores, caches
    jit.py        `@jit`: how every kernel is compiled, cached and announced
    threads.py    how many threads kernels and BLAS use
    pool.py       the threads themselves: `parallel_for` inside kernels
    workspace.py  aligned scratch memory that is reused from call to call
    simd.py       whole vectors inside kernels
    pack.py       matrices copied into the order in which the tile reads them
    tile.py       the register tile: the few lines where the arithmetic happens
    gather.py     the tile behind tables of offsets, for convolution and attention
    product.py    the three loops around the tile: C = A @ B
    mathfn.py     exponential, tanh, logistic and error function of whole vectors
    sweep.py      arrays a vector at a time: rows, and element by element

Numba is imported by jit, pool, simd, pack, tile, gather, product, mathfn and sweep only, which load with the first
compiled kernel.
"""
