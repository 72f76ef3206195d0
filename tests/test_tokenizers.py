"""Tokenizers and padding: nothing is lost, Chinese is split, training is the definition's and repeatable."""

from collections import Counter
from itertools import pairwise

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import minidl
from minidl.data import BPETokenizer, CharTokenizer, Vocab, WordTokenizer, pad_sequences
from minidl.data.tokenizers import _PIECES

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
