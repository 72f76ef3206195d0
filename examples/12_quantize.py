"""Eight bits and fewer: what rounding costs a network, and how much of it comes back.

A number of b bits is a code q with a scale s and a zero point z: q = clip(rint(w / s) + z, lo, hi), w ~ (q - z) s.

    weights only      weights in few bits become floats when they are used; activations stay float
    dynamic           the input of each layer is measured and becomes int8, the product is one of integers
    static            ranges are learned from calibration data, batch norm is folded into the layer before it, and
                      codes travel from layer to layer: convolution, residual sum, pooling and relu never leave int8
    trained           static, and then trained on: forward is the deployed network's to the last bit, backward lets
                      gradients through as if nothing was rounded (Bengio et al. 2013, arXiv:1308.3432)
    GPTQ              in each layer every rounding is paid back by the weights that are left (Frantar et al. 2022,
                      arXiv:2210.17323)

Most of it is from Jacob et al. 2018, arXiv:1712.05877; docs/quantization.md has the arithmetic to the bit.
The static network goes to one file, which loads without this page.

Baseline: the same network in float.
"""

import copy
import os
import tempfile

import minidl
from minidl import nn, optim
from minidl.compress import gptq_, latencies, load_net, quantize_, quantize_static, save_model, save_net
from minidl.examples import figure, labelled_images, picture, run
from minidl.nn import functional as F
from minidl.train import fit


class ResidualCNN(nn.Module):
    """conv - residual block - pool - conv - mean - dense, with batch norm."""

    def __init__(self, channels, classes, width=48):
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width)
        self.dense, self.out = nn.Linear(2 * width, 64), nn.Linear(64, classes)

    def forward(self, x):  # N, C, H, W
        x = F.relu(self.norm0(self.stem(x)))
        y = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(y)) + x)
        x = F.relu(self.norm3(self.conv3(F.max_pool2d(x, 2))))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.out(F.relu(self.dense(x)))  # N, classes


def accuracy(model, x, y):
    with minidl.no_grad():
        return float((model.eval()(minidl.tensor(x)).numpy().argmax(1) == y).mean())


def train(model, data, epochs, rate):
    optimizer = optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    steps = epochs * -(-len(data.x_train) // 64)
    fit(
        model,
        (data.x_train, data.y_train),
        loss=F.cross_entropy,
        optimizer=optimizer,
        scheduler=optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        scheduler_per="step",
        epochs=epochs,
        batch_size=64,
    )
    return model.eval()


def main(args):
    data = labelled_images(args)
    calibration = data.x_train[:256]
    minidl.manual_seed(args.seed)
    model = train(ResidualCNN(data.x_train.shape[1], data.num_classes), data, 2 if args.quick else 8, 5e-3)

    nets = {"float": model}
    for bits in (8, 4, 3, 2):
        nets[f"weights only, {bits} bits"] = quantize_(copy.deepcopy(model), bits, weight_only=True)
    nets["3 bits, GPTQ"] = gptq_(copy.deepcopy(model), calibration, 3)
    nets["dynamic int8"] = quantize_(copy.deepcopy(model))
    nets["static int8"] = static = quantize_static(model, calibration)
    trained = train(quantize_static(model, calibration, deploy=False), data, 1, 1e-4).recalibrate_(calibration)
    before = trained(minidl.tensor(data.x_test)).detach().numpy()
    nets["static int8, trained"] = trained.deploy_()
    print(static)
    same = (trained(minidl.tensor(data.x_test)).numpy() == before).all()
    print(f"the deployed network gives what training saw, to the last bit: {bool(same)}")

    batch = minidl.tensor(data.x_test[:64])
    times = latencies({name: lambda net=net: net(batch) for name, net in nets.items()}, repeats=5, seconds=0.1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, net in nets.items():
            path = os.path.join(folder, "net.safetensors")
            write = save_net if name.startswith("static") else save_model
            found[name] = accuracy(net, data.x_test, data.y_test), write(net, path), times[name]
        again = load_net(path)  # the last one, without the class above
        assert (again(batch).numpy() == trained(batch).numpy()).all()
    print(f"\n{'':24} {'accuracy':>8} {'bytes':>8} {'of float':>8} {'ms for 64':>9}")
    for name, (right, size, ms) in found.items():
        print(f"{name:24} {right:8.4f} {size:8,} {size / found['float'][1]:8.0%} {ms:9.2f}")
    figure("accuracy of static int8", found["static int8"][0], float=found["float"][0])
    figure("bytes of static int8", found["static int8"][1], float=found["float"][1])
    if args.save:
        save_net(static, args.save)
    if args.plot:
        draw(args.plot, found)


def draw(path, found):
    """Accuracy against bytes."""
    with picture(path, size=(6.4, 4.2)) as axes:
        for i, (name, (right, size, _)) in enumerate(found.items()):
            axes.plot(size / 1000, 100 * right, "os^vDPX*h"[i], mfc="none", ms=9, color=f"C{i}", label=name)
        axes.set(xlabel="kB on disk", ylabel="% of test images right", xscale="log")
        axes.set_xticks([30, 50, 100, 200, 400], ["30", "50", "100", "200", "400"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")


if __name__ == "__main__":
    run(
        main,
        __doc__,
        data="an npz file, an idx file or a folder of idx files (MNIST)",
        quick="a quarter of the epochs",
        plot="draw accuracy against bytes into an image file",
        save="write the static int8 network to a .safetensors or .npz file",
        resume=None,
    )
