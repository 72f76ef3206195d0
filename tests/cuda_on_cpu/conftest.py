"""The `xp` of these tests: the stand-in by default; CuPy on a real GPU under `pytest -m gpu`, the same test bodies."""

import fakecupy
import pytest


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def xp(request):
    """The cupy module. In the emulator kernels run in the checked build, threads in random order."""
    if request.param == "gpu":
        import cupy

        cupy.cuda.runtime.getDeviceCount()  # raises where there is none: asked for, so it must be there
        yield cupy
        return
    fakecupy.mode.checked, fakecupy.mode.order, fakecupy.mode.seed = True, "random", 0
    from minidl_kernels.cuda import launch

    with fakecupy.installed() as module:
        launch._kernel.cache_clear()
        yield module
    launch._kernel.cache_clear()
