"""python -m tokensieve.evaluate: cases in, results out."""

import json
import re

import pytest
import torch
from test_models import prompt, with_model

import tokensieve
import tokensieve.hf
from tokensieve import Profile, SelectConfig, evaluate


# The same table as in the C++ tests of score().
@pytest.mark.parametrize("expected, answer, wanted", [
    (["37519"], "It is 37519.", 1.0),
    (["37519"], "It is 375190.", 0.0),
    (["37519"], "It is 137519, no, 37519", 1.0),
    (["Lisbon", "Oslo"], "lisbon", 0.5),
    (["VAR x1"], "var X1 and more", 1.0),
    (["9"], "19 91", 0.0),
    (["day 9"], "Monday 9th", 1.0),
    ([""], "anything", 1.0),
    ([], "", 1.0),
    (["É"], "é", 0.0),  # ASCII letters only
])
def test_score(expected, answer, wanted):
    assert evaluate.score(expected, answer) == wanted


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


def test_configurations():
    profile = Profile.load("smollm2-128k")
    sparse = evaluate.parse_config("sparse", profile)
    assert sparse.profile == profile and sparse.to_json()["gate"] is True
    forced = evaluate.parse_config("forced:keep=.3,layers=2-4+9,share=head", profile)
    assert forced.profile.sparse_layers == (2, 3, 4, 9) and forced.profile.min_tokens == 0
    select = forced.profile.select
    assert (select.keep_ratio, select.share, select.min_keep) == (0.3, "head", 0)
    assert select.dense_policy == "never" and forced.to_json()["gate"] is False
    assert forced.profile.select_of(29).keep_ratio == 0.3  # keys hold for all layers
    paper = evaluate.parse_config("paper", profile)
    assert paper.profile.sparse_layers == tuple(range(15, 30))
    assert (paper.profile.select.fill, paper.profile.select.tau) == ("zero", 0.005)
    assert paper.profile.layer_select == ()
    assert evaluate.parse_config("none", profile).equal_work == evaluate.parse_config(
        "forced", profile).profile
    assert evaluate.parse_config("none:window=128", profile).equal_work is None
    for spec, message in [("nothing", "allowed: dense, sparse"), ("dense:keep=1", "no keys"),
                          ("sparse:kep=1", "'kep=1'; allowed: KEY=VALUE"),
                          ("sparse:keep=2", "keep_ratio"), ("sparse:keep=x", "allowed: a number"),
                          ("sparse:layers=0-3", "numbers from 1 to 29")]:
        with pytest.raises(tokensieve.ArgumentError, match=message):
            evaluate.parse_config(spec, profile)


