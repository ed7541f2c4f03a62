#!/usr/bin/env python3
"""Writes a long document with a known answer in it, for models that read 16K tokens and more.

The text is the documentation of Python's standard library. One sentence gives the special magic
number for a city; similar sentences about other cities and words are the distractors. The same
seed and Python version give the same document. Question and answer are printed and written to
OUT's neighbour with the ending .json.
"""

import argparse
import contextlib
import importlib
import io
import json
import pathlib
import platform
import pydoc
import random
import re
import sys

MODULES = """argparse logging tarfile subprocess unittest decimal typing socket asyncio email
http.client ssl zipfile inspect pickle turtle ctypes multiprocessing statistics datetime random csv
json sqlite3 shutil pathlib os threading calendar fractions difflib optparse configparser ftplib
smtplib imaplib urllib.request xml.dom.minidom doctest pdb cmd textwrap string struct collections
heapq itertools functools""".split()
CITIES = "Oslo Lima Cairo Quito Hanoi Turin Perth Dakar Kyoto Bergen Havana Tunis".split()

# A fit to SmolLM2's tokenizer on this text: within 3 % from 16K tokens on.
TOKENS_PER_PIECE, TOKENS_PER_CHARACTER = 0.875, 0.0532
PIECE = re.compile(r"[A-Za-z]+|\d|[^\sA-Za-z0-9]+")

NEEDLE = "The special magic number for {key} is {number}."
QUESTION = "What is the special magic number for {key} mentioned in the document?"


def module_text(name):
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            text = pydoc.render_doc(importlib.import_module(name), renderer=pydoc.plaintext)
    except (ImportError, AttributeError):
        return ""  # a Python built without this module
    # DATA and FILE hold this machine's environment, paths and addresses.
    text = text.split("\nDATA\n")[0].split("\nFILE\n")[0]
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return text


def estimated_tokens(text):
    return len(PIECE.findall(text)) * TOKENS_PER_PIECE + len(text) * TOKENS_PER_CHARACTER


def library_text(tokens, rng):
    modules = MODULES[:]
    rng.shuffle(modules)
    words, length = [], 0.0
    for name in modules:
        for word in module_text(name).split():
            length += estimated_tokens(word + " ")
            if length > tokens:
                return " ".join(words)
            words.append(word)
    raise SystemExit(
        f"make_long: --tokens {tokens:.0f} is too long, at most {length:.0f} is possible"
    )


def insert_at_word(text, depth, sentence):
    """Puts the sentence at the word boundary nearest after the given fraction of the text."""
    place = text.find(" ", int(depth * len(text)))
    place = len(text) if place < 0 else place
    return f"{text[:place]} {sentence}{text[place:]}"


def build(tokens, seed, depth, distractors):
    rng = random.Random(seed)
    keys = rng.sample(CITIES, 1 + min(distractors, len(CITIES) - 1))
    numbers = rng.sample(range(10000, 100000), len(keys))
    depth = rng.uniform(0.05, 0.95) if depth is None else depth
    needle = NEEDLE.format(key=keys[0], number=numbers[0])
    others = [NEEDLE.format(key=k, number=n) for k, n in zip(keys[1:], numbers[1:])]
    text = library_text(tokens - sum(map(estimated_tokens, [needle, *others])), rng)
    for sentence in others:
        text = insert_at_word(text, rng.uniform(0.02, 0.98), sentence)
    text = insert_at_word(text, depth, needle)
    facts = {
        "question": QUESTION.format(key=keys[0]),
        "answer": str(numbers[0]),
        "depth": round(depth, 3),
        "distractors": len(others),
        "tokens_wanted": tokens,
        "seed": seed,
        "python": platform.python_version(),
    }
    return text, facts


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tokens", type=int, required=True, help="length in SmolLM2's tokens, about"
    )
    parser.add_argument("--seed", type=int, default=1, help="what to draw (default 1)")
    parser.add_argument(
        "--depth", type=float, help="where the answer is, 0 to 1 (default: by seed)"
    )
    parser.add_argument("--distractors", type=int, default=8, help="0 to 11 (default 8)")
    parser.add_argument(
        "-o", "--output", type=pathlib.Path, required=True, help="text file to write"
    )
    options = parser.parse_args()
    if options.tokens < 1000:
        parser.error(f"--tokens {options.tokens}: at least 1000 is needed")
    if options.depth is not None and not 0 <= options.depth <= 1:
        parser.error(f"--depth {options.depth}: allowed is 0 to 1")
    if not 0 <= options.distractors < len(CITIES):
        parser.error(f"--distractors {options.distractors}: allowed is 0 to {len(CITIES) - 1}")
    text, facts = build(options.tokens, options.seed, options.depth, options.distractors)
    options.output.write_text(text + "\n", encoding="utf-8")
    options.output.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")
    print(f"{facts['question']}\n{facts['answer']}")


if __name__ == "__main__":
    sys.exit(main())
