"""Freed memory is kept for the next array, unless the user said otherwise."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
{first}

def step():
    parts = [np.ones((1 << 20) + 4096 * i) for i in range(6)]  # 8 MiB each, written
    return sum(part[-1] for part in parts)

step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 5 * 6 * (8 << 20) // 4096


def faults(first, **environment):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(first=first)],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not os.confstr("CS_GNU_LIBC_VERSION"), reason="a setting of glibc"
)
def test_freed_memory_is_kept_unless_the_user_says_otherwise():
    # Where the system gives huge pages, a fault brings 512 small ones.
    assert faults("import minidl_kernels") < PAGES / 512 / 2
    theirs = faults("import minidl_kernels", MALLOC_TRIM_THRESHOLD_="131072")
    assert theirs >= 0.9 * faults("")
    assert theirs > PAGES / 512 / 2
