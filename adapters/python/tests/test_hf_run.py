"""python -m tokensieve.hf_run: programs that do not import tokensieve."""

import os
import subprocess
import sys

from test_hf import make

PROGRAM = """
import sys
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], attn_implementation="tokensieve")
model(torch.arange(2, 202)[None])
hf = sys.modules["tokensieve.hf"]
print([layer for layer, did in hf.stats(model).items()
       if "layer not in the profile" not in did.reasons])
"""
PROFILE = """{"tokensieve_profile": 1, "fingerprint": {"num_layers": 4}, "sparse_layers": [1, 3],
"min_tokens": 100, "select": {"budget": "keep_ratio", "keep_ratio": 0.5, "min_keep": 16,
"obs_window": 32, "fill": "zero", "share": "layer"}}"""


def run(*command, **environment):
    return subprocess.run([sys.executable, "-m", "tokensieve.hf_run", *map(str, command)],
                          capture_output=True, text=True, env={**os.environ, **environment})


def test_a_program_that_knows_nothing(tmp_path):
    make(implementation="sdpa").save_pretrained(tmp_path / "model")
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "profile.json").write_text(PROFILE)
    done = run(tmp_path / "program.py", tmp_path / "model",
               TOKENSIEVE_PROFILE=str(tmp_path / "profile.json"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1, 3]"  # the profile's layers were tokensieve's to run


def test_commands_and_mistakes():
    assert "transformers" in run("transformers", "--help").stdout
    done = run("no_such_program")
    assert done.returncode == 2 and "no command, module or file 'no_such_program'" in done.stderr
    assert "usage: python -m tokensieve.hf_run" in run("--help").stdout
