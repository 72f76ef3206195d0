"""Recurrent networks tell from a surname, letter after letter, which language it comes from.

    RNN     h' = tanh(W_ih x + b_ih + W_hh h + b_hh)
    LSTM    i, f, o = sigmoid(...);  g = tanh(...);     c' = f c + i g,         h' = o tanh(c')
    GRU     r, z = sigmoid(...);  n = tanh(... r ...);  h' = (1 - z) n + z h

A token is a pair of letters, each beginning where the last one ended. Names differ in length: a batch of them is padded
to the longest, and packed. The network is told the lengths and never reads the padding, so each name's answer is the
one that it gets alone (checked below). Two networks read the name, one from each end, and the two last states decide.

Learning by going back through time multiplies the gradient by the slope of the same step again and again. That product
shrinks or grows like a power: the picture shows |d h_T / d x_t| against how long ago x_t was, for an RNN, an RNN with
large weights, an LSTM, and an LSTM whose forget gates start open (b_f = 3). So gradients are also clipped in training.

Data: surnames of eight languages from the package faker (pip install 'minidl[examples]'); those of two languages are
left out. Baselines: naive Bayes on groups of three letters, and the most frequent language.
"""

import collections
import importlib

import numpy as np

import minidl
from minidl import nn, optim
from minidl.cli import UserError
from minidl.data import DataError, Vocab, load_columns, pad_sequences, train_test_split
from minidl.examples import figure, letter_pairs, picture, run, stage
from minidl.models import RecurrentClassifier
from minidl.train import evaluate, fit

LANGUAGES = {
    "Dutch": "nl_NL", "English": "en_GB", "Finnish": "fi_FI", "French": "fr_FR", "German": "de_DE", "Italian": "it_IT",
    "Spanish": "es_ES", "Swedish": "sv_SE",
}  # fmt: skip


def read(path):
    """(names (N,), labels (N,), what the labels stand for), in alphabetical order."""
    owners = collections.defaultdict(set)
    if path is None:
        for language, place in LANGUAGES.items():
            try:
                page = importlib.import_module(f"faker.providers.person.{place}")
            except ImportError as error:
                raise UserError("the surnames are in the package faker: pip install 'minidl[examples]'") from error
            for name in page.Provider.last_names:
                owners[name].add(language)
    else:
        columns = list(load_columns(path).values())
        if len(columns) < 2:
            raise DataError(f"{path}: two columns are needed, the texts and their classes")
        for name, label in zip(*(c.astype(str) for c in columns[:2])):
            owners[name].add(label)
    names = sorted(name for name, theirs in owners.items() if len(theirs) == 1 and name)
    labels = [next(iter(owners[name])) for name in names]
    classes, y = np.unique(labels, return_inverse=True)
    if len(classes) < 2 or len(names) < 50:
        raise DataError(f"{path}: {len(names)} texts of {len(classes)} classes; at least 50 of two are needed")
    return np.array(names), y, classes.tolist()


class NaiveBayes:
    """log P(class) + sum over groups of three letters of log P(group | class), each class's counts raised by alpha."""

    def __init__(self, names, y, alpha=1.0):
        self.counts = [collections.Counter() for _ in range(y.max() + 1)]
        for name, c in zip(names, y):
            self.counts[c].update(self.groups(name))
        kinds = len(set().union(*self.counts))
        self.alpha, self.prior = alpha, np.log(np.bincount(y) / len(y))
        self.total = np.log([count.total() + alpha * kinds for count in self.counts])

    @staticmethod
    def groups(name):
        text = f"^^{name.lower()}$"
        return [text[i : i + 3] for i in range(len(text) - 2)]

    def predict(self, names):
        return np.array([np.argmax(self.scores(name)) for name in names])

    def scores(self, name):
        groups = self.groups(name)
        seen = [sum(np.log(count[g] + self.alpha) for g in groups) for count in self.counts]
        return self.prior + seen - len(groups) * self.total


def best_naive_bayes(names, y):
    """Naive Bayes with the alpha that serves best on a fifth of the training names, then of all of them."""
    part, rest, y_part, y_rest = train_test_split(names, y, 0.2, seed=7)
    right = {a: (NaiveBayes(part, y_part, a).predict(rest) == y_rest).mean() for a in (0.03, 0.1, 0.3, 1.0)}
    return NaiveBayes(names, y, max(right, key=right.get))


def encode(vocab, names):
    """Names as padded numbers, and their lengths.    N, T; N"""
    ids, mask = pad_sequences([vocab.encode(letter_pairs(name.lower())) for name in names])
    return ids, mask.sum(1)


def check_padding(model, ids, lengths):
    """The logits of names in a padded batch equal those of each name alone."""
    with minidl.no_grad():
        together = model(ids, lengths).numpy()
        alone = [model(ids[i : i + 1, :n], lengths[i : i + 1]).numpy()[0] for i, n in enumerate(lengths.tolist())]
    difference = np.abs(together - np.stack(alone)).max()
    # the same sums, perhaps in another order: some hundred roundings of 2^-24, of numbers of about 1
    assert difference < 1e-4, difference
    return difference


