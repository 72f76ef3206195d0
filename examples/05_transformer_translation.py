"""A transformer translates from English to French, letter by letter; its encoder alone tells classes of text.

    attention(Q, K, V) = softmax(Q K^T / sqrt(D)) V        each place asks (Q) all others (K) and takes what fits (V)

(Vaswani et al. 2017, arXiv:1706.03762.) The encoder's places see each other; those of the decoder see themselves, those
before, and all of the encoder's: so in training it foretells every letter of the translation at once. To translate, it
is asked letter by letter: for the likeliest (greedy), or for several beginnings that are followed side by side (beam).

Data: what programs show, in English and French: messages from the catalogues of the package django (BSD), and names of
languages, countries, scripts and currencies from babel (Unicode CLDR); pip install 'minidl[examples]' brings both. Of
those up to 20 letters long there are some 1,700, of which a tenth is held out. That is little: most held-out strings
have words that are in no other pair, and of those only the kindred ones can be guessed.

Measured on pairs held out: the share translated exactly, and BLEU on letters (Papineni et al. 2002, n-grams of 1 to 4).
Baselines: copying the source; and the translation of that training pair whose source is nearest in groups of letters.

The encoder for classes: which of the eight largest categories of Unicode does a character belong to (letter, digit,
mark, symbol ...), by its name, word by word? "LATIN SMALL LETTER A" is Ll, "COMBINING LATIN SMALL LETTER A" is Mn: it
takes words together to tell. Baseline: naive Bayes on words and pairs of neighbours. (Whose language one of the strings
above is, naive Bayes on groups of three letters knows as well as the encoder does, .73: there neighbours say it all.)
"""

import collections
import gettext
import importlib.util
import itertools
import math
import pathlib
import sys
import unicodedata

import numpy as np

import minidl
from minidl import nn, optim
from minidl.cli import UserError
from minidl.data import CharTokenizer, DataError, DataLoader, Vocab, load_columns, pad_sequences
from minidl.examples import figure, picture, run, stage
from minidl.models import TextClassifier, Translator
from minidl.train import fit

BATCH, LONGEST = 32, 20
PAD, START, END = 0, 2, 3


# -- data --------------------------------------------------------------------------------------------------------------


def catalogue(language):
    """English -> that language, of all of django's catalogues; of words with a plural, the singular."""
    found = importlib.util.find_spec("django")
    if found is None or not found.submodule_search_locations:
        raise UserError("the texts are in the package django: pip install 'minidl[examples]'")
    texts = {}
    for path in sorted(pathlib.Path(found.submodule_search_locations[0]).rglob(f"locale/{language}/LC_MESSAGES/*.mo")):
        with open(path, "rb") as file:
            for key, text in gettext.GNUTranslations(file)._catalog.items():
                key, plural = key if isinstance(key, tuple) else (key, 0)
                key = key.rpartition("\x04")[2].strip()  # before it may stand a context
                if key and not plural:
                    texts.setdefault(key, text.strip())
    return texts


def read(path):
    """Pairs of strings, in alphabetical order."""
    if path is not None:
        columns = [c.astype(str).tolist() for c in load_columns(path).values()]
        if len(columns) < 2 or len(columns[0]) < 50:
            raise DataError(f"{path}: two columns of at least 50 rows are needed, the texts and their translations")
        return sorted({(a, b) for a, b in zip(*columns[:2]) if a and b})
    pairs = sorted((names() | catalogue("fr")).items())
    return [(a, b) for a, b in pairs if len(a) <= LONGEST and len(b) <= LONGEST + 4 and "\n" not in a]


def names():
    """English -> French names of languages, countries, scripts and currencies."""
    try:
        from babel import Locale
    except ImportError as error:
        raise UserError("the names are in the package babel: pip install 'minidl[examples]'") from error
    english, french = Locale("en"), Locale("fr")
    found = {}
    for kind in ("languages", "territories", "scripts", "currencies", "variants"):
        theirs, ours = getattr(english, kind), getattr(french, kind)
        found |= {theirs[code]: ours[code] for code in theirs if code in ours}
    return found


def split(items, share, seed):
    """Two lists at random, the second with this share of the items."""
    order = minidl.Generator(seed).permutation(len(items)).tolist()
    cut = round(len(items) * (1 - share))
    return [items[i] for i in order[:cut]], [items[i] for i in order[cut:]]


def batches(tokenizer, pairs):
    """Batches (source, target begun with START, target ended with END) of pairs of about the same length."""
    pairs = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
    made = []
    for i in range(0, len(pairs), BATCH):
        sources, targets = zip(*((tokenizer.encode(a), tokenizer.encode(b)) for a, b in pairs[i : i + BATCH]))
        rows = (sources, [[START, *t] for t in targets], [[*t, END] for t in targets])
        made.append(tuple(pad_sequences(r)[0] for r in rows))
    return DataLoader(made, batch_size=None, shuffle=True)


# -- measures and baselines --------------------------------------------------------------------------------------------


