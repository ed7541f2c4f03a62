"""`python -m tokensieve` is the command line program."""

import pathlib
import subprocess
import sys

import pytest

import tokensieve

PROGRAM = pathlib.Path(tokensieve.__file__).parent / "bin" / "tokensieve"


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "tokensieve", *arguments], capture_output=True,
                          text=True, timeout=600)


@pytest.mark.skipif(not PROGRAM.exists(), reason="built without CLI11 or fmt")
def test_the_program_runs():
    done = run("info")
    assert done.returncode == 0, done.stderr
    assert tokensieve.info()["version"] in done.stdout
    assert run("no-such-command").returncode == 2


@pytest.mark.skipif(PROGRAM.exists(), reason="built with the program")
def test_says_what_is_missing():
    done = run("info")
    assert done.returncode == 1 and "libcli11-dev" in done.stderr
