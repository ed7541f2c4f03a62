"""tokensieve.attention and select_tokens against float64 NumPy."""

import concurrent.futures
import dataclasses
import json
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import reference
import torch

import tokensieve
from tokensieve import BlockConfig, SelectConfig, _abi, _call

SPARSE = dict(budget="keep_ratio", keep_ratio=0.25, min_keep=16, obs_window=64,
              local_window=128, dense_policy="never")


def tensors(seed, batch=1, seq_q=640, seq_kv=640, heads=4, kv_heads=2, dim=32):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((batch, s, h, dim), dtype=np.float32)
            for s, h in ((seq_q, heads), (seq_kv, kv_heads), (seq_kv, kv_heads))]


@pytest.mark.parametrize("sizes, more", [
    (dict(), {}),
    (dict(batch=2, seq_q=7, seq_kv=130, heads=3, kv_heads=1, dim=64), {}),
    (dict(seq_q=1, seq_kv=33, dim=16), dict(sm_scale=0.3)),
    (dict(seq_q=65, seq_kv=65), dict(softcap=2.0)),
    (dict(seq_q=40, seq_kv=90), dict(sink_logits=np.array([0.5, -1.0, 2.0, 0.0]))),
    (dict(seq_q=40, seq_kv=90), dict(causal=False)),
])
def test_dense(sizes, more):
    q, k, v = tensors(1, **sizes)
    out = tokensieve.attention(q, k, v, **more)
    allowed = reference.causal(q, k) if more.get("causal", True) else np.True_
    expected, _ = reference.attend(q, k, v, allowed, more.get("sm_scale"),
                                   more.get("softcap", 0.0), more.get("sink_logits"))
    np.testing.assert_allclose(out, expected, atol=2e-5)


@pytest.mark.parametrize("fill", ["zero", "local"])
@pytest.mark.parametrize("share", ["head", "kv", "layer"])
def test_sparse(fill, share):
    q, k, v = tensors(2, batch=2)
    select = SelectConfig(fill=fill, share=share, **SPARSE)
    chosen = tokensieve.select_tokens(q, k, select=select)
    assert chosen.reason == ""
    expected_sets = reference.kept(q, k, select)
    sets = [[row[:count] for row in sequence]
            for sequence, count in zip(chosen.indices, chosen.count)]
    assert len(sets[0]) == {"head": 4, "kv": 2, "layer": 1}[share]
    for mine, theirs in zip(sum(sets, []), sum(expected_sets, [])):
        np.testing.assert_array_equal(mine, theirs)
    out, report = tokensieve.attention(q, k, v, select=select, return_report=True)
    expected, _ = reference.attend(q, k, v, reference.allowed_rows(q, k, select, sets))
    np.testing.assert_allclose(out, expected, atol=2e-5)
    assert report.path == "sparse" and report.reason == "" and report.backend == "cpu"
    assert report.keep_ratio == pytest.approx((144 + 64) / 640)
    assert report.keep_count == sum(chosen.count)
    assert sum(report.stage_ns.values()) > 0


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-5), (torch.float16, 2e-3),
                                              (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("layout", ["bshd", "bhsd"])
def test_torch(dtype, tolerance, layout):
    q, k, v = (torch.from_numpy(x).to(dtype) for x in tensors(3, seq_q=50, seq_kv=200))
    expected, _ = reference.attend(*(x.float().numpy() for x in (q, k, v)),
                                   reference.causal(q, k))
    given = (q, k, v) if layout == "bshd" else [x.transpose(1, 2) for x in (q, k, v)]
    out = tokensieve.attention(*given, layout=layout)
    assert out.dtype == dtype and out.shape == given[0].shape and out.is_contiguous()
    out = out if layout == "bshd" else out.transpose(1, 2)
    np.testing.assert_allclose(out.float().numpy(), expected, atol=tolerance)


def test_results_do_not_depend_on_the_kind_of_tensor_or_on_threads():
    class DLPack:  # nothing but the protocol
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **kwargs):
            return self.array.__dlpack__(**kwargs)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    q, k, v = tensors(4)
    select = SelectConfig(fill="local", **SPARSE)
    expected = tokensieve.attention(q, k, v, select=select)
    outs = [tokensieve.attention(*(kind(x) for x in (q, k, v)), select=select)
            for kind in (torch.from_numpy, DLPack)]
    wide = [np.zeros((*x.shape[:3], 48), np.float32) for x in (q, k, v)]
    for x, y in zip(wide, (q, k, v)):
        x[..., :32] = y
    outs.append(tokensieve.attention(*(x[..., :32] for x in wide), select=select))  # strided
    tokensieve.set_num_threads(3)
    outs.append(tokensieve.attention(q, k, v, select=select))
    tokensieve.set_num_threads(0)
    for out in outs:
        np.testing.assert_array_equal(np.asarray(out), expected)


