"""S1-15: an encoder of layers that are called with a name they do not have, and without positions.

The sample passed `mask=` to each TransformerEncoderLayer, which calls it `src_mask`: a TypeError at the first batch.
Under it lay three omissions that raise nothing. Without positions, attention does not see order, so "dog bites man" and
"man bites dog" are one; padding is attended to; and stacked pre-norm layers want a last norm. `TextClassifier` in
`minidl.models` has all three.
"""

import minidl
from minidl import nn
from minidl.models import TextClassifier


class Encoder(nn.Module):
    def __init__(self, dim=16, heads=2, layers=2):
        super().__init__()
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(dim, heads, 32, 0.0) for _ in range(layers))

    def forward(self, src, mask=None):
        for layer in self.layers:
            src = layer(src, mask=mask)
        return src


def broken():
    return Encoder()(minidl.randn(5, 3, 16))


def fixed():
    """How far apart the logits are: of a text and its reverse, and of a text alone and padded."""
    minidl.manual_seed(0)
    model = TextClassifier(20, 2, dim=16, heads=2, layers=2, dropout=0.0).eval()
    ids = minidl.tensor([[5, 9, 7]])
    with minidl.no_grad():
        logits = model(ids)
        order = (logits - model(ids.flip(1))).abs().max().item()
        padding = (logits - model(minidl.tensor([[5, 9, 7, 0, 0]]))).abs().max().item()
    return order, padding


def check(broken, fixed):
    assert isinstance(broken, TypeError)
    assert "mask" in str(broken)
    order, padding = fixed
    assert order > 1e-3
    assert padding < 1e-5


if __name__ == "__main__":
    from clinic import show

    show(globals())
