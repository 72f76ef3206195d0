"""Text to numbers: characters, words (Chinese and Japanese included), byte-pair encoding, and padding to batches."""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from minidl.io.atomic import atomic_write
from minidl.tensors import Tensor, wrap

__all__ = ["BPETokenizer", "CharTokenizer", "Vocab", "WordTokenizer", "pad_sequences"]

Path = str | os.PathLike[str]

# Han characters, kana and their marks: scripts written without spaces, in which every character is a unit of its own.
_CJK = "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORDS = re.compile(f"[{_CJK}]|[^\\W{_CJK}]+|[^\\w\\s]")
_IS_CJK = re.compile(f"[{_CJK}]")
_PIECES = re.compile(f" ?[{_CJK}]+| ?[^\\W{_CJK}]+| ?[^\\w\\s]+|\\s+")  # every character is in exactly one piece


class Vocab:
    """Tokens and their numbers: specials first, then the tokens in the order given.

    Args:
        tokens: the tokens, each once.
        specials: tokens with a role, such as padding; the first ones, so that ``<pad>`` is 0.
        unknown: which of the specials stands for tokens that are not in the vocabulary; None: there is none.

    Raises ValueError for a token that occurs twice, or an `unknown` that is not in the vocabulary.

    >>> vocab = Vocab.build([["a", "b", "a"], ["c", "a", "b"]], min_freq=2)
    >>> vocab.tokens, vocab.encode(["a", "z"]), vocab.decode([2, 3])
    (['<pad>', '<unk>', 'a', 'b'], [2, 1], ['a', 'b'])
    """

    def __init__(
        self, tokens: Iterable[str], specials: Sequence[str] = ("<pad>", "<unk>"), unknown: str | None = "<unk>"
    ) -> None:
        self.specials, self.unknown = tuple(specials), unknown
        self.tokens = [*self.specials, *tokens]
        self.index = {token: i for i, token in enumerate(self.tokens)}
        if len(self.index) < len(self.tokens):
            twice = [token for token, n in Counter(self.tokens).items() if n > 1]
            raise ValueError(f"Vocab: {twice[0]!r} occurs twice")
        if unknown is not None and unknown not in self.index:
            raise ValueError(f"Vocab: the token for unknown ones, {unknown!r}, is not in the vocabulary")

    @classmethod
    def build(
        cls, texts: Iterable[Iterable[str]], min_freq: int = 1, max_size: int | None = None,
        specials: Sequence[str] = ("<pad>", "<unk>"), unknown: str | None = "<unk>",
    ) -> Vocab:  # fmt: skip
        """The tokens of tokenized texts, most frequent first (ties in the order of their characters).

        Args: min_freq: leave out rarer ones. max_size: the most tokens to have, specials included.
        """
        counts = Counter(token for text in texts for token in text)
        ranked = sorted(
            (t for t, n in counts.items() if n >= min_freq and t not in specials), key=lambda t: (-counts[t], t)
        )
        return cls(ranked if max_size is None else ranked[: max(max_size - len(specials), 0)], specials, unknown)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self.index

    def __getitem__(self, token: str) -> int:
        """The number of a token. KeyError for one that is not there, if there is no unknown one."""
        found = self.index.get(token)
        if found is None:
            if self.unknown is None:
                raise KeyError(f"{token!r} is not in the vocabulary, which has no token for unknown ones")
            found = self.index[self.unknown]
        return found

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """The numbers of tokens."""
        return [self[token] for token in tokens]

    def decode(self, ids: Iterable[Any]) -> list[str]:
        """The tokens of numbers. IndexError for a number that none has."""
        found = []
        for i in ids:
            if not 0 <= int(i) < len(self.tokens):
                raise IndexError(f"{int(i)} is outside 0 ... {len(self.tokens) - 1}")
            found.append(self.tokens[int(i)])
        return found


class Tokenizer:
    """Base: a way to split text, and a vocabulary. A subclass defines `split` and `join`."""

    kind = ""

    def __init__(self, vocab: Vocab) -> None:
        self.vocab = vocab

    @classmethod
    def train(cls, texts: Iterable[str], min_freq: int = 1, max_size: int | None = None) -> Any:
        """A tokenizer with the vocabulary of some texts; see `Vocab.build`."""
        return cls(Vocab.build((cls.split(text) for text in texts), min_freq, max_size))

    @staticmethod
    def split(text: str) -> list[str]:
        """The tokens of a text."""
        raise NotImplementedError

    @staticmethod
    def join(tokens: Sequence[str]) -> str:
        """A text of tokens."""
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """Text to numbers."""
        return self.vocab.encode(self.split(text))

    def decode(self, ids: Iterable[Any]) -> str:
        """Numbers to text, without special tokens other than the unknown one."""
        hidden = set(self.vocab.specials) - {self.vocab.unknown}
        return self.join([token for token in self.vocab.decode(ids) if token not in hidden])

    def save(self, path: Path) -> None:
        """Write the tokenizer as JSON, whole or not at all."""
        vocab = self.vocab
        tokens = vocab.tokens[len(vocab.specials) :]
        _write(path, {"kind": self.kind, "specials": vocab.specials, "unknown": vocab.unknown, "tokens": tokens})

    @classmethod
    def load(cls, path: Path) -> Any:
        """Read what `save` wrote. Raises ValueError, naming the file, for anything else."""
        content = _read(path, cls.kind, ("specials", "tokens"))
        return cls(Vocab(content["tokens"], content["specials"], content.get("unknown")))


