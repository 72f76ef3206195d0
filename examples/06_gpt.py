"""GPT: learn to foretell text, token by token; then write, and learn other tasks from little.

    loss = -mean over t of log p(token t + 1 | tokens 0 ... t)

1. Pretrain on the documentation of the Python language (pydoc_data.topics, 375 thousand characters without repeated
   paragraphs; the last tenth is held out), with byte pairs as tokens, and once with characters. Measured are bits per
   character of the held-out text, -log2 p(text) / characters: what a compressor that asks the network would need.
   Baselines: gzip -9, which has seen the same text before (its length for both less that for the first part), and a
   model that counts what follows each three characters (Witten and Bell 1991).
2. Write: temperature, top-k, top-p; with the cache of keys and values, and without it.
3. Fine-tune on other text, source code of the standard library, beside the same steps from scratch.
4. Fine-tune with labels: is a word friendly or not (the lexicon of vaderSentiment)? Beside the same from scratch, and
   naive Bayes on groups of letters. Words alone, a toy: it shows the way, not what a sentiment model can do.
5. Fine-tune on pairs: "What does textwrap.dedent do?" -> the first line of its documentation (question and answer),
   and documentation -> its first line (summary). Toys as well, of a network that has seen a third of a megabyte: the
   style is learned, the facts are not. Measured are bits per character of held-out answers, before and after.
"""

import collections
import gzip
import importlib
import inspect
import math
import time

import numpy as np

import minidl
from minidl import nn, optim
from minidl.cli import UserError
from minidl.data import BPETokenizer, CharTokenizer, DataError, DataLoader, NextTokenDataset, load_text, pad_sequences
from minidl.examples import figure, picture, run, stage
from minidl.models import GPT
from minidl.train import fit

CONTEXT, BATCH = 96, 16
IGNORED = -100  # targets that do not count, as cross_entropy has it
SOURCES = [
    "argparse",
    "textwrap",
    "json.decoder",
    "csv",
    "string",
    "fractions",
    "statistics",
    "heapq",
    "bisect",
    "shlex",
]


def read(path):
    """The text, without paragraphs that it had before; of the documentation of Python, or of a file."""
    if path is not None:
        text = load_text(path)
    else:
        from pydoc_data.topics import topics

        text = "\n\n".join(topics[name] for name in sorted(topics))
    paragraphs = dict.fromkeys(text.split("\n\n"))  # once each, in order
    text = "\n\n".join(paragraphs)
    if len(text) < 20_000:
        raise DataError(f"{path}: {len(text)} characters without repetitions are too few, 20,000 are wanted")
    return text


# -- baselines ---------------------------------------------------------------------------------------------------------


def gzip_bits(known, text):
    size = lambda t: len(gzip.compress(t.encode(), 9))
    return 8 * (size(known + text) - size(known)) / len(text)


def count_bits(known, text, order=3):
    """Bits per character by counts of what follows 0 ... order characters, mixed as Witten and Bell do:

    p_k(c | s) = (n(s c) + u(s) p_{k-1}(c | s')) / (n(s) + u(s)),   u(s): how many different characters follow s
    """
    follows = [collections.defaultdict(collections.Counter) for _ in range(order + 1)]
    for i, c in enumerate(known):
        for k in range(min(order, i) + 1):
            follows[k][known[i - k : i]][c] += 1
    bits, text = 0.0, known[-order:] + text
    for i in range(order, len(text)):
        p = 1 / (len(follows[0][""]) + 1)
        for k in range(order + 1):
            seen = follows[k].get(text[i - k : i])
            if seen:
                p = (seen[text[i]] + len(seen) * p) / (seen.total() + len(seen))
        bits -= math.log2(p)
    return bits / (len(text) - order)


# -- training and measuring --------------------------------------------------------------------------------------------


def loss(logits, target):
    """Cross-entropy over all places.    (N, T, V), (N, T)"""
    return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=IGNORED)


def train(model, data, epochs, lr, **options):
    """AdamW with a warm-up and a decline to zero, gradients clipped; returns the last loss."""
    optimizer = optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=lr, total_steps=epochs * len(data), pct_start=0.1, cycle_momentum=False
    )
    history = fit(
        model, data, loss=loss, optimizer=optimizer, epochs=epochs, scheduler=schedule, scheduler_per="step",
        clip_norm=1.0, **options,
    )  # fmt: skip
    return history["loss"][-1]


