"""examples/python/tutorial.py, short. Optional: pip install matplotlib."""

import pathlib
import subprocess
import sys

import pytest
from test_models import with_model

pytest.importorskip("matplotlib")
SCRIPT = pathlib.Path(__file__).parents[3] / "examples/python/tutorial.py"


@with_model
def test_it_answers_and_draws(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, "--tokens", "400", "--folder", tmp_path],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("37519") == 2
    for name in ("keep_ratio.png", "kept_tokens.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
