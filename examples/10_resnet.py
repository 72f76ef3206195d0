"""Residual networks know surfaces and digits, and stay trainable when they are deep.

    y = relu(x + F(x)),    F = norm(conv(relu(norm(conv(x)))))

A block adds to what it is given. The gradient of a stack of such blocks is a product of (1 + F'), which does not fade
as a product of F' does: so depth helps, or at least does not hurt (He et al. 2015, arXiv:1512.03385).

Three things on this page:
1. photographs of brick, grass and gravel: the network learns from patches of their left halves and is asked about
   patches of their right halves. Baseline: the class whose mean image is nearest, on raw pixels. A hook then takes what
   the layer before the last one sees, and the same nearest mean on those features is right nearly always;
2. handwritten digits, with a ResNet-8 for small images, as it is and with attention to channels: squeeze and
   excitation (Hu et al. 2017, arXiv:1709.01507) weights what a block adds, channel by channel;
3. the same stack with and without its skips, at growing depth.
"""

import numpy as np

import minidl
from minidl import nn, optim
from minidl.data import DataLoader, TensorDataset, TransformedDataset, load_images, texture_patches
from minidl.data.transforms import Compose, RandomHorizontalFlip, RandomShift
from minidl.examples import figure, picture, run, stage
from minidl.models import BasicBlock, ResNet, resnet_cifar
from minidl.train import evaluate, fit, predict

BATCH = 32


def train(model, data, epochs, lr, augment=None, **options):
    """AdamW, the rate rising to `lr` and falling to nearly 0; `augment` makes each image differ a little each time."""
    training = TensorDataset(data.x_train, data.y_train)
    if augment is not None:
        training = TransformedDataset(training, augment)
    loader = DataLoader(training, batch_size=BATCH, shuffle=True)
    optimizer = optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    return fit(
        model,
        loader,
        loss=nn.functional.cross_entropy,
        optimizer=optimizer,
        scheduler=optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=epochs * len(loader)),
        scheduler_per="step",
        epochs=epochs,
        metrics=["accuracy"],
        **options,
    )


def accuracy(model, x, y):
    return evaluate(model, (x, y), nn.functional.cross_entropy, metrics=["accuracy"]).accuracy


def nearest_mean(x, y, x_test, y_test):
    """Share of test rows whose nearest class mean is their own class's; images and features alike.    N, ..."""
    x, x_test = x.reshape(len(x), -1), x_test.reshape(len(x_test), -1)
    means = np.stack([x[y == c].mean(0) for c in range(y.max() + 1)])  # C, D
    return (((x_test[:, None] - means) ** 2).sum(2).argmin(1) == y_test).mean()


def features(model, x):
    """What the last layer is given, taken by a hook while the model runs as usual.    N, D"""
    kept = []
    handle = model.fc.register_forward_pre_hook(lambda layer, inputs: kept.append(inputs[0].numpy()))
    predict(model, x)
    handle.remove()
    return np.concatenate(kept)


def main(args):
    minidl.manual_seed(args.seed)
    textures = texture_patches(args.data).scaled()
    digits = load_images(None, seed=args.seed).scaled()

    # 1. surfaces
    model = ResNet(BasicBlock, [1, 1, 1], textures.num_classes, in_channels=1, widths=(16, 32, 64))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(textures.x_train)} patches to train on")
    epochs = 5 if args.quick else 15
    augment = Compose([RandomHorizontalFlip(), RandomShift(8)])
    train(model, textures, epochs, 1e-2, augment, **stage(args))
    x, y, x_test, y_test = textures
    seen = features(model, x_test)
    figure(
        "texture accuracy",
        accuracy(model, x_test, y_test),
        nearest_mean_on_pixels=nearest_mean(x, y, x_test, y_test),
        nearest_mean_on_features=nearest_mean(features(model, x), y, seen, y_test),
    )
    if args.save:
        minidl.save(model.state_dict(), args.save)

    # 2. digits
    x, y, x_test, y_test = digits
    right = {}
    for name, squeeze in {"digits": 0, "digits, squeeze": 4}.items():
        small = resnet_cifar(8, in_channels=1, squeeze=squeeze)
        train(small, digits, 4 if args.quick else 25, 1e-2, RandomShift(1), **stage(args, name))
        right[name] = accuracy(small, x_test, y_test)
        print(f"  {name}: {sum(p.numel() for p in small.parameters()):,} parameters, {right[name]:.4f}")
    figure("digits accuracy", right["digits"], nearest_mean=nearest_mean(x, y, x_test, y_test))
    figure("digits accuracy, squeeze and excitation", right["digits, squeeze"], without=right["digits"])

    # 3. with and without a way around
    depths = (8, 32) if args.quick else (8, 20, 32, 44)
    curves, scores = {}, {}
    for depth in depths:
        for skip in (True, False):
            minidl.manual_seed(args.seed)
            net = resnet_cifar(depth, in_channels=1, width=8, skip=skip)
            how = "with skips" if skip else "without"
            history = train(net, digits, 2 if args.quick else 4, 4e-3, **stage(args, f"{depth} {how}"))
            curves[depth, skip] = history.steps["loss"]
            scores[depth, skip] = accuracy(net, x_test, y_test)
            print(
                f"  {depth} layers, {how:10}  loss {history['loss'][-1]:.3f}  test accuracy {scores[depth, skip]:.3f}"
            )
    deepest = depths[-1]
    figure(f"digits accuracy, {deepest} layers", scores[deepest, True], without_skips=scores[deepest, False])
    if args.plot:
        draw(args.plot, seen, textures, curves, depths)


def draw(path, seen, textures, curves, depths):
    """Features of the test patches in the plane where they vary most; losses by step."""
    _, _, axes_of_most = np.linalg.svd(seen - seen.mean(0), full_matrices=False)
    plane = (seen - seen.mean(0)) @ axes_of_most[:2].T  # N, 2
    with picture(path, 1, 2, (11, 4.2)) as (left, right):
        for c in range(textures.num_classes):
            left.scatter(*plane[textures.y_test == c].T, s=14, label=f"surface {c}")
        left.set(title="test patches by what the last layer sees", xticks=[], yticks=[])
        left.legend(frameon=False)
        for color, depth in zip(("#9ecae1", "#6baed6", "#2171b5", "#08306b"), depths):
            for skip, style in ((True, "-"), (False, ":")):
                loss = np.convolve(curves[depth, skip], np.ones(15) / 15, "valid")
                right.plot(loss, style, color=color, label=f"{depth} layers{'' if skip else ', no skips'}")
        right.set(title="digits: with skips and without", xlabel="step", ylabel="loss (mean of 15 steps)", yscale="log")
        right.legend(frameon=False, fontsize=8, ncols=2)


if __name__ == "__main__":
    run(
        main,
        __doc__,
        data="a folder of photographs, one of each surface; the left halves train, the right halves test",
        quick="a third of the epochs, two depths",
        plot="draw the features, and the losses with and without skips",
        save="write the weights of the network for textures to a .safetensors or .npz file",
        resume="keep the state of the training on textures there, of the others in FILE-NAME, and go on from it",
    )
