"""Two networks against each other draw digits: a generator makes images, a critic tells them from real ones.

The idea is Goodfellow's (2014, arXiv:1406.2661), the networks are those of DCGAN (Radford et al. 2015,
arXiv:1511.06434). Two games are played with them. DCGAN's: D says how likely an image is real, s(D(x)), with
s(u) = 1 / (1 + e^-u), and G wants to be taken for real:

    L_D = mean -log s(D(x)) - log(1 - s(D(G(z)))) + 1/2 |dD/dx|^2        L_G = mean -log s(D(G(z)))

Without its last term D learns our few images by heart, its slope grows steep, and G ends with half of the digits; the
penalty on the slope at real images (Mescheder et al. 2018, arXiv:1801.04406) keeps D from that. With momentum (.5 in
DCGAN's Adam) the two chase each other, and some digits are still hardly there; without it all ten are.

And WGAN-GP's (Arjovsky et al. 2017, arXiv:1701.07875; Gulrajani et al. 2017, arXiv:1704.00028). D's mean difference is
a distance between real and made, as long as its slope is at most 1, which another penalty asks for:

    L_D = mean D(G(z)) - D(x) + 10 (|dD/dx'| - 1)^2,    x' somewhere between G(z) and x        L_G = -mean D(G(z))

The penalties are made of a gradient, and their own gradient trains D: second derivatives, through convolutions. Each of
the two has an optimizer of its own, and D learns from G(z) cut off from G (`detach`), so that its step leaves G alone.

A classifier that was trained on real digits says of 500 made ones how sure it is and how many are of each class; noise
and real test images beside them.
"""

import os
import sys
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import minidl
from minidl import optim
from minidl.data import DataLoader, TensorDataset
from minidl.examples import figure, judge, labelled_images, nearest, picture, run, stage, tiles
from minidl.models import Discriminator, Generator
from minidl.nn.functional import binary_cross_entropy_with_logits

NOISE, BATCH = 32, 64


def slope(d, x):
    """D(x), and the length of dD/dx squared, which can itself be differentiated.    (N, C, H, W) -> (N, 1), (N,)"""
    x = x.detach().requires_grad_()
    y = d(x)
    (dx,) = minidl.autograd.grad(y.sum(), [x], create_graph=True)  # N, C, H, W
    return y, (dx.flatten(1) ** 2).sum(1)


def taken_for(logits, real):
    return binary_cross_entropy_with_logits(logits, minidl.full_like(logits, float(real)))


def dcgan_critic(d, real, fake):
    says, squares = slope(d, real)
    return taken_for(says, True) + taken_for(d(fake), False) + 0.5 * squares.mean()


def wgan_critic(d, real, fake):
    u = minidl.rand(len(real), 1, 1, 1)
    _, squares = slope(d, u * real + (1 - u) * fake)
    return d(fake).mean() - d(real).mean() + 10 * ((squares.sqrt() - 1) ** 2).mean()


class Rules(NamedTuple):
    critic: object  # (D, real, fake) -> L_D
    generator: object  # D(G(z)) -> L_G
    turns: int  # steps of D for one of G
    rates: tuple[float, float]  # of G, of D
    betas: tuple[float, float]  # of Adam
    epochs: int


GAMES = {
    "WGAN-GP": Rules(wgan_critic, lambda says: -says.mean(), 4, (1e-3, 1e-3), (0.0, 0.9), 150),
    "DCGAN": Rules(dcgan_critic, lambda says: taken_for(says, True), 1, (1e-3, 2e-3), (0.0, 0.99), 40),
}


class Game:
    """Both networks, each with its own optimizer."""

    def __init__(self, image, rules):
        self.rules = rules
        self.g = Generator(NOISE, image, width=24)
        self.d = Discriminator(image, width=24, dropout=0.0)
        self.adam_g, self.adam_d = (
            optim.Adam(net.parameters(), lr=rate, betas=rules.betas) for net, rate in zip((self.g, self.d), rules.rates)
        )
        self.losses = []  # of every epoch: D, G

    def noise(self, n):
        return minidl.randn(n, NOISE)

    def epoch(self, loader):
        sums, played = np.zeros(2), 0
        for i, (real,) in enumerate(loader):
            fake = self.g(self.noise(len(real))).detach()  # the generator is not to learn from this
            loss = self.rules.critic(self.d, real, fake)
            step(self.adam_d, loss)
            sums[0] += loss.item() / len(loader)
            if (i + 1) % self.rules.turns == 0:
                loss = self.rules.generator(self.d(self.g(self.noise(BATCH))))
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


def play(x, rules, epochs, file):
    """Train from the start, or from where the file was left."""
    game = Game(x.shape[1:], rules)
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
    data = labelled_images(args, 4)
    x = 2 * data.x_train - 1  # in -1 ... 1, as tanh gives
    says = judge(data)
    sure, unsure = says(data.x_test)[0], says(minidl.random.uniform(data.x_test.shape))[0]
    games, grids = {}, {"real": data.x_test}
    for name, rules in GAMES.items():
        epochs = max(1, min(rules.epochs, 200_000 // len(x)) // (10 if args.quick else 1))
        games[name] = play(x, rules, epochs, stage(args, name).get("checkpoint"))
        made = grids[name] = games[name].sample(n := 500)
        confidence, classes = says(made)
        print(f"  {name}: {', '.join(map(str, classes))} of {n} images are 0, 1, ...")
        figure(f"{name} confidence", confidence, of_real=sure, of_noise=unsure)
        figure(f"{name} smallest class", classes.min(), even_share=n / len(classes))
        apart = [np.median(nearest(2 * images - 1, x)) for images in (made, data.x_test)]
        figure(f"{name} distance to the nearest training image", apart[0], of_real=apart[1])
    if args.save:
        minidl.save({name: game.g.state_dict() for name, game in games.items()}, args.save)
    if args.plot:
        draw(args.plot, grids, games)


def draw(path, grids, games, rows=8, columns=8):
    with picture(path, 1, len(grids) + len(games), (16, 3.4)) as axes:
        for place, (name, images) in zip(axes, grids.items()):
            place.imshow(tiles(images, rows, columns), cmap="gray_r", vmin=0, vmax=1)
            place.set(title=name, xticks=[], yticks=[])
        for place, (name, game) in zip(axes[len(grids) :], games.items()):
            place.plot(np.array(game.losses), label=["critic", "generator"])
            place.set(title=f"{name}: losses", xlabel="epoch")
            place.legend(frameon=False)


if __name__ == "__main__":
    run(
        main,
        __doc__,
        data="images as an npz file, an idx file or a folder of idx files (MNIST), edges multiples of 4",
        quick="a tenth of the epochs",
        plot="draw real and made images, and the losses",
        save="write the generators' weights to a .safetensors or .npz file",
        resume="keep each game in FILE-NAME every 10 epochs, and go on from it if the file is there",
    )
