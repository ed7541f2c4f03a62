"""vLLM with the plug-in, against vLLM without, Hugging Face, and the library on equal k and v."""

import dataclasses
import random
from typing import NamedTuple

import pytest
import torch

pytest.importorskip("vllm", exc_type=ImportError)

from tokensieve import (ArgumentError, Profile, SelectConfig, UnsupportedError,  # noqa: E402
                        attention)
from tokensieve.vllm import plugin, reading, register, stats  # noqa: E402
from tokensieve.vllm.rows import Row  # noqa: E402

# Sparse wherever the policy allows it, also where that is not worth it.
SPARSE = Profile((1, 2, 3), SelectConfig(
    budget="keep_ratio", keep_ratio=0.25, min_keep=64, obs_window=32, share="layer", fill="local",
    local_window=128, dense_policy="never"), min_tokens=512)
OFF = dataclasses.replace(SPARSE, select=SelectConfig(enabled=False), min_tokens=64)
NEVER = dataclasses.replace(SPARSE, min_tokens=100_000)


def tokens(seed, count):
    return random.Random(seed).choices(range(3, 512), k=count)


LONG = tokens(4, 2600)
MIXED = [tokens(1, 37), tokens(2, 900), tokens(3, 1500), LONG, LONG[:2048] + tokens(5, 100)]
HITS = [MIXED[2] + [7, 8, 9], LONG[:1536] + tokens(6, 1000)]  # blocks of 128 tokens are cached


def use(engine, profile):
    """From the next step on; prefixes that were read by another profile are forgotten."""
    def apply(worker):
        for layer in worker.model_runner.compilation_config.static_forward_context.values():
            layer.impl.profile = profile
    engine.collective_rpc(apply)
    assert engine.reset_prefix_cache()


def generate(engine, prompts, count=8):
    """Greedy tokens of each prompt, with their log-probabilities."""
    from vllm import SamplingParams

    outputs = engine.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts],
        SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, logprobs=1,
                       detokenize=False), use_tqdm=False)
    chosen = [output.outputs[0] for output in outputs]
    return ([list(one.token_ids) for one in chosen],
            torch.tensor([[step[token].logprob for step, token in zip(one.logprobs, one.token_ids)]
                          for one in chosen]))


class Counted:
    """What was counted inside a `with`."""

    def __enter__(self):
        self.before = stats()
        return self

    def __exit__(self, *problem):
        after = stats()
        self.sparse = after.sparse_rows - self.before.sparse_rows
        self.dense = after.dense_rows - self.before.dense_rows
        self.kept = after.kept_keys - self.before.kept_keys
        self.keys = after.keys - self.before.keys


@pytest.fixture(scope="module")
def expected(stock):
    """Of a mixed batch in chunks, then of two prompts whose beginnings are cached."""
    return generate(stock, MIXED), generate(stock, HITS)


def test_selection_off_is_vllm_in_other_words(engine, expected):
    use(engine, OFF)
    with Counted() as counted:
        got = generate(engine, MIXED), generate(engine, HITS)
    for (mine, logprobs), (theirs, their_logprobs) in zip(got, expected):
        assert mine == theirs
        torch.testing.assert_close(logprobs, their_logprobs, atol=1e-5, rtol=0)
    assert counted.sparse == 0 and counted.dense["selection is off"] >= 3 * 8
    assert counted.dense["layer not in the profile"] * 3 == counted.dense["selection is off"]
    assert counted.dense["decode"] > 0


def test_steps_without_sparse_rows_have_vllms_bits(engine, expected):
    use(engine, NEVER)
    with Counted() as counted:
        got = generate(engine, MIXED), generate(engine, HITS)
    assert all(mine == theirs and torch.equal(logprobs, their_logprobs)
               for (mine, logprobs), (theirs, their_logprobs) in zip(got, expected))
    assert counted.sparse == 0 and counted.dense["prompt shorter than min_tokens"] > 0


class Read(NamedTuple):
    """What a layer did with a row; `own` are the k and v of the row's tokens, as they came."""

    layer: reading.Layer
    row: Row
    done: bool
    query: torch.Tensor
    own: torch.Tensor
    keys: torch.Tensor  # k and v of the whole sequence
    out: torch.Tensor


