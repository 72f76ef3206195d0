"""A convolutional network reads handwritten digits, and shows where it looked.

    x (N, 1, H, W) -> conv 3x3, 32 -> relu -> conv 3x3, 64 -> relu -> maxpool 2 -> dense 128 -> relu -> dense 10

A convolution slides one small weight over the image, so that what it has learned in one corner it knows in all:

    y[n, o, i, j] = b[o] + sum_{c, u, v} x[n, c, i + u, j + v] w[o, c, u, v]

The last layer's numbers ("logits") become probabilities by softmax, and the loss is the cross-entropy, -log of the
probability of the true digit. 1,199,882 parameters for MNIST's 28 x 28 (`--data`: idx files or an npz file), 53,002 for
the shipped 8 x 8.

Baseline: the class whose mean image is nearest.

The picture shows, for some test images, what the network's word hung on: saliency |d logit / d x|, pixel by pixel
(Simonyan et al. 2013, arXiv:1312.6034), and Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), the last convolution's
channels A_k, weighted by their mean gradient:  relu(sum_k mean_ij(d logit / d A_k[i, j]) A_k).
"""

import numpy as np

import minidl
from minidl import nn, optim
from minidl.examples import figure, labelled_images, picture, run, stage
from minidl.models import mnist_cnn
from minidl.train import evaluate, fit, predict

BATCH = 32


def nearest_mean(x, y, x_test):
    """For each test image the class whose mean training image is nearest."""
    x, x_test = x.reshape(len(x), -1), x_test.reshape(len(x_test), -1)
    means = np.stack([x[y == c].mean(0) for c in np.unique(y)])  # C, D
    distance = (means**2).sum(1) - 2 * x_test @ means.T  # |a - b|^2, less |x_test|^2    N, C
    return np.unique(y)[distance.argmin(1)]


def saliency(model, x):
    """How much each pixel moves the logit of the class that wins: |d logit / d x|.    N, C, H, W -> N, H, W"""
    x = minidl.tensor(x, requires_grad=True)
    winner = model(x).amax(1)
    (dx,) = minidl.autograd.grad(winner.sum(), [x])
    return dx.abs().amax(1).numpy()


def grad_cam(model, x, layers=4):
    """Grad-CAM on what the first `layers` layers make, here both convolutions.    N, C, H, W -> N, H', W'"""
    maps = model[:layers](minidl.tensor(x)).detach().requires_grad_()  # N, K, H', W'
    winner = model[layers:](maps).amax(1)
    (gradient,) = minidl.autograd.grad(winner.sum(), [maps])
    weight = gradient.mean((2, 3), keepdim=True)  # N, K, 1, 1
    return (weight * maps).sum(1).relu().detach().numpy()


def main(args):
    data = labelled_images(args)
    minidl.manual_seed(args.seed)
    model = mnist_cnn(data.num_classes, data.x_train.shape[1:])
    count = sum(p.numel() for p in model.parameters())
    epochs = max(2, min(15, 60_000 // len(data.x_train)))  # many images need fewer passes over them
    if args.quick:
        epochs = max(1, epochs // 4)
    print(f"{count:,} parameters, {len(data.x_train):,} images to train on, {epochs} epochs")

    loss = nn.functional.cross_entropy
    optimizer = optim.Adam(model.parameters())
    steps = epochs * -(-len(data.x_train) // BATCH)  # the rate rises to 0.004 and falls to nearly 0 in that time
    history = fit(
        model,
        (data.x_train, data.y_train),
        loss=loss,
        optimizer=optimizer,
        scheduler=optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps),
        scheduler_per="step",
        epochs=epochs,
        batch_size=BATCH,
        validation=(data.x_test, data.y_test),
        metrics=["accuracy"],
        **stage(args),
    )
    print(history)

    scores = evaluate(model, (data.x_test, data.y_test), loss, metrics=["accuracy", "recall", "confusion_matrix"])
    print("recall by class:", " ".join(f"{r:.2f}" for r in scores.recall))
    figure(
        "test accuracy",
        scores.accuracy,
        nearest_mean=(nearest_mean(data.x_train, data.y_train, data.x_test) == data.y_test).mean(),
    )
    if args.save:
        minidl.save(model.state_dict(), args.save)
    if args.plot:
        draw(args.plot, model.eval(), data)


def draw(path, model, data, columns=8):
    """Images of each class and what the network was wrong about, with the places that its word hung on."""
    guess = predict(model, data.x_test).numpy().argmax(1)
    wrong = np.flatnonzero(guess != data.y_test)[: columns // 2]
    right = [np.flatnonzero(data.y_test == c)[0] for c in np.unique(data.y_test)[:columns]]
    shown = np.array([*wrong, *right][:columns])
    x = data.x_test[shown]
    with picture(path, 3, len(shown), (1.35 * len(shown), 4.6)) as axes:
        rows = {"image": x[:, 0], "saliency": saliency(model, x), "Grad-CAM": grad_cam(model, x)}
        for row, (name, images) in zip(axes, rows.items()):
            for place, image in zip(row, images):
                place.imshow(image, cmap="gray_r" if name == "image" else "magma")
                place.set(xticks=[], yticks=[])
            row[0].set_ylabel(name)
        for place, i in zip(axes[0], shown):
            color = "black" if guess[i] == data.y_test[i] else "#b3261e"
            place.set_title(f"{data.y_test[i]}, read {guess[i]}", fontsize=9, color=color)


if __name__ == "__main__":
    run(
        main,
        __doc__,
        data="an npz file, an idx file or a folder of idx files (MNIST)",
        quick="a quarter of the epochs",
        plot="draw saliency and Grad-CAM of some test images into an image file",
    )
