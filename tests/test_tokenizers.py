"""Tokenizers and padding: nothing is lost, Chinese is split, training is the definition's and repeatable."""

from collections import Counter
from itertools import pairwise

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import minidl
import minidl.nn as nn
import minidl.nn.functional as F
from minidl.data import BPETokenizer, CharTokenizer, Vocab, WordTokenizer, pad_sequences
from minidl.data.bpe import _PIECES

CORPUS = [
    "the cat sat on the mat.",
    "the cats sat; the mats sat",
    "我喜欢深度学习。",
    "深度学习很有趣",
    "ひらがな カタカナ",
    "aaaa aaa",
]


def test_an_unspaced_chinese_sentence_is_not_one_token():
    assert WordTokenizer.split("深度学习框架minidl很快") == [*"深度学习框架", "minidl", *"很快"]
    assert WordTokenizer.split("日本語のテキスト") == list("日本語のテキスト")
    assert WordTokenizer.split("한국어 문장 naïve don't 3.5") == [
        "한국어", "문장", "naïve", "don", "'", "t", "3", ".", "5"]  # fmt: skip
    assert len(BPETokenizer.train(CORPUS, 300).encode("我喜欢深度学习，深度学习很有趣")) > 5


def test_words_and_characters_there_and_back(tmp_path):
    for kind in (WordTokenizer, CharTokenizer):
        tokenizer = kind.train(CORPUS)
        for text in ("the cat sat on the mat.", "我喜欢深度学习。", "the 深度学习 mat") if kind is CharTokenizer else (
                "the cat sat on the mat.", "我喜欢深度学习。"):  # fmt: skip
            assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.encode("Q") == [1]
        assert tokenizer.decode([0, 1]) == "<unk>"
        tokenizer.save(tmp_path / "t.json")
        again = kind.load(tmp_path / "t.json")
        assert again.vocab.tokens == tokenizer.vocab.tokens
        assert again.encode(CORPUS[2]) == tokenizer.encode(CORPUS[2])
    with pytest.raises(ValueError, match=r"t\.json: not a tokenizer of kind 'words'"):
        WordTokenizer.load(tmp_path / "t.json")
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(ValueError, match="JSON"):
        BPETokenizer.load(tmp_path / "t.json")
    (tmp_path / "t.json").write_text('{"kind": "bpe", "specials": [], "merges": [[0, 999]]}')
    with pytest.raises(ValueError, match=r"t\.json: .+0 and 999"):
        BPETokenizer.load(tmp_path / "t.json")
    (tmp_path / "t.json").write_text('{"kind": "bpe"}')
    with pytest.raises(ValueError, match="missing"):
        BPETokenizer.load(tmp_path / "t.json")


def test_vocab():
    texts = [["b", "a", "a"], ["c", "b", "<pad>", "a", "d", "d"]]
    assert Vocab.build(texts).tokens == ["<pad>", "<unk>", "a", "b", "d", "c"]
    assert Vocab.build(texts, max_size=4).tokens == ["<pad>", "<unk>", "a", "b"]
    assert Vocab.build(texts, min_freq=3).tokens == ["<pad>", "<unk>", "a"]
    vocab = Vocab(["x"], specials=(), unknown=None)
    assert (len(vocab), "x" in vocab, "y" in vocab, vocab["x"]) == (1, True, False, 0)
    with pytest.raises(KeyError, match="no token for unknown"):
        vocab["y"]
    with pytest.raises(IndexError, match=r"1 is outside 0 \.\.\. 0"):
        vocab.decode([1])
    with pytest.raises(ValueError, match="'x' occurs twice"):
        Vocab(["x", "x"])
    with pytest.raises(ValueError, match="not in the vocabulary"):
        Vocab(["x"], specials=())


def plain_bpe(texts, n, first):
    """The definition: count every pair of the whole corpus anew before each merge."""
    words = Counter(p for t in texts for p in _PIECES.findall(t))
    split = {w: [first + b for b in w.encode()] for w in words}
    merges = []
    for k in range(n):
        pairs = Counter()
        for w, ids in split.items():
            for pair in pairwise(ids):
                pairs[pair] += words[w]
        if not pairs or max(pairs.values()) < 2:
            break
        best = min(p for p in pairs if pairs[p] == max(pairs.values()))
        merges.append(best)
        for w, ids in split.items():
            out = []
            for i in ids:
                if out and (out[-1], i) == best:
                    out[-1] = first + 256 + k
                else:
                    out.append(i)
            split[w] = out
    return merges, split


@pytest.mark.parametrize("n", [0, 1, 20, 500])
def test_bpe_training_is_the_definition(n):
    bpe = BPETokenizer.train(CORPUS, 257 + n)
    merges, split = plain_bpe(CORPUS, n, 1)
    assert bpe.merges == merges
    assert len(bpe) == 257 + len(merges)
    for piece, ids in split.items():  # a text of the corpus is encoded as training left it
        assert bpe.encode(piece) == ids
    assert BPETokenizer.train(CORPUS, 257 + n).merges == merges


