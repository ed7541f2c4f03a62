"""The tables of docs/evaluation.md, recomputed from results/: equal to the digit.

results_test.py PROGRAM [--write]. What is expected is tests/data/results_tables.txt; --write
replaces it. The tables of single files are those of `tokensieve report` at commit bb88872, which
published them. The pooled ones (last two) have the means and counts of the script that was used
then; its intervals came from another random generator.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

SOURCES = pathlib.Path(__file__).resolve().parents[2]
EXPECTED = SOURCES / "tests/data/results_tables.txt"
POOLED = ["smollm2-128k-h100-seed104.jsonl", "smollm2-128k-h100-seed104-130000.jsonl",
          "smollm2-128k-h100-seed106-130000.jsonl"]


def report(program, *arguments):
    return subprocess.run([program, "report", *arguments], cwd=SOURCES / "results", check=True,
                          capture_output=True, text=True).stdout


def tables(program, page):
    for run in sorted((SOURCES / "results").glob("*.jsonl")):
        yield "".join(line for line in report(program, run.name, "-o", page).splitlines(True)
                      if not line.startswith("wrote "))
    yield report(program, "--pool", *POOLED)
    yield report(program, "--pool", "smollm2-h100-seed105.jsonl")


def check_commands():
    """Published files say how to repeat a run, and nothing of the machine's folders."""
    for run in (SOURCES / "results").glob("*.jsonl"):
        with run.open(encoding="utf-8") as file:
            command = json.loads(file.readline())["command"]
        for word in re.split("[ =,:]", command):
            assert not word.startswith(("/", "~")), f"{run.name}: {word}"


def main():
    check_commands()
    program = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        found = "\n".join(text.rstrip() + "\n"
                          for text in tables(program, pathlib.Path(folder) / "page.html"))
    if "--write" in sys.argv:
        EXPECTED.write_text(found)
    expected = EXPECTED.read_text()
    assert len(expected) > 5000, "nothing is compared"
    for line, (a, b) in enumerate(zip(expected.splitlines(), found.splitlines()), 1):
        if a != b:
            sys.exit(f"{EXPECTED}:{line}:\n  expected {a}\n  found    {b}")
    if expected != found:
        sys.exit("there are more tables, or fewer")


if __name__ == "__main__":
    main()
