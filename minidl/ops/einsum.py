"""Einstein's summation: one line of letters says which dimensions meet, which are summed and which are kept.

Every equation becomes views (diagonals, permutations), sums and products of stacks of matrices.
"""

from __future__ import annotations

import builtins
from functools import lru_cache
from typing import Any

from minidl.autograd import op, require
from minidl.ops.arithmetic import mul
from minidl.ops.axes import permute
from minidl.ops.common import prod
from minidl.ops.diagonals import diagonal
from minidl.ops.linalg import matmul
from minidl.ops.reduce import sum
from minidl.ops.shapes import reshape


@op()
def einsum(equation: Any, *operands: Any) -> Any:
    """The sum of products that `equation` describes, operands taken from the left, two at a time.

    "ij,jk->ik" is the product of two matrices, "bij,bjk->bik" of two stacks, "ii->i" a diagonal, "ij->" the sum. A
    letter names a dimension; the same letter twice in one operand is its diagonal. Letters that the right hand side
    leaves out are summed; without "->" those that occur once are kept, in alphabetical order. "..." stands for
    dimensions without a name, which broadcast. Dimensions of size 1 stretch. Also einsum(x, [0, 1], y, [1, 2], [0, 2])
    with integers (and Ellipsis) for letters.

    Raises RuntimeError for an equation that is malformed or does not fit the operands.

    >>> import minidl
    >>> a, b = minidl.arange(6).reshape(2, 3), minidl.arange(3)
    >>> einsum("ij,j->i", a, b)
    tensor([ 5, 14])

    Try: einsum('ij,jk->ik', randn(2, 3), randn(3, 2))
    """
    if isinstance(equation, str):
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            operands = tuple(operands[0])
        terms, output = _parse(equation)
    else:
        terms, output, operands = _lists(equation, *operands)
    require(len(operands) > 0, "einsum(): must provide at least one operand")
    require(
        len(terms) == len(operands), "einsum(): the equation has {} operands, {} were given", len(terms), len(operands)
    )
    spread = _ellipsis_size(terms, operands)
    named = [_named(term, x, spread) for term, x in zip(terms, operands)]
    kept = _output(output, terms, spread)
    for label in kept:
        require(
            builtins.any(label in labels for _, labels in named),
            "einsum(): output subscript {} does not appear in the equation for any input operand",
            label,
        )
    _check_sizes(named)
    x, labels = named[0]
    for i, (y, others) in enumerate(named[1:], 1):
        later = {label for _, rest in named[i + 1 :] for label in rest} | set(kept)
        x, labels = _contract(x, labels, y, others, later)
    x, labels = _sum_out(x, labels, set(kept))
    order = tuple(labels.index(label) for label in kept)
    return permute(x, order) if len(named) == 1 else _permuted(x, order)


# -- reading the equation: a term is a list of letters and Ellipsis ---------------------------------------------------


@lru_cache(maxsize=1000)
def _parse(equation: str) -> tuple[list[list], list | None]:
    left, arrow, right = equation.replace(" ", "").partition("->")
    return [_letters(term) for term in left.split(",")], _letters(right) if arrow else None


def _letters(term: str) -> list:
    found: list[Any] = []
    i = 0
    while i < len(term):
        if term.startswith("...", i):
            require(Ellipsis not in found, "einsum(): found '.' for which an ellipsis was already found: {}", term)
            found.append(Ellipsis)
            i += 3
            continue
        require(
            term[i].isascii() and term[i].isalpha(),
            "einsum(): subscripts must be in [a-zA-Z] but found {} in {}",
            repr(term[i]),
            repr(term),
        )
        found.append(term[i])
        i += 1
    return found


def _lists(*args: Any) -> tuple[list[list], list | None, tuple]:
    """x, [0, 1], y, [1, 2], ..., and perhaps the output's list at the end."""

    def term(numbers: Any) -> list:
        for n in numbers:
            require(n is Ellipsis or 0 <= n < 52, "einsum(): subscripts in a list must be within [0, 52), got {}", n)
        return [n if n is Ellipsis else chr(ord("A" if n < 26 else "a") + n % 26) for n in numbers]

    pairs = len(args) // 2
    terms = [term(args[2 * i + 1]) for i in range(pairs)]
    return terms, term(args[-1]) if len(args) % 2 else None, tuple(args[0 : 2 * pairs : 2])


def _ellipsis_size(terms: list[list], operands: tuple) -> int:
    """How many dimensions the ellipses cover: the most that any operand has beyond its letters."""
    most = 0
    for term, x in zip(terms, operands):
        ndim, letters = len(x.shape), len(term) - (Ellipsis in term)
        require(
            ndim >= letters if Ellipsis in term else ndim == letters,
            "einsum(): the subscripts {} do not match the {} dimensions of an operand of shape {}",
            "".join("..." if t is Ellipsis else t for t in term),
            ndim,
            tuple(x.shape),
        )
        most = builtins.max(most, ndim - letters)
    return most