def test_bpe_shortens_and_saves(tmp_path):
    bpe = BPETokenizer.train(CORPUS * 2, 400, specials=("<pad>", "<end>"))
    for text in CORPUS:
        assert len(bpe.encode(text)) < len(text.encode()) / 2
    bpe.save(tmp_path / "bpe.json")
    again = BPETokenizer.load(tmp_path / "bpe.json")
    assert (again.merges, again.specials) == (bpe.merges, bpe.specials)
    assert again.encode(CORPUS[0]) == bpe.encode(CORPUS[0])
    assert bpe.decode([0, *bpe.encode("mat"), 1]) == "mat"
    assert bpe.decode([2 + 0xFF]) == "\ufffd"
    with pytest.raises(IndexError, match="outside"):
        bpe.decode([len(bpe)])
    with pytest.raises(ValueError, match="fewer than 256 bytes"):
        BPETokenizer.train(CORPUS, 100)
    with pytest.raises(ValueError, match="twice"):
        BPETokenizer([(97, 98), (97, 98)])


BPE = BPETokenizer.train(CORPUS, 330)


@hypothesis.given(st.text(st.characters(exclude_categories=["Cs"])) | st.text("the cat深度学习 \n,"))
def test_bpe_gives_every_text_back(text):
    assert BPE.decode(BPE.encode(text)) == text
    assert "".join(_PIECES.findall(text)) == text


@pytest.mark.parametrize(("padding", "truncating", "ids", "mask"), [
    ("post", "post", [[1, 2], [4, 0]], [[1, 1], [1, 0]]), ("pre", "post", [[1, 2], [0, 4]], [[1, 1], [0, 1]]),
    ("post", "pre", [[2, 3], [4, 0]], [[1, 1], [1, 0]]), ("pre", "pre", [[2, 3], [0, 4]], [[1, 1], [0, 1]]),
])  # fmt: skip
def test_padding(padding, truncating, ids, mask):
    x, m = pad_sequences([[1, 2, 3], [4]], 2, padding, truncating)
    assert x.tolist() == ids
    assert m.tolist() == np.array(mask, bool).tolist()
    assert (x.dtype, m.dtype) == (minidl.int64, minidl.bool)


