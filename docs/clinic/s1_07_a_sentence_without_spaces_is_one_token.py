"""S1-7: a tokenizer that looks for spaces makes one token of each Chinese sentence.

The sample gave three sentences of Chinese, which is written without spaces, to a tokenizer that cuts at spaces. So each
whole sentence became one "word", numbers 1, 2 and 3, and nothing that the sentences share could be learned. Han
characters must be tokens of their own (or byte pairs must be learned from the text).
"""

from minidl.data import WordTokenizer

TEXTS = ["我喜欢吃苹果", "我喜欢看电影", "我喜欢打篮球"]  # I like eating apples, watching films, playing basketball


def broken():
    vocabulary = {}
    return [[vocabulary.setdefault(word, len(vocabulary) + 1) for word in text.split()] for text in TEXTS]


def fixed():
    tokenizer = WordTokenizer.train(TEXTS)
    return [tokenizer.encode(text) for text in TEXTS]


def check(broken, fixed):
    assert broken == [[1], [2], [3]]
    assert [len(ids) for ids in fixed] == [6, 6, 6]
    assert fixed[0][:3] == fixed[1][:3] == fixed[2][:3]  # "I like"
    assert len({tuple(ids) for ids in fixed}) == 3


if __name__ == "__main__":
    from clinic import show

    show(globals())
