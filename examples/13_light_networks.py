"""Networks made to be light: what they cost, what a pretrained one knows, and what is left when it is compressed.

A 3 x 3 convolution from C to K channels takes 9 C K multiplications a place. The light networks split it:

    depthwise separable    3 x 3 in each channel, then 1 x 1 across        9 C + C K           MobileNetV1
    inverted bottleneck    1 x 1 wider, 3 x 3 in each, 1 x 1 narrower      t C (C + 9 + K)     MobileNetV2, EfficientNet
    half and half          half of the channels past it, then shuffled     9 C/2 + 2 (C/2)^2   ShuffleNetV2

The first table has them beside a plain network (MobileNetV1's widths and strides, full convolutions) and ResNet-18.
MACs are counted from shapes, milliseconds are measured here, and the one does not follow from the other.

Then EfficientNet-Lite0 with its ImageNet weights looks at surfaces that it was never trained on: brick, grass and
gravel, in patches. Its features, 1280 numbers, are enough for a linear layer. Baseline: the nearest mean of the pixels.

The second table: that network in int8, with half of its weights pruned, and both. Pruned without more training it
forgets; a little training of what is left brings it back.
"""

import copy
import os
import tempfile
from functools import partial

import numpy as np

import minidl
from minidl import nn, optim
from minidl.compress import latencies, prune_, quantize_, save_model
from minidl.data import ImageData, texture_patches
from minidl.data.transforms import Resize
from minidl.examples import figure, picture, run, stage
from minidl.models import MobileNetV1, MobileNetV2, efficientnet_lite0, resnet18, shufflenet_v2_x1_0
from minidl.models.mobilenet import V1
from minidl.train import fit, predict

SIZE = 96  # pixels along an edge that patches are enlarged to


def plain_net():
    """MobileNetV1 with full convolutions in place of separable ones."""
    layers, c = [], 3
    for k, stride in [(32, 2), *V1]:
        layers += [nn.Conv2d(c, k, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(k), nn.ReLU()]
        c = k
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 1000))


def table_of_costs(size, repeats):
    """Parameters, multiplications and median milliseconds for one image; returns {name: (parameters, MACs, ms)}."""
    networks = {
        "plain": plain_net(), "ResNet-18": resnet18(), "MobileNetV1": MobileNetV1(), "MobileNetV2": MobileNetV2(),
        "ShuffleNetV2": shufflenet_v2_x1_0(), "EfficientNet-Lite0": efficientnet_lite0(),
    }  # fmt: skip
    x = minidl.randn(1, 3, size, size)
    ms = latencies({name: partial(model.eval(), x) for name, model in networks.items()}, repeats)
    costs = {}
    print(f"{'one image of ' + str(size):20}{'parameters':>12}{'MACs':>15}{'ms':>8}{'GMAC/s':>8}")
    for name, model in networks.items():
        found = nn.summary(model, (1, 3, size, size))
        costs[name] = found.params, found.macs, ms[name]
        print(f"{name:20}{found.params:12,}{found.macs:15,}{ms[name]:8.1f}{found.macs / ms[name] / 1e6:8.1f}")
    return costs


def as_photographs(patches):
    """Grey uint8 (N, H, W) -> what EfficientNet-Lite0 takes: float32 (N, 3, SIZE, SIZE), (pixel - 127) / 128."""
    grey = np.asarray(Resize((SIZE, SIZE))(patches[:, None].astype(np.float32)))
    return np.repeat((grey - 127) / 128, 3, axis=1)


def nearest_mean(x, y, x_test, y_test):
    x, x_test = x.reshape(len(x), -1) / 255, x_test.reshape(len(x_test), -1) / 255
    means = np.stack([x[y == c].mean(0) for c in range(y.max() + 1)])
    return (((x_test[:, None] - means) ** 2).sum(2).argmin(1) == y_test).mean()


def transfer(model, data, epochs=40):
    """Give the network a new last layer, trained on its features, which stay as they are."""
    with minidl.no_grad():
        features = minidl.cat([model.features(minidl.tensor(x)) for x in np.array_split(data.x_train, 12)])
    head = nn.Linear(1280, data.num_classes)
    adamw = optim.AdamW(head.parameters(), lr=1e-3)
    fit(
        head, (features, data.y_train), loss=nn.functional.cross_entropy, optimizer=adamw, epochs=epochs, progress=False
    )
    model._fc = head