def test_out_is_written_and_returned():
    q, k, v = tensors(5, seq_q=20, seq_kv=20)
    out = np.full(q.shape, np.nan, np.float32)
    assert tokensieve.attention(q, k, v, out=out) is out
    np.testing.assert_array_equal(out, tokensieve.attention(q, k, v))


def test_calls_of_one_shape_do_not_share_data():
    """Structs of a call are kept for the next one; threads and errors must not mix them up."""
    inputs = [tensors(seed, seq_q=70, seq_kv=70) for seed in range(8)]
    expected = [tokensieve.attention(*x) for x in inputs]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            outs = list(pool.map(lambda x: tokensieve.attention(*x), inputs))
            for out, wanted in zip(outs, expected):
                np.testing.assert_array_equal(out, wanted)
    q, k, v = inputs[0]
    sinks = np.zeros(4, np.float32)
    with_sinks = tokensieve.attention(q, k, v, sink_logits=sinks)
    assert np.abs(with_sinks - expected[0]).max() > 0.01
    np.testing.assert_array_equal(tokensieve.attention(q, k, v), expected[0])
    for length in range(1, 300):  # more shapes than are kept
        tokensieve.attention(q[:, :1], k[:, :length % 70 + 1], v[:, :length % 70 + 1],
                             sm_scale=length)
    np.testing.assert_array_equal(tokensieve.attention(q, k, v), expected[0])


def test_overhead_benchmark():
    script = pathlib.Path(__file__).parents[3] / "bench/python_overhead.py"
    done = subprocess.run([sys.executable, script, "--json", "--rounds", "5"], check=True,
                          text=True, capture_output=True, timeout=600)
    overhead = json.loads(done.stdout)["overhead_us"]
    assert 0 < overhead["torch tensors"] < 150  # 15 on an idle machine; tests share theirs


def test_dense_with_a_reason():
    q, k, v = tensors(6, seq_q=100, seq_kv=100)
    out, report = tokensieve.attention(q, k, v, select=SelectConfig(), return_report=True)
    assert report.path == "dense" and report.reason and report.keep_ratio == 1.0
    np.testing.assert_array_equal(out, tokensieve.attention(q, k, v))
    chosen = tokensieve.select_tokens(q, k, select=SelectConfig())
    assert chosen.reason == report.reason and list(chosen.count) == [100]


def test_expanded_tensors():
    """Rows that are there once: as torch's expand makes them."""
    q, k, v = (torch.from_numpy(x) for x in tensors(4))
    select = SelectConfig(fill="local", **SPARSE)
    batch, heads = 2, k.shape[2]
    q = q[:1].expand(batch, -1, -1, -1)
    k, v = (x[:1, :, :1].expand(batch, -1, heads, -1) for x in (k, v))
    out = tokensieve.attention(q, k, v, select=select)
    expected = tokensieve.attention(*(x.contiguous() for x in (q, k, v)), select=select)
    assert 0 in q.stride() and 0 in k.stride() and torch.equal(out, expected)
    with pytest.raises(tokensieve.ArgumentError, match="its rows overlap"):
        tokensieve.attention(q, k, v, out=torch.empty_like(q[:1].contiguous()).expand_as(q))