def _named(term: list, x: Any, spread: int) -> tuple[Any, list]:
    """An operand and one label for each of its dimensions: letters, and numbers for those under an ellipsis, counted
    from the right; of a letter that comes twice, the diagonal."""
    labels: list[Any] = []
    for t in term:
        if t is Ellipsis:
            covered = len(x.shape) - len(term) + 1
            labels += range(spread - covered, spread)
        else:
            labels.append(t)
    i = 0
    while i < len(labels):
        if labels[i] in labels[:i]:
            first = labels.index(labels[i])
            require(
                x.shape[first] == x.shape[i],
                "einsum(): subscript {} is repeated for an operand of shape {} but the sizes {} and {} differ",
                labels[i],
                tuple(x.shape),
                x.shape[first],
                x.shape[i],
            )
            x = diagonal(x, 0, first, i)
            label = labels[i]
            labels = [k for j, k in enumerate(labels) if j not in (first, i)] + [label]
            i = 0
        else:
            i += 1
    return x, labels


def _output(output: list | None, terms: list[list], spread: int) -> list:
    """The labels of the result, in order."""
    if output is None:
        letters = [t for term in terms for t in term if t is not Ellipsis]
        return [*range(spread), *sorted(t for t in set(letters) if letters.count(t) == 1)]
    for t in output:
        require(output.count(t) == 1, "einsum(): output subscript {} appears more than once in the output", t)
    return [k for t in output for k in (range(spread) if t is Ellipsis else (t,))]


def _check_sizes(named: list) -> None:
    sizes: dict[Any, int] = {}
    for x, labels in named:
        for label, n in zip(labels, x.shape):
            have = sizes.get(label, 1)
            require(
                n == have or n == 1 or have == 1,
                "einsum(): subscript {} has size {} in one operand and {} in another; they must be equal or 1",
                label if isinstance(label, str) else "...",
                have,
                n,
            )
            sizes[label] = n if have == 1 else have


# -- computing --------------------------------------------------------------------------------------------------------


def _sum_out(x: Any, labels: list, needed: set) -> tuple[Any, list]:
    """x summed over the dimensions that nobody needs."""
    dims = tuple(i for i, label in enumerate(labels) if label not in needed)
    return (sum(x, dims), [label for label in labels if label in needed]) if dims else (x, labels)


def _permuted(x: Any, order: tuple[int, ...]) -> Any:
    return x if order == tuple(range(len(order))) else permute(x, order)


def _reshaped(x: Any, shape: tuple[int, ...]) -> Any:
    return x if tuple(x.shape) == shape else reshape(x, shape)


def _contract(x: Any, of_x: list, y: Any, of_y: list, later: set) -> tuple[Any, list]:
    """The product of two operands, summed over what is needed no later: as a product of stacks of matrices."""
    x, of_x = _sum_out(x, of_x, later | set(of_y))
    y, of_y = _sum_out(y, of_y, later | set(of_x))
    size_x, size_y = dict(zip(of_x, x.shape)), dict(zip(of_y, y.shape))
    summed = [k for k in of_x if k in size_y and k not in later]
    for k in summed:  # a stretched dimension: sum the other operand first
        if size_x[k] == 1 and size_y[k] != 1:
            y, size_y[k] = sum(y, of_y.index(k), True, dtype=y.dtype), 1
        elif size_y[k] == 1 and size_x[k] != 1:
            x, size_x[k] = sum(x, of_x.index(k), True, dtype=x.dtype), 1
    batch = [k for k in of_x if k in size_y and k in later]
    rows, columns = [k for k in of_x if k not in size_y], [k for k in of_y if k not in size_x]
    x = _permuted(x, tuple(of_x.index(k) for k in (*batch, *rows, *summed)))
    y = _permuted(y, tuple(of_y.index(k) for k in (*batch, *summed, *columns)))
    found = [*batch, *rows, *columns]
    if not summed:
        x = _reshaped(x, tuple(x.shape) + (1,) * len(columns))
        y = _reshaped(y, (*y.shape[: len(batch)], *(1,) * len(rows), *y.shape[len(batch) :]))
        return mul(x, y), found
    stack_x, stack_y = tuple(size_x[k] for k in batch), tuple(size_y[k] for k in batch)
    inner = prod([size_x[k] for k in summed])
    x = _reshaped(x, (*stack_x, prod([size_x[k] for k in rows]), inner))
    y = _reshaped(y, (*stack_y, inner, prod([size_y[k] for k in columns])))
    z = matmul(x, y)  # B, M, K @ B, K, N
    stack = tuple(z.shape[: len(batch)])
    return _reshaped(z, (*stack, *[size_x[k] for k in rows], *[size_y[k] for k in columns])), found