def test_equal_work():
    """A window of that width has the work of the selection, counted pair by pair."""
    select = SelectConfig(budget="keep_ratio", keep_ratio=0.5, fill="local", min_keep=16,
                          obs_window=64, local_window=128)
    tokens = 4096
    window = evaluate.equal_work_window(Profile((1, 2), select), tokens)
    assert window % 64 == 0
    row = torch.arange(tokens)[:, None]
    key = torch.arange(tokens)[None]

    def local(width):
        return ((key < 4) | (key >= row // 64 * 64 - width)) & (key <= row)
    kept = torch.zeros(tokens, dtype=torch.bool)
    kept[torch.randperm(tokens - 64)[:(tokens - 64) // 2]] = True
    kept[-64:] = True
    sparse = (local(128) | (kept[None] & kept[:, None] & (key <= row))).sum()
    nothing = local(window)
    nothing[-64:] = (key <= row)[-64:]
    assert abs(int(nothing.sum()) / int(sparse) - 1) < 0.05


def write_cases(path, tokenizer):
    ids = prompt(tokenizer, 7)[0].tolist()
    turn = tokenizer("<|im_end|>\n<|im_start|>user\nWhat is the special magic number for Cairo "
                     "mentioned in the document?<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    text = tokenizer("The harbour was quiet and a lamp stood near the wall. " * 40)["input_ids"]
    lines = [
        {"type": "cases", "format": 1, "seed": 1, "tasks": ["single_needle", "text"], "cases": 1,
         "lengths": [512], "model": {"name": "smollm2-128k", "fingerprint": {"num_layers": 30}}},
        {"type": "case", "task": "single_needle", "length": 512, "case": 0, "filler": "fiction",
         "depth": 0.3, "prompt": ids, "expected": ["37519"], "answer_tokens": 20,
         "follow_ups": [{"question": "?", "expected": ["37519"], "tokens": turn}]},
        {"type": "case", "task": "text", "length": 512, "case": 0, "filler": "fiction",
         "prompt": text[:440], "continuation": text[440:456]},
        {"type": "later kinds of lines are ignored"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@with_model
def test_a_run_and_its_resumption(tmp_path, capsys, monkeypatch):
    cases, output = tmp_path / "cases.jsonl", tmp_path / "run.jsonl"
    _, tokenizer = loaded = tokensieve.hf.load("smollm2-128k")
    monkeypatch.setattr(tokensieve.hf, "load", lambda *_, **__: loaded)
    write_cases(cases, tokenizer)
    command = [str(cases), "-o", str(output), "--device", "cpu", "--config",
               "forced:keep=.3,obs_window=64,window=64,sinks=4",
               "none:window=64,obs_window=32,sinks=4"]
    evaluate.main(command)
    header, *lines = map(json.loads, output.read_text().splitlines())
    assert header["type"] == "run" and header["tasks"] == ["single_needle", "text"]
    assert [c["kind"] for c in header["configs"]] == ["dense", "sparse", "none"]
    assert len(lines) == 6
    by = {(line["task"], line["config"].split(":")[0]): line for line in lines}
    dense, forced = by["single_needle", "dense"], by["single_needle", "forced"]
    assert dense["score"] == 1 and dense["follow_ups"][0]["score"] == 1
    assert dense["work"] == 1 and dense["keep_ratio"] == 1
    assert dense["layers"][5]["reason"] == "switched off"
    assert "37519" in dense["answer"] and dense["prefill_ms"] > dense["attention_ms"] > 0
    assert 0.2 < forced["work"] < 0.9 and 0.3 < forced["keep_ratio"] < 0.6
    assert "reason" not in forced["layers"][5]
    assert forced["layers"][0]["reason"] == "layer not in the profile"
    metrics = by["text", "dense"]["metrics"]
    assert metrics["kl"] == 0 and metrics["top1"] == 1 and metrics["tokens"] == 16
    assert by["text", "forced"]["metrics"]["kl"] > 0 and by["text", "none"]["metrics"]["kl"] > 0
    assert by["text", "none"]["work"] < forced["work"]
    assert "speed-up" in capsys.readouterr().out
    # Interrupted inside the line before the last: the same command writes both once more.
    text = output.read_text().splitlines(keepends=True)
    output.write_text("".join(text[:-2]) + text[-2][:40])
    evaluate.main(command)
    again = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(x.get("task"), x.get("config")) for x in again[1:]] == [
        (x["task"], x["config"]) for x in lines]
    assert again[-1]["metrics"] == lines[-1]["metrics"]
    for other, message in [(["--config", "paper"], "holds another run [(]configs differs"),
                           (["--tasks", "qa"], "no case is left"),
                           (["--part", "3/3"], "no case is left"),
                           (["--part", "3/2"], "'3/2'; allowed: K/N")]:
        with pytest.raises(SystemExit):
            evaluate.main([*command[:5], *other])
        assert re.search(message, capsys.readouterr().err)
    # Parts hold every case once.
    command[2] = str(tmp_path / "part.jsonl")
    evaluate.main([*command, "--part", "2/2"])
    part = [json.loads(line) for line in (tmp_path / "part.jsonl").read_text().splitlines()]
    assert {line["task"] for line in part[1:]} == {"text"} and len(part) == 4


def test_bad_files(tmp_path, capsys):
    for content in ("", "no JSON\n", '{"type": "run"}\n'):
        (tmp_path / "cases.jsonl").write_text(content)
        with pytest.raises(SystemExit):
            evaluate.main([str(tmp_path / "cases.jsonl")])
        assert "is not a file of cases" in capsys.readouterr().err
    output = tmp_path / "run.jsonl"
    output.write_text("something else")
    with pytest.raises(tokensieve.ArgumentError, match="not a results file"):
        evaluate.Results(str(output), {"type": "run"})
    assert output.read_text() == "something else"
