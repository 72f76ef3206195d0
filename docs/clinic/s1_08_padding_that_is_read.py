"""S1-8: forty-nine zeros after a sentence of one token, and a network that reads them all.

The sample padded every sentence to 50 tokens at the end and took the last state of a recurrent network, which by then
had seen mostly padding: the answer for a sentence changed with the length it was padded to. The network must be told
the lengths (packing), or the padding must be masked; then a padded sentence gives what it gives alone.
"""

import minidl
from minidl import nn
from minidl.data import pad_sequences
from minidl.nn.utils.rnn import pack_padded_sequence

SENTENCE = [3, 1, 4]


def last_states(read):
    """Of the sentence alone, and padded to 50: how far apart the two last states are."""
    minidl.manual_seed(0)
    embedding, rnn = nn.Embedding(10, 16, padding_idx=0), nn.RNN(16, 24, batch_first=True)
    states = []
    with minidl.no_grad():
        for maxlen in (3, 50):
            ids, mask = pad_sequences([SENTENCE], maxlen)
            _, h = rnn(read(embedding(ids), mask.sum(1)))
            states.append(h[0, 0])
    return float((states[0] - states[1]).abs().max())


def broken():
    return last_states(lambda x, lengths: x)


def fixed():
    return last_states(lambda x, lengths: pack_padded_sequence(x, lengths, batch_first=True))


def check(broken, fixed):
    assert broken > 0.1
    assert fixed < 1e-6  # the same numbers, perhaps summed in another order


if __name__ == "__main__":
    from clinic import show

    show(globals())
