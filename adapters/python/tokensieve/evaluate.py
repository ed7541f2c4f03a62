"""Runs evaluation cases through transformers, on a GPU or the CPU.

The cases come from `tokensieve eval --write-cases FILE`, in the model's tokens; the results file is
that of `tokensieve eval`, so `tokensieve report` shows it (docs/evaluation.md). Finished results are
in the file at once: after Ctrl-C the same command goes on where it stopped.

configurations, as NAME or NAME:key=value,...
  dense    SDPA; everything is measured against it
  sparse   the profile as it is, min_tokens and break-even included
  forced   the profile's selection at every length
  paper    upper half of the layers, a set per head, tau .005, zero fill
  none     no selection: sinks and a window as wide as the work of the profile allows, the last rows
           dense
keys: keep, tau, count, layers (2-29 or 4+9+12-20), fill, share, window, and any field of SelectConfig
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import fcntl
import functools
import json
import math
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

import tokensieve
import tokensieve.hf
from tokensieve import _models
from tokensieve._abi import ArgumentError, Error
from tokensieve._config import Fingerprint, Profile
from tokensieve._select import SelectConfig
from tokensieve.hf.interface import NAME, replaced

# ---- Configurations ------------------------------------------------------------------------------

_NOTES = {
    "dense": "SDPA; everything is measured against it",
    "sparse": "the profile as shipped: short prompts run dense",
    "forced": "the profile's selection without its length gates",
    "paper": "arXiv 2602.03216: upper half, tau .005, zero fill",
    "none": "no selection: sinks, a window as wide as equal work allows, last rows dense",
}
_SHORT_KEYS = {"keep": "keep_ratio", "count": "keep_count", "window": "local_window"}


@dataclasses.dataclass(frozen=True)
class Config:
    """A way to run the model; profile None: dense."""

    name: str
    kind: str
    profile: Profile | None
    equal_work: Profile | None = None  # none: the selection whose work its window matches

    def to_json(self) -> dict[str, Any]:
        root: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.profile is not None:
            root |= {"mode": "whole", "gate": self.name.split(":")[0] == "sparse",
                     "profile": json.loads(self.profile.to_json())}
        if self.equal_work is not None:
            root["equal_work"] = True
        return root | {"note": _NOTES[self.name.split(":")[0]]}


def parse_config(spec: str, profile: Profile) -> Config:
    """The configuration of a specification; `profile` is the model's.

    Raises
    ------
    ArgumentError
        An unknown name or key, or a value that is not allowed.
    """
    name, _, rest = spec.partition(":")
    if name not in _NOTES:
        raise ArgumentError(f"configuration {name!r}; allowed: {', '.join(_NOTES)}")
    if name == "dense":
        if rest:
            raise ArgumentError(f"{spec}: dense has no keys")
        return Config(spec, "dense", None)
    if name == "paper":
        count = profile.fingerprint.num_layers
        profile = dataclasses.replace(
            profile, sparse_layers=tuple(range(max(1, count // 2), count)), select=SelectConfig(),
            layer_select=())
    profile = _with_keys(profile, spec, rest)
    if name == "sparse":
        return Config(spec, "sparse", profile)
    min_keep = SelectConfig().min_keep if name == "paper" else 0
    profile = dataclasses.replace(profile, min_tokens=0).map_select(
        lambda select: dataclasses.replace(select, dense_policy="never", min_keep=min_keep))
    if name != "none":
        return Config(spec, "sparse", profile)
    nothing = dataclasses.replace(profile.select, budget="keep_count", keep_count=1, fill="local",
                                  share="layer")
    given = "window=" in rest
    return Config(spec, "none", dataclasses.replace(profile, select=nothing, layer_select=()),
                  None if given else profile)


def _with_keys(profile: Profile, spec: str, text: str) -> Profile:
    fields = {field.name: field for field in dataclasses.fields(SelectConfig)}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        key = _SHORT_KEYS.get(key, key)
        if not equals or key not in (*fields, "layers"):
            raise ArgumentError(f"{spec}: {item!r}; allowed: KEY=VALUE with layers, "
                                f"{', '.join((*_SHORT_KEYS, *fields))}")
        if key == "layers":
            profile = dataclasses.replace(
                profile, sparse_layers=_layers(value, profile.fingerprint.num_layers))
            continue
        default = getattr(SelectConfig(), key)
        try:
            changed = {key: value if isinstance(default, str) else type(default)(value)}
        except ValueError:
            raise ArgumentError(f"{spec}: {key} is {value!r}; allowed: a number") from None
        if key in ("tau", "keep_ratio", "keep_count"):
            changed["budget"] = key
        profile = profile.map_select(functools.partial(dataclasses.replace, **changed))
    return profile


def _layers(text: str, count: int) -> tuple[int, ...]:
    found: set[int] = set()
    try:
        for part in text.split("+"):
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    except ValueError:
        found = set()
    if not found or min(found) < 1 or max(found) >= count:
        raise ArgumentError(f"layers={text}; allowed: numbers from 1 to {count - 1} such as 2-29 "
                            "or 4+9+12-20")
    return tuple(sorted(found))


_BLOCK = 64  # of local fill


def _keep_ratio(select: SelectConfig, tokens: int) -> float:
    prefix = tokens - select.obs_window
    kept = {"keep_ratio": int(select.keep_ratio * prefix), "keep_count": select.keep_count}.get(
        select.budget, prefix)  # tau: nobody knows before
    return (min(prefix, max(kept, select.min_keep)) + select.obs_window) / tokens


def selection_pairs(select: SelectConfig, ratio: float, tokens: int) -> float:
    """(query, key) pairs of a head in a sparse layer of which `ratio` is kept, evenly spread."""
    every = tokens * (tokens + 1) / 2
    near = min(tokens, select.local_window + _BLOCK / 2 + select.sinks)
    far = tokens - near
    return (ratio**2 * every if select.fill == "zero" else
            min(every, near * tokens - near**2 / 2 + ratio**2 * far**2 / 2))


def equal_work_window(profile: Profile, tokens: int) -> int:
    """The window for which no selection costs what the profile costs; as in `tokensieve eval`."""
    selects = [profile.select_of(layer) for layer in profile.sparse_layers]
    pairs = statistics.fmean(selection_pairs(select, _keep_ratio(select, tokens), tokens)
                             for select in selects)
    select = profile.select
    rows = min(select.obs_window, tokens - 1)  # dense, at the end
    m = tokens - rows
    near = m - math.sqrt(max(0.0, m**2 - 2 * max(0.0, pairs - rows * (tokens - rows / 2))))
    return max(1, round((near - _BLOCK / 2 - select.sinks) / _BLOCK)) * _BLOCK


# ---- Scores --------------------------------------------------------------------------------------


def score(expected: list[str], answer: str) -> float:
    """RULER's string match recall, as `tokensieve eval` counts it: the share of `expected` that is
    in the answer, upper and lower case alike, no number as a part of a longer one."""
    if not expected:
        return 1.0
    text = _lower(answer)
    return sum(_contains(text, _lower(wanted)) for wanted in expected) / len(expected)


def _lower(text: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in text)


def _is_digit(c: str) -> bool:
    return "0" <= c <= "9"


def _contains(text: str, wanted: str) -> bool:
    if not wanted:
        return True
    begin = text.find(wanted)
    while begin >= 0:
        end = begin + len(wanted)
        cut = ((begin > 0 and _is_digit(text[begin - 1]) and _is_digit(wanted[0]))
               or (end < len(text) and _is_digit(text[end]) and _is_digit(wanted[-1])))
        if not cut:
            return True
        begin = text.find(wanted, begin + 1)
    return False


def compare(dense: torch.Tensor, other: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    """How far two next-token distributions [tokens, vocabulary] are apart; natural logarithms."""
    a, b = (torch.log_softmax(x.float(), dim=-1) for x in (dense, other))
    kl = (a.exp() * (a - b)).sum(dim=-1).clamp(min=0.0)
    nll = [float(-x.gather(1, targets[:, None].to(x.device)).mean()) for x in (a, b)]
    return {"tokens": len(targets), "kl": float(kl.mean()), "kl_max": float(kl.max()),
            "top1": float((a.argmax(dim=-1) == b.argmax(dim=-1)).float().mean()), "nll": nll[1],
            "nll_dense": nll[0]}


# ---- One case ------------------------------------------------------------------------------------


def _profile_at(config: Config, tokens: int) -> Profile | None:
    """What runs at this length; None: dense."""
    if config.profile is None or config.equal_work is None:
        return config.profile
    window = equal_work_window(config.equal_work, tokens)
    return config.profile.map_select(
        lambda select: dataclasses.replace(select, local_window=window))


def _dense_rows(config: Config, tokens: int) -> int:
    """Last rows that `none` computes densely."""
    if config.profile is None or config.kind != "none":
        return 0
    return min(config.profile.select.obs_window, tokens - 1)


class Runner:
    """Runs cases through a model."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        ends = model.generation_config.eos_token_id
        self.stop = set(ends if isinstance(ends, list) else [ends])
        self.stop |= {tokenizer.convert_tokens_to_ids(t) for t in ("<|endoftext|>", "<|im_end|>")
                      if t in tokenizer.get_vocab()}

    def run(self, case: dict[str, Any], config: Config) -> tuple[dict[str, Any], Any]:
        """The numbers of a result line, and for task "text" the logits of the continuation."""
        prompt = case["prompt"]
        profile, dense_rows = _profile_at(config, len(prompt)), _dense_rows(config, len(prompt))
        cache = DynamicCache(config=self.model.config)
        begin = time.perf_counter()
        with torch.no_grad(), tokensieve.hf.measure() as layers, self._as(profile, dense_rows):
            logits = self._feed(prompt, cache)[-1:]
            first = int(logits[0].argmax())  # waits for the device
            prefill = time.perf_counter() - begin
        line = {"prompt_tokens": len(prompt), "prefill_ms": prefill * 1e3,
                **self._layers(layers, profile, dense_rows, len(prompt))}
        # Later turns and the continuation are read densely: what is lost was lost in the prefill.
        with torch.no_grad(), tokensieve.dense():
            if "continuation" in case:
                following = case["continuation"]
                rest = self._feed(following[:-1], cache, len(following) - 1)
                return line, torch.cat([logits, rest])
            begin = time.perf_counter()
            answer = self._answer(first, cache, case["answer_tokens"])
            line |= {"expected": case["expected"], "answer": answer,
                     "score": score(case["expected"], answer)}
            line["follow_ups"] = []
            for turn in case.get("follow_ups", ()):
                if (extra := cache.get_seq_length() - len(prompt)) > 0:
                    cache.crop(-extra)
                first = int(self._feed(turn["tokens"], cache)[-1].argmax())
                answer = self._answer(first, cache, case["answer_tokens"])
                line["follow_ups"].append({
                    "question": turn["question"], "expected": turn["expected"], "answer": answer,
                    "score": score(turn["expected"], answer)})
            line["generate_ms"] = (time.perf_counter() - begin) * 1e3
        return line, None

    def _feed(self, tokens: list[int], cache: DynamicCache, keep: int = 1) -> torch.Tensor:
        """Logits [keep, vocabulary] of the newest tokens."""
        ids = torch.tensor([tokens], device=self.model.device)
        return self.model(ids, past_key_values=cache, logits_to_keep=keep).logits[0]

    def _answer(self, token: int, cache: DynamicCache, most: int) -> str:
        tokens: list[int] = []
        while token not in self.stop and len(tokens) < most:
            tokens.append(token)
            token = int(self._feed([token], cache)[-1].argmax())
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def _as(self, profile: Profile | None, dense_rows: int) -> Any:
        """Sets the model up for a configuration."""
        tokensieve.hf.reset_stats(self.model)
        if profile is None:
            return tokensieve.dense()
        tokensieve.hf.configure(self.model, profile)
        return _DenseRows(self.model, profile.sparse_layers, dense_rows)

    def _layers(self, measured: dict[int, Any], profile: Profile | None, dense_rows: int,
                tokens: int) -> dict[str, Any]:
        stats = tokensieve.hf.stats(self.model)
        layers = []
        for index, layer in measured.items():
            did = stats[index]
            item = {"layer": index, "keep_ratio": 1.0 if layer.keep_ratio is None else
                    layer.keep_ratio, "work": layer.attention_pairs,
                    "attention_ms": layer.seconds * 1e3}
            if not did.sparse or profile is None:
                item["reason"] = next(iter(did.reasons), "")
            else:  # the library's own figure takes the first rows for ones with a whole window
                pairs = selection_pairs(profile.select_of(index), item["keep_ratio"],
                                        tokens - dense_rows)
                pairs += dense_rows * (tokens - dense_rows / 2)
                item["work"] = pairs / (tokens * (tokens + 1) / 2)
            layers.append(item)
        ratios = [item["keep_ratio"] for item in layers if "reason" not in item]
        return {"attention_ms": sum(item["attention_ms"] for item in layers),
                "keep_ratio": statistics.fmean(ratios) if ratios else 1.0,
                "work": statistics.fmean(item["work"] for item in layers), "layers": layers}


