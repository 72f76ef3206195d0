"""S1-22: a GPT described as encoder, fixed-length vector and decoder; and built without a mask.

The text explained GPT as an encoder that squeezes the input into one vector and a decoder that unfolds it. GPT is a
decoder alone: each token sees all those before it, each as itself. And only those: where attention is not causal, token
t + 1 lies open when it is to be foretold, training learns to copy it, and the loss says nothing about writing.
The test is simple: change the last token; no logit before it may change.
"""

import minidl
from minidl import nn
from minidl.models import GPT


def change_before_the_last(model):
    """By how much the logits of the first tokens move when the last token is another."""
    with minidl.no_grad():
        one, other = model(minidl.tensor([[1, 2, 3, 4]])), model(minidl.tensor([[1, 2, 3, 9]]))
    return float((one - other)[:, :-1].abs().max())


def broken():
    minidl.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    return change_before_the_last(nn.Sequential(nn.Embedding(10, 16), nn.TransformerEncoder(layer, 2)).eval())


def fixed():
    minidl.manual_seed(0)
    return change_before_the_last(GPT(10, context=8, dim=16, heads=2, layers=2).eval())


def check(broken, fixed):
    assert broken > 1e-3
    assert fixed == 0


if __name__ == "__main__":
    from clinic import show

    show(globals())
