"""Training cases: needles of several kinds in filler text, then questions and answers as a chat.

Filler text is what lies about in installed packages (no standard library, which is held out).
"""

import dataclasses
import glob
import os
import pydoc
import random
import re

import torch
from transformers import AutoTokenizer

HELD_OUT = """argparse logging tarfile subprocess unittest decimal typing socket asyncio email
    http.client ssl zipfile inspect pickle turtle ctypes multiprocessing statistics datetime
    random csv json sqlite3 shutil pathlib os threading calendar fractions difflib optparse
    configparser ftplib smtplib imaplib urllib.request xml.dom.minidom doctest pdb cmd textwrap
    string struct collections heapq itertools functools"""


@dataclasses.dataclass
class Corpus:
    tokenizer: object
    chunks: list  # token lists of the training texts
    words: list  # that needles are about
    held_out: list  # tokens

    def encode(self, text):
        return self.tokenizer(text, add_special_tokens=False).input_ids


def training_texts():
    packages = os.path.dirname(os.path.dirname(torch.__file__))
    random.seed(1)

    def find(extension):
        return glob.glob(f"{packages}/**/*.{extension}", recursive=True)

    sources = find("py")
    files = [f for extension in ("md", "rst", "txt") for f in find(extension)]
    files += random.sample(sources, min(6000, len(sources)))
    random.shuffle(files)
    texts = []
    total = 0
    for f in files:
        try:
            text = open(f, errors="ignore").read(60000)
        except OSError:
            continue
        if len(text) < 600:
            continue
        texts.append(re.sub("[ \\t]+", " ", text))
        total += len(texts[-1])
        if total > 40000000.0:
            break
    return texts


def held_out_text():
    text = ""
    for name in HELD_OUT.split():
        try:
            module = __import__(name, fromlist=["x"])
            text += " " + pydoc.render_doc(module, renderer=pydoc.plaintext)
        except Exception:
            pass
    return re.sub("\\s+", " ", text)


def read_corpus(folder):
    texts = training_texts()
    words = sorted({w for t in texts[:400] for w in re.findall("\\b[a-z]{4,9}\\b", t)})
    corpus = Corpus(AutoTokenizer.from_pretrained(folder, gguf_file="m.gguf"), [], words, [])
    corpus.chunks = list(corpus.encode(texts))
    corpus.held_out = corpus.encode(held_out_text())
    return corpus