def test_errors_name_the_value():
    q, k, v = tensors(7, seq_q=20, seq_kv=20)
    cases = [
        (dict(q=q[0]), "q has 3 dimensions"),
        (dict(q=q.astype(np.float64)), "q has type <f8; allowed: float32"),
        (dict(q=[1.0]), "q is a list"),
        (dict(q=tensors(7, seq_q=21, seq_kv=20)[0]), "seqlen_q is 21"),
        (dict(q=tensors(7, seq_q=20, heads=3)[0]), "num_q_heads is 3"),
        (dict(v=v[:, :10]), "v"),
        (dict(layout="sbhd"), "layout is 'sbhd'; allowed: bshd, bhsd"),
        (dict(backend="tpu"), "backend is 'tpu'"),
        (dict(backend="cuda"), "backend is cuda, the tensors are on cpu"),
        (dict(select="tau"), "select is a str"),
        (dict(sm_scale=-1.0), "sm_scale is -1.0"),
        (dict(softcap=float("nan")), "softcap is nan"),
        (dict(sink_logits=[0.0]), "sink_logits has shape (1,)"),
        (dict(out=q), "out"),
        (dict(q=q[:, ::-1]), "stride"),
        (dict(q=torch.from_numpy(q).requires_grad_()), "forward only"),
    ]
    for change, text in cases:
        with pytest.raises(ValueError) as caught:
            tokensieve.attention(**{**dict(q=q, k=k, v=v), **change})
        assert isinstance(caught.value, tokensieve.Error) and text in str(caught.value), change
    readonly = np.zeros_like(q)
    readonly.flags.writeable = False
    with pytest.raises(tokensieve.ArgumentError, match="read-only"):
        tokensieve.attention(q, k, v, out=readonly)
    with pytest.raises(tokensieve.UnsupportedError, match="head_dim is 24") as caught:
        tokensieve.attention(*tensors(7, dim=24))
    assert caught.value.code == "unsupported"
    with pytest.raises(tokensieve.UnsupportedError, match="meta"):
        tokensieve.attention(*(torch.from_numpy(x).to("meta") for x in (q, k, v)))


def test_errors_of_devices(monkeypatch):
    """What a machine without a GPU can say about CUDA tensors, by what describes a tensor."""
    gpu, host = ((torch.float32, torch.device(name), (1, 10, 2, 32), (640, 64, 32, 1), False)
                 for name in ("cuda:0", "cpu"))

    def frame(*keys):
        return _call.Frame(*keys, _call.Settings(), 1)

    with pytest.raises(tokensieve.ArgumentError, match="k is on cpu, q on cuda:0; move them"):
        frame(gpu, host, gpu, gpu)
    with pytest.raises(tokensieve.ArgumentError, match="out is on cuda:0, q on cpu; move them"):
        frame(host, host, host, gpu)
    if tokensieve.info()["backends"]["cuda"] == "not in this build":
        with pytest.raises(tokensieve.UnsupportedError, match="built without CUDA; reinstall it"):
            frame(gpu, gpu, gpu, gpu)
    sparse = torch.zeros(1, 10, 2, 32).to_sparse()
    with pytest.raises(tokensieve.UnsupportedError, match="torch.sparse_coo tensor on cpu"):
        tokensieve.attention(sparse, sparse, sparse)
    monkeypatch.setenv("TOKENSIEVE_LIBRARY", "/no/such.so")
    _abi.library.cache_clear()
    with pytest.raises(tokensieve.Error, match="/no/such.so does not exist; install the package"):
        _abi.library()
    _abi.library.cache_clear()


@pytest.mark.parametrize("field, value", [
    ("tau", 1.0), ("keep_ratio", 0.0), ("obs_window", 0), ("pool_width", 2), ("sinks", 65),
    ("local_window", 100), ("budget", "all"), ("share", 1), ("min_keep", 1.5),
    ("obs_window", 2**40), ("tau", "much"), ("tau", float("nan")), ("enabled", 1)])
