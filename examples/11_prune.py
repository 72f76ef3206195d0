"""Pruning: which weights can go, how many, and what is gained; lottery tickets.

A trained network holds more weights than it needs. A rule ranks them, a mask sets the least to zero, and the others
learn to do without. Rules that this page compares at the same share of zeros:

    random       any weight; what a rule has to beat
    magnitude    |w| of all layers together (Han et al. 2015, arXiv:1506.02626)
    SNIP         |w dL/dw|, what the loss feels to first order (Lee et al. 2019, arXiv:1810.02340)

without retraining, and, for magnitude, with: at once and then retrained, or little by little during the training (Zhu &
Gupta 2017, arXiv:1710.01878):

    s(t) = s_final (1 - (1 - t / T)^3)

The lottery ticket (Frankle & Carbin 2019, arXiv:1803.03635): the weights that are left, given the values that they had
at the start and trained alone, do about as well; the same mask with other initial values does worse.

Zeros are free on disk and cost time in memory. Whole channels are faster, too: removed, the network is simply smaller.
"""

import copy
import os
import tempfile

import numpy as np

import minidl
from minidl import nn, optim
from minidl.compress import (
    Pruner,
    cubic,
    latencies,
    masks,
    prune_,
    prune_channels_,
    rewind_,
    save_model,
    slim,
    snip,
    sparsity,
)
from minidl.examples import figure, labelled_images, picture, run
from minidl.models import DigitsCNN
from minidl.train import Prune, evaluate, fit

LOSS = nn.functional.cross_entropy
SHARES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)


def train(model, data, epochs, lr=4e-3, callbacks=()):
    optimizer = optim.AdamW(model.parameters(), lr=lr)
    steps = epochs * -(-len(data.x_train) // 64)
    fit(
        model,
        (data.x_train, data.y_train),
        loss=LOSS,
        optimizer=optimizer,
        scheduler=optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        scheduler_per="step",
        epochs=epochs,
        batch_size=64,
        callbacks=callbacks,
        progress=False,
    )
    return model


def pruned(model, share, **how):
    """A copy with this share of zeros."""
    return prune_(copy.deepcopy(model), share, **how)


def size(model):
    """Bytes of its file."""
    with tempfile.TemporaryDirectory() as folder:
        return save_model(model, os.path.join(folder, "model.safetensors"))


def main(args):
    data = labelled_images(args)
    minidl.manual_seed(args.seed)
    model = DigitsCNN(data.x_train.shape[1:], data.num_classes)
    early = copy.deepcopy(model.state_dict())
    epochs = 4 if args.quick else max(2, min(20, 30_000 // len(data.x_train)))
    accuracy = lambda m: evaluate(m, (data.x_test, data.y_test), LOSS, metrics=["accuracy"]).accuracy

    train(model, data, epochs)
    dense = accuracy(model)
    count = sum(p.numel() for p in model.parameters())
    print(f"dense: accuracy {dense:.4f}, {count:,} parameters, {size(model):,} bytes")

    print("\nthe rules, without retraining, and magnitude with:")
    some = (minidl.tensor(data.x_train[:256]), minidl.tensor(data.y_train[:256]))
    sensitivity = snip(model, some, LOSS)
    curves = {"random": [], "magnitude": [], "SNIP": [], "magnitude, retrained": []}
    for share in SHARES:
        curves["random"].append(accuracy(pruned(model, share, rule="random")))
        curves["magnitude"].append(accuracy(pruned(model, share)))
        curves["SNIP"].append(accuracy(pruned(model, share, rule=sensitivity)))
        curves["magnitude, retrained"].append(accuracy(train(pruned(model, share), data, max(1, epochs // 2), 2e-3)))
    print("  zeros                 " + "".join(f"{share:8.0%}" for share in SHARES))
    for name, values in curves.items():
        print(f"  {name:22}" + "".join(f"{v:8.3f}" for v in values))

    print("\n95 % zeros, with as many epochs of retraining:")
    again = max(2, epochs // 2)
    at_once = train(pruned(model, 0.95), data, again, 2e-3)
    slowly, steps = copy.deepcopy(model), again * -(-len(data.x_train) // 64)
    pruner = Pruner(slowly, lambda t: cubic(t, 0, steps // 2, 0.95), every=max(1, steps // 40))
    train(slowly, data, again, 2e-3, [Prune(pruner)])
    print(f"  at once {accuracy(at_once):.4f}, gradually {accuracy(slowly):.4f}, sparsity {sparsity(slowly):.3f}")

    print("\na lottery ticket at 90 % zeros, trained from the start:")
    ticket = rewind_(pruned(model, 0.9), early)
    train(ticket, data, epochs)
    minidl.manual_seed(args.seed + 1000)
    other = DigitsCNN(data.x_train.shape[1:], data.num_classes)
    for name, mask in masks(ticket).items():  # the same mask, other initial values
        p = other.get_parameter(name)
        p.mask = mask
        p.apply_mask_()
    train(other, data, epochs)
    print(f"  its own initial values {accuracy(ticket):.4f}, others {accuracy(other):.4f}")

    print("\nhalf of the channels removed, retrained:")
    x = data.x_train[:1]
    thin = train(slim(prune_channels_(copy.deepcopy(model), 0.5, x), x), data, again, 2e-3)
    sparse = train(pruned(model, 0.8), data, again, 2e-3)
    batch = minidl.tensor(data.x_test[:256])
    whole = copy.deepcopy(model).eval()
    ms = latencies({"dense": lambda: whole(batch), "thin": lambda: thin.eval()(batch)}, 20)
    print(f"  {size(thin):,} bytes, {ms['dense'] / ms['thin']:.2f} times as fast; 80 % zeros: {size(sparse):,} bytes\n")

    figure("accuracy at 80 % zeros", accuracy(sparse), dense=dense, random=curves["random"][SHARES.index(0.8)])
    figure("accuracy with half of the channels", accuracy(thin), dense=dense)
    figure("bytes at 80 % zeros, of the dense file's", size(sparse) / size(model), dense=1)
    figure("accuracy of the ticket", accuracy(ticket), dense=dense)
    if args.save:
        save_model(sparse, args.save)
    if args.plot:
        with picture(args.plot, size=(9.5, 4.5)) as axes:
            for (name, values), color in zip(curves.items(), ("#bbbbbb", "#d1580c", "#8250df", "#1f6feb")):
                axes.plot(np.arange(len(SHARES)), values, marker="o", markersize=4, color=color, label=name)
            axes.axhline(dense, color="#222222", linewidth=1, linestyle="--", label="dense")
            axes.set_xticks(np.arange(len(SHARES)), [f"{share:.0%}" for share in SHARES])
            axes.set(xlabel="weights that are zero", ylabel="test accuracy", ylim=(0, 1.02))
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


if __name__ == "__main__":
    run(
        main,
        __doc__,
        data="an npz file, an idx file or a folder of idx files (MNIST)",
        quick="4 epochs instead of 20",
        plot="draw accuracy over sparsity, rule by rule, into an image file",
        save="write the network with 80 % zeros to a .safetensors or .npz file",
        resume=None,
    )