def gradient_through_time(rnn, steps=80, batch=16):
    """|d h_T / d x_t| along a random direction of h_T, for t = T ... 1: the mean over a batch of random inputs."""
    x = minidl.randn(batch, steps, rnn.input_size, requires_grad=True)
    y, _ = rnn(x)
    (dx,) = minidl.autograd.grad((y[:, -1] * minidl.randn(batch, rnn.hidden_size)).sum(), [x])
    return dx.norm(dim=-1).mean(0).numpy()[::-1]


def memories(size=32):
    """Gradient norms by distance, for the four networks of the picture."""
    made = {"RNN": nn.RNN, "RNN, weights x 5": nn.RNN, "LSTM": nn.LSTM, "LSTM, b_f = 3": nn.LSTM}
    found = {}
    for name, kind in made.items():
        rnn = kind(size, size, batch_first=True)
        with minidl.no_grad():
            if "x 5" in name:
                rnn.weight_hh_l0 *= 5
            if "b_f" in name:
                rnn.bias_ih_l0[size : 2 * size] = 3.0  # the gates stand in the order i, f, g, o
        found[name] = gradient_through_time(rnn)
    return found


def main(args):
    names, y, languages = read(args.data)
    x_train, x_test, y_train, y_test = train_test_split(names, y, 0.2, seed=args.seed)
    vocab = Vocab.build((letter_pairs(name.lower()) for name in x_train), min_freq=2)
    (ids, lengths), (ids_test, lengths_test) = encode(vocab, x_train), encode(vocab, x_test)
    print(f"{len(x_train):,} names to train on, {len(x_test):,} to be told, {len(languages)} languages")

    epochs = 4 if args.quick else 16
    scores = {}
    for kind in ("LSTM",) if args.quick else ("RNN", "GRU", "LSTM"):
        minidl.manual_seed(args.seed)
        model = RecurrentClassifier(len(vocab), len(languages), kind=kind, dropout=0.5)
        optimizer = optim.AdamW(model.parameters(), weight_decay=0.05)
        steps = epochs * -(-len(ids) // 128)
        fit(
            model,
            (ids, lengths, y_train),
            loss=nn.functional.cross_entropy,
            optimizer=optimizer,
            scheduler=optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps),
            scheduler_per="step",
            epochs=epochs,
            batch_size=128,
            clip_norm=1.0,
            **stage(args, kind),
        )
        scores[kind] = evaluate(
            model, (ids_test, lengths_test, y_test), metrics=["accuracy", "recall", "confusion_matrix"]
        )
        print(f"{kind:4}  accuracy {scores[kind].accuracy:.4f}")
    model.eval()
    print(f"padded and alone differ by {check_padding(model, ids_test[:64], lengths_test[:64]):.1e} at most")
    print("recall by language:", ", ".join(f"{name} {r:.2f}" for name, r in zip(languages, scores["LSTM"].recall)))

    norms = memories()
    for name, by_distance in norms.items():
        print(f"gradient from 60 steps ago, {name:16} {by_distance[60] / by_distance[0]:.1e} of that from now")
    for name in ("Rossi", "Bakker", "Virtanen", "Dupont", "Lindqvist"):
        with minidl.no_grad():
            p = model(*encode(vocab, [name])).softmax(-1)[0].numpy()
        print(f"{name}: " + ", ".join(f"{languages[i]} {p[i]:.2f}" for i in p.argsort()[::-1][:3]))
    bayes = best_naive_bayes(x_train, y_train).predict(x_test)
    figure(
        "test accuracy of the LSTM",
        scores["LSTM"].accuracy,
        naive_Bayes=(bayes == y_test).mean(),
        most_frequent=np.bincount(y_test).max() / len(y_test),
    )
    if args.save:
        minidl.save(model.state_dict(), args.save)
    if args.plot:
        with picture(args.plot, 1, 2, (11, 4.6)) as (left, right):
            draw_norms(left, norms)
            draw_confusion(right, scores["LSTM"].confusion_matrix, languages)


def draw_norms(axes, norms):
    for name, by_distance in norms.items():
        axes.plot(by_distance, label=name)
    axes.set(yscale="log", ylim=(1e-12, None), xlabel="steps ago", ylabel="|d h_T / d x_t|")
    axes.set_title("how far gradients reach back")
    axes.legend(frameon=False)


def draw_confusion(axes, counts, languages):
    share = counts / counts.sum(1, keepdims=True)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.argwhere(counts):
        color = "white" if share[i, j] > 0.5 else "black"
        axes.text(j, i, counts[i, j], ha="center", va="center", fontsize=7, color=color)
    axes.set_xticks(range(len(languages)), languages, rotation=45, ha="right")
    axes.set_yticks(range(len(languages)), languages)
    axes.set(xlabel="told", ylabel="true", title="test names")


if __name__ == "__main__":
    run(
        main,
        __doc__,
        data="a CSV file whose first two columns are texts and their classes",
        quick="the LSTM only, 4 epochs instead of 16",
        plot="draw how far gradients reach back, and the confusion matrix, into an image file",
    )
