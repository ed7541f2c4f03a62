#!/usr/bin/env python3
"""The plug-in inside unmodified llama.cpp programs. One test a call: llama_programs.py NAME.

ctest passes the paths in the environment (see CMakeLists.txt). Exit code 77: skipped, because the
model is not there.
"""
import ctypes
import os
import pathlib
import re
import subprocess
import sys
import tempfile

LLAMA = pathlib.Path(os.environ["TOKENSIEVE_LLAMA_BIN"])
PLUGIN = pathlib.Path(os.environ["TOKENSIEVE_PLUGIN_FILE"])
WRONG_PLUGIN = pathlib.Path(os.environ["TOKENSIEVE_WRONG_PLUGIN_FILE"])
PRELOAD = pathlib.Path(os.environ["TOKENSIEVE_PRELOAD_FILE"])
TEXT = pathlib.Path(os.environ["TOKENSIEVE_TEST_TEXT"])
CACHE = pathlib.Path(os.environ.get("TOKENSIEVE_CACHE") or pathlib.Path.home() / ".cache/tokensieve")
MODEL = pathlib.Path(os.environ.get("TOKENSIEVE_TEST_MODEL")
                     or CACHE / "models/SmolLM2-135M-Instruct.F16.gguf")
LAYERS = 30
VIA_PATH = {"GGML_BACKEND_PATH": str(PLUGIN)}
VIA_PRELOAD = {"LD_PRELOAD": str(PRELOAD)}
STATS = {"TOKENSIEVE_STATS": "1"}


def run(program, *args, **environment):
    """Output (both streams) of a llama.cpp program; our own variables only as given."""
    # Idle OpenMP threads must not spin: on a busy machine that costs minutes.
    if not MODEL.is_file():
        print(f"skipped: no model {MODEL} (`make setup`, or set TOKENSIEVE_TEST_MODEL)")
        sys.exit(77)
    clean = {k: v for k, v in os.environ.items()
             if not k.startswith(("TOKENSIEVE_", "GGML_")) or k in ("TOKENSIEVE_BACKEND",
                                                                    "TOKENSIEVE_ISA")}
    done = subprocess.run([LLAMA / program, "-m", MODEL, *map(str, args)],
                          env=clean | {"OMP_WAIT_POLICY": "passive"} | environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
                          errors="replace", timeout=900, check=False)
    if done.returncode != 0:
        print(done.stdout[-4000:])
        sys.exit(f"{program} ended with exit code {done.returncode}")
    return done.stdout