@pytest.fixture
def reads(monkeypatch):
    """Collects what layers read."""
    from tokensieve.vllm.cpu import Impl

    collected, read, step = [], reading.read, Impl._read_prompts
    new = []

    def recorded_step(self, layer, prompts, query, key, value, *rest):
        new[:] = [key, value]
        return step(self, layer, prompts, query, key, value, *rest)

    def recorded(layer, row, query, keys, out):
        done = read(layer, row, query, keys, out)
        own = torch.stack([x[row.begin:row.end] for x in new])
        collected.append(Read(layer, row, done, query.clone(), own, torch.stack(keys()),
                              out.clone()))
        return done
    monkeypatch.setattr(Impl, "_read_prompts", recorded_step)
    monkeypatch.setattr(reading, "read", recorded)
    return collected


def test_sparse_rows_are_the_librarys_on_contiguous_k_and_v(engine, reads):
    """A prompt in three chunks, then one with a cached beginning: pages give the bits that the
    tokens had when they were new, and so the library does."""
    use(engine, SPARSE)
    with Counted() as counted:
        generate(engine, [LONG], 1)
        generate(engine, HITS[1:], 1)
    rows = [(1024, 1024), (1024, 2048), (552, 2600), (1000, 2536)]
    assert counted.sparse == 3 * len(rows) and 0.2 < counted.kept / counted.keys < 0.35
    for layer in range(4):
        seen = torch.empty(2, 0, 2, 64)
        mine = [read for read in reads if read.layer.number == layer]
        assert [(read.row.queries, read.row.keys) for read in mine] == rows
        for read in mine:
            seen = torch.cat([seen[:, :read.row.keys - read.row.queries], read.own], dim=1)
            assert torch.equal(read.keys, seen)
            assert read.done == (layer > 0)
            if read.done:
                select = read.layer.profile.choose(layer, read.row.queries, read.row.keys).select
                assert select.enabled and select.queries == "kept"
                again = attention(read.query[None], *seen[:, None], select=select,
                                  sm_scale=read.layer.scale)
                assert torch.equal(read.out, again[0])


def hugging_face(folder, prompt, chunks):
    """Log-probabilities of the first token behind a prompt that is read in these chunks."""
    import tokensieve.hf
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="tokensieve",
                                                 dtype=torch.float32)
    tokensieve.hf.configure(model, SPARSE)
    cache, begin = None, 0
    for count in chunks:
        with torch.no_grad():
            did = model(torch.tensor([prompt[begin:begin + count]]), past_key_values=cache)
        cache, begin = did.past_key_values, begin + count
    assert [layer.sparse for layer in tokensieve.hf.stats(model).values()] == (
        [0] + [len(chunks)] * 3)
    return did.logits[0, -1].log_softmax(-1)


@pytest.mark.parametrize("prompt, chunks", [(MIXED[1], [900]), (LONG, [1024, 1024, 552])])
def test_sparse_answers_are_those_of_the_hugging_face_adapter(engine, model, prompt, chunks):
    use(engine, SPARSE)
    (answer,), logprobs = generate(engine, [prompt], 1)
    theirs = hugging_face(model, prompt, chunks)
    assert answer == [int(theirs.argmax())]
    assert abs(float(logprobs[0, 0] - theirs.max())) < 1e-4


def test_answers_do_not_depend_on_neighbours(engine):
    """Where chunks are cut alike. Rounding differs by the size of vLLM's products."""
    use(engine, SPARSE)
    alone, logprobs = generate(engine, [MIXED[1]])
    for batch, place in (([MIXED[0], MIXED[1]], 1), ([MIXED[1], tokens(8, 60), tokens(9, 5)], 0)):
        assert engine.reset_prefix_cache()
        answers, others = generate(engine, batch)
        assert answers[place] == alone[0]
        torch.testing.assert_close(others[place], logprobs[0], atol=1e-4, rtol=0)


