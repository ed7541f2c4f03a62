"""python -m tokensieve.evaluate: cases in, results out."""

import json
import re

import pytest
import torch
from test_hf import make, tokens
from test_models import prompt, with_model

import tokensieve
import tokensieve.hf
from tokensieve import evaluate
from tokensieve._run_file import Resolved, Results, command_text


def test_compare():
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(5, 40, generator=generator) for _ in range(2))
    targets = torch.tensor([1, 2, 3, 4, 5])
    p, q = torch.softmax(a.double(), 1), torch.softmax(b.double(), 1)
    kl = (p * (p / q).log()).sum(1)
    found = evaluate.compare(a, b, targets)
    assert found["kl"] == pytest.approx(float(kl.mean()), rel=1e-5)
    assert found["kl_max"] == pytest.approx(float(kl.max()), rel=1e-5)
    rows = torch.arange(5)
    assert found["nll"] == pytest.approx(float(-q[rows, targets].log().mean()), rel=1e-5)
    assert found["nll_dense"] == pytest.approx(float(-p[rows, targets].log().mean()), rel=1e-5)
    same = evaluate.compare(a, a, targets)
    assert same["kl"] == 0 and same["top1"] == 1 and same["tokens"] == 5


def select_of(**changes):
    return {"budget": "keep_ratio", "keep_ratio": 0.3, "fill": "local", "share": "layer",
            "obs_window": 64, "local_window": 64, "sinks": 4, "min_keep": 0, **changes}


def profile_of(select):
    return {"tokensieve_profile": 1, "model": "smollm2-128k",
            "fingerprint": {"architecture": "llama", "num_layers": 30},
            "sparse_layers": list(range(1, 30)), "min_tokens": 0, "select": select}


FORCED = profile_of(select_of())
NONE = profile_of(select_of(budget="keep_count", keep_count=1, protect_first=1, obs_window=32))


def test_what_a_configuration_runs():
    assert Resolved.parse({"config": "dense", "tokens": 9}).profile is None
    forced = Resolved.parse({"config": "forced", "tokens": 9, "profile": FORCED,
                                      "always_sparse": True})
    assert forced.profile.select.dense_policy == "never" and forced.dense_rows == 0
    assert forced.profile.select.keep_ratio == 0.3 and forced.profile.min_tokens == 0
    none = Resolved.parse({"config": "none", "tokens": 9, "profile": NONE,
                                    "dense_rows": 32, "work": 0.3})
    assert (none.dense_rows, none.work) == (32, 0.3)
    assert none.profile.select.protect_first == 1
    assert none.profile.select.dense_policy == "break_even"
    with pytest.raises(tokensieve.ArgumentError, match="keep_ratio"):
        Resolved.parse({"config": "c", "profile": profile_of(select_of(keep_ratio=2))})


def test_published_commands_hold_no_folders():
    assert command_text(["/opt/lib/evaluate.py", "cases.jsonl", "-o", "/tmp/a/run.jsonl",
                                  "../x"]) == "evaluate.py cases.jsonl -o run.jsonl ../x"


