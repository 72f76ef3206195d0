"""Byte-pair encoding, trained here: tokens for any text, long for what is frequent."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from minidl.data.tokenizers import CJK, read_tokenizer, write_tokenizer

__all__ = ["BPETokenizer"]

Path = str | os.PathLike[str]

_PIECES = re.compile(f" ?[{CJK}]+| ?[^\\W{CJK}]+| ?[^\\w\\s]+|\\s+")  # every character is in exactly one piece


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
        write_tokenizer(path, {"kind": self.kind, "specials": self.specials, "merges": self.merges})

    @classmethod
    def load(cls, path: Path) -> BPETokenizer:
        """Read what `save` wrote. Raises ValueError, naming the file, for anything else."""
        content = read_tokenizer(path, cls.kind, ("specials", "merges"))
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