def test_select_config_checks(field, value):
    with pytest.raises(ValueError, match=field):
        SelectConfig(**{field: value})


def test_select_config_travels():
    config = SelectConfig(tau=0.25, fill="local")
    copy = pickle.loads(pickle.dumps(config))
    assert copy == config and hash(copy) == hash(config) and copy != SelectConfig()


def test_profiles(tmp_path):
    profile = tokensieve.Profile.load("smollm2")
    assert profile.sparse_layers == tuple(range(2, 30)) and profile.select.fill == "local"
    profile.check(tokensieve.Fingerprint("llama", 30, 9, 3, 64))
    with pytest.raises(tokensieve.ArgumentError, match=r"num_layers 31 \(profile: 30\)"):
        profile.check(tokensieve.Fingerprint("llama", 31, 9, 3, 64))
    with pytest.raises(FileNotFoundError, match="smollm2-128k"):
        tokensieve.Profile.load("no-such")
    good = ('{"tokensieve_profile": 1, "fingerprint": {}, "sparse_layers": [1, 2], '
            '"select": {"tau": 0.01}}')
    assert tokensieve.Profile.parse(good).select.tau == 0.01
    for old, new, text in [("[1, 2]", "[0]", "sparse_layers"), ("[1, 2]", "[2, 1]", "must ascend"),
                           ("0.01", "2", "tau is 2"), ('"tau"', '"tao"', 'unknown key "tao"'),
                           (": 1,", ": 2,", "tokensieve_profile is 2"),
                           ("}}", "}", "not valid JSON"),
                           ('"fingerprint": {}, ', "", "fingerprint is missing")]:
        file = tmp_path / "bad.json"
        file.write_text(good.replace(old, new))
        with pytest.raises(tokensieve.ArgumentError, match=text) as caught:
            tokensieve.Profile.load(file)
        assert str(file) in str(caught.value)


def test_profiles_with_layers_apart(tmp_path):
    profile = tokensieve.Profile.load("smollm2-128k")
    deep, common = profile.select_of(29), profile.select_of(1)
    assert deep.keep_ratio < common.keep_ratio and deep.sinks == common.sinks
    file = tmp_path / "copy.json"
    profile.save(file)
    assert tokensieve.Profile.load(file) == profile
    text = profile.to_json()
    for old, new, message in [('"layers": [', '"layers": [0, ', "layers holds 0; allowed: 1"),
                              ('"layers"', '"layer"', 'unknown key "layer"'),
                              ('"keep_ratio": 0.1', '"keep_ratio": 0', "keep_ratio is 0")]:
        assert old in text
        with pytest.raises(tokensieve.ArgumentError, match=message):
            tokensieve.Profile.parse(text.replace(old, new))
    thin = profile.map_select(lambda select: tokensieve.SelectConfig(tau=0.5))
    assert thin.select_of(29) == thin.select_of(1) == tokensieve.SelectConfig(tau=0.5)


def test_profiles_choose():
    """The library's policy through the binding; core_choose_test has all of it."""
    profile = tokensieve.Profile.default(tokensieve.Fingerprint("llama", 8))
    assert profile.sparse_layers == (4, 5, 6, 7) and profile.min_tokens == 4096
    select = profile.select
    assert (select.budget, select.keep_ratio, select.share, select.fill) == (
        "keep_ratio", 0.2, "layer", "local")
    assert profile.choose(5, 5000, 5000) == tokensieve.LayerChoice(select, "", 0)
    assert profile.choose(5, 512, 5000).select == select
    zero = profile.map_select(lambda of_layer: dataclasses.replace(of_layer, fill="zero"))
    assert zero.choose(5, 512, 5000).select == dataclasses.replace(
        select, fill="zero", queries="all", protect_first=4)
    for call, reason in [((3, 5000, 5000), "layer not in the profile"),
                         ((5, 511, 5000), "few rows"),
                         ((5, 4000, 4000), "prompt shorter than min_tokens")]:
        choice = profile.choose(*call)
        assert choice.reason == reason and not choice.select.enabled
    with pytest.raises(tokensieve.ArgumentError, match="seqlen_q is 9; allowed: 1..seqlen_kv"):
        profile.choose(5, 9, 8)