def complete(text, *args, **environment):
    """llama-completion's output for a prompt; greedy, 8 tokens, ubatch 300, flash attn auto."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as prompt:
        prompt.write(text)
        prompt.flush()
        return run("llama-completion", "-f", prompt.name, "-n", 8, "-ub", 300, "--temp", 0, "-no-cnv", "-t", 2,
                   "-lv", 4, "--no-warmup", *args, **environment)


def layer_rows(output):
    """{layer: (nodes, sparse nodes, keep ratio, pair ratio, reason)} of the table printed at exit, in which
    every tile is visited: no profile here has block masks."""
    rows = re.findall(r"^tokensieve: +(\S+) +(\d+) +(\d+) +(\S+) +(\S+) +1.000 +\S+  (.*)$", output, re.M)
    return {layer: (int(nodes), int(sparse), float(keep), float(pairs), reason)
            for layer, nodes, sparse, keep, pairs, reason in rows}


def check(condition, what, output=""):
    if not condition:
        print(output[-6000:])
        sys.exit(f"FAILED: {what}")


def check_prefill_nodes(output, per_layer):
    rows = layer_rows(output)
    check(len(rows) == LAYERS + 1, f"a row for each of {LAYERS} layers and the sum", output)
    for layer in range(LAYERS):
        nodes = rows[str(layer)][0]
        check(nodes == per_layer, f"layer {layer} has {nodes} nodes, not {per_layer}", output)


def prompt_tokens(output):
    return int(re.search(r"prompt eval time.*?/ +(\d+) tokens", output).group(1))


# 2 full ubatches of 300 and a short rest that stays on the CPU backend, like every decode step.
PROMPT = TEXT.read_text()[:3000]


def test_backend_path():
    output = complete(PROMPT, **VIA_PATH, **STATS)
    check("loaded TokenSieve backend" in output, "the plug-in is loaded", output)
    check(re.search(r"tokensieve \d\S*: \w+, isa .*mode sparse, profile none", output),
          "one log line at load says version, ISA, mode and profile", output)
    check("Flash Attention enabled" in output, "flash attention stays on in auto mode", output)
    tokens = prompt_tokens(output)
    check(600 < tokens < 600 + 257, f"the prompt has two ubatches and a rest ({tokens})", output)
    check_prefill_nodes(output, 2)


def test_preload():
    output = complete(PROMPT, **VIA_PRELOAD, **STATS)
    check_prefill_nodes(output, 2)
    moved = complete(PROMPT, **VIA_PRELOAD, TOKENSIEVE_PLUGIN="/nonexistent.so")
    check("failed to load /nonexistent.so" in moved, "TOKENSIEVE_PLUGIN names the file", moved)
    # A program without ggml is left alone.
    done = subprocess.run(["true"], env=os.environ | VIA_PRELOAD, check=False)
    check(done.returncode == 0, "`true` runs under the shim")


def generated(output, prompt):
    """What follows the prompt in the output, without log lines."""
    text = output.split(prompt[-60:])[-1].split("common_perf_print")[0]
    return re.sub(r"\n\S+ I .*", "", text).strip()


def test_text_is_stock():
    # The text begins again at the end: the next words are certain, not a tie that an ulp decides.
    prompt = PROMPT[:2200] + "\n\n" + PROMPT[:800].rsplit(" ", 1)[0]
    stock = complete(prompt)
    check("TokenSieve" not in stock, "stock does not load the plug-in", stock)
    expected = generated(stock, prompt)
    check(len(expected) > 10 and expected in PROMPT, f"stock copies the text: {expected!r}", stock)
    got = generated(complete(prompt, **VIA_PATH), prompt)
    check(got == expected, f"greedy text differs: {got!r}, stock {expected!r}")


def test_disable_and_off():
    disabled = complete(PROMPT, **VIA_PATH, **STATS, TOKENSIEVE_DISABLE="1")
    check("disabled" in disabled, "the log line says so", disabled)
    check(set(layer_rows(disabled)) == {"all"}, "no node is computed", disabled)
    off = complete(PROMPT, **VIA_PATH, **STATS, TOKENSIEVE_MODE="off")
    check(set(layer_rows(off)) == {"all"}, "no node is computed", off)


def test_products():
    environment = VIA_PATH | STATS | {"TOKENSIEVE_ISA": "baseline", "TOKENSIEVE_PRODUCTS": "split"}
    output = complete(PROMPT, **environment)
    why = "the instruction set has no matrix tiles"
    check(f"split products were asked for and run exact: {why}" in output, "the log says so", output)
    check(f"tokensieve: exact products, layers: {LAYERS}; exact where {why}" in output,
          "the statistics say so", output)
    check_prefill_nodes(output, 2)
    output = complete(PROMPT, **VIA_PATH, **STATS, TOKENSIEVE_PRODUCTS="fp16")
    check('TOKENSIEVE_PRODUCTS is "fp16"; allowed: auto, exact, split, bf16' in output,
          "the error names the value and what is allowed", output)
    check(f"tokensieve: exact products, layers: {LAYERS}\n" in output, "it runs as ever", output)


def test_bad_settings_run_dense():
    output = complete(PROMPT, **VIA_PATH, **STATS, TOKENSIEVE_MODE="fast")
    check('TOKENSIEVE_MODE is "fast"; allowed: off, dense, sparse' in output,
          "the error names the value and what is allowed", output)
    check_prefill_nodes(output, 2)
    output = complete(PROMPT, **VIA_PATH, TOKENSIEVE_MODE="whole")
    check(output.count("mode whole is now called sparse") == 1, "an old name is taken", output)
    output = complete(PROMPT, **VIA_PATH, **STATS, TOKENSIEVE_PROFILE="/nonexistent.json")
    check("cannot open profile /nonexistent.json" in output, "the missing file is named", output)
    check_prefill_nodes(output, 2)


def test_wrong_version():
    output = complete(PROMPT, GGML_BACKEND_PATH=str(WRONG_PLUGIN), **STATS)
    check(re.search(r"tokensieve: not loaded: it was built for ggml 0\.1\.0, the host has \d", output),
          "the refusal names both versions", output)
    check("tokensieve:   " not in output, "nothing of it runs", output)


def test_perplexity():
    def perplexity(**environment):
        output = run("llama-perplexity", "-f", TEXT, "-c", 1024, "-b", 1024, "-ub", 512, "-t", 2,
                     "--chunks", 2, **environment)
        return float(re.search(r"Final estimate: PPL = ([\d.]+)", output).group(1)), output
    stock, _ = perplexity()
    ours, output = perplexity(**VIA_PATH, **STATS)
    check_prefill_nodes(output, 4)
    change = abs(ours / stock - 1)
    print(f"perplexity of 2048 tokens: stock {stock}, plug-in {ours}, {change:.2e} apart")
    check(change < 1e-3, f"perplexity moved by {change:.2e}", output)


def test_bench():
    output = run("llama-bench", "-p", 512, "-n", 4, "-r", 1, "-t", 2, "-fa", 1, **VIA_PATH, **STATS)
    rows = layer_rows(output)
    check(rows and rows["0"][0] >= 1, "llama-bench prefills through the plug-in", output)


def test_quantised_cache():
    output = complete(PROMPT, "-ctk", "q8_0", "-ctv", "q8_0", **VIA_PATH, **STATS)
    check_prefill_nodes(output, 2)


def test_sparse_answer():
    """The shipped profile, the prompt in one ubatch or in chunks: sparse runs, right answers."""
    document = pathlib.Path(os.environ["TOKENSIEVE_TEST_DOCUMENT"]).read_text()
    prompt = ("<|im_start|>system\nYou answer questions about a document.<|im_end|>\n"
              f"<|im_start|>user\n{document}\n\nWhat is the access code for the archive room?"
              "<|im_end|>\n<|im_start|>assistant\n")
    for ubatch in (8192, 2048):
        output = complete(prompt, "-c", 8192, "-b", ubatch, "-ub", ubatch, "-n", 16, **VIA_PATH,
                          **STATS, TOKENSIEVE_PROFILE=os.environ["TOKENSIEVE_TEST_PROFILE"])
        chunks = -(-prompt_tokens(output) // ubatch)
        check_prefill_nodes(output, chunks)
        rows = layer_rows(output)
        check(rows["0"][1] == 0, "layer 0 is dense", output)
        check(rows["all"][1] >= 20, f"the profile's layers are sparse, not {rows['all'][1]}", output)
        check(rows["2"][2] < 0.6, f"layer 2 keeps about half, not {rows['2'][2]}", output)
        # The windows that choose are a larger share of a chunk's shorter prefixes.
        check(rows["29"][2] < rows["2"][2] / 2, "layer 29, set apart, keeps less: "
              f"{rows['29'][2]} against {rows['2'][2]}", output)
        answer = output.split("archive room?")[-1].split("common_perf_print")[0]
        check("48217" in answer, f"the answer holds the code: {answer!r}")


def test_no_ggml_symbol():
    undefined = subprocess.run(["nm", "-D", "--undefined-only", PLUGIN], check=True, text=True,
                               capture_output=True).stdout
    names = [line.split()[-1] for line in undefined.splitlines()]
    check(len(names) > 20, "nm lists the undefined symbols")
    check(not [n for n in names if n.startswith(("ggml", "gguf", "llama"))],
          "the plug-in needs no ggml symbol", undefined)
    needed = subprocess.run(["readelf", "-d", PLUGIN], check=True, text=True,
                            capture_output=True).stdout
    check("ggml" not in " ".join(re.findall(r"NEEDED.*", needed)), "it links no ggml", needed)


def test_local_host():
    """A host that loads ggml with RTLD_LOCAL, as Python does."""
    ctypes.CDLL(str(LLAMA / "libggml-base.so"), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    ggml = ctypes.CDLL(str(LLAMA / "libggml.so"), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    ggml.ggml_backend_load.restype = ctypes.c_void_p
    ggml.ggml_backend_load.argtypes = [ctypes.c_char_p]
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    before = ggml.ggml_backend_dev_count()
    check(ggml.ggml_backend_load(str(PLUGIN).encode()), "it loads")
    check(ggml.ggml_backend_dev_count() == before + 1, "it registers its device")


if __name__ == "__main__":
    globals()["test_" + sys.argv[1]]()
    print(f"ok: {sys.argv[1]}")