def write_cases(path, tokenizer):
    ids = prompt(tokenizer, 7)[0].tolist()
    turn = tokenizer("<|im_end|>\n<|im_start|>user\nWhat is the special magic number for Cairo "
                     "mentioned in the document?<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    text = tokenizer("The harbour was quiet and a lamp stood near the wall. " * 40)["input_ids"]
    lines = [
        {"type": "cases", "format": 1, "seed": 1, "tasks": ["single_needle", "text"], "cases": 1,
         "lengths": [512], "model": {"name": "smollm2-128k", "fingerprint": {"num_layers": 30}},
         "configs": [{"name": "stock", "kind": "stock"}, {"name": "none", "kind": "none"},
                     {"name": "forced", "kind": "sparse"}, {"name": "dense", "kind": "dense"}]},
        *({"type": "resolved", "config": name, "tokens": tokens, **more}
          for tokens in (len(ids), 440) for name, more in [
              ("dense", {}), ("forced", {"profile": FORCED, "always_sparse": True}),
              ("none", {"profile": NONE, "always_sparse": True, "dense_rows": 32, "work": 0.3})]),
        {"type": "case", "task": "single_needle", "length": 512, "case": 0, "filler": "fiction",
         "depth": 0.3, "prompt": ids, "expected": ["37519"], "answer_tokens": 20,
         "follow_ups": [{"question": "?", "expected": ["37519"], "tokens": turn}]},
        {"type": "case", "task": "text", "length": 512, "case": 0, "filler": "fiction",
         "prompt": text[:440], "continuation": text[440:456]},
        {"type": "later kinds of lines are ignored"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_tiles_are_written():
    runner = object.__new__(evaluate.Runner)
    runner.model = make()
    case = {"prompt": tokens(700)[0].tolist(), "continuation": [0, 0]}
    blocks = {"pattern": "pooled", "alpha": 1, "sink_tiles": 1, "window_tiles": 1,
              "last_tiles": 0}
    for extra in ({}, {"blocks": blocks}):
        profile = {"tokensieve_profile": 1, "fingerprint": {"num_layers": 4}, "min_tokens": 0,
                   "sparse_layers": [1, 3], "select": select_of(keep_ratio=0.8), **extra}
        line, _ = runner.run(case, Resolved.parse({"config": "c", "profile": profile,
                                                   "always_sparse": True}))
        densities = [layer.get("block_density", 1) for layer in line["layers"]]
        assert densities[0] == densities[2] == 1
        if extra:
            assert 0 < densities[1] < 1 and 0 < densities[3] < 1
            assert line["block_density"] == pytest.approx((densities[1] + densities[3]) / 2)
        else:
            assert densities == [1] * 4 and "block_density" not in line


@with_model
def test_a_run_and_its_resumption(tmp_path, capsys, monkeypatch):
    cases, output = tmp_path / "cases.jsonl", tmp_path / "run.jsonl"
    _, tokenizer = loaded = tokensieve.hf.load("smollm2-128k")
    monkeypatch.setattr(tokensieve.hf, "load", lambda *_, **__: loaded)
    write_cases(cases, tokenizer)
    command = [str(cases), "-o", str(output), "--device", "cpu"]
    evaluate.main(command)
    header, *lines = map(json.loads, output.read_text().splitlines())
    assert header["type"] == "run" and header["tasks"] == ["single_needle", "text"]
    assert [c["kind"] for c in header["configs"]] == ["dense", "none", "sparse"]
    assert len(lines) == 6
    by = {(line["task"], line["config"]): line for line in lines}
    dense, forced = by["single_needle", "dense"], by["single_needle", "forced"]
    assert dense["expected"] == ["37519"] and "37519" in dense["follow_ups"][0]["answer"]
    assert "score" not in dense, "who reads a run file scores it"
    assert dense["work"] == 1 and dense["keep_ratio"] == 1
    assert dense["layers"][5]["reason"] == "switched off"
    assert "37519" in dense["answer"] and dense["prefill_ms"] > dense["attention_ms"] > 0
    assert 0.2 < forced["work"] < 0.9 and 0.3 < forced["keep_ratio"] < 0.6
    assert "reason" not in forced["layers"][5]
    assert forced["layers"][0]["reason"] == "layer not in the profile"
    metrics = by["text", "dense"]["metrics"]
    assert metrics["kl"] == 0 and metrics["top1"] == 1 and metrics["tokens"] == 16
    assert by["text", "forced"]["metrics"]["kl"] > 0 and by["text", "none"]["metrics"]["kl"] > 0
    assert by["text", "none"]["layers"][5]["work"] == 0.3
    assert "tokensieve report" in capsys.readouterr().out
    # Interrupted inside the line before the last: the same command writes both once more.
    text = output.read_text().splitlines(keepends=True)
    output.write_text("".join(text[:-2]) + text[-2][:40])
    evaluate.main(command)
    again = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(x.get("task"), x.get("config")) for x in again[1:]] == [
        (x["task"], x["config"]) for x in lines]
    assert again[-1]["metrics"] == lines[-1]["metrics"]
    for other, message in [(["--config", "none"], "holds another run [(]configs differs"),
                           (["--config", "stock"], "'stock'; allowed: none, forced, dense"),
                           (["--tasks", "qa"], "no case is left"),
                           (["--part", "3/3"], "no case is left"),
                           (["--part", "3/2"], "'3/2'; allowed: K/N")]:
        with pytest.raises(SystemExit):
            evaluate.main([*command, *other])
        assert re.search(message, capsys.readouterr().err)
    # Parts hold every case once.
    command[2] = str(tmp_path / "part.jsonl")
    evaluate.main([*command, "--part", "2/2"])
    part = [json.loads(line) for line in (tmp_path / "part.jsonl").read_text().splitlines()]
    assert {line["task"] for line in part[1:]} == {"text"} and len(part) == 4


def test_bad_files(tmp_path, capsys):
    deep = "[" * 100_000 + "]" * 100_000
    cases = '{"type": "cases", "format": 1}\n'
    for content in ("", "no JSON\n", '{"type": "run"}\n', "[1]\n", cases + deep + "\n",
                    cases + '{"type": "resolved"}\n', cases + "\x00\n",
                    '{"type": "cases", "format": 1, "configs": 3}\n'):
        (tmp_path / "cases.jsonl").write_text(content)
        with pytest.raises(SystemExit):
            evaluate.main([str(tmp_path / "cases.jsonl")])
        assert "is not a file of cases" in capsys.readouterr().err
    (tmp_path / "cases.jsonl").write_text("\ufeff" + cases)  # a byte order mark
    with pytest.raises(SystemExit):
        evaluate.main([str(tmp_path / "cases.jsonl")])
    assert "has no configurations" in capsys.readouterr().err
    output = tmp_path / "run.jsonl"
    output.write_text("something else")
    with pytest.raises(tokensieve.ArgumentError, match="not a results file"):
        Results(str(output), {"type": "run"})
    assert output.read_text() == "something else"
    for damaged in (deep, "[1]", '{"type": "result"}', '{"type": "result", "task": []}'):
        text = '{"type": "run"}\n' + damaged + "\n" + "torn"
        output.write_text(text)
        with pytest.raises(tokensieve.ArgumentError, match="name another file with -o"):
            Results(str(output), {"type": "run"})
        assert output.read_text() == text