class CharTokenizer(Tokenizer):
    """Every character is a token.

    >>> CharTokenizer.train(["abba"]).encode("bac")
    [3, 2, 1]
    """

    kind = "characters"

    @staticmethod
    def split(text: str) -> list[str]:
        return list(text)

    @staticmethod
    def join(tokens: Sequence[str]) -> str:
        return "".join(tokens)


class WordTokenizer(Tokenizer):
    """Words, and every other sign, are tokens; every Han character and kana is one, as those have no spaces between.

    >>> WordTokenizer.split("It works, 我喜欢深度学习。")
    ['It', 'works', ',', '我', '喜', '欢', '深', '度', '学', '习', '。']
    """

    kind = "words"

    @staticmethod
    def split(text: str) -> list[str]:
        return _WORDS.findall(text)

    @staticmethod
    def join(tokens: Sequence[str]) -> str:
        """Words with single spaces, none around Han characters and before closing signs: not always the first text."""
        out = ""
        for token in tokens:
            glued = not out or token in ".,;:!?)]}。，！？；：、" or _IS_CJK.match(token) or _IS_CJK.match(out[-1])
            out += token if glued or out[-1] in "([{。，！？；：、" else f" {token}"
        return out


class BPETokenizer:
    """Byte-pair encoding of UTF-8: any text has an encoding, and decoding gives the text back.

    Training starts from the 256 bytes and, again and again, makes a token of the pair of neighbours that is most
    frequent within pieces (words with the space before them, runs of Han characters and kana, of signs, of spaces), of
    equally frequent ones the pair with the smallest numbers: the same texts give the same tokens everywhere. Gage 1994
    (C Users Journal 12 (2)); Sennrich et al. 2016 (arXiv:1508.07909); on bytes: Radford et al. 2019 (GPT-2).

    Numbers: specials, then bytes, then merges in the order in which they were made.

    >>> bpe = BPETokenizer.train(["low lower lowest"], 260)
    >>> [bpe.token(i) for i in bpe.encode("low slow")]
    [b'low', b' ', b's', b'low']
    >>> bpe.decode(bpe.encode("höher 学习"))
    'höher 学习'
    """

    kind = "bpe"

    def __init__(self, merges: Iterable[Sequence[int]], specials: Sequence[str] = ("<pad>",)) -> None:
        self.specials = tuple(specials)
        self.merges = [(int(a), int(b)) for a, b in merges]
        first = len(self.specials)
        self._bytes = [b""] * first + [bytes([b]) for b in range(256)]
        for a, b in self.merges:
            if not (first <= a < len(self._bytes) and first <= b < len(self._bytes)):
                raise ValueError(f"BPETokenizer: the merge of {a} and {b} comes before those tokens are made")
            self._bytes.append(self._bytes[a] + self._bytes[b])
        self._made = {pair: first + 256 + i for i, pair in enumerate(self.merges)}
        if len(self._made) < len(self.merges):
            raise ValueError("BPETokenizer: a pair is merged twice")
        self._cache: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self._bytes)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, specials: Sequence[str] = ("<pad>",)) -> BPETokenizer:
        """Learn merges until there are `vocab_size` tokens or no pair occurs twice. ValueError for a size too small."""
        first = len(specials)
        if vocab_size < first + 256:
            raise ValueError(f"BPETokenizer: {vocab_size} tokens are fewer than 256 bytes and {first} specials")
        pieces = Counter(piece for text in texts for piece in _PIECES.findall(text))
        words = [[first + b for b in _utf8(piece)] for piece in pieces]
        counts = list(pieces.values())
        pairs: Counter[tuple[int, int]] = Counter()
        where: dict[tuple[int, int], set[int]] = defaultdict(set)
        for i, word in enumerate(words):
            for pair in pairwise(word):
                pairs[pair] += counts[i]
                where[pair].add(i)
        merges: list[tuple[int, int]] = []
        while pairs and first + 256 + len(merges) < vocab_size:
            best = min(pairs, key=lambda pair: (-pairs[pair], pair))
            if pairs[best] < 2:
                break
            new = first + 256 + len(merges)
            merges.append(best)
            for i in where.pop(best):
                for pair in pairwise(words[i]):
                    pairs[pair] -= counts[i]
                    if not pairs[pair]:
                        del pairs[pair]
                words[i] = _merged(words[i], best, new)
                for pair in pairwise(words[i]):
                    pairs[pair] += counts[i]
                    where[pair].add(i)
        return cls(merges, specials)

    def encode(self, text: str) -> list[int]:
        """Text to numbers: in each piece the merge that was learned first is made first."""
        ids: list[int] = []
        for piece in _PIECES.findall(text):
            known = self._cache.get(piece)
            if known is None:
                if len(self._cache) >= 100_000:
                    self._cache.clear()
                known = self._cache[piece] = self._encode_piece(piece)
            ids += known
        return ids

    def _encode_piece(self, piece: str) -> list[int]:
        ids = [len(self.specials) + b for b in _utf8(piece)]
        while len(ids) > 1:
            pair = min(pairwise(ids), key=lambda pair: self._made.get(pair, len(self._bytes)))
            if pair not in self._made:
                break
            ids = _merged(ids, pair, self._made[pair])
        return ids

    def token(self, i: int) -> bytes:
        """The bytes of a number: none for specials. IndexError for a number that no token has."""
        if not 0 <= i < len(self._bytes):
            raise IndexError(f"{i} is outside 0 ... {len(self._bytes) - 1}")
        return self._bytes[i]

    def decode(self, ids: Iterable[Any]) -> str:
        """Numbers to text, without specials; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.token(int(i)) for i in ids).decode("utf-8", errors="replace")

    def save(self, path: Path) -> None:
        """Write the tokenizer as JSON, whole or not at all."""
        _write(path, {"kind": self.kind, "specials": self.specials, "merges": self.merges})

    @classmethod
    def load(cls, path: Path) -> BPETokenizer:
        """Read what `save` wrote. Raises ValueError, naming the file, for anything else."""
        content = _read(path, cls.kind, ("specials", "merges"))
        try:
            return cls(content["merges"], content["specials"])
        except (ValueError, TypeError) as problem:
            raise ValueError(f"{path}: {problem}") from problem


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")  # a lone surrogate is no character


def _merged(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    out: list[int] = []
    i = 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps({"minidl": "tokenizer", **content}, ensure_ascii=False).encode())


def _read(path: Path, kind: str, lists: Sequence[str]) -> dict[str, Any]:
    with open(path, "rb") as file:
        try:
            content = json.loads(file.read())
        except ValueError as problem:
            raise ValueError(f"{path}: not a tokenizer's JSON ({problem})") from problem
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise ValueError(f"{path}: not a tokenizer of kind {kind!r}")
    if not all(isinstance(content.get(name), list) for name in lists):
        raise ValueError(f"{path}: {' or '.join(lists)} is missing")
    return content


def pad_sequences(
    sequences: Sequence[Any], maxlen: int | None = None, padding: str = "post", truncating: str = "post",
    value: float = 0, dtype: Any = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sequences of several lengths as one Tensor, and a mask: True where an element is real.    N, T, ...; N, T

    Args:
        sequences: lists, arrays or Tensors of shapes (T_i, ...).
        maxlen: T (default: the longest); what is longer is cut.
        padding, truncating: "post" fills and cuts at the end, "pre" at the start (Keras's default).
        value: what fills.
        dtype: default: that of the sequences, int64 for lists of integers, float32 for lists of floats.

    Raises ValueError for no sequences at all, trailing shapes that differ, and other words than those.

    >>> ids, mask = pad_sequences([[1, 2, 3], [4]])
    >>> ids.tolist(), mask.tolist()
    ([[1, 2, 3], [4, 0, 0]], [[True, True, True], [True, False, False]])
    """
    for name, word in (("padding", padding), ("truncating", truncating)):
        if word not in ("pre", "post"):
            raise ValueError(f"pad_sequences: {name} must be 'pre' or 'post', got {word!r}")
    if not len(sequences):
        raise ValueError("pad_sequences: no sequences")
    arrays = [_array(s) for s in sequences]
    full = [a for a in arrays if a.size] or arrays
    shapes = {a.shape[1:] for a in full}
    if len(shapes) > 1:
        raise ValueError(f"pad_sequences: elements of different shapes, {sorted(shapes)}")
    length = max(len(a) for a in arrays) if maxlen is None else maxlen
    if length < 0:
        raise ValueError(f"pad_sequences: maxlen must not be negative, got {maxlen}")
    kind = np.result_type(*full) if dtype is None else np.dtype(dtype)
    out = np.full((len(arrays), length, *shapes.pop()), value, kind)
    mask = np.zeros((len(arrays), length), bool)
    for i, a in enumerate(arrays):
        a = a[:length] if truncating == "post" else a[max(len(a) - length, 0) :]
        if len(a):
            at = slice(0, len(a)) if padding == "post" else slice(length - len(a), length)
            out[i, at], mask[i, at] = a, True
    return wrap(out), wrap(mask)


def _array(sequence: Any) -> np.ndarray:
    if isinstance(sequence, Tensor):
        return sequence.detach().numpy()
    if isinstance(sequence, np.ndarray):
        return sequence
    a = np.asarray(sequence)
    return a.astype(np.int64 if not a.size or a.dtype.kind in "iu" else np.float32 if a.dtype.kind == "f" else a.dtype)
