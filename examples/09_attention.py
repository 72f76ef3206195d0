"""Attention finds a digit on a large canvas: soft, by looking everywhere a little; hard, by looking at one place.

A canvas of 32 x 32 pixels holds a digit of 8 x 8 somewhere, and crumbs of others. It is cut into S = 36 overlapping
windows of 12 x 12. From the canvas at half its resolution comes a key k_s for each window, which is cheap. To read a
window, with a small CNN, is not. A learned query q says what a key of something worth reading looks like:

    soft    p = softmax(score(q, k))    y = sum_s p_s read(window_s)      all windows are read
    hard    s ~ p                       y = read(window_s)                one is read

Scores: additive v . tanh(W q + U k) (Bahdanau et al. 2015), dot q . k (Luong et al. 2015), scaled q . k / sqrt(K)
(Vaswani et al. 2017). Hard attention needs another way to learn than through the choice, which has no gradient:

    REINFORCE    d E[L] = E[(L - b) d log p_s] + E[dL], b the running mean of L (Williams 1992); 8 draws a canvas
    Gumbel       the choice is argmax(log p + Gumbel noise), its gradient that of a softmax (Jang et al. 2017); that
                 reads all windows while it trains
    top-k        the 4 best windows, softmax among them

(minidl/nn/soft_hard_attention.py has all of them.) The networks are told the digit's class, never its place. Where does
each look: is nine tenths of the digit's ink in the window of the largest weight? Baseline: a window at random.
"""

import time

import numpy as np

import minidl
from minidl import nn, optim
from minidl.data import DataError, Dataset
from minidl.examples import figure, labelled_images, picture, run, stage
from minidl.nn.functional import cross_entropy, unfold
from minidl.train import fit, predict

CANVAS, WINDOW, STRIDE, CRUMBS = 32, 12, 4, 5
EDGE = (CANVAS - WINDOW) // STRIDE + 1  # windows along an edge: 6
KEY = 16

SOFT = {
    "additive": lambda: nn.AdditiveAttention(KEY, KEY, KEY),
    "dot": nn.DotProductAttention,
    "scaled dot": nn.ScaledDotProductAttention,
}
HARD = {  # and how many windows are read: in training, afterwards; how many draws of them in training
    "REINFORCE": (lambda: nn.StochasticAttention(nn.ScaledDotProductAttention()), 1, 1, 8),
    "Gumbel": (lambda: nn.GumbelAttention(nn.ScaledDotProductAttention()), EDGE**2, 1, 8),
    "top-4": (lambda: nn.TopKAttention(nn.ScaledDotProductAttention(), 4), 4, 4, 1),
}


class Canvases(Dataset):
    """Digits (N, 1, 8, 8), each on a canvas of its own with crumbs; at another place whenever it is asked for."""

    def __init__(self, x, y):
        self.x, self.y = x[:, 0], y

    def __len__(self):
        return len(self.x)

    def take(self, indices):
        canvas, _ = self.paint(indices)
        return [minidl.tensor(canvas), minidl.tensor(self.y[indices])]

    def paint(self, indices):
        """Canvases (N, 1, 32, 32) and the upper left corners of the digits (N, 2)."""
        n = len(indices)
        canvas = np.zeros((n, CANVAS, CANVAS), np.float32)
        at = minidl.random.integers(0, CANVAS - 7, (n, 2))
        crumb_of = minidl.random.integers(0, len(self.x), (n, CRUMBS))
        corner = minidl.random.integers(0, 5, (n, CRUMBS, 2))
        to = minidl.random.integers(0, CANVAS - 3, (n, CRUMBS, 2))
        for i in range(n):
            for j in range(CRUMBS):
                (a, b), (u, v) = corner[i, j], to[i, j]
                canvas[i, u : u + 4, v : v + 4] = self.x[crumb_of[i, j], a : a + 4, b : b + 4]
            u, v = at[i]
            canvas[i, u : u + 8, v : v + 8] = self.x[indices[i]]
        return canvas[:, None], at


