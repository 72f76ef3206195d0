"""Diffusion: noise is added until nothing is left, and a network learns the way back. Points in a plane, then digits.

    forward    x_t = sqrt(abar(t)) x_0 + sqrt(1 - abar(t)) eps        loss    mean (eps - eps_theta(x_t, t))^2

The maths, with the stochastic differential equation behind it and four ways back (DDPM, DDIM, reverse SDE by
Euler-Maruyama, probability-flow ODE), is one page: minidl/models/diffusion.py. Here they are put to work:

1. eight blobs on a ring. How far samples are from the real thing is told by the energy distance (Szekely & Rizzo 2013)
   2 E|X - Y| - E|X - X'| - E|Y - Y'|, which is 0 for equal distributions. Baselines: that of a single Gaussian with the
   data's mean and covariance, that of other real points, and that of a ring without blobs, which is not far off: so
   the share of samples within three deviations of a blob's middle is told as well;
2. digits from a small U-Net. A classifier that was trained on real digits says how sure it is of them and which classes
   occur; the distance to the nearest training image, beside that of real test images, tells whether they are copies.
"""

import numpy as np

import minidl
from minidl import nn, optim
from minidl.examples import figure, judge, labelled_images, nearest, picture, run, stage, tiles
from minidl.models import Diffusion, UNet
from minidl.models.unet import TimeEmbedding
from minidl.nn.functional import silu
from minidl.optim.swa_utils import AveragedModel
from minidl.train import Callback, fit

WAYS = {"DDPM": ("ddpm", 100), "DDIM": ("ddim", 25), "SDE": ("sde", 200), "ODE": ("ode", 20)}  # and steps