def test_padding_of_other_things():
    x, m = pad_sequences([minidl.ones(2, 3), np.zeros((1, 3), np.float32)], value=-1)
    assert tuple(x.shape) == (2, 2, 3)
    assert x.dtype == minidl.float32
    assert x[1, 1].tolist() == [-1, -1, -1]
    assert m.sum().item() == 3
    assert pad_sequences([[], [1]])[0].tolist() == [[0], [1]]
    assert tuple(pad_sequences([[], []])[1].shape) == (2, 0)
    assert pad_sequences([[0.5], [1.0, 2.0]])[0].dtype == minidl.float32
    assert pad_sequences([[1]], 3, dtype=minidl.int32)[0].dtype == minidl.int32
    assert pad_sequences([[1, 2]], 0)[0].tolist() == [[]]
    for call, message in [
        (lambda: pad_sequences([]), "no sequences"), (lambda: pad_sequences([[1]], padding="left"), "'left'"),
        (lambda: pad_sequences([[1]], truncating="no"), "'no'"), (lambda: pad_sequences([[1]], -1), "negative"),
        (lambda: pad_sequences([np.ones((1, 2)), np.ones((1, 3))]), "different shapes"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()


# -- the three sentences of the mission's second document ----------------------------------------------------------

SENTENCES = ["我喜欢吃苹果", "我喜欢看电影", "我喜欢打篮球"]  # I like eating apples, watching films, playing basketball
LIKES = [1, 1, 1]  # the document has 0, "does not like", for the second


@pytest.mark.parametrize(("tokenizer", "length"), [
    (CharTokenizer.train(SENTENCES), 6), (WordTokenizer.train(SENTENCES), 6),
    (BPETokenizer.train(SENTENCES, 1 + 256 + 9), None),
])  # fmt: skip
def test_the_three_sentences_are_more_than_three_tokens(tokenizer, length, tmp_path):
    """Splitting at spaces, as the document does, gives one token for each whole sentence."""
    ids = [tokenizer.encode(text) for text in SENTENCES]
    for text, one in zip(SENTENCES, ids):
        assert tokenizer.decode(one) == text
        assert len(one) == length or (length is None and 2 <= len(one) < len(text.encode()))
    shared = [a for a, b, c in zip(*ids) if a == b == c]
    assert tokenizer.decode(shared).startswith("我喜欢")
    assert len({tuple(one) for one in ids}) == 3
    tokenizer.save(tmp_path / "t.json")
    assert [type(tokenizer).load(tmp_path / "t.json").encode(text) for text in SENTENCES] == ids


def test_a_vocabulary_of_limited_size():
    """Keras's num_words: the most frequent tokens, and one for all others."""
    tokenizer = CharTokenizer.train(SENTENCES, max_size=5)
    assert tokenizer.vocab.tokens == ["<pad>", "<unk>", *sorted("我喜欢")]
    assert tokenizer.decode(tokenizer.encode(SENTENCES[0])) == "我喜欢<unk><unk><unk>"


def test_labels_of_the_sentences_as_one_hot():
    rows = F.one_hot(minidl.tensor(LIKES), num_classes=2)
    assert rows.tolist() == [[0, 1]] * 3
    assert rows.dtype == minidl.int64
    logits = minidl.randn(3, 2)
    by_index = F.cross_entropy(logits, minidl.tensor(LIKES))
    assert F.cross_entropy(logits, rows.float()).item() == pytest.approx(by_index.item(), rel=4e-7)  # a few roundings


def sentence_batch(padding="post", maxlen=50):
    """Sentences of 6, 2 and 9 characters and their padded batch."""
    texts = [SENTENCES[0], "我看", "我喜欢看电影和篮球"]
    tokenizer = CharTokenizer.train([*SENTENCES, *texts])
    ids = [tokenizer.encode(text) for text in texts]
    x, mask = pad_sequences(ids, maxlen, padding=padding)
    assert tuple(x.shape) == (3, maxlen)
    assert mask.sum(1).tolist() == [6, 2, 9]
    return tokenizer, ids, x, mask


def close(a, b):
    # float32 sums of at most 50 terms of magnitude about 1, in another order
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=0, atol=50 * 2**-23)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_does_not_reach_a_recurrent_layer(kind, bidirectional):
    """S1-8, S1-9: Embedding, two stacked layers, softmax; padded to 50 equals each sentence by itself."""
    from minidl.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    minidl.manual_seed(0)
    tokenizer, ids, x, mask = sentence_batch()
    embed = nn.Embedding(len(tokenizer.vocab), 16, padding_idx=0)
    rnn = getattr(nn, kind)(16, 24, num_layers=2, batch_first=True, bidirectional=bidirectional)
    head = nn.Linear(24, 2)

    def classify(h):
        h = h[0] if kind == "LSTM" else h
        return F.softmax(head(h[-1]), dim=-1)

    packed = pack_padded_sequence(embed(x), mask.sum(1), batch_first=True, enforce_sorted=False)
    y, h = rnn(packed)
    y, lengths = pad_packed_sequence(y, batch_first=True)
    assert lengths.tolist() == [6, 2, 9]
    together = classify(h)
    together[:, 1].log().sum().backward()
    parameters = [*embed.parameters(), *rnn.parameters(), *head.parameters()]
    grads = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    for i, one in enumerate(ids):
        y_alone, h_alone = rnn(embed(minidl.tensor([one])))
        close(y[i, : len(one)], y_alone[0])
        alone = classify(h_alone)
        close(together[i], alone[0])
        alone[0, 1].log().backward()
    for p, grad in zip(parameters, grads):
        close(grad, p.grad)
    naive = classify(rnn(embed(x))[1])  # without the mask 44 pads do get in
    assert np.abs((naive - together).detach().numpy()).max() > 1e-3


@pytest.mark.parametrize("padding", ["post", "pre"])
def test_padding_does_not_reach_attention(padding):
    minidl.manual_seed(1)
    tokenizer, ids, x, mask = sentence_batch(padding, 20)
    embed = nn.Embedding(len(tokenizer.vocab), 16, padding_idx=0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    hidden = ~mask
    y = layer(embed(x), src_key_padding_mask=hidden)
    total = (y * mask.unsqueeze(-1).float()).sum()
    weight = mask.float() / mask.float().sum(1, keepdim=True)
    pooled = (y * weight.unsqueeze(-1)).sum(1)
    (total + pooled.square().sum()).backward()
    parameters = [*embed.parameters(), *layer.parameters()]
    grads = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    for i, one in enumerate(ids):
        alone = layer(embed(minidl.tensor([one])))
        real = slice(0, len(one)) if padding == "post" else slice(20 - len(one), 20)
        close(y[i, real], alone[0])
        close(pooled[i], alone[0].mean(0))
        (alone.sum() + alone[0].mean(0).square().sum()).backward()
    for p, grad in zip(parameters, grads):
        # sums over 17 tokens of products through two linear layers
        np.testing.assert_allclose(grad.numpy(), p.grad.numpy(), rtol=0, atol=2e-5)
    naive = layer(embed(x))
    assert np.abs((naive - y).detach().numpy()[mask.numpy()]).max() > 1e-3


def test_a_character_model_of_a_sentence_is_fed():
    """S1-23: batches of (x, y = x shifted by one), shuffled, that an embedding takes."""
    from minidl.data import DataLoader, NextTokenDataset

    text = "".join(SENTENCES)
    tokenizer = CharTokenizer.train([text])
    loader = DataLoader(NextTokenDataset(tokenizer.encode(text), 5), 4, shuffle=True)
    seen = []
    for x, y in loader:
        assert nn.Embedding(len(tokenizer.vocab), 8)(x).shape == (len(x), 5, 8)
        for a, b in zip(x, y):
            a, b = tokenizer.decode(a.tolist()), tokenizer.decode(b.tolist())
            assert a[1:] == b[:-1]
            seen.append(a + b[-1])
    assert sorted(seen) == sorted(text[i : i + 6] for i in range(len(text) - 5))