def test_preemption(engine, stock, monkeypatch):
    """More tokens than the cache holds: requests are stopped and computed again."""
    from vllm.v1.core.sched.scheduler import Scheduler

    preempted, preempt = [], Scheduler._preempt_request

    def counted_preempt(self, request, *args, **kwargs):
        preempted.append(request.request_id)
        return preempt(self, request, *args, **kwargs)
    monkeypatch.setattr(Scheduler, "_preempt_request", counted_preempt)
    prompts = [tokens(20 + i, 1500 + i) for i in range(5)]  # 12 of 64 blocks each, later 14
    theirs, _ = generate(stock, prompts, 160)
    for profile in (OFF, SPARSE):
        use(engine, profile)
        preempted.clear()
        with Counted() as counted:
            mine, _ = generate(engine, prompts, 160)
        assert preempted and [len(answer) for answer in mine] == [160] * 5
        assert mine == theirs if profile is OFF else counted.sparse >= 5 * 3


@pytest.mark.parametrize("problem, reason", [(RuntimeError("no"), "error"),
                                             (UnsupportedError("no"), "unsupported")])
def test_a_request_does_not_fail_with_the_library(engine, expected, monkeypatch, problem, reason):
    use(engine, SPARSE)

    def fail(*args, **kwargs):
        raise problem
    monkeypatch.setattr(reading._attend, "attend", fail)
    with Counted() as counted:
        answers, logprobs = generate(engine, MIXED)
    assert answers == expected[0][0] and torch.equal(logprobs, expected[0][1])
    assert counted.sparse == 0 and counted.dense[reason] >= 3 * 3


def test_metrics(engine):
    from prometheus_client import REGISTRY

    use(engine, SPARSE)
    generate(engine, [MIXED[1]], 2)
    counted = stats()
    assert REGISTRY.get_sample_value("tokensieve:sparse_rows_total") == counted.sparse_rows
    assert REGISTRY.get_sample_value("tokensieve:kept_keys_total") == counted.kept_keys
    assert REGISTRY.get_sample_value("tokensieve:dense_rows_total", {"reason": "decode"}
                                     ) == counted.dense_rows["decode"]
    assert 0 < counted.computed_pairs < counted.pairs


def test_the_log_says_what_was_done(engine, monkeypatch):
    from tokensieve.vllm import counters, cpu

    lines = []
    counters.say()  # what other tests did
    monkeypatch.setattr(counters._log, "info", lambda text, *args: lines.append(text % args))
    monkeypatch.setattr(cpu, "_SAY_EVERY", 0.0)
    use(engine, SPARSE)
    generate(engine, [MIXED[1]], 4)
    assert len(lines) == 1  # steps of decoding only are not worth one
    assert "sparse rows (kept " in lines[0] and "decode" in lines[0]


def test_bad_settings_stop_the_start(start):
    with pytest.raises(ArgumentError, match="tokensieve: unknown setting 'keep'; allowed: profile"):
        start(additional_config={"tokensieve": {"keep": 0.2}})


def test_register(monkeypatch):
    """Whoever asked is told why not; whoever did not has vLLM as it is."""
    import vllm
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    place = AttentionBackendEnum.CPU_ATTN
    assert place.get_path() == plugin._BACKEND  # vLLM has found the entry point
    register()
    monkeypatch.setenv("TOKENSIEVE_PROFILE", "nothing")
    with pytest.raises(ArgumentError, match="TOKENSIEVE_PROFILE: no profile 'nothing'"):
        register()
    monkeypatch.setenv("TOKENSIEVE_PROFILE", "smollm2")
    register()
    register_backend(place, "other.Backend")
    with pytest.raises(UnsupportedError, match="put other.Backend in the place of CPU_ATTN"):
        register()
    place.clear_override()
    for owner, name, value, text in (
            (vllm, "__version__", "0.33.1", "this is vLLM 0.33.1; allowed: 0.26 to 0.32"),
            (type(current_platform), "is_cpu", lambda self: False, "allowed: cpu")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            with pytest.raises(UnsupportedError, match=text):
                register()
            patch.delenv("TOKENSIEVE_PROFILE")
            register()
            assert not place.is_overridden()
    register()
    assert place.get_path() == plugin._BACKEND