def groups(text, n):
    return collections.Counter(text[i : i + n] for i in range(len(text) - n + 1))


def bleu(guesses, truths, longest=4):
    """BLEU on letters: the geometric mean of the shares of n-grams that are right, times a penalty for brevity."""
    logs = []
    for n in range(1, longest + 1):
        right = sum((groups(g, n) & groups(t, n)).total() for g, t in zip(guesses, truths))
        made = sum(max(len(g) - n + 1, 0) for g in guesses)
        logs.append(math.log(max(right, 1e-9) / max(made, 1)))
    said, wanted = sum(map(len, guesses)), sum(map(len, truths))
    return math.exp(min(0.0, 1 - wanted / max(said, 1)) + sum(logs) / longest)


def nearest_neighbours(known, sources):
    """For each source the translation of the known pair whose source shares the largest part of its letter triples."""
    triples = lambda text: frozenset(f"^{text}$"[i : i + 3] for i in range(len(text)))
    have = [(triples(a), b) for a, b in known]
    found = []
    for source in sources:
        mine = triples(source)
        found.append(max(have, key=lambda one: len(mine & one[0]) / len(mine | one[0]))[1])
    return found


def exact(guesses, truths):
    return float(np.mean([g == t for g, t in zip(guesses, truths)]))


class NaiveBayes:
    """log P(class) + sum over words and pairs of words of log P(it | class), each count raised by alpha."""

    def __init__(self, texts, y, classes, alpha):
        self.counts = [collections.Counter() for _ in range(classes)]
        for text, k in zip(texts, y):
            self.counts[k].update(self.parts(text))
        kinds = len(set().union(*self.counts))
        self.alpha, self.total = alpha, [math.log(count.total() + alpha * kinds) for count in self.counts]
        self.prior = np.log(np.bincount(y, minlength=classes))

    @staticmethod
    def parts(text):
        words = ["^", *text.split(), "$"]
        return words[1:-1] + [" ".join(pair) for pair in itertools.pairwise(words)]

    def predict(self, text):
        parts = self.parts(text)
        log = lambda count, total: sum(math.log(count[part] + self.alpha) - total for part in parts)
        return int(np.argmax(self.prior + [log(*one) for one in zip(self.counts, self.total)]))


def best_naive_bayes(known, classes):
    """With the alpha that serves best on a fifth of what is known, then of all of it."""
    cut, fit_to = len(known) // 5, lambda part, alpha: NaiveBayes(*zip(*part), classes, alpha)
    right = lambda bayes: sum(bayes.predict(text) == k for text, k in known[:cut])
    return fit_to(known, max((0.03, 0.1, 0.3, 1.0), key=lambda alpha: right(fit_to(known[cut:], alpha))))


# -- translation -------------------------------------------------------------------------------------------------------


def loss(logits, target):
    """Cross-entropy over all letters but the padding.    (N, T, V), (N, T)"""
    return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD, label_smoothing=0.1)


def train(model, data, epochs, lr, loss, **options):
    optimizer = optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * len(data), pct_start=0.15)
    history = fit(
        model, data, loss=loss, optimizer=optimizer, epochs=epochs, scheduler=schedule, scheduler_per="step",
        clip_norm=1.0, **options,
    )  # fmt: skip
    print(f"loss {history['loss'][0]:.3f} after one epoch, {history['loss'][-1]:.3f} after {epochs}")


def translate(args):
    """Train, and score what is said of the strings held out; the network, its tokenizer, and a string to look at."""
    known, test = split(read(args.data), 0.1, args.seed)
    letters = sorted(set("".join(a + b for a, b in known)))
    tokenizer = CharTokenizer(Vocab(letters, specials=("<pad>", "<unk>", "<start>", "<end>")))
    minidl.manual_seed(args.seed)
    model = Translator(len(tokenizer.vocab), dim=64, heads=4, layers=2, hidden=256, dropout=0.2)
    count = sum(p.numel() for p in model.parameters())
    print(f"{len(known):,} pairs to learn from, {len(letters)} letters, {count:,} parameters")
    epochs = 2 if args.quick else 70
    train(model, batches(tokenizer, known), epochs, 3e-3, loss, **stage(args))
    model.eval()

    sources, truths = zip(*test)
    longest = 2 * max(len(a) for a in sources)
    ids, _ = pad_sequences([tokenizer.encode(a) for a in sources])
    said = {
        "greedy": [tokenizer.decode(row) for row in model.greedy(ids, START, END, longest)],
        "copy": sources,
        "nearest neighbour": nearest_neighbours(known, sources),
    }
    if not args.quick:
        one = lambda a: minidl.tensor(tokenizer.encode(a))
        said["beam"] = [tokenizer.decode(model.beam(one(a), START, END, 4, longest)) for a in sources]
    right = show(known, sources, truths, said["greedy"])
    best = "greedy" if args.quick else "beam"
    for measure, of in (("exactly right", exact), ("BLEU", bleu)):
        values = {name.replace(" ", "_"): of(guesses, truths) for name, guesses in said.items()}
        figure(f"translation, {measure}", values.pop(best), **values)
    return model, tokenizer, max(right or sources, key=len)


