"""fit: the training loop, with everything that it takes to run it unattended."""

from __future__ import annotations

import inspect
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from minidl import random
from minidl.autograd import no_grad
from minidl.io import CheckpointError
from minidl.metrics import Running, named
from minidl.nn.module.unregistered import unregistered
from minidl.nn.utils import clip_grad_norm_
from minidl.ops.create import full_like
from minidl.train.batches import as_loader, check_model, describe, length, modes_kept, split
from minidl.train.checkpoint import Checkpoint, fingerprint, restore, snapshot
from minidl.train.evaluation import Mean, device_of, one_number, scores
from minidl.train.history import History
from minidl.train.progress import Progress
from minidl.train.stopping import as_rules

__all__ = ["Callback", "NonFiniteLoss", "Run", "fit"]


class NonFiniteLoss(FloatingPointError):
    """The loss became NaN or infinite; the message says at which step and what to do."""


class Callback:
    """Called by `fit` at its turning points with the `Run`; derive from it and define what you need.

    A callback with a state of its own gives it in `state_dict` and takes it back in `load_state_dict`, so that a
    resumed training goes on as if nothing had happened.
    """

    def on_start(self, run: Run) -> None:
        """Before the first step, of a resumed training too."""

    def on_epoch_start(self, run: Run) -> None:
        """Before an epoch's first batch."""

    def on_step(self, run: Run) -> None:
        """After an update of the weights."""

    def on_epoch(self, run: Run) -> None:
        """After an epoch, with its validation and its entry in the history."""

    def on_end(self, run: Run) -> None:
        """After the last epoch; not when the training ends by an exception."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must know."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict()`."""


class _Function(Callback):
    """A plain function, called after each epoch."""

    def __init__(self, function: Callable[[Run], Any]) -> None:
        self.function = function

    def on_epoch(self, run: Run) -> None:
        self.function(run)


class Run:
    """A training under way, as callbacks see it.

    Attributes: model, optimizer, scheduler, history; `epoch`, finished epochs; `step`, updates of the weights so far;
    `epochs`, how many there will be.
    """

    def __init__(self, model: Any, optimizer: Any, scheduler: Any, epochs: int) -> None:
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.history = History()
        self.epoch, self.step, self.epochs = 0, 0, epochs
        self._reason: str | None = None

    def stop(self, reason: str = "a callback asked for it") -> None:
        """End the training after this epoch; `reason` becomes `history.stopped`."""
        self._reason = reason