def test_profiles_made_in_python():
    apart = (([2, 3], SelectConfig(tau=0.5)),)
    profile = tokensieve.Profile([1, 2, 3], SelectConfig(), drift=[0.5, 0.5], layer_select=apart)
    assert tokensieve.Profile.parse(profile.to_json()) == profile
    for change, text in [(dict(sparse_layers=(0,)), "the profile: sparse_layers holds 0"),
                         (dict(min_tokens=-1), "min_tokens is -1"),
                         (dict(layer_select=apart * 2), "names 2 a second time")]:
        with pytest.raises(tokensieve.ArgumentError, match=text):
            dataclasses.replace(profile, **change).to_json()
    with pytest.raises(tokensieve.ArgumentError, match="NUL"):
        tokensieve.Profile.parse(profile.to_json() + "\0")


def test_profiles_with_blocks():
    flex, pooled = BlockConfig(pattern="flex", gamma=0.95), BlockConfig(pattern="pooled")
    profile = tokensieve.Profile(
        (1, 2, 3, 5), SelectConfig(fill="local"), 100, blocks=flex,
        layer_select=(((2, 3), SelectConfig(fill="local", tau=0.5)),),
        layer_blocks=(((3,), pooled), ((5,), BlockConfig())))
    again = tokensieve.Profile.parse(profile.to_json())
    for layer, blocks in ((1, flex), (2, flex), (3, pooled), (5, None)):
        assert profile.choose(layer, 200, 200).blocks == blocks
        read = again.choose(layer, 200, 200).blocks  # what its pattern does not use may differ
        assert (blocks and (blocks.pattern, blocks.alpha)) == (read and (read.pattern, read.alpha))
        for one in (profile, again):
            assert one.choose(layer, 200, 200).select.tau == (0.5 if layer in (2, 3) else 0.005)
    assert again.to_json() == tokensieve.Profile.parse(again.to_json()).to_json()
    assert profile.blocks_of(3) == pooled and profile.blocks_of(1) == flex
    assert profile.choose(1, 50, 50).blocks is None  # shorter than min_tokens
    for change, text in [(dict(blocks=BlockConfig(pattern="given")), "pattern is given"),
                         (dict(layer_blocks=(((3, 3), pooled),)), "names 3 a second time")]:
        with pytest.raises(tokensieve.ArgumentError, match=text):
            dataclasses.replace(profile, **change).to_json()


def test_info_and_contexts():
    info = tokensieve.info()
    assert info["backends"]["cpu"] == "available" and info["isas"] and info["num_threads"] >= 1
    with pytest.raises(tokensieve.ArgumentError, match="unknown setting 'tao'"):
        tokensieve.sparse(tao=0.1)
    with pytest.raises(tokensieve.ArgumentError, match="tau is 7"):
        tokensieve.sparse(tau=7)


def test_fork_after_use():
    code = """
import os, numpy as np, tokensieve
tokensieve.set_num_threads(2)
x = np.ones((1, 300, 2, 32), np.float32)
expected = tokensieve.attention(x, x, x)
child = os.fork()
same = np.array_equal(tokensieve.attention(x, x, x), expected)
if child == 0:
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0 and same
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_imports_without_torch():
    code = """
import sys, time
begin = time.process_time()
import tokensieve
seconds = time.process_time() - begin
assert "torch" not in sys.modules and "numpy" not in sys.modules
print(seconds)
"""
    seconds = [float(subprocess.run([sys.executable, "-c", code], check=True, text=True,
                                    capture_output=True).stdout) for _ in range(3)]
    assert min(seconds) < 0.2
