"""Learning rates that change with time, under torch.optim.lr_scheduler's names.

A schedule sets the ``lr`` of each parameter group: once when it is made, then at every ``step()``, which comes after
``optimizer.step()``, once an epoch or once a batch as suits the schedule. Below, t counts its steps from 0 and lr_0 is
the group's rate at the start. Most compute a rate from the current one, so that two schedules together multiply.
"""

from minidl.optim.lr_scheduler.base import LRScheduler
from minidl.optim.lr_scheduler.combined import ChainedScheduler, SequentialLR
from minidl.optim.lr_scheduler.cosine import CosineAnnealingLR, CosineAnnealingWarmRestarts
from minidl.optim.lr_scheduler.cycles import CyclicLR, OneCycleLR
from minidl.optim.lr_scheduler.decay import ConstantLR, ExponentialLR, LinearLR, MultiStepLR, PolynomialLR, StepLR
from minidl.optim.lr_scheduler.functions import LambdaLR, MultiplicativeLR
from minidl.optim.lr_scheduler.plateau import ReduceLROnPlateau

__all__ = [
    "ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR",
    "LRScheduler", "LambdaLR", "LinearLR", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR",
    "ReduceLROnPlateau", "SequentialLR", "StepLR",
]  # fmt: skip
