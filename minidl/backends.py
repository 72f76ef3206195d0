"""torch.backends' switches: they may be set, and mean nothing here.

minidl has one way of computing each thing: float32 is accumulated in float32 or better, and the same program gives the
same bits on the same machine. So `cudnn.deterministic` is always met, `cudnn.benchmark` has nothing to choose from, and
`allow_tf32` allows what is never done.
"""

from __future__ import annotations

from types import SimpleNamespace


class _Backend(SimpleNamespace):
    """One backend's switches."""

    def __init__(self, available: bool, **switches: object) -> None:
        super().__init__(**switches)
        self._available = available

    def is_available(self) -> bool:
        """Whether minidl has this backend."""
        return self._available

    def is_built(self) -> bool:
        """Whether minidl has this backend."""
        return self._available


cudnn = _Backend(False, enabled=False, benchmark=False, deterministic=True, allow_tf32=False)
cuda = _Backend(False, matmul=SimpleNamespace(allow_tf32=False, allow_fp16_reduced_precision_reduction=False))
mps = _Backend(False)
mkldnn = _Backend(False, enabled=False)
mkl = _Backend(False)
openmp = _Backend(False)
