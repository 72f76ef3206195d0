"""S1-24: nn.Transformer called with one argument, and a loss that compares the output with the input.

The sample called the whole encoder-decoder with the source only: a TypeError, as `tgt` is missing. With it, the loss
would have compared each position with the very token that went in: foretelling is then copying. A GPT on the sentence,
with targets shifted by one, learns it by heart in a few hundred steps and writes it from its first letter.
"""

import minidl
from minidl import nn, optim
from minidl.data import CharTokenizer
from minidl.models import GPT

TEXT = "This is a sample text for GPT training."


def broken():
    embedding, transformer = nn.Embedding(30, 16), nn.Transformer(16, 2, 1, 1, 32)
    return transformer(embedding(minidl.tensor([[1, 2, 3]])))


def fixed():
    """The loss after training, and what the network writes after the first letter."""
    minidl.manual_seed(0)
    tokenizer = CharTokenizer.train([TEXT])
    ids = minidl.tensor([tokenizer.encode(TEXT)])
    model = GPT(len(tokenizer.vocab), context=40, dim=32, heads=2, layers=2)
    adam = optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        logits = model(ids[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
    said = model.eval().generate(tokenizer.encode(TEXT[0]), len(TEXT) - 1, temperature=0)
    return loss.item(), TEXT[0] + tokenizer.decode(said)


def check(broken, fixed):
    assert isinstance(broken, TypeError)
    assert "tgt" in str(broken)
    loss, said = fixed
    assert loss < 0.05
    assert said == TEXT


if __name__ == "__main__":
    from clinic import show

    show(globals())
