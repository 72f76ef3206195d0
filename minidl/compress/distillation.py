"""Distillation: a small model learns from a large one's probabilities, which say more than a label does."""

from __future__ import annotations

from typing import Any

from minidl.autograd import no_grad
from minidl.nn import functional as F
from minidl.tensors import Tensor, wrap

__all__ = ["Distillation", "distillation_loss"]


def distillation_loss(
    student: Any, teacher: Any, target: Any = None, temperature: float = 4.0, alpha: float = 0.9
) -> Any:
    """alpha T^2 KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) cross_entropy(student, target)

    Hinton, Vinyals & Dean 2015, arXiv:1503.02531; T^2 keeps the gradient's size when T changes. student, teacher:
    logits (N, C); target: classes (N,), or None for the first term alone (alpha is then 1). Raises ValueError for a
    temperature that is not positive, alpha outside [0, 1], and logits of different shape.

    >>> import minidl
    >>> x = minidl.tensor([[1.0, 2.0, 3.0]])
    >>> distillation_loss(x, x).item()
    0.0
    """
    if not temperature > 0 or not 0 <= alpha <= 1:
        raise ValueError(f"temperature must be positive and alpha in [0, 1], got {temperature} and {alpha}")
    if tuple(student.shape) != tuple(teacher.shape):
        raise ValueError(
            f"student and teacher must have the same classes, got {tuple(student.shape)}, {tuple(teacher.shape)}"
        )
    mine, theirs = F.log_softmax(student / temperature, -1), F.log_softmax(teacher / temperature, -1)
    soft = F.kl_div(mine, theirs, reduction="batchmean", log_target=True) * temperature**2
    return soft if target is None else alpha * soft + (1 - alpha) * F.cross_entropy(student, target)


class Distillation:
    """`distillation_loss` as a loss of (output, target), for `fit` or a loop of your own.

    The teacher, in evaluation mode and without gradients, is given the inputs that the student was last called with: a
    hook on the student notes them.

    Raises what `distillation_loss` raises, and RuntimeError when the student has not run.

    >>> import minidl
    >>> from minidl import nn
    >>> student, teacher, x = nn.Linear(4, 3), nn.Linear(4, 3), minidl.randn(5, 4)
    >>> loss = Distillation(student, teacher)
    >>> loss(student(x), minidl.tensor([0, 1, 2, 0, 1])).backward()
    >>> student.weight.grad is not None, teacher.weight.grad is None
    (True, True)
    """

    def __init__(self, student: Any, teacher: Any, temperature: float = 4.0, alpha: float = 0.9) -> None:
        self.teacher, self.temperature, self.alpha = teacher, temperature, alpha
        self._inputs: Any = None
        self._handle = student.register_forward_pre_hook(self._note)

    def _note(self, module: Any, args: tuple) -> None:
        self._inputs = args

    def stop(self) -> None:
        """Take the hook off the student."""
        self._handle.remove()

    def __call__(self, output: Any, target: Any) -> Any:
        if self._inputs is None:
            raise RuntimeError("Distillation: call the student first; the loss is of its output")
        modes = [(m, m.training) for m in self.teacher.modules()]
        self.teacher.eval()
        try:
            with no_grad():
                theirs = self.teacher(*self._inputs)
        finally:
            for m, mode in modes:
                m.training = mode
        target = target if target is None or isinstance(target, Tensor) else wrap(target)
        return distillation_loss(output, theirs, target, self.temperature, self.alpha)
