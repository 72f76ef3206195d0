"""Optimizers and schedules, under torch.optim's names."""

from minidl.optim import lr_scheduler, swa_utils
from minidl.optim.adadelta import Adadelta
from minidl.optim.adafactor import Adafactor
from minidl.optim.adagrad import Adagrad
from minidl.optim.adam import Adam, AdamW
from minidl.optim.adamax import Adamax
from minidl.optim.asgd import ASGD
from minidl.optim.lamb import LAMB
from minidl.optim.lbfgs import LBFGS
from minidl.optim.lion import Lion
from minidl.optim.lr_finder import LRFinding, find_lr
from minidl.optim.muon import Muon
from minidl.optim.nadam import NAdam
from minidl.optim.optimizer import Optimizer
from minidl.optim.radam import RAdam
from minidl.optim.rmsprop import RMSprop
from minidl.optim.rprop import Rprop
from minidl.optim.sgd import SGD

__all__ = [
    "Optimizer",
    "SGD",
    "Adam",
    "AdamW",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Adagrad",
    "Adadelta",
    "Lion",
    "Muon",
    "Adamax",
    "Adafactor",
    "ASGD",
    "Rprop",
    "LAMB",
    "LBFGS",
    "lr_scheduler",
    "swa_utils",
    "find_lr",
    "LRFinding",
]
