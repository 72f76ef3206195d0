"""Two networks against each other draw digits: a generator makes images, a critic tells them from real ones.

The idea is Goodfellow's (2014, arXiv:1406.2661), the networks are those of DCGAN (Radford et al. 2015,
arXiv:1511.06434). The game is WGAN-GP's (Arjovsky et al. 2017, arXiv:1701.07875; Gulrajani et al. 2017,
arXiv:1704.00028), since with the logarithms of the first ones the generator ended with half of the digits here. The
critic D's mean difference is a distance between real and made, as long as its slope is at most 1, which a penalty asks
for:

    L_D = mean D(G(z)) - D(x) + 10 (|dD/dx'| - 1)^2,    x' somewhere between G(z) and x        L_G = -mean D(G(z))

The penalty is made of a gradient, and its own gradient trains D: second derivatives, through convolutions. There is an
optimizer for each of the two, and D learns from G(z) cut off from G (`detach`), so that its step does not touch G.

A classifier that was trained on real digits says of 500 made ones how sure it is and how many are of each class; noise
and real test images beside them.
"""

import os
import sys

import numpy as np
from tqdm import tqdm

import minidl
from minidl import optim
from minidl.data import DataLoader, TensorDataset, load_images
from minidl.examples import figure, judge, nearest, picture, run
from minidl.models import Discriminator, Generator

NOISE, BATCH, TURNS = 32, 64, 4  # steps of D for one of G


def critic_loss(d, real, fake):
    u = minidl.rand(len(real), 1, 1, 1)
    between = (u * real + (1 - u) * fake).detach().requires_grad_()
    (slope,) = minidl.autograd.grad(d(between).sum(), [between], create_graph=True)  # N, C, H, W
    norm = (slope.flatten(1) ** 2).sum(1).sqrt()
    return d(fake).mean() - d(real).mean() + 10 * ((norm - 1) ** 2).mean()


def generator_loss(d, fake):
    return -d(fake).mean()


class Game:
    """Both networks, each with its own optimizer."""

    def __init__(self, image):
        self.g = Generator(NOISE, image, width=24)
        self.d = Discriminator(image, width=24, dropout=0.0)
        self.adam_g, self.adam_d = (optim.Adam(net.parameters(), lr=1e-3, betas=(0.0, 0.9)) for net in (self.g, self.d))
        self.losses = []  # of every epoch: D, G

    def noise(self, n):
        return minidl.randn(n, NOISE)

    def epoch(self, loader):
        sums, played = np.zeros(2), 0
        for i, (real,) in enumerate(loader):
            fake = self.g(self.noise(len(real))).detach()  # the generator is not to learn from this
            loss = critic_loss(self.d, real, fake)
            step(self.adam_d, loss)
            sums[0] += loss.item() / len(loader)
            if (i + 1) % TURNS == 0:
                loss = generator_loss(self.d, self.g(self.noise(BATCH)))
                step(self.adam_g, loss)  # its gradients reach D, too, but D's optimizer drops them
                sums[1] += loss.item()
                played += 1
        self.losses.append([sums[0], sums[1] / max(1, played)])

    def state(self):
        """All that the next step depends on."""
        parts = {"g": self.g, "d": self.d, "adam_g": self.adam_g, "adam_d": self.adam_d}
        saved = {name: part.state_dict() for name, part in parts.items()}
        return saved | {"losses": self.losses, "random": minidl.get_state()}

    def go_on_from(self, state):
        for name in ("g", "d", "adam_g", "adam_d"):
            getattr(self, name).load_state_dict(state[name])
        self.losses = state["losses"]
        minidl.set_state(state["random"])

    def sample(self, n):
        """n, C, H, W in 0 ... 1"""
        self.g.eval()
        with minidl.no_grad():
            return (self.g(self.noise(n)).numpy() + 1) / 2


def step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def play(x, epochs, file):
    """Train from the start, or from where the file was left."""
    game = Game(x.shape[1:])
    if file and os.path.exists(file):
        game.go_on_from(minidl.load(file))
    loader = DataLoader(TensorDataset(x), batch_size=BATCH, shuffle=True, drop_last=True)
    bar = tqdm(total=epochs, initial=len(game.losses), disable=not sys.stderr.isatty())
    while len(game.losses) < epochs:
        game.epoch(loader)
        bar.set_postfix_str("D {:.3f}, G {:.3f}".format(*game.losses[-1]), refresh=False)
        bar.update()
        if file and (len(game.losses) % 10 == 0 or len(game.losses) == epochs):
            minidl.save(game.state(), file)
    bar.close()
    return game


def main(args):
    minidl.manual_seed(args.seed)
    data = load_images(args.data, seed=args.seed).scaled()
    x = 2 * data.x_train - 1  # in -1 ... 1, as tanh gives
    says = judge(data)
    sure, unsure = says(data.x_test)[0], says(minidl.random.uniform(data.x_test.shape))[0]
    epochs = max(1, min(150, 200_000 // len(x)) // (10 if args.quick else 1))
    game = play(x, epochs, args.checkpoint)
    made = game.sample(n := 500)
    confidence, classes = says(made)
    print(f"  {', '.join(map(str, classes))} of {n} images are 0, 1, ...")
    figure("confidence", confidence, of_real=sure, of_noise=unsure)
    figure("smallest class", classes.min(), even_share=n / len(classes))
    apart = [np.median(nearest(2 * images - 1, x)) for images in (made, data.x_test)]
    figure("distance to the nearest training image", apart[0], of_real=apart[1])
    if args.save:
        minidl.save(game.g.state_dict(), args.save)
    if args.plot:
        draw(args.plot, {"real": data.x_test, "made": made}, np.array(game.losses))


def draw(path, grids, losses, rows=8, columns=8):
    with picture(path, 1, 3, (12, 4)) as axes:
        for place, (name, images) in zip(axes, grids.items()):
            tiles = images[: rows * columns, 0].reshape(rows, columns, *images.shape[2:])
            tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)))
            place.imshow(np.concatenate(np.concatenate(tiles, 1), 1), cmap="gray_r", vmin=0, vmax=1)
            place.set(title=name, xticks=[], yticks=[])
        axes[2].plot(losses, label=["critic", "generator"])
        axes[2].set(title="losses", xlabel="epoch")
        axes[2].legend(frameon=False)


if __name__ == "__main__":
    run(
        main,
        __doc__,
        data="images as an npz file, an idx file or a folder of idx files (MNIST), edges multiples of 4",
        quick="a tenth of the epochs",
        plot="draw real and made images, and the losses",
        save="write the generator's weights to a .safetensors or .npz file",
        resume="keep the game there every 10 epochs, and go on from it if the file is there",
    )
