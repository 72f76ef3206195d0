"""Training: fit, evaluate, predict, and what goes with them."""

from minidl.train.checkpoint import Checkpoint
from minidl.train.evaluation import Scores, evaluate, predict
from minidl.train.history import History
from minidl.train.loop import Callback, NonFiniteLoss, Run, fit
from minidl.train.pruning import Prune
from minidl.train.stopping import Converged, EarlyStop, StopRule

__all__ = [
    "fit",
    "evaluate",
    "predict",
    # what they return
    "History",
    "Scores",
    "NonFiniteLoss",
    # what fit takes
    "EarlyStop",
    "Converged",
    "StopRule",
    "Checkpoint",
    "Callback",
    "Prune",
    "Run",
]
