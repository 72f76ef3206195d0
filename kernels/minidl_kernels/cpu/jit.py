"""How every CPU kernel is compiled: one decorator, one cache folder, one announcement.

    @jit                          compiled on first call, kept on disk, loaded from there in later processes
    @jit(tag="f32 avx512")        the same for a function made by a factory: the tag says what its closure holds
    @jit(inner=True)              called by other kernels only: compiled into them, no file of its own

All kernels run without the GIL, treat division by zero as NumPy does, and use no fastmath, so NaN, Inf and the order
of sums stay as written.

The cache is the user's own (`cache_folder()`), not next to the source, which may be read-only. Its name carries a
hash of this package's source and of what compiles it, so an edit to tile.py makes new gemm kernels, and a folder is
never shared by two CPUs that differ. `numba.config` is left as the user has it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import pickle
import shutil
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import compiler, config
from numba.core.caching import _Cache
from numba.core.serialize import dumps

PACKAGE = Path(__file__).resolve().parents[1]
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": False}


def jit(function: Callable[..., Any] | None = None, *, tag: str = "", inner: bool = False) -> Any:
    """Compile a kernel (see the top of this page). `tag` must tell apart the functions that a factory makes."""
    if function is None:
        return functools.partial(jit, tag=tag, inner=inner)
    cache = DiskCache(function, tag)
    if function.__closure__:
        if not (tag or inner):
            name = function.__qualname__
            raise TypeError(f"@jit on {name}: a function with a closure needs a tag that says what the closure holds")
        # Numba makes symbols of the name, the types and a count per process. What a factory makes differs in none but
        # the count, which a kernel loaded from disk brings along from another process: the linker would mix them up.
        function.__qualname__ += f"_{uuid.uuid4().hex}"
    kernel = numba.njit(**OPTIONS)(function)
    if not (inner or config.DISABLE_JIT):
        kernel._cache = cache
    return kernel


class DiskCache(_Cache):
    """Numba's cache protocol with one file per kernel and signature: no index, so concurrent processes cannot mix
    files up.
    """

    def __init__(self, function: Callable[..., Any], tag: str = "") -> None:
        self._name = f"{function.__module__}.{function.__qualname__}".replace("<locals>.", "").removeprefix(
            "minidl_kernels."
        )
        self._tag = tag
        self._enabled = True

    @property
    def cache_path(self) -> str:
        return str(cache_folder())

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        for path in cache_folder().glob(f"{self._name}-*.bin"):
            path.unlink(missing_ok=True)

    def _path(self, sig: Any, codegen: Any) -> Path:
        key = hashlib.sha256(repr((self._tag, str(sig), codegen.magic_tuple())).encode()).hexdigest()
        return cache_folder() / f"{self._name}-{key[:20]}.bin"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        if self._enabled:
            # A missing, cut or foreign file only means compiling again.
            with contextlib.suppress(Exception):
                payload = pickle.loads(self._path(sig, target_context.codegen()).read_bytes())
                return compiler.CompileResult._rebuild(target_context, *payload)
        announce()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        if not self._enabled or data.library.has_dynamic_globals:
            return
        path = self._path(sig, data.codegen)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}")
        try:
            temporary.write_bytes(dumps(data._reduce()))
            temporary.replace(path)
        except OSError:  # a full disk costs time in the next process, nothing else
            with contextlib.suppress(OSError):
                temporary.unlink()


@functools.cache
def announce() -> None:
    """Say once, on stderr, that this process has to compile."""
    print(
        f"minidl: compiling CPU kernels for this machine (once; cached in {cache_folder()})",
        file=sys.stderr,
        flush=True,
    )


@functools.cache
def cache_folder() -> Path:
    """Where compiled kernels are kept: in the user's cache folder, or in a private temporary one where that cannot be
    written.
    """
    for root in _roots():
        folder = root / f"kernels-{_fingerprint()}"
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            if not (_own(root) and _own(folder)):
                continue
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        _forget_old(root, folder)
        return folder
    folder = Path(tempfile.mkdtemp(prefix="minidl-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _own(folder: Path) -> bool:
    """Whether only this user can write there. What is read from the cache is run."""
    if not hasattr(os, "getuid"):
        return True
    info = folder.stat()
    return info.st_uid == os.getuid() and not stat.S_IMODE(info.st_mode) & 0o022


def _roots() -> list[Path]:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return [Path(base) / "minidl", Path(tempfile.gettempdir()) / f"minidl-{user}"]


def _fingerprint() -> str:
    """A hash of everything that compiled code depends on."""
    codegen = numba.core.registry.cpu_target.target_context.codegen()
    digest = hashlib.sha256(repr((sys.version_info[:2], numba.__version__, codegen.magic_tuple())).encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _forget_old(root: Path, keep: Path) -> None:
    """Remove the folders of earlier versions that nobody has used for a month."""
    now = time.time()
    os.utime(keep)
    for folder in root.glob("kernels-*"):
        with contextlib.suppress(OSError):
            if now - folder.stat().st_mtime > 30 * 86400:
                shutil.rmtree(folder, ignore_errors=True)
