"""Runs evaluation cases through transformers, on a GPU or the CPU.

    tokensieve eval smollm2-128k --lengths 8192,32768 --config sparse --config none \\
        --write-cases cases.jsonl
    python -m tokensieve.evaluate cases.jsonl -o run.jsonl
    tokensieve report run.jsonl

The cases are in the model's tokens, and the configurations are those of `tokensieve eval`, worked
out for every length of a prompt; how they are written, and what they mean, says `tokensieve eval
--config list`. This program runs them and writes what the model answered; scores, statistics and
tables are `tokensieve report`'s. Finished results are in the file at once: after Ctrl-C the same
command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

import tokensieve
import tokensieve.hf
from tokensieve import _models
from tokensieve._abi import ArgumentError, Error
from tokensieve._run_file import Cases, Json, Resolved, Results, command_text, key_of
from tokensieve.hf.interface import NAME, replaced

# ---- One case ------------------------------------------------------------------------------------


def compare(dense: torch.Tensor, other: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    """How far two next-token distributions [tokens, vocabulary] are apart; natural logarithms."""
    a, b = (torch.log_softmax(x.float(), dim=-1) for x in (dense, other))
    kl = (a.exp() * (a - b)).sum(dim=-1).clamp(min=0.0)
    nll = [float(-x.gather(1, targets[:, None].to(x.device)).mean()) for x in (a, b)]
    return {"tokens": len(targets), "kl": float(kl.mean()), "kl_max": float(kl.max()),
            "top1": float((a.argmax(dim=-1) == b.argmax(dim=-1)).float().mean()), "nll": nll[1],
            "nll_dense": nll[0]}


def _with_dense_rows(before: Callable[..., Any], layers: tuple[int, ...], rows: int
                     ) -> Callable[..., Any]:
    """An attention function that computes the newest rows of sparse layers densely once more."""
    def attention(module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                  *args: Any, **kwargs: Any) -> Any:
        out, weights = before(module, query, key, value, *args, **kwargs)
        if module.layer_idx in layers and query.shape[2] > rows:
            newest = tokensieve.attention(query[:, :, -rows:], key, value, layout="bhsd",
                                          sm_scale=kwargs.get("scaling"))
            out[:, -rows:] = newest.transpose(1, 2)
        return out, weights
    return attention


class Runner:
    """Runs cases through a model."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        ends = model.generation_config.eos_token_id
        self.stop = set(ends if isinstance(ends, list) else [ends])
        self.stop |= {tokenizer.convert_tokens_to_ids(t) for t in ("<|endoftext|>", "<|im_end|>")
                      if t in tokenizer.get_vocab()}

    def run(self, case: Json, resolved: Resolved) -> tuple[Json, Any]:
        """The members of a result line, and for task "text" the logits of the continuation."""
        prompt = case["prompt"]
        cache = DynamicCache(config=self.model.config)
        begin = time.perf_counter()
        with torch.no_grad(), tokensieve.hf.measure() as measured, self._as(resolved):
            chunk = resolved.chunk or len(prompt)
            for at in range(0, len(prompt), chunk):
                logits = self._feed(prompt[at:at + chunk], cache)[-1:]
            first = int(logits[0].argmax())  # waits for the device
            prefill = time.perf_counter() - begin
        line = {"prompt_tokens": len(prompt), "prefill_ms": prefill * 1e3,
                **self._layers(measured, resolved)}
        # Later turns and the continuation are read densely: what is lost was lost in the prefill.
        with torch.no_grad(), tokensieve.dense():
            if "continuation" in case:
                following = case["continuation"]
                rest = self._feed(following[:-1], cache, len(following) - 1)
                return line, torch.cat([logits, rest])
            begin = time.perf_counter()
            answer = self._answer(first, cache, case["answer_tokens"])
            line |= {"expected": case["expected"], "answer": answer, "follow_ups": []}
            for turn in case.get("follow_ups", ()):
                if (extra := cache.get_seq_length() - len(prompt)) > 0:
                    cache.crop(-extra)
                first = int(self._feed(turn["tokens"], cache)[-1].argmax())
                line["follow_ups"].append({
                    "question": turn["question"], "expected": turn["expected"],
                    "answer": self._answer(first, cache, case["answer_tokens"])})
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

    @contextlib.contextmanager
    def _as(self, resolved: Resolved) -> Iterator[None]:
        """Inside, the model runs a configuration."""
        tokensieve.hf.reset_stats(self.model)
        if resolved.profile is None:
            with tokensieve.dense():
                yield
            return
        tokensieve.hf.configure(self.model, resolved.profile)
        layers, rows = resolved.profile.sparse_layers, resolved.dense_rows
        with replaced(lambda f: _with_dense_rows(f, layers, rows) if rows else f, NAME):
            yield

    def _layers(self, measured: dict[int, Any], resolved: Resolved) -> Json:
        stats = tokensieve.hf.stats(self.model)
        layers = []
        for index, layer in measured.items():
            item = {"layer": index, "keep_ratio": 1.0 if layer.keep_ratio is None else
                    layer.keep_ratio, "work": layer.work, "attention_ms": layer.seconds * 1e3}
            if not stats[index].sparse or resolved.profile is None:
                item["reason"] = next(iter(stats[index].reasons), "dense")
            elif resolved.work is not None:
                item["work"] = resolved.work
            if layer.block_density < 1:
                item["block_density"] = layer.block_density
            layers.append(item)
        ratios = [item["keep_ratio"] for item in layers if "reason" not in item]
        result = {"attention_ms": sum(item["attention_ms"] for item in layers),
                  "keep_ratio": statistics.fmean(ratios) if ratios else 1.0,
                  "work": statistics.fmean(item["work"] for item in layers), "layers": layers}
        if masked := [item["block_density"] for item in layers if "block_density" in item]:
            result["block_density"] = statistics.fmean(masked)
        products = ", ".join(sorted({text for index in measured for text in stats[index].products}))
        if products not in ("", "exact"):
            result["products"] = products
        return result


