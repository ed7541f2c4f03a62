"""lm-evaluation-harness, unchanged, on a task of this folder. Optional: pip install lm_eval."""

import json
import os
import subprocess
import sys

import pytest
from test_models import with_model

import tokensieve.hf

pytest.importorskip("lm_eval")

TASK = """
task: tiny_needle
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["."], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list: [{name: strip, filter: [{function: remove_whitespace}, {function: take_first}]}]
metadata: {version: 1.0}
"""
PROFILE = {"tokensieve_profile": 1, "fingerprint": {"num_layers": 30},
           "sparse_layers": list(range(2, 30)), "min_tokens": 256,
           "select": {"budget": "keep_ratio", "keep_ratio": 0.3, "min_keep": 64, "obs_window": 64,
                      "fill": "local", "share": "layer", "local_window": 64}}


@with_model
def test_needles(tmp_path):
    model, tokenizer = tokensieve.hf.load("smollm2", attn_implementation="sdpa")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    filler = " ".join(f"Line {i}: the harbour was quiet and the clerks wrote letters."
                      for i in range(20))
    with (tmp_path / "needles.json").open("w") as file:
        for city, number in (("Cairo", "37519"), ("Oslo", "80214")):
            fact = f"The special magic number for {city} is"
            print(json.dumps({"text": f"{filler} {fact} {number}. {filler} {fact}",
                              "answer": number}), file=file)
    (tmp_path / "needle.yaml").write_text(TASK % (tmp_path / "needles.json"))
    (tmp_path / "profile.json").write_text(json.dumps(PROFILE))
    command = ["lm_eval", "--model", "hf", "--model_args",
               f"pretrained={tmp_path / 'model'},attn_implementation=tokensieve,dtype=float32",
               "--tasks", "tiny_needle", "--include_path", tmp_path, "--device", "cpu",
               "--batch_size", "1", "--output_path", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "tokensieve.hf_run", *map(str, command)], capture_output=True,
        text=True, cwd=tmp_path, env={
            **os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(tmp_path / "cache"),
            "TOKENSIEVE_PROFILE": str(tmp_path / "profile.json")})
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(file.read_text())["results"]["tiny_needle"]
    assert results["exact_match,strip"] == 1.0
