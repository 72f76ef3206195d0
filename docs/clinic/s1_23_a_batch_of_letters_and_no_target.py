"""S1-23: a dataset of single letters, as text, without what comes next.

The sample's dataset gave one character at a time, so a batch was the list ['p']: no numbers, which the embedding
refused with a TypeError; and one letter has no past to foretell it from. A language model's item is a window of
numbers, x, and the same window one token later, y.
"""

from minidl import nn
from minidl.data import CharTokenizer, DataLoader, Dataset, NextTokenDataset

TEXT = "This is a sample text for GPT training."


class Letters(Dataset):
    def __getitem__(self, index):
        return TEXT[index]

    def __len__(self):
        return len(TEXT)


def broken():
    batch = next(iter(DataLoader(Letters(), batch_size=1)))
    return nn.Embedding(50, 8)(batch)


def fixed():
    tokenizer = CharTokenizer.train([TEXT])
    x, y = next(iter(DataLoader(NextTokenDataset(tokenizer.encode(TEXT), 8), batch_size=2)))
    nn.Embedding(len(tokenizer.vocab), 8)(x)
    return [tokenizer.decode(row) for row in x.tolist()], [tokenizer.decode(row) for row in y.tolist()]


def check(broken, fixed):
    assert isinstance(broken, TypeError)
    assert fixed == (["This is ", "his is a"], ["his is a", "is is a "])


if __name__ == "__main__":
    from clinic import show

    show(globals())