SYSTEM = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n<|im_start|>user\n"
)
CLASSIC = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
)
TEMPLATES = [
    "The special magic {k} for {w} is {v}.",
    "One of the special magic {k}s for {w} is: {v}.",
    "Remember: the {k} of {w} is {v}.",
    "Note that {w} has the {k} {v}.",
    "The secret {k} for {w} is {v}.",
]
QUESTIONS = [
    "What is the special magic {k} for {w} mentioned in the document?",
    "What is the {k} for {w}?",
    "Which {k} belongs to {w}? Answer with the {k}.",
    "What is the special magic {k} for {w} mentioned in the provided text? The special magic {k} "
    "for {w} mentioned in the provided text is",
]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def filler(rng, corpus, n):
    """Text of n tokens, seldom the five sentences of the classic needle test."""
    if rng.random() < 0.12:
        tokens = corpus.encode(CLASSIC)
        return (tokens * (n // len(tokens) + 1))[:n]
    out = []
    while len(out) < n:
        chunk = rng.choice(corpus.chunks)
        begin = rng.randrange(len(chunk))
        out += chunk[begin : begin + rng.randint(300, 6000)]
    return out[:n]


def value(rng, corpus, kind):
    """A number, two words or a hexadecimal code."""
    if kind == "number":
        return str(rng.randint(1000, 9999999))
    if kind == "word":
        return "-".join(rng.sample(corpus.words, 2))
    return "%08x-%04x" % (rng.getrandbits(32), rng.getrandbits(16))


# Each of the next three returns needles, the question and the answer. A needle is a list of
# sentences that keep their order in the text.


def one_value(rng, corpus, kind, w, template):
    v = value(rng, corpus, kind)
    question = rng.choice(QUESTIONS).format(k=kind, w=w)
    answer = f"The {kind} for {w} is {v}."
    if "special" in question:
        answer = f"The special magic {kind} for {w} mentioned in the document is {v}."
    return [[template.format(k=kind, w=w, v=v)]], question, answer


def many_values(rng, corpus, kind, w):
    values = [value(rng, corpus, kind) for _ in range(rng.randint(2, 4))]
    needles = [[TEMPLATES[1].format(k=kind, w=w, v=v)] for v in values]
    question = f"What are all the special magic {kind}s for {w} mentioned in the document?"
    return needles, question, f"The special magic {kind}s for {w} are {', '.join(values)}."


def variable_chain(rng):
    names = rng.sample(LETTERS, 3)
    names = [a + "".join(rng.choice(LETTERS) for _ in range(4)) for a in names]
    number = rng.randint(10000, 99999)
    chain = [f"VAR {names[0]} = {number}."]
    chain += [f"VAR {names[i]} = VAR {names[i - 1]}." for i in (1, 2)]
    question = (
        f"Which variables are assigned the value {number}, directly or through other variables?"
    )
    return [chain], question, f"The variables are {', '.join(names)}."


def make_needles(rng, corpus):
    """Needles, and pairs of question and answer."""
    needles, pairs = [], []
    w = ""
    for _ in range(rng.randint(5, 10)):
        kind = rng.choice(["number", "number", "word", "code"])
        if rng.random() < 0.7:
            w = " ".join(rng.sample(corpus.words, rng.choice([1, 1, 2])))
        elif not needles:
            w = rng.choice(corpus.words)
        r = rng.random()
        template = rng.choice(TEMPLATES)
        if r < 0.72:
            new, *pair = one_value(rng, corpus, kind, w, template)
        elif r < 0.87:
            new, *pair = many_values(rng, corpus, kind, w)
        else:
            new, *pair = variable_chain(rng)
        needles += new
        pairs.append(pair)
    for _ in range(rng.randint(0, 12)):  # nobody asks for these
        template = rng.choice(TEMPLATES)
        w = rng.choice(corpus.words)
        needles.append([template.format(k="number", w=w, v=value(rng, corpus, "number"))])
    return needles, pairs


def hide(rng, corpus, needles, body):
    """The body with the needles' sentences at random places."""
    places = []
    for sentences in needles:
        places += zip(sorted(rng.randrange(len(body)) for _ in sentences), sentences)
    document, last = [], 0
    for place, sentence in sorted(places, key=lambda x: x[0]):
        document += body[last:place] + corpus.encode(" " + sentence + " ")
        last = place
    return document + body[last:]


def sample(rng, corpus, n, max_tokens):
    """A case of about n tokens: the tokens, and a mask of those that belong to answers."""
    needles, pairs = make_needles(rng, corpus)
    document = hide(rng, corpus, needles, filler(rng, corpus, n - 1200))
    if rng.random() < 0.5:
        rng.shuffle(pairs)
    tokens = corpus.encode(SYSTEM) + document
    labels = [0] * len(tokens)
    for i, (question, answer) in enumerate(pairs):
        turn = "\n\n" if i == 0 else "<|im_start|>user\n"
        asked = corpus.encode(turn + question + "<|im_end|>\n<|im_start|>assistant\n")
        answered = corpus.encode(answer + "<|im_end|>\n")
        tokens += asked + answered
        labels += [0] * len(asked) + [1] * len(answered)
    return tokens[:max_tokens], labels[:max_tokens]


def length_of_case(rng, max_tokens):
    u = rng.random()
    if max_tokens <= 32768:
        return max_tokens if u < 0.55 else rng.randint(4000, max_tokens)
    if u < 0.45:
        return rng.randint(4000, 32768)
    return rng.randint(32768, 80000) if u < 0.8 else max_tokens


def make_cases(seed, corpus, max_tokens, queue):
    rng = random.Random(seed)
    while True:
        queue.put(sample(rng, corpus, length_of_case(rng, max_tokens), max_tokens))
