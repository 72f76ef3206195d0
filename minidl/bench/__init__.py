"""``minidl bench``: the kernels and models on this machine, verified, against its ceilings and against other libraries.

shapes.py, networks/   what is timed: layers of real networks, as data
rows.py                one entry per kernel: arguments from a shape, operations, tolerance
peers/                 the same jobs in NumPy, torch and onnxruntime
ceilings.py            what the machine can do at most
timing.py              turns, blocks, settling, the spread of a ratio
verify.py              proof that the work was done; selftest.py plants cheats
kernels.py, models.py  putting it together for kernels, and for whole training steps
compare.py             two runs: what changed
command.py             the command line
"""