class _DenseRows:
    """Inside, the newest `rows` rows of sparse layers are computed densely once more."""

    def __init__(self, model: nn.Module, layers: tuple[int, ...], rows: int) -> None:
        self.model, self.layers, self.rows = model, layers, rows

    def __enter__(self) -> None:
        self.stack = contextlib.ExitStack()
        if self.rows:
            self.stack.enter_context(replaced(
                lambda before: functools.partial(self._attention, before), NAME))

    def __exit__(self, *problem: object) -> None:
        self.stack.close()

    def _attention(self, before: Callable[..., Any], module: nn.Module, query: torch.Tensor,
                   key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        out, weights = before(module, query, key, value, *args, **kwargs)
        if module.layer_idx in self.layers and query.shape[2] > self.rows:
            newest = tokensieve.attention(query[:, :, -self.rows:], key, value, layout="bhsd",
                                          sm_scale=kwargs.get("scaling"))
            out[:, -self.rows:] = newest.transpose(1, 2)
        return out, weights


# ---- Files ---------------------------------------------------------------------------------------


def read_cases(path: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and the cases of a file that --write-cases made."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [json.loads(line) for line in file if line.strip()]
    except ValueError as problem:
        raise ArgumentError(f"{path} is not a file of cases: {problem}") from None
    if not lines or lines[0].get("type") != "cases" or lines[0].get("format") != 1:
        raise ArgumentError(f"{path} is not a file of cases, format 1 (tokensieve eval "
                            "--write-cases)")
    return lines[0], [line for line in lines[1:] if line.get("type") == "case"]


_IDENTITY = ("type", "format", "model", "seed", "tasks", "lengths", "cases", "configs")


class Results:
    """A results file, for appending; one that exists goes on if it is of the same run."""

    def __init__(self, path: str, header: dict[str, Any]) -> None:
        self.path, self.lines = path, []
        self._file = open(path, "a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArgumentError(f"another run is writing {path}; wait for it, or name another "
                                "file with -o") from None
        self._file.seek(0)
        text = self._file.read()
        whole = text[:text.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError as problem:
            raise ArgumentError(f"{path} is damaged ({problem}); name another file with -o") \
                from None
        if not lines and text and not text.startswith(b'{"type": "run"'):
            raise ArgumentError(f"{path} is not a results file; name another one with -o")
        if lines:
            for key in _IDENTITY:
                if lines[0].get(key) != json.loads(json.dumps(header.get(key))):
                    raise ArgumentError(f"{path} holds another run ({key} differs); name another "
                                        "file with -o")
        self._file.truncate(len(whole))
        self.lines = [line for line in lines[1:] if line.get("type") == "result"]
        if not lines:
            self._write(header)

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def add(self, line: dict[str, Any]) -> None:
        self._write(line)
        self.lines.append(line)


# ---- The command ---------------------------------------------------------------------------------


def _load(options: argparse.Namespace) -> tuple[nn.Module, Any, Profile]:
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if options.model in _models.MODELS:
        model, tokenizer = tokensieve.hf.load(options.model, file=options.file, device=device)
    else:
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        model = AutoModelForCausalLM.from_pretrained(
            options.model, dtype=dtype, attn_implementation="tokensieve").to(device).eval()
        tokenizer = AutoTokenizer.from_pretrained(options.model)
    if options.profile is None and options.model not in _models.MODELS:
        raise ArgumentError(f"{options.model} has no profile of its own; give --profile")
    profile = Profile.load(options.profile or options.model)
    profile.check(tokensieve.hf.fingerprint(model.config))
    return model, tokenizer, profile


def _header(cases: dict[str, Any], configs: list[Config], device: torch.device) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.timezone.utc)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {"type": "run", "format": 1,
            "tool": f"tokensieve {tokensieve.info()['version']} (transformers)",
            "date": f"{now:%Y-%m-%dT%H:%M:%SZ}", "command": " ".join(sys.argv),
            "machine": {"cpu": platform.processor(), "threads": torch.get_num_threads(),
                        "gpu": gpu},
            **{key: cases[key] for key in ("model", "seed", "tasks", "lengths", "cases")
               if key in cases},
            "configs": [config.to_json() for config in configs]}


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["task"], line["length"], line["case"]


def evaluate(runner: Runner, cases: Iterable[dict[str, Any]], configs: list[Config],
             results: Results, say: Callable[[str], None]) -> None:
    """Runs what the results file does not hold yet. The first configuration is dense."""
    done = {(*_key(line), line["config"]) for line in results.lines}
    for case in cases:
        todo = [c for c in configs if (*_key(case), c.name) not in done]
        is_text = "continuation" in case
        if is_text and todo and todo[0] is not configs[0]:
            todo.insert(0, configs[0])  # what the others are compared with
        dense = None
        for config in todo:
            line, logits = runner.run(case, config)
            if (*_key(case), config.name) in done:
                dense = logits
                continue
            if is_text:
                dense = logits if dense is None else dense
                line["metrics"] = compare(dense, logits, torch.tensor(case["continuation"]))
            names = {key: case[key] for key in ("task", "length", "case", "filler", "depth")
                     if key in case}
            results.add({"type": "result", **names, "config": config.name, **line})
            result = (f"KL {line['metrics']['kl']:.4f}" if is_text else
                      f"score {line['score']:.2f}")
            say(f"{case['task']} {case['length']} case {case['case']} {config.name}: {result}, "
                f"prefill {line['prefill_ms']:.0f} ms, attention {line['attention_ms']:.0f} ms, "
                f"work {line['work']:.3f}")


def summary(lines: list[dict[str, Any]]) -> Iterator[str]:
    """A table of results, by length and configuration."""
    yield ("length  configuration           score  follow-up      KL  top-1   work  prefill ms  "
           "attention ms  speed-up")
    lengths = sorted({line["length"] for line in lines})
    for length in lengths:
        dense = [line["attention_ms"] for line in lines
                 if line["length"] == length and line["config"] == "dense"]
        for name in dict.fromkeys(line["config"] for line in lines if line["length"] == length):
            some = [x for x in lines if x["length"] == length and x["config"] == name]

            def mean(values: Iterable[float], form: str) -> str:
                found = list(values)
                return format(statistics.fmean(found), form) if found else "-"
            attention = statistics.median(x["attention_ms"] for x in some)
            faster = f"x{statistics.median(dense) / attention:.2f}" if dense and attention else "-"
            yield (f"{length:6d}  {name:22}"
                   f"{mean((x['score'] for x in some if 'score' in x), '.3f'):>7}"
                   f"{mean((f['score'] for x in some for f in x.get('follow_ups', ())), '.3f'):>11}"
                   f"{mean((x['metrics']['kl'] for x in some if 'metrics' in x), '.4f'):>8}"
                   f"{mean((x['metrics']['top1'] for x in some if 'metrics' in x), '.3f'):>7}"
                   f"{mean((x['work'] for x in some), '.3f'):>7}"
                   f"{statistics.median(x['prefill_ms'] for x in some):>12.1f}"
                   f"{attention:>14.1f}  {faster:>8}")


def _part(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: K/N with 1 <= K <= N, such as 2/4")
    return int(number), int(count)


def _fail(problem: BaseException) -> NoReturn:
    print(f"evaluate: error: {problem}", file=sys.stderr)
    sys.exit(1)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tokensieve.evaluate",
                                     description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", metavar="CASES.jsonl")
    parser.add_argument("--model", default="smollm2-128k",
                        help="smollm2-128k (default), smollm2, or a folder for from_pretrained")
    parser.add_argument("--file", help="the GGUF file of a model with a name, if it is not in the "
                        "cache folder")
    parser.add_argument("--profile", help="a file or a shipped name (default: the model's)")
    parser.add_argument("--config", nargs="+", default=["dense", "sparse"], metavar="CONFIG")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these")
    parser.add_argument("--lengths", nargs="+", type=int, metavar="N", help="only these")
    parser.add_argument("--part", metavar="K/N", default="1/1", type=_part,
                        help="only every N-th case, from the K-th on: for N processes or GPUs side "
                        "by side, each with an own -o; `tokensieve report` joins the files")
    parser.add_argument("--device", help="default: cuda if torch sees a GPU")
    parser.add_argument("-o", "--output", default="run.jsonl", metavar="FILE",
                        help="results (default: run.jsonl)")
    options = parser.parse_args(arguments)
    try:
        header, cases = read_cases(options.cases)
        cases = [case for case in cases
                 if case["task"] in (options.tasks or [case["task"]])
                 and case["length"] in (options.lengths or [case["length"]])]
        first, step = options.part
        cases = cases[first - 1::step]
        if not cases:
            raise ArgumentError("no case is left; see --tasks, --lengths and --part")
        model, tokenizer, profile = _load(options)
        made_for = header.get("model", {}).get("fingerprint", {})
        names = {field.name for field in dataclasses.fields(Fingerprint)}
        Profile((), SelectConfig(), model="of the cases", fingerprint=Fingerprint(
            **{k: v for k, v in made_for.items() if k in names})).check(
                tokensieve.hf.fingerprint(model.config))
        specs = ["dense", *(spec for spec in options.config if spec != "dense")]
        configs = [parse_config(spec, profile) for spec in dict.fromkeys(specs)]
        results = Results(options.output, _header(header, configs, model.device))
        runner = Runner(model, tokenizer)
        for config in configs:  # what the first call of a kind costs is nobody's attention time
            runner.run({"prompt": cases[0]["prompt"][:1024], "continuation": [0, 0]}, config)
        evaluate(runner, cases, configs, results, lambda text: print(text, flush=True))
    except (Error, OSError) as problem:
        _fail(problem)
    except KeyboardInterrupt:
        print(f"\nstopped; finished results are in {options.output}, and the same command goes on",
              file=sys.stderr)
        sys.exit(130)
    print()
    for line in summary(results.lines):
        print(line)
    print(f"written to {os.fspath(pathlib.Path(options.output))}")


if __name__ == "__main__":
    main()
