"""An LSTM foretells next year's sunspots from the last 22 years.

    i, f, o = sigmoid(W_i [x, h] + b_i), ...            gates: what to take in, to keep, to show    (LSTM)
    g       = tanh(W_g [x, h] + b_g)                    what could be taken in
    c'      = f c + i g                                 the memory: a sum, so gradients pass through it undiminished
    h'      = o tanh(c')

(Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; the forget gate: Gers et al. 2000.) The window x is
(N, 22, 1): 22 steps of one number. (N, 1, 22) would be one step of 22 numbers, and nothing to remember.

Sunspots come and go in some 11 years. The network learns on the first 80 % of 1700 to 2008 and is asked about each of
the last 62 years, given the years before it. It is trained on square roots: counts scatter with the root of their size.

Baselines: persistence (next year is like this one), and an autoregression on 9 years by least squares (Yule 1927, who
invented it for these very numbers).
"""

import numpy as np

import minidl
from minidl import nn, optim
from minidl.data import DataError, load_columns, sunspots
from minidl.examples import figure, picture, run, stage
from minidl.models import Forecaster
from minidl.train import fit, predict

WINDOW = 22  # two cycles
TEST_SHARE = 0.2


def read(path):
    """(times, values) of the last two columns of a CSV file, or of the shipped sunspots."""
    if path is None:
        return sunspots()
    columns = [c.astype(np.float64) for c in load_columns(path).values() if c.dtype.kind in "if"]
    if not columns or len(columns[0]) < 5 * WINDOW:
        raise DataError(f"{path}: a column of at least {5 * WINDOW} numbers is needed, one for each step")
    values = columns[-1]
    return (columns[-2] if len(columns) > 1 else np.arange(len(values))), values


class Scale:
    """To square roots of mean 0 and deviation 1 and back (to the values themselves if some are negative)."""

    def __init__(self, values):
        self.root = bool((values >= 0).all())
        z = np.sqrt(values) if self.root else values
        self.mean, self.deviation = z.mean(), z.std() or 1.0

    def to(self, values):
        z = np.sqrt(np.maximum(values, 0)) if self.root else values
        return ((z - self.mean) / self.deviation).astype(np.float32)

    def back(self, z):
        z = z * self.deviation + self.mean
        return np.maximum(z, 0) ** 2 if self.root else z


def windows(series, start, end, length):
    """Before each of the values start ... end - 1, the `length` values before it.    N, T"""
    return np.stack([series[i - length : i] for i in range(start, end)])


def autoregression(series, cut, order=9):
    """For each value from cut on, the best linear guess from the `order` before it, learned before cut."""
    with_one = lambda x: np.c_[x, np.ones(len(x))]
    weights, *_ = np.linalg.lstsq(with_one(windows(series, order, cut, order)), series[order:cut], rcond=None)
    return with_one(windows(series, cut, len(series), order)) @ weights


def main(args):
    times, values = read(args.data)
    n = len(values)
    cut = n - round(TEST_SHARE * n)
    if not np.diff(values[cut - 1 :]).any():
        raise DataError(f"{args.data}: the last {n - cut + 1} values are all the same: persistence makes no error")
    scale = Scale(values[:cut])
    z = scale.to(values)
    x, y = windows(z, WINDOW, cut, WINDOW)[..., None], z[WINDOW:cut, None]  # N, T, 1; N, 1
    x_test = windows(z, cut, n, WINDOW)[..., None]

    minidl.manual_seed(args.seed)
    model = Forecaster()
    epochs = 30 if args.quick else 80
    print(f"{n} values, {len(x)} windows of {WINDOW} to train on, {n - cut} values to foretell, {epochs} epochs")
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    history = fit(
        model,
        (x, y),
        loss=nn.functional.mse_loss,
        optimizer=optimizer,
        scheduler=optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
        epochs=epochs,
        clip_norm=1.0,
        **stage(args),
    )
    print(f"loss {history['loss'][0]:.3f} at first, {history['loss'][-1]:.3f} at last")

    told = scale.back(predict(model, x_test).numpy()[:, 0])
    error = lambda guess: np.abs(guess - values[cut:]).mean()
    persistence, linear = values[cut - 1 : -1], autoregression(values, cut)
    figure("mean absolute error", error(told), persistence=error(persistence), autoregression=error(linear))
    figure(
        "share of persistence's error",
        error(told) / error(persistence),
        autoregression=error(linear) / error(persistence),
    )
    if args.save:
        minidl.save(model.state_dict(), args.save)
    if args.plot:
        with picture(args.plot, size=(9, 4)) as axes:
            axes.plot(times[cut - 60 :], values[cut - 60 :], color="#222222", linewidth=1, label="measured")
            axes.plot(
                times[cut:], told, color="#1f6feb", marker="o", markersize=3, linewidth=1, label="LSTM, a year ahead"
            )
            axes.axvline(times[cut] - 0.5, color="#bbbbbb", linestyle="--", linewidth=1)
            axes.set(xlabel="year", ylabel="value" if args.data else "sunspots", ylim=(min(0, values.min()), None))
            axes.set_title(f"mean error {error(told):.1f}, of persistence {error(persistence):.1f}")
            axes.legend(frameon=False, loc="upper left")


if __name__ == "__main__":
    run(
        main,
        __doc__,
        data="a CSV file: the last column of numbers is the series, one before it the time",
        quick="30 epochs instead of 80",
        plot="draw what was foretold and what came into an image file",
    )
