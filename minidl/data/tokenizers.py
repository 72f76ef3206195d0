"""Text to numbers: vocabularies, and tokens that are characters or words (of Chinese and Japanese, too)."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from minidl.io.atomic import atomic_write

__all__ = ["CJK", "CharTokenizer", "Tokenizer", "Vocab", "WordTokenizer", "read_tokenizer", "write_tokenizer"]

Path = str | os.PathLike[str]

# Han characters, kana and their marks: scripts written without spaces, in which every character is a unit of its own.
CJK = "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORDS = re.compile(f"[{CJK}]|[^\\W{CJK}]+|[^\\w\\s]")
_HAN = re.compile(f"[{CJK}]")


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
        write_tokenizer(
            path, {"kind": self.kind, "specials": vocab.specials, "unknown": vocab.unknown, "tokens": tokens}
        )

    @classmethod
    def load(cls, path: Path) -> Any:
        """Read what `save` wrote. Raises ValueError, naming the file, for anything else."""
        content = read_tokenizer(path, cls.kind, ("specials", "tokens"))
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
            glued = not out or token in ".,;:!?)]}。，！？；：、" or _HAN.match(token) or _HAN.match(out[-1])
            out += token if glued or out[-1] in "([{。，！？；：、" else f" {token}"
        return out


def write_tokenizer(path: Path, content: dict[str, Any]) -> None:
    """A tokenizer's parts as JSON, whole or not at all."""
    with atomic_write(path) as file:
        file.write(json.dumps({"minidl": "tokenizer", **content}, ensure_ascii=False).encode())


def read_tokenizer(path: Path, kind: str, lists: Sequence[str]) -> dict[str, Any]:
    """The parts again, of which these must be lists. Raises ValueError, naming the file, for anything else."""
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