def fit(
    model: Any,
    data: Any,
    *,
    loss: Callable[..., Any],
    optimizer: Any,
    epochs: int = 1,
    batch_size: int = 32,
    shuffle: bool = True,
    validation: Any = None,
    metrics: Any = (),
    scheduler: Any = None,
    scheduler_per: str = "epoch",
    clip_norm: float | None = None,
    accumulate: int = 1,
    early_stop: Any = None,
    checkpoint: Any = None,
    resume: bool | str = False,
    callbacks: Sequence[Any] | Callable[..., Any] = (),
    progress: bool | None = None,
    seed: int | None = None,
) -> History:
    """Train a model; returns what was recorded, per epoch and per step.

    Args:
        model: a Module with parameters. It trains in training mode; afterwards its modes are as they were.
        data: (x, y) arrays or Tensors of equal length, a Dataset, or a DataLoader or other iterable of batches (x, y)
            or (x1, x2, ..., y). NumPy arrays of floats in a tuple are brought to the dtype of the model's parameters.
        loss: `loss(output, target)` -> a Tensor of one element, the mean over the batch. (A loss module with
            `reduction="sum"` is recorded per sample, too.)
        optimizer: over parameters of this model, or of the loss if that is a module.
        epochs: how many in all; a resumed training does those that are left.
        batch_size, shuffle: for (x, y) and Datasets; a DataLoader has its own.
        validation: data of the same kinds, evaluated after each epoch.
        metrics: as for `evaluate`; on training data they are of the outputs in training mode, as the weights change.
        scheduler: its `step()` is called after each epoch, or with `scheduler_per="step"` after each update. One whose
            `step` wants a value is given the validation loss, or the training loss without validation.
        clip_norm: scale gradients down to this total norm.
        accumulate: add up the gradients of so many batches for each update. They are weighted by their samples, so the
            update is that of one large batch, also where sizes differ.
        early_stop: a patience in epochs, an `EarlyStop`, a `Converged`, or a list of them.
        checkpoint: a path (.safetensors or .npz) or a `Checkpoint`; the state is saved before the first step, as often
            as it says, and at the end.
        resume: True to go on from the checkpoint, "auto" to do so if there is one. The result is then bit for bit that
            of a training without a break. False refuses to overwrite one.
        callbacks: `Callback` objects, or functions of a `Run` that are called after each epoch.
        progress: None shows a bar on a terminal and nothing elsewhere; True a line per epoch elsewhere; False nothing.
        seed: for minidl's generator, from which come shuffling and dropout; by default it goes on as it is.

    Ctrl-C lets the step under way finish, saves the checkpoint if there is one, and raises KeyboardInterrupt, whose
    attribute `history` holds what was recorded; a second Ctrl-C interrupts at once and saves nothing.

    Raises NonFiniteLoss for a loss that is NaN or infinite, after giving the model back the weights that it had when
    the epoch began; ValueError for options that do not fit, an empty data set, a model without parameters, an optimizer
    without any of its parameters or with foreign ones; FileExistsError for a checkpoint that is there although
    `resume` is False; CheckpointError for one that is damaged or of another model, optimizer or set of metrics;
    OSError, before the training starts, if it cannot be written. What model and loss raise gets a note that says in
    which batch.

    >>> import minidl
    >>> from minidl import nn, optim
    >>> x = minidl.arange(8.0).reshape(-1, 1)
    >>> model = nn.Linear(1, 1)
    >>> sgd = optim.SGD(model.parameters(), lr=0.04)
    >>> history = fit(model, (x, 3 * x + 1), loss=nn.functional.mse_loss, optimizer=sgd, epochs=200)
    >>> round(model.weight.item(), 1), round(model.bias.item(), 1)
    (3.0, 1.0)
    """
    check_model(model, "fit")
    if scheduler_per not in ("epoch", "step"):
        raise ValueError(f"fit: scheduler_per must be 'epoch' or 'step', got {scheduler_per!r}")
    if resume not in (True, False, "auto"):
        raise ValueError(f"fit: resume must be True, False or 'auto', got {resume!r}")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"fit: clip_norm must be positive, got {clip_norm}")
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint)
    if resume and checkpoint is None:
        raise ValueError("fit: resume needs a checkpoint to go on from: checkpoint='run.safetensors'")
    _whole("epochs", epochs, 0)
    _whole("accumulate", accumulate, 1)
    _check_optimizer(model, loss, optimizer)
    loop = _Loop(
        run=Run(model, optimizer, scheduler, epochs),
        loss=loss,
        loader=as_loader(data, model, batch_size, shuffle, "fit"),
        validation=None if validation is None else as_loader(validation, model, 256, False, "fit: validation"),
        metrics=named(metrics),
        scheduler_per=scheduler_per,
        clip_norm=clip_norm,
        accumulate=accumulate,
        rules=as_rules(early_stop),
        checkpoint=checkpoint,
        callbacks=[
            c if isinstance(c, Callback) else _Function(c) for c in ((callbacks,) if callable(callbacks) else callbacks)
        ],
        progress=progress,
    )
    with modes_kept(model):
        loop.start(resume, seed)
        loop.train()
    return loop.run.history


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"fit: {name} must be a whole number, at least {least}, got {value!r}")


def _check_optimizer(model: Any, loss: Any, optimizer: Any) -> None:
    """Raises ValueError unless the optimizer updates this model, and nothing but it and the loss."""
    own = {id(p) for p in model.parameters()}
    if not own:
        hidden = "".join(f"; {sentence}" for sentence in unregistered(model))
        raise ValueError(f"fit: {type(model).__name__} has no parameters to train{hidden}")
    if not hasattr(optimizer, "param_groups"):
        raise TypeError(f"fit: optimizer must be a minidl.optim.Optimizer, not {type(optimizer).__name__}")
    given = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(id(p) in own for p in given):
        raise ValueError(
            f"fit: the optimizer was given none of the parameters of this {type(model).__name__}; was it made for "
            "another model? Make one with optimizer = SGD(model.parameters(), ...)"
        )
    if callable(getattr(loss, "parameters", None)):
        own |= {id(p) for p in loss.parameters()}
    foreign = [tuple(p.shape) for p in given if id(p) not in own]
    if foreign:
        raise ValueError(
            f"fit: the optimizer holds {len(foreign)} parameters that are not of this {type(model).__name__} (the "
            f"first of shape {foreign[0]}); use one optimizer for each model"
        )