def _header(cases: Cases, names: list[str], device: torch.device) -> Json:
    now = datetime.datetime.now(datetime.timezone.utc)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    made: Json = {key: cases.header[key] for key in ("model", "seed", "tasks", "lengths", "cases")
            if key in cases.header}
    configs = {config["name"]: config for config in cases.header["configs"]}
    return {"type": "run", "format": 1,
            "tool": f"tokensieve {tokensieve.info()['version']} (transformers)",
            "date": f"{now:%Y-%m-%dT%H:%M:%SZ}", "command": command_text(sys.argv),
            "machine": {"cpu": platform.processor(), "threads": torch.get_num_threads(),
                        "gpu": gpu},
            **made, "configs": [configs[name] for name in names]}


# ---- The command ---------------------------------------------------------------------------------


def evaluate(runner: Runner, cases: Cases, chosen: list[Json], names: list[str],
             results: Results) -> None:
    """Runs what the results file does not hold yet. The first configuration is dense."""
    total = sum(key_of(case, name) not in results.done for case in chosen for name in names)
    count = 0
    for case in chosen:
        todo = [name for name in names if key_of(case, name) not in results.done]
        is_text = "continuation" in case
        dense = None
        for name in ["dense", *todo] if is_text and todo and todo[0] != "dense" else todo:
            _progress(count, total, f"{case['task']} {case['length']} {name}")
            line, logits = runner.run(case, cases.resolved[name, len(case["prompt"])])
            dense = logits if dense is None else dense
            if name not in todo:  # only to compare with
                continue
            if is_text:
                line["metrics"] = compare(dense, logits, torch.tensor(case["continuation"]))
            about: Json = {key: case[key] for key in ("task", "length", "case", "filler", "depth")
                     if key in case}
            results.add({"type": "result", **about, "config": name, **line})
            count += 1
    _progress(count, total, "done")


def _progress(count: int, total: int, detail: str) -> None:
    """A bar on a terminal, a line elsewhere."""
    bar = "#" * (20 * count // max(1, total))
    start, end = ("\r\x1b[K", "") if sys.stderr.isatty() and count < total else ("", "\n")
    print(f"{start}[{bar:20}] {count} of {total} runs  {detail}", end=end, file=sys.stderr,
          flush=True)


def _load(options: argparse.Namespace) -> tuple[Any, Any]:
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if options.model in _models.MODELS:
        return tokensieve.hf.load(options.model, file=options.file, device=device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    model: Any = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=dtype, attn_implementation="tokensieve")
    return model.to(device).eval(), AutoTokenizer.from_pretrained(options.model)


def _part(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: K/N with 1 <= K <= N, such as 2/4")
    return int(number), int(count)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tokensieve.evaluate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", metavar="CASES.jsonl")
    parser.add_argument("--model", default="smollm2-128k",
                        help="smollm2-128k (default), smollm2, or a folder for from_pretrained")
    parser.add_argument("--file", help="the GGUF file of a model with a name, if it is not in the "
                        "cache folder")
    parser.add_argument("--config", nargs="+", metavar="NAME", help="only these configurations of "
                        "the cases (default: all that transformers can run)")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these")
    parser.add_argument("--lengths", nargs="+", type=int, metavar="N", help="only these")
    parser.add_argument("--part", metavar="K/N", default="1/1", type=_part,
                        help="only every N-th case, from the K-th on: for N processes or GPUs side "
                        "by side, each with an own -o; `tokensieve report` joins the files")
    parser.add_argument("--device", help="default: cuda if torch sees a GPU")
    parser.add_argument("-o", "--output", default="run.jsonl", metavar="FILE",
                        help="results (default: run.jsonl)")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> None:
    cases = Cases(options.cases)
    names = cases.choose(options.config)
    first, step = options.part
    chosen = [case for case in cases.cases
              if case["task"] in (options.tasks or [case["task"]])
              and case["length"] in (options.lengths or [case["length"]])][first - 1::step]
    if not chosen:
        raise ArgumentError("no case is left; see --tasks, --lengths and --part")
    model, tokenizer = _load(options)
    cases.check(tokensieve.hf.fingerprint(model.config))
    results = Results(options.output, _header(cases, names, model.device))
    runner = Runner(model, tokenizer)
    prompt = chosen[0]["prompt"]
    for name in names:  # what the first call of a kind costs is nobody's attention time
        runner.run({"prompt": prompt[:1024], "continuation": [0, 0]},
                   cases.resolved[name, len(prompt)])
    evaluate(runner, cases, chosen, names, results)


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    try:
        _run(options)
    except (Error, OSError) as problem:
        print(f"evaluate: error: {problem}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"\nstopped; finished results are in {options.output}, and the same command goes on",
              file=sys.stderr)
        sys.exit(130)
    print(f"written to {options.output}; `tokensieve report {options.output}` shows it")


if __name__ == "__main__":
    main()
