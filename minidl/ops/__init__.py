"""Every op of the engine, one page each, grouped by what it does. The table of all of them is minidl.autograd.TABLE.

A page is imported by whoever lists its names: `minidl/__init__.py`, `minidl/nn/functional.py`, `minidl/linalg.py`.
"""