def windows(ids, stride=CONTEXT // 2, batch=BATCH):
    return DataLoader(NextTokenDataset(ids, CONTEXT, stride), batch_size=batch, shuffle=True)


def bits_per_character(model, tokenizer, text):
    """-log2 p(text) / characters; each window of the context begins anew, knowing one token."""
    ids = np.array(tokenizer.encode(text))
    model.eval()
    total = 0.0
    with minidl.no_grad():
        for i in range(0, len(ids) - 1, CONTEXT):
            x, y = minidl.tensor(ids[None, i : i + CONTEXT][:, : len(ids) - 1 - i]), ids[None, i + 1 : i + 1 + CONTEXT]
            total += loss(model(x), minidl.tensor(y)).item() * y.size
    return total / math.log(2) / len(text)


def pairs_data(tokenizer, pairs, batch=BATCH):
    """Batches of question and answer in one row; only the answer's tokens, and the end after it, are targets."""
    end = tokenizer.encode("\n")
    batches = []
    for i in range(0, len(pairs), batch):
        rows = [(tokenizer.encode(q), tokenizer.encode(a) + end) for q, a in pairs[i : i + batch]]
        rows = [(q[-(CONTEXT - len(a)) :], a) for q, a in rows]
        x, _ = pad_sequences([(q + a)[:-1] for q, a in rows])
        y, _ = pad_sequences([[IGNORED] * (len(q) - 1) + a for q, a in rows], value=IGNORED)
        batches.append((x, y))
    return DataLoader(batches, batch_size=None, shuffle=True)


def answer_bits(model, tokenizer, pairs):
    """Bits per character of the answers, given the questions."""
    model.eval()
    total = 0.0
    with minidl.no_grad():
        for x, y in pairs_data(tokenizer, pairs):
            total += loss(model(x), y).item() * int((y.numpy() != IGNORED).sum())
    return total / math.log(2) / sum(len(a) + 1 for _, a in pairs)


# -- data for fine-tuning ----------------------------------------------------------------------------------------------


def documented():
    """(name, first line, the rest) of the documentation of functions and classes in the standard library."""
    found = {}
    for name in (*SOURCES, "collections", "os.path", "shutil", "random", "math", "itertools", "functools", "datetime"):
        module = importlib.import_module(name)
        for member, thing in sorted(vars(module).items()):
            if member.startswith("_") or not callable(thing):
                continue
            methods = vars(thing).items() if inspect.isclass(thing) else ()
            parts = {member: thing} | {f"{member}.{n}": p for n, p in methods if callable(p) and not n.startswith("_")}
            for place, part in parts.items():
                first, _, rest = (inspect.getdoc(part) or "").partition("\n")
                if 20 <= len(first) <= 90:
                    found[first] = (f"{name}.{place}", first, " ".join(rest.split()))
    return list(found.values())


def sentiments():
    """Words and whether they are friendly, from the lexicon of vaderSentiment; without those that are neither."""
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise UserError("the words are in the package vaderSentiment: pip install 'minidl[examples]'") from error
    lexicon = SentimentIntensityAnalyzer().lexicon
    words = [(word, int(value > 0)) for word, value in lexicon.items() if word.isalpha() and abs(value) >= 1]
    return sorted(words)


class Judge(nn.Module):
    """The pretrained network with another last layer: the class of a text from what stands at its last token."""

    def __init__(self, body, classes):
        super().__init__()
        self.body, self.head = body, nn.Linear(body.wte.embedding_dim, classes)

    def forward(self, ids, lengths):
        x = self.body.features(ids)  # N, T, E
        return self.head(x[minidl.arange(len(ids)), lengths - 1])


class LetterBayes:
    """Naive Bayes on groups of three letters, each count raised by one."""

    def __init__(self, words):
        self.counts = [collections.Counter(g for w, c in words if c == k for g in self.groups(w)) for k in (0, 1)]
        self.prior = [math.log(sum(c == k for _, c in words)) for k in (0, 1)]
        kinds = len(set().union(*self.counts))
        self.total = [math.log(count.total() + kinds) for count in self.counts]

    @staticmethod
    def groups(word):
        text = f"^^{word}$"
        return [text[i : i + 3] for i in range(len(text) - 2)]

    def __call__(self, word):
        score = lambda k: (
            self.prior[k] + sum(math.log(self.counts[k][g] + 1) - self.total[k] for g in self.groups(word))
        )
        return int(score(1) > score(0))


# -- the five parts ----------------------------------------------------------------------------------------------------


def pretrain(text, held_out, kind, args, epochs, stride=CONTEXT // 2):
    """A tokenizer and a network for the text, and its bits per character on what was held out."""
    tokenizer = CharTokenizer.train([text]) if kind == "characters" else BPETokenizer.train([text], 512)
    size = len(tokenizer.vocab) if kind == "characters" else len(tokenizer)
    ids = tokenizer.encode(text)
    minidl.manual_seed(args.seed)
    model = GPT(size, CONTEXT, dim=128, heads=4, layers=3, positions="rotary")
    count = sum(p.numel() for p in model.parameters())
    print(f"{kind}: {size} tokens, {len(text) / len(ids):.2f} characters each, {count:,} parameters")
    options = stage(args, None if kind == "byte pairs" else kind)
    train(model, windows(ids, stride, 8 if args.quick else BATCH), epochs, 6e-3, **options)
    bits = bits_per_character(model, tokenizer, held_out)
    print(f"{kind}: {bits:.3f} bits per character of the held-out text")
    return tokenizer, model, bits


def write(model, tokenizer, prompt, count):
    """Text by several ways to draw; the cache changes the time, not the text."""
    ids = tokenizer.encode(prompt)
    for options in ({"temperature": 0}, {"temperature": 0.8, "top_k": 20}, {"top_p": 0.8}, {"temperature": 1.3}):
        ids_new = model.generate(ids, count, generator=minidl.Generator(1), **options)
        print(f"\n  {options}\n    {(prompt + tokenizer.decode(ids_new)).strip()!r}")
    times = {}
    for cache in (True, False):
        start = time.perf_counter()
        times[cache] = model.generate(ids, CONTEXT - len(ids), temperature=0, cache=cache), time.perf_counter() - start
    assert np.array_equal(times[True][0], times[False][0])
    print(f"\n  the same text with the cache in {times[True][1]:.2f} s, without in {times[False][1]:.2f} s")


def check_causality(model, ids):
    """Another token at place t changes no logit before t, not by a bit."""
    with minidl.no_grad():
        before = model(minidl.tensor(ids[None])).numpy()[0]
        for t in (len(ids) // 3, len(ids) - 1):
            changed = ids.copy()
            changed[t] = (changed[t] + 1) % before.shape[-1]
            after = model(minidl.tensor(changed[None])).numpy()[0]
            assert np.array_equal(after[:t], before[:t])
            assert not np.array_equal(after[t], before[t])
    return "another token at place t changes the logits from t on, and none before"


def copy_of(model):
    """A network of the same sizes and weights."""
    size, dim = model.wte.weight.shape
    new = GPT(size, CONTEXT, dim, heads=4, layers=len(model.h), positions="rotary")
    new.load_state_dict(model.state_dict())
    return new


def other_text(model, tokenizer, args):
    """Fine-tune on source code; bits per character of code held out: as it was, fine-tuned, from scratch."""
    code = "\n\n".join(inspect.getsource(importlib.import_module(name)) for name in SOURCES)
    cut = len(code) * 9 // 10
    data = windows(tokenizer.encode(code[:cut])[: 8_000 if args.quick else 60_000], CONTEXT)
    tuned, scratch = copy_of(model), GPT(*model.wte.weight.shape[:1], CONTEXT, 128, 4, 3, positions="rotary")
    train(tuned, data, 1, 2e-3, **stage(args, "code"))
    train(scratch, data, 1, 6e-3, **stage(args, "code from scratch"))
    bits = [bits_per_character(m, tokenizer, code[cut : cut + 20_000]) for m in (model, tuned, scratch)]
    print("  bits per character of code: {:.3f} before, {:.3f} after, {:.3f} from scratch".format(*bits))
    return bits


def judge_words(model, tokenizer, args):
    """Fine-tune with labels; accuracy on words held out: pretrained, from scratch, naive Bayes, the larger class."""
    words = sentiments()
    order = minidl.Generator(args.seed).permutation(len(words)).tolist()
    test, known = [words[i] for i in order[:1000]], [words[i] for i in order[1000:]]
    if args.quick:
        test, known = test[:300], known[:500]
    encode = lambda part: pad_sequences([tokenizer.encode(f" {word}") for word, _ in part])
    (x, mask), (x_test, mask_test) = encode(known), encode(test)
    y, y_test = np.array([c for _, c in known]), np.array([c for _, c in test])
    right = {}
    for name in ("pretrained", "from scratch"):
        minidl.manual_seed(args.seed)
        body = copy_of(model) if name == "pretrained" else GPT(len(model.wte.weight), CONTEXT, 128, 4, 3, 0.0, "rotary")
        judge, epochs = Judge(body, 2), 2 if args.quick else 3
        optimizer = optim.AdamW(judge.parameters(), lr=1e-3, weight_decay=0.1)
        schedule = optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=epochs * -(-len(x) // 32))
        fit(
            judge, (x, mask.sum(1), y), loss=nn.functional.cross_entropy, optimizer=optimizer, epochs=epochs,
            scheduler=schedule, scheduler_per="step", clip_norm=1.0, **stage(args, f"words {name}"),
        )  # fmt: skip
        with minidl.no_grad():
            right[name] = (judge.eval()(x_test, mask_test.sum(1)).numpy().argmax(1) == y_test).mean()
    bayes = LetterBayes(known)
    right["naive Bayes"] = np.mean([bayes(word) == c for word, c in test])
    right["larger class"] = max(y_test.mean(), 1 - y_test.mean())
    print("  friendly or not: " + ", ".join(f"{name} {value:.3f}" for name, value in right.items()))
    return right


def answers(model, tokenizer, args):
    """Fine-tune on questions and answers, and on texts and their summaries; bits per character before and after."""
    entries = documented()
    order = minidl.Generator(args.seed).permutation(len(entries)).tolist()
    entries = [entries[i] for i in order]
    kinds = {
        "question and answer": [(f"What does {name} do?\n", first) for name, first, _ in entries],
        "summary": [(f"{rest[:150]}\nIn short: ", first) for _, first, rest in entries if len(rest) > 80],
    }
    found = {}
    for kind, pairs in kinds.items():
        test, known = pairs[:60], pairs[60:]
        tuned = copy_of(model)
        before = answer_bits(tuned, tokenizer, test)
        train(
            tuned,
            pairs_data(tokenizer, known[:160] if args.quick else known),
            1 if args.quick else 3,
            1e-3,
            **stage(args, kind),
        )
        found[kind] = before, answer_bits(tuned, tokenizer, test)
        print(
            f"  {kind} (a toy), {len(known)} pairs: {before:.3f} bits per character before, {found[kind][1]:.3f} after"
        )
        for question, answer in test[:2]:
            ids = tokenizer.encode(question)
            said = tokenizer.decode(tuned.generate(ids, 40, temperature=0)).partition("\n")[0]
            print(f"    {question.strip()[-60:]!r} -> {said!r}, truly {answer!r}")
    return found


def main(args):
    text = read(args.data)
    cut = len(text) * 9 // 10
    text, held_out = text[:cut], text[cut:]
    if args.quick:
        text, held_out = text[:40_000], held_out[:4_000]
    baselines = {"gzip": gzip_bits(text, held_out), "counts_of_order_3": count_bits(text, held_out)}
    print(f"{len(text):,} characters to learn from, {len(held_out):,} held out")

    tokenizer, model, bits = pretrain(text, held_out, "byte pairs", args, 2, CONTEXT * 2 // 3)
    print(check_causality(model, np.array(tokenizer.encode(held_out)[:60])))
    _, _, bits_of_characters = pretrain(text, held_out, "characters", args, 2, CONTEXT * 2 // 3)

    print("\nwriting")
    write(model, tokenizer, "The following ", 20 if args.quick else 60)
    print("\nfine-tuning")
    code = other_text(model, tokenizer, args)
    words = judge_words(model, tokenizer, args)
    told = answers(model, tokenizer, args)

    print()
    figure("bits per character of code, fine-tuned", code[1], before=code[0], from_scratch=code[2])
    figure("accuracy on words", words.pop("pretrained"), **{name.replace(" ", "_"): v for name, v in words.items()})
    for kind, (before, after) in told.items():
        figure(f"bits per character of a {kind}", after, before=before)
    figure("bits per character, characters", bits_of_characters, **baselines)
    figure("bits per character", bits, **baselines)
    if args.save:
        minidl.save(model.state_dict(), args.save)
    if args.plot:
        with picture(args.plot, size=(8, 3.6)) as axes:
            surprise(axes, model, tokenizer, held_out)


def surprise(axes, model, tokenizer, text):
    """How many bits each token of a stretch of text took: high where a word begins, low where it goes on."""
    ids = np.array(tokenizer.encode(text)[200 : 200 + 49])
    with minidl.no_grad():
        logp = model(minidl.tensor(ids[None, :-1])).log_softmax(-1).numpy()[0]
    bits = -logp[np.arange(48), ids[1:]] / math.log(2)
    axes.bar(range(48), bits, color="#1f6feb")
    shown = [tokenizer.decode([i]).replace(" ", "\u2423").replace("\n", "\u21b5") for i in ids[1:]]
    axes.set_xticks(range(48), shown, rotation=90, fontsize=8, family="monospace")
    axes.set(ylabel="bits", title="what each token took, given those before it", xlim=(-0.7, 47.7))


if __name__ == "__main__":
    run(
        main,
        __doc__,
        data="a text file to learn from",
        quick="an eighth of the text, little fine-tuning",
        plot="draw how many bits each token of a stretch of text took into an image file",
    )