class PointNet(nn.Module):
    """Points (N, 2) and times (N,) -> noise (N, 2): residual layers, each of which is told the time."""

    def __init__(self, width=96):
        super().__init__()
        self.time, self.first = TimeEmbedding(width), nn.Linear(2, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.last = nn.Linear(width, 2)

    def forward(self, x, t):
        time, h = self.time(t), self.first(2 * x)
        for layer in self.layers:
            h = h + layer(silu(h + time))
        return self.last(silu(h))


class Average(Callback):
    """A running mean of the weights, over some hundred steps: it makes better samples than the last weights."""

    def __init__(self, model):
        keep = lambda n: min(0.99, (1 + n.item()) / (10 + n.item()))  # of the mean so far, less in the beginning
        self.model = AveragedModel(model, avg_fn=lambda mean, now, n: mean + (1 - keep(n)) * (now - mean))

    def on_step(self, run):
        self.model.update_parameters(run.model)

    def state_dict(self):
        return self.model.state_dict()

    def load_state_dict(self, state):
        self.model.load_state_dict(state)


def train(model, x, epochs, batch_size, lr, **options):
    """Returns the model of mean weights, and the history."""
    average, optimizer = Average(model), optim.AdamW(model.parameters(), lr=lr)
    history = fit(
        model,
        (x, np.zeros(len(x))),  # the target is the noise, which the model draws itself
        loss=lambda off, _: (off**2).mean(),
        optimizer=optimizer,
        scheduler=optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=epochs * -(-len(x) // batch_size)),
        scheduler_per="step",
        epochs=epochs,
        batch_size=batch_size,
        callbacks=[average],
        **options,
    )
    return average.model.module.eval(), history


def ring(n):
    """Eight blobs of deviation 0.1 on a circle of radius 1.5.    n, 2"""
    angle = minidl.random.integers(0, 8, n) * (np.pi / 4)
    middle = 1.5 * np.stack([np.cos(angle), np.sin(angle)], 1)
    return (middle + 0.1 * minidl.random.normal((n, 2))).astype(np.float32)


def turned(x):
    """Points, each turned about the middle by an angle of its own: of the blobs only a ring is left.    N, 2"""
    angle = 2 * np.pi * minidl.random.uniform(len(x))
    c, s, (a, b) = np.cos(angle), np.sin(angle), x.T
    return np.stack([c * a - s * b, s * a + c * b], 1)


def on_a_blob(x):
    """The share of points that are within three deviations of a blob's middle.    N, 2"""
    angle = np.arange(8) * (np.pi / 4)
    middles = 1.5 * np.stack([np.cos(angle), np.sin(angle)], 1)
    return (((x[:, None] - middles) ** 2).sum(2).min(1) < 0.3**2).mean()


def energy_distance(x, y):
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, of all pairs.    N, 2; M, 2"""
    mean = lambda a, b: np.sqrt(((a[:, None] - b) ** 2).sum(2)).mean()
    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


def points(args):
    """Both schedules, four ways back; returns the samples to draw."""
    real, more = ring(2000), ring(1000)
    blurred = turned(more)
    gauss = minidl.random.normal((1000, 2)) @ np.linalg.cholesky(np.cov(real.T)).T + real.mean(0)
    samples = {"real": more}
    for schedule in ("linear", "cosine"):
        model, _ = train(
            Diffusion(PointNet(), schedule), real, 80 if args.quick else 450, 512, 8e-3, **stage(args, schedule)
        )
        for name, (way, steps) in WAYS.items():
            samples[f"{name}, {schedule}"] = getattr(model, way)((1000, 2), steps)
    distances = {name: energy_distance(x, real) for name, x in samples.items()}
    shares = {name: on_a_blob(x) for name, x in samples.items()}
    for name, distance in distances.items():
        print(f"  {name:14} energy distance {distance:.4f}, on a blob {shares[name]:.3f}")
    baselines = {"gaussian": gauss, "ring": blurred}
    beside = {name: energy_distance(x, real) for name, x in baselines.items()}
    made = [name for name in samples if name != "real"]
    figure("energy distance, worst way", max(distances[name] for name in made), **beside, real=distances["real"])
    beside = {name: on_a_blob(x) for name, x in baselines.items()}
    figure("share on a blob, worst way", min(shares[name] for name in made), **beside, real=shares["real"])
    return samples


def main(args):
    data = labelled_images(args, 2)
    minidl.manual_seed(args.seed)
    samples = points(args)

    says = judge(data)
    sure, unsure = says(data.x_test)[0], says(minidl.random.uniform(data.x_test.shape))[0]
    x = 2 * data.x_train - 1  # in -1 ... 1, as the noise is
    model = Diffusion(UNet(x.shape[1], width=24, levels=(1, 2)), "cosine", limit=1)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(x):,} images")
    epochs = max(1, min(50, 75_000 // len(x)) // (10 if args.quick else 1))
    model, history = train(model, x, epochs, 64, 4e-3, **stage(args))
    print(history)
    grids, n = {}, 100 if args.quick else 200
    apart = np.median(nearest(2 * data.x_test - 1, x))
    for name, (way, steps) in WAYS.items():
        made = getattr(model, way)((n, *x.shape[1:]), steps).clip(-1, 1)
        confidence, classes = says((made + 1) / 2)
        print(f"  {name}, {steps} steps: {', '.join(map(str, classes))} of {n} samples are 0, 1, ...")
        figure(f"{name} confidence", confidence, of_real=sure, of_noise=unsure)
        figure(f"{name} smallest class", classes.min(), even_share=n / len(classes))
        figure(f"{name} distance to the nearest training image", np.median(nearest(made, x)), of_real=apart)
        grids[name] = made
    if args.save:
        minidl.save(model.state_dict(), args.save)
    if args.plot:
        draw(args.plot, samples, grids, x)


def draw(path, samples, grids, x, rows=6, columns=8):
    """Points of each way in the upper rows; images below."""
    with picture(path, 3, 5, (13, 8)) as axes:
        names = ["real", *(f"{name}, {s}" for s in ("linear", "cosine") for name in WAYS)]
        for place, name in zip([*axes[0], *axes[1][1:]], names):
            place.plot(*samples[name][:600].T, ".", markersize=2, color="#1f6feb" if name != "real" else "#222222")
            place.set(title=name, xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal", xticks=[], yticks=[])
        axes[1][0].axis("off")
        for place, (name, images) in zip(axes[2], {"real": x, **grids}.items()):
            place.imshow(tiles(images, rows, columns, -1), cmap="gray_r", vmin=-1, vmax=1)
            place.set(title=name, xticks=[], yticks=[])


if __name__ == "__main__":
    run(
        main,
        __doc__,
        data="images as an npz file, an idx file or a folder of idx files (MNIST), edges even",
        quick="a tenth of the epochs",
        plot="draw the points and the images of all four ways",
        save="write the weights of the U-Net to a .safetensors or .npz file",
        resume="keep the state of the U-Net's training there (FILE-linear, FILE-cosine: of points), and go on",
    )
