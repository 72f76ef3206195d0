"""S1-10: "I like watching films", labelled as dislike.

The sample's three sentences all say "I like ...", and the second was labelled 0, "does not like". A network can learn
it by heart, and has then learned that films make a sentence negative. Labels are data too: what only one wrong label
teaches shows on a sentence that was not in the training. Here with naive Bayes on characters, which hides nothing.
"""

import math
from collections import Counter

LIKE, DISLIKE = 1, 0
TEXTS = ["我喜欢吃苹果", "我喜欢看电影", "我喜欢打篮球"]
MORE = [("我讨厌吃苹果", DISLIKE), ("我讨厌打篮球", DISLIKE)]  # I hate eating apples, playing basketball
QUESTION = "她喜欢看电影"  # she likes watching films


def answer(labelled):
    """The class of the question by naive Bayes on characters, each count raised by one."""
    scores = {}
    for label in (LIKE, DISLIKE):
        texts = [text for text, c in labelled if c == label]
        counts = Counter("".join(texts))
        kinds = len(set("".join(text for text, _ in labelled)))
        scores[label] = math.log(len(texts)) + sum(
            math.log((counts[c] + 1) / (counts.total() + kinds)) for c in QUESTION
        )
    return max(scores, key=scores.get)


def broken():
    return answer([*zip(TEXTS, [1, 0, 1]), *MORE])


def fixed():
    return answer([*zip(TEXTS, [1, 1, 1]), *MORE])


def check(broken, fixed):
    assert broken == DISLIKE
    assert fixed == LIKE


if __name__ == "__main__":
    from clinic import show

    show(globals())
