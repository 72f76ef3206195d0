"""How exact float32 products of matrices have to be, for the whole process: torch's switch, under torch's name."""

from __future__ import annotations

__all__ = ["get_float32_matmul_precision", "highest", "set_float32_matmul_precision"]

WORDS = ("highest", "high", "medium")
_wanted = "highest"


def set_float32_matmul_precision(precision: str) -> None:
    """ "highest" (the default): as exact as sums of float32 products, or more. "high" and "medium": products may be
    those of two bfloat16 per number, with a relative error of some 1e-6, where that is faster: on CPUs with a tile unit
    for bfloat16 (AMX), in products of 2^22 multiply-adds and more. Raises RuntimeError for another word.
    """
    global _wanted
    if precision not in WORDS:
        raise RuntimeError(f"{precision} is not one of 'highest', 'high', and 'medium'")
    _wanted = precision


def get_float32_matmul_precision() -> str:
    """The word that was set last."""
    return _wanted


def highest() -> bool:
    return _wanted == "highest"