def tune(model, data, epochs, **options):
    """Train what is left after pruning; masks hold. The norms must learn new statistics, faster than by 1 % a step."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 0.1
    sgd = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    steps = epochs * -(-len(data.x_train) // 32)
    fit(
        model,
        (data.x_train, data.y_train),
        loss=nn.functional.cross_entropy,
        optimizer=sgd,
        scheduler=optim.lr_scheduler.OneCycleLR(sgd, 0.01, steps),
        scheduler_per="step",
        epochs=epochs,
        **options,
    )


def size_on_disk(model):
    with tempfile.TemporaryDirectory() as folder:
        return save_model(model, os.path.join(folder, "model.safetensors"))


def main(args):
    minidl.manual_seed(args.seed)
    pixels = texture_patches(args.data)
    if args.quick:
        pixels = ImageData(*(a[::3] for a in pixels))
    costs = table_of_costs(224, 3 if args.quick else 15)
    light = [costs[name][1] for name in ("MobileNetV1", "MobileNetV2", "ShuffleNetV2", "EfficientNet-Lite0")]
    figure("GMACs of the heaviest light network", max(light) / 1e9, plain=costs["plain"][1] / 1e9)

    data = pixels._replace(x_train=as_photographs(pixels.x_train), x_test=as_photographs(pixels.x_test))
    model = efficientnet_lite0()
    transfer(model, data)
    accuracy = lambda m: (predict(m, data.x_test).numpy().argmax(1) == data.y_test).mean()
    figure("texture accuracy", accuracy(model), nearest_mean_on_pixels=nearest_mean(*pixels))

    pruned = prune_(copy.deepcopy(model), 0.5)
    tuned = copy.deepcopy(pruned)
    tune(tuned, data, 1 if args.quick else 3, **stage(args))
    models = {
        "float32": model,
        "int8": quantize_(copy.deepcopy(model)),
        "half pruned": pruned,
        "and trained on": tuned,
        "and int8": quantize_(copy.deepcopy(tuned)),
    }
    one = minidl.tensor(data.x_test[:1])
    ms = latencies({name: partial(m.eval(), one) for name, m in models.items()}, 3 if args.quick else 15)
    print(f"{'EfficientNet-Lite0':20}{'accuracy':>10}{'bytes on disk':>15}{'ms':>8}")
    rows = {name: (accuracy(m), size_on_disk(m), ms[name]) for name, m in models.items()}
    for name, (right, size, time) in rows.items():
        print(f"{name:20}{right:10.3f}{size:15,}{time:8.1f}")
    figure("texture accuracy, half pruned, trained on, int8", rows["and int8"][0], only_pruned=rows["half pruned"][0])
    figure("megabytes, half pruned, trained on, int8", rows["and int8"][1] / 1e6, float32=rows["float32"][1] / 1e6)
    if args.save:
        save_model(models["and int8"], args.save)
    if args.plot:
        draw(args.plot, costs, rows)


def draw(path, costs, rows):
    from matplotlib.ticker import LogLocator, NullFormatter

    with picture(path, 1, 2, (11, 4.2)) as (left, right):
        for name, (parameters, macs, ms) in costs.items():
            left.scatter(macs / 1e9, ms, s=parameters / 4e4, color="#1f6feb", alpha=0.6)
            radius = (parameters / 4e4 / np.pi) ** 0.5  # in points, as the offset
            place = {"textcoords": "offset points", "va": "center", "fontsize": 9}
            left.annotate(name, (macs / 1e9, ms), xytext=(radius + 3, 0), **place)
        left.set(xscale="log", yscale="log", xlabel="GMACs", ylabel="ms for one image", title="area: parameters")
        for axis in (left.xaxis, left.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        left.margins(x=0.25, y=0.15)
        for i, (name, (accuracy, size, _)) in enumerate(rows.items()):
            right.scatter(size / 1e6, accuracy, s=60, color="#d1580c")
            place = {"textcoords": "offset points", "ha": "center"}
            right.annotate(name, (size / 1e6, accuracy), xytext=(0, 9 if i >= 3 else -16), **place)
        right.set(xlabel="megabytes on disk", ylabel="test accuracy", title="EfficientNet-Lite0 on surfaces")
        right.margins(x=0.2, y=0.2)


if __name__ == "__main__":
    run(
        main,
        __doc__,
        data="a folder of photographs, one of each surface; the left halves train, the right halves test",
        quick="a third of the patches, few repeats",
        plot="draw both tables",
        save="write the compressed network to a .safetensors or .npz file, for minidl.compress.load_model",
        resume="keep the state of the training after pruning there, and go on from it if the file is there",
    )