def show(known, sources, truths, guesses):
    """Print some translations, and how many are right of strings whose words are all known; those that are right."""
    words = set(" ".join(a for a, _ in known).split())
    have = [all(word in words for word in a.split()) for a in sources]
    right = [g == t for g, t in zip(guesses, truths)]
    both = sum(h and r for h, r in zip(have, right))
    print(f"{len(sources)} held out; of {sum(have)} all words are in other pairs, {both} of them right")
    for a, g, t in list(zip(sources, guesses, truths))[:12]:
        print(f"  {a!r} -> {g!r}" + ("" if g == t else f", truly {t!r}"))
    return [a for a, r in zip(sources, right) if r]


# -- categories --------------------------------------------------------------------------------------------------------


def characters(seed, classes=8, most=500):
    """(name, number of its category) of characters of the largest categories, as many of each; the categories' names.

    Without the scripts whose characters are numbered rather than named.
    """
    numbered = (
        "CJK",
        "HANGUL",
        "TANGUT",
        "EGYPTIAN",
        "NUSHU",
        "KHITAN",
        "CUNEIFORM",
        "ANATOLIAN",
        "BAMUM",
        "YI ",
        "VAI ",
    )
    found = collections.defaultdict(list)
    for c in map(chr, range(sys.maxunicode + 1)):
        name = unicodedata.name(c, "")
        if name and not name.startswith(numbered):
            found[unicodedata.category(c)].append(name)
    largest = sorted(found, key=lambda category: -len(found[category]))[:classes]
    generator = minidl.Generator(seed)
    chosen = {category: generator.permutation(len(found[category]))[:most] for category in largest}
    return [(found[category][i], k) for k, category in enumerate(largest) for i in chosen[category]], largest


def tell_categories(args, batch=64):
    """The encoder as a classifier: accuracy on names held out, and that of naive Bayes."""
    names, categories = characters(args.seed)
    known, test = split(names, 0.2, args.seed)
    if args.quick:
        known = known[:1000]
    vocab = Vocab.build((name.split() for name, _ in known), min_freq=2)

    def encoded(names):
        names = sorted(names, key=lambda one: one[0].count(" "))  # those of a batch are about as long
        parts = [zip(*names[i : i + batch]) for i in range(0, len(names), batch)]
        return [(pad_sequences([vocab.encode(t.split()) for t in part])[0], minidl.tensor(y)) for part, y in parts]

    minidl.manual_seed(args.seed)
    model = TextClassifier(len(vocab), len(categories), dim=64, heads=4, layers=2, hidden=256, dropout=0.2)
    data = DataLoader(encoded(known), batch_size=None, shuffle=True)
    train(model, data, 5 if args.quick else 12, 3e-3, nn.functional.cross_entropy, **stage(args, "categories"))
    model.eval()
    with minidl.no_grad():
        found = [(model(x).numpy().argmax(1), y.numpy()) for x, y in encoded(test)]
    guess, truth = (np.concatenate(part) for part in zip(*found))
    recalls = (f"{name} {(guess[truth == k] == k).mean():.2f}" for k, name in enumerate(categories))
    print(f"{len(known):,} names to learn from, {len(test):,} held out; recall: {', '.join(recalls)}")
    bayes = best_naive_bayes(known, len(categories))
    figure("category told", (guess == truth).mean(), naive_Bayes=np.mean([bayes.predict(t) == k for t, k in test]))


def main(args):
    model, tokenizer, source = translate(args)
    if args.data is None:
        print("\ntelling characters apart by their names")
        tell_categories(args)
    if args.save:
        minidl.save(model.state_dict(), args.save)
    if args.plot:
        with picture(args.plot, size=(7, 5.4)) as axes:
            attention_map(axes, model, tokenizer, source)


def attention_map(axes, model, tokenizer, source):
    """For each letter said, where in the source the decoder's last layer looked."""
    ids = minidl.tensor([tokenizer.encode(source)])
    said = model.greedy(ids, START, END, 2 * len(source))[0]
    weights = model.attention(ids, minidl.tensor([[START, *said]])).numpy()
    axes.imshow(weights, cmap="Blues", aspect="auto")
    letters = lambda text: list(text.replace(" ", "\u2423"))
    axes.set_xticks(range(len(source)), letters(source), family="monospace")
    axes.set_yticks(range(len(said) + 1), [*letters(tokenizer.decode(said)), "end"], family="monospace")
    axes.set(
        xlabel="source", ylabel="what is said next", title="where the decoder looks (last layer, mean of the heads)"
    )


if __name__ == "__main__":
    run(
        main,
        __doc__,
        data="a CSV file whose first two columns are texts and their translations",
        quick="2 epochs instead of 70, no beams",
        plot="draw where the decoder looks, letter by letter, into an image file",
    )