class _CtrlC:
    """While open, a first Ctrl-C only sets `pressed`, so that a step is never cut in two; a second one interrupts.

    Only in the main thread, and only if nobody else handles the signal.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self.pressed = False
        self._note = note
        self._before: Any = None

    def __enter__(self) -> _CtrlC:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, signum: int, frame: Any) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        self._note("finishing this step; Ctrl-C again stops at once")

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self.pressed:
            raise KeyboardInterrupt


class _Loop:
    """The parts of one call of `fit`, and the state that a checkpoint holds."""

    def __init__(
        self,
        run: Run,
        loss: Callable[..., Any],
        loader: Any,
        validation: Any,
        metrics: dict[str, Callable[..., Any]],
        scheduler_per: str,
        clip_norm: float | None,
        accumulate: int,
        rules: list[Any],
        checkpoint: Checkpoint | None,
        callbacks: list[Callback],
        progress: bool | None,
    ) -> None:
        self.run, self.model, self.optimizer, self.history = run, run.model, run.optimizer, run.history
        scheduler = run.scheduler
        self.loss, self.loader, self.validation, self.metrics = loss, loader, validation, metrics
        self.scheduler_per, self.clip_norm, self.accumulate = scheduler_per, clip_norm, accumulate
        self.rules, self.checkpoint, self.callbacks = rules, checkpoint, callbacks
        self.progress = Progress(progress, run.epochs, length(loader))
        self.ctrl_c = _CtrlC(self.progress.note)
        self.device = device_of(self.model)
        # torch's ReduceLROnPlateau and its like
        self.scheduler_wants_value = scheduler is not None and "metrics" in inspect.signature(scheduler.step).parameters

        self.columns = ["loss", *metrics]
        if validation is not None:
            self.columns += [f"val_{name}" for name in self.columns]
        self.columns.append("lr")
        for rule in rules:
            rule.start(self.columns)

        # where in the epoch
        self.batch = 0  # batches taken
        self.mean, self.running = Mean(loss), {name: Running(m) for name, m in metrics.items()}
        self.epoch_random = random.get_state()  # minidl's generator when the epoch began
        self.in_epoch = False
        self.began = time.perf_counter()
        # where in the step
        self.held = Mean(loss)
        self.held_batches = 0
        # the weights to fall back on
        self.good: dict[str, Any] = {}
        self.good_since = ""
        self.saved_at: tuple[int, int] | None = None

    # -- before and after ------------------------------------------------------------------------------------

    def start(self, resume: bool | str, seed: int | None) -> None:
        """Seed or resume, and prove that the checkpoint can be written while nothing is lost yet."""
        saved = None
        if self.checkpoint is not None:
            if resume is True or (resume == "auto" and self.checkpoint.exists()):
                saved = self.checkpoint.load(self.fingerprint())
            elif self.checkpoint.exists():
                raise FileExistsError(
                    f"fit: the checkpoint {self.checkpoint.path} exists. Pass resume=True to go on from it, "
                    "resume='auto' to do so whenever there is one, or remove it to start anew"
                )
            self.checkpoint.remove_leftovers()
        if saved is None:
            if seed is not None:
                random.manual_seed(seed)
            self.save()
        else:
            self.load_state_dict(saved)
            if not self.finished:
                self.save()

    def train(self) -> None:
        """All epochs that are left."""
        self.model.train()
        try:
            with self.ctrl_c:
                self.call("on_start")
                while not self.finished:
                    self.epoch()
                    if self.ctrl_c.pressed:
                        self.save()
                        raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            interrupt.history = self.history  # type: ignore[attr-defined]
            raise
        finally:
            self.progress.close()
        self.save()
        for rule in self.rules:
            rule.finish(self.model)
        self.call("on_end")

    @property
    def finished(self) -> bool:
        return not self.in_epoch and (self.run.epoch >= self.run.epochs or self.history.stopped is not None)

    def call(self, event: str) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self.run)

    # -- an epoch --------------------------------------------------------------------------------------------

    def epoch(self) -> None:
        """One epoch, or what is left of it."""
        self.good_since = "where it was resumed" if self.in_epoch else f"before epoch {self.run.epoch + 1}"
        iterator = self.batches()
        self.good = snapshot(self.model)
        self.progress.start_epoch(self.run.epoch + 1, self.batch)
        for raw in iterator:
            self.batch += 1
            value = self.forward_backward(raw)
            if self.held_batches == self.accumulate:
                self.update()
                self.save_if_due()
                if self.ctrl_c.pressed:
                    self.save()
                    raise KeyboardInterrupt
            self.progress.batch(value)
        if not self.batch:
            raise ValueError("fit: the data gave no batch")
        if self.held_batches:  # fewer than `accumulate` were left
            self.update()
        self.end_epoch()

    def batches(self) -> Iterator[Any]:
        """The batches that are left of this epoch, and everything reset if it is a new one."""
        if self.in_epoch:
            now = random.get_state()
            random.set_state(self.epoch_random)  # an order that is drawn when the iteration begins is drawn again
            iterator = iter(self.loader)
            if not hasattr(self.loader, "load_state_dict"):  # such a loader leaves out what was done by itself
                for _ in range(self.batch):
                    next(iterator, None)
            random.set_state(now)
            return iterator
        self.in_epoch = True
        self.batch = 0
        self.mean, self.running = Mean(self.loss), {name: Running(m) for name, m in self.metrics.items()}
        self.began = time.perf_counter()
        self.call("on_epoch_start")
        self.epoch_random = random.get_state()
        return iter(self.loader)

    def end_epoch(self) -> None:
        """Validate, record, adjust the learning rate, decide whether to go on."""
        values = {"loss": self.mean.value()} | {name: metric.value() for name, metric in self.running.items()}
        if self.validation is not None:
            found = scores(self.model, self.validation, self.loss, self.metrics, between=self.ctrl_c.check)
            values |= {f"val_{name}": value for name, value in found.asdict().items()}
        values["lr"] = self.rate()
        seconds = time.perf_counter() - self.began
        self.run.epoch += 1
        self.in_epoch, self.batch = False, 0
        self.history.add(values, seconds)
        if self.run.scheduler is not None and self.scheduler_per == "epoch":
            self.step_scheduler(values["val_loss" if self.validation is not None else "loss"])
        for rule in self.rules:
            self.history.stopped = self.history.stopped or rule.update(values, self.run.epoch, self.model)
        self.progress.end_epoch(self.run.epoch, values, seconds)
        self.call("on_epoch")
        self.history.stopped = self.history.stopped or self.run._reason
        if self.checkpoint is not None and self.checkpoint.every == "epoch":
            self.save()

    # -- a step ----------------------------------------------------------------------------------------------

    def forward_backward(self, raw: Any) -> float:
        """Add the gradients of one batch to those held; returns its loss."""
        if not self.held_batches:
            self.optimizer.zero_grad()
        try:
            batch = split(raw, self.device)
            output = self.model(*batch.inputs)
            loss = one_number(self.loss(output, batch.target))
            value = float(loss.item())
            if not math.isfinite(value):
                raise self.diverged(f"the loss is {value}")
            if not loss.requires_grad:
                raise ValueError(
                    "the loss depends on no parameter that requires gradients: are all of them frozen, or is there a "
                    "detach() or no_grad() on the way?"
                )
            if self.accumulate == 1 or self.mean.of_sums:
                loss.backward()
            else:
                loss.backward(full_like(loss.detach(), batch.size))  # divided by all samples in update
            with no_grad():
                for metric in self.running.values():
                    metric.update(output, batch.target)
        except Exception as error:
            error.add_note(f"fit: in epoch {self.run.epoch + 1}, batch {self.batch}, {describe(raw)}")
            raise
        self.mean.update(value, batch.size)
        self.held.update(value, batch.size)
        self.held_batches += 1
        return value

    def update(self) -> None:
        """Change the weights by the gradients held."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.accumulate > 1 and not self.held.of_sums:
            for p in parameters:
                if p.grad is not None:
                    gradient = p.grad.array
                    gradient /= self.held.samples
                    p.grad.bump()
        record = {"loss": self.held.value(), "lr": self.rate()}
        if self.clip_norm is not None:
            norm = float(clip_grad_norm_(parameters, self.clip_norm))
            if not math.isfinite(norm):
                raise self.diverged(f"the norm of the gradients is {norm}")
            record["grad_norm"] = norm
        self.optimizer.step()
        self.held, self.held_batches = Mean(self.loss), 0
        self.run.step += 1
        self.history.add_step(record)
        if self.run.scheduler is not None and self.scheduler_per == "step":
            self.step_scheduler(record["loss"])
        self.call("on_step")

    def rate(self) -> float:
        """The learning rate of the first parameter group."""
        return float(self.optimizer.param_groups[0].get("lr", math.nan))

    def step_scheduler(self, value: float) -> None:
        if self.scheduler_wants_value:
            self.run.scheduler.step(value)
        else:
            self.run.scheduler.step()

    def diverged(self, what: str) -> NonFiniteLoss:
        """Put the good weights back; the error to raise."""
        restore(self.model, self.good)
        return NonFiniteLoss(
            f"{what} at step {self.run.step + 1} (epoch {self.run.epoch + 1}, batch {self.batch}). Try a lower "
            f"learning rate than {self.rate():g} or clip_norm=1.0, and look for NaN in the data; `with "
            "minidl.autograd.detect_anomaly():` around fit names the op that makes the first NaN. The model has the "
            f"weights again that it had {self.good_since}"
        )

    # -- the state -------------------------------------------------------------------------------------------

    def fingerprint(self) -> dict[str, Any]:
        return fingerprint(
            self.model,
            self.optimizer,
            history=self.columns,
            scheduler=None if self.run.scheduler is None else type(self.run.scheduler).__name__,
            stopping=[type(rule).__name__ for rule in self.rules],
            callbacks=[type(c).__name__ for c in self.callbacks if not isinstance(c, _Function)],
        )

    def save_if_due(self) -> None:
        if self.checkpoint is not None and isinstance(self.checkpoint.every, int):
            if self.run.step % self.checkpoint.every == 0:
                self.save()

    def save(self) -> None:
        """Write the state; it lies between two steps."""
        here = (self.run.epoch, self.run.step)
        if self.checkpoint is None or here == self.saved_at:
            return
        self.checkpoint.save(self.state_dict())
        self.saved_at = here

    def state_dict(self) -> dict[str, Any]:
        scheduler, loader = self.run.scheduler, self.loader
        return {
            "fingerprint": self.fingerprint(),
            "model": snapshot(self.model),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if scheduler is None else scheduler.state_dict(),
            "loader": loader.state_dict() if hasattr(loader, "load_state_dict") else None,
            "random": random.get_state(),
            "epoch_random": self.epoch_random,
            "epoch": self.run.epoch,
            "step": self.run.step,
            "batch": self.batch,
            "in_epoch": self.in_epoch,
            "seconds": time.perf_counter() - self.began,
            "mean": [self.mean.total, self.mean.samples],
            "metrics": {name: metric.state_dict() for name, metric in self.running.items()},
            "history": self.history.state_dict(),
            "stopping": [rule.state_dict() for rule in self.rules],
            "callbacks": [c.state_dict() for c in self.callbacks if not isinstance(c, _Function)],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        try:
            restore(self.model, state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.run.scheduler is not None:
                self.run.scheduler.load_state_dict(state["scheduler"])
            if hasattr(self.loader, "load_state_dict"):
                self.loader.load_state_dict(state["loader"])
            self.run.epoch, self.run.step, self.batch = state["epoch"], state["step"], state["batch"]
            self.in_epoch = state["in_epoch"]
            self.began = time.perf_counter() - state["seconds"]
            self.mean.total, self.mean.samples = state["mean"]
            for name, metric in self.running.items():
                metric.load_state_dict(state["metrics"][name])
            self.history.load_state_dict(state["history"])
            for rule, saved in zip(self.rules, state["stopping"], strict=True):
                rule.load_state_dict(saved)
            with_state = [c for c in self.callbacks if not isinstance(c, _Function)]
            for callback, saved in zip(with_state, state["callbacks"], strict=True):
                callback.load_state_dict(saved)
            self.epoch_random = state["epoch_random"]
            random.set_state(state["random"])
        except (KeyError, TypeError, ValueError) as error:
            path = self.checkpoint.path if self.checkpoint else ""
            raise CheckpointError(f"{path}: cannot be resumed from: {error}") from error