class Looker(nn.Module):
    """Canvases (N, 1, 32, 32) -> logits (N, T, classes), T draws; `weights` (N, S) says where the first one looked."""

    def __init__(self, attention, training_reads=EDGE**2, reads=EDGE**2, draws=1, classes=10):
        super().__init__()
        self.glance = nn.Sequential(  # a key for each window, from the canvas at half its resolution
            nn.AvgPool2d(2), nn.Conv2d(1, 16, WINDOW // 2, stride=STRIDE // 2), nn.ReLU(), nn.Conv2d(16, KEY, 1)
        )
        self.query = nn.Parameter(minidl.randn(1, 1, KEY))
        self.attention = attention
        self.read = nn.Sequential(
            nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(24 * 16, 48), nn.ReLU(),
        )  # fmt: skip
        self.classify = nn.Linear(48, classes)
        self.training_reads, self.reads, self.draws = training_reads, reads, draws
        self.weights = None

    def forward(self, x):
        n, reads, draws = len(x), self.training_reads, self.draws
        if not self.training:
            reads, draws = self.reads, 1
        keys = self.glance(x).flatten(2).transpose(1, 2)  # N, S, K
        _, p = self.attention(self.query.expand(n, draws, KEY), keys)  # N, T, S
        self.weights = p[:, 0].detach()
        windows = unfold(x, WINDOW, stride=STRIDE).transpose(1, 2)  # N, S, 144
        if reads < EDGE**2:
            p, s = minidl.topk(p, reads)  # N, T, R
            windows = minidl.take_along_dim(windows, s.reshape(n, -1, 1), 1)  # N, T R, 144
        seen = self.read(windows.reshape(-1, 1, WINDOW, WINDOW)).reshape(n, -1, reads, 48)  # N, T or 1, R, F
        return self.classify((p.unsqueeze(-1) * seen).sum(2))

    def loss(self, logits, y):
        n, draws, classes = logits.shape
        y = y.unsqueeze(1).expand(n, draws)
        each = cross_entropy(logits.reshape(-1, classes), y.reshape(-1), reduction="none").reshape(n, draws)
        if self.training and isinstance(self.attention, nn.StochasticAttention):
            return each.mean() + self.attention.reinforce(each, entropy_weight=0.02)
        return each.mean()


def in_window(digits, at, s):
    """Whether nine tenths of the ink of the digits (N, 8, 8) at (N, 2) lie in window s (N,)."""
    corner = STRIDE * np.stack([s // EDGE, s % EDGE], 1)  # N, 2
    place = at[:, :, None] + np.arange(8) - corner[:, :, None]  # N, 2, 8: rows and columns, seen from the window
    rows, columns = ((place >= 0) & (place < WINDOW)).swapaxes(0, 1)  # N, 8
    return (digits * rows[:, :, None] * columns[:, None]).sum((1, 2)) >= 0.9 * digits.sum((1, 2))


def multiplications(model):
    """Of one canvas: the keys, and the windows that are read."""
    glance = nn.summary(model.glance, (1, 1, CANVAS, CANVAS)).macs
    return glance + model.reads * nn.summary(model.read, (1, 1, WINDOW, WINDOW)).macs


def milliseconds(model, x, repeats=20):
    """The median time of one call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        predict(model, x)
        times.append(time.perf_counter() - start)
    return 1000 * np.median(times)


def main(args):
    minidl.manual_seed(args.seed)
    data = labelled_images(args)
    if data.x_train.shape[1:] != (1, 8, 8):
        raise DataError(f"{args.data}: the canvas is made for grey images of 8 x 8 pixels")
    training, test = Canvases(data.x_train, data.y_train), Canvases(data.x_test, data.y_test)
    x, at = test.paint(np.arange(len(test)))
    chance = np.mean([in_window(test.x, at, np.full(len(at), s)) for s in range(EDGE**2)])
    models = {name: Looker(make(), classes=data.num_classes) for name, make in SOFT.items()}
    models |= {name: Looker(make(), *reads, classes=data.num_classes) for name, (make, *reads) in HARD.items()}
    epochs = {name: 15 if model.reads == EDGE**2 else 30 for name, model in models.items()}
    if args.quick:
        epochs = {"scaled dot": 5, "REINFORCE": 24}
    print("attention   accuracy   looks at the digit   multiplications   ms for 100")
    looks = {}
    for name in epochs:
        model, steps = models[name], epochs[name] * -(-len(training) // 32)
        optimizer = optim.AdamW(model.parameters(), lr=4e-3)
        fit(
            model,
            training,
            loss=model.loss,
            optimizer=optimizer,
            scheduler=optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps),
            scheduler_per="step",
            epochs=epochs[name],
            batch_size=32,
            **stage(args, name),
        )
        with minidl.no_grad():
            right = (model.eval()(minidl.tensor(x))[:, 0].numpy().argmax(1) == data.y_test).mean()
        looks[name] = model.weights.numpy()
        found = in_window(test.x, at, looks[name].argmax(1)).mean()
        ms = milliseconds(model, x[:100])
        print(f"{name:10}  {right:8.3f}   {found:18.3f}   {multiplications(model):15,}   {ms:10.1f}")
        figure(f"{name} looks at the digit", found, chance=chance)
        figure(f"{name} accuracy", right, most_frequent_class=np.bincount(data.y_test).max() / len(x))
    if args.save:
        minidl.save({name: models[name].state_dict() for name in epochs}, args.save)
    if args.plot:
        draw(args.plot, x, looks)


def draw(path, x, looks, columns=8):
    """Canvases; in each row a kind of attention: where the weight is, and the window of the largest."""
    from matplotlib.patches import Rectangle

    with picture(path, len(looks), columns, (1.45 * columns, 1.55 * len(looks))) as axes:
        for row, (name, p) in zip(axes, looks.items()):
            row[0].set_ylabel(name)
            for place, canvas, weight in zip(row, x[:, 0], p):
                heat = np.zeros((CANVAS, CANVAS))
                for s, w in enumerate(weight):
                    u, v = STRIDE * (s // EDGE), STRIDE * (s % EDGE)
                    heat[u : u + WINDOW, v : v + WINDOW] += w
                u, v = divmod(weight.argmax(), EDGE)
                place.imshow(canvas, cmap="gray_r")
                place.imshow(heat, cmap="Reds", alpha=0.4, vmin=0, vmax=1)
                corner = (STRIDE * v - 0.5, STRIDE * u - 0.5)
                place.add_patch(Rectangle(corner, WINDOW, WINDOW, fill=False, edgecolor="#1f6feb"))
                place.set(xticks=[], yticks=[])


if __name__ == "__main__":
    run(
        main,
        __doc__,
        data="images of 8 x 8 pixels as an npz file, an idx file or a folder of idx files",
        quick="one soft and one hard attention, fewer epochs",
        plot="draw where each kind of attention looks",
        save="write the weights of the networks that were trained to a .safetensors or .npz file",
        resume="keep the state of each training in FILE-NAME, and go on from it",
    )
