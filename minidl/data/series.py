"""A real time series, shipped: how many spots the sun had, year by year."""

from __future__ import annotations

import os

import numpy as np

from minidl.data.csv_files import load_columns

__all__ = ["sunspots"]


def sunspots() -> tuple[np.ndarray, np.ndarray]:
    """Years int64 (309,), 1700 to 2008, and the mean number of sunspots in each, float64 (309,).

    National Geophysical Data Center; public domain (see sunspots.md beside the file).

    >>> years, spots = sunspots()
    >>> years[0], years[-1], spots[:3].tolist()
    (np.int64(1700), np.int64(2008), [5.0, 11.0, 16.0])
    """
    columns = load_columns(os.path.join(os.path.dirname(__file__), "sunspots.csv"), dtypes={"sunspots": np.float64})
    return columns["year"], columns["sunspots"]
