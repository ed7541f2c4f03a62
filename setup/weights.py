#!/usr/bin/env python3
"""Makes the models behind the short names: weights that llama.cpp's CPU kernels run fast.

The fetched SmolLM2 is Q4_1, for which ggml has no fast matrix product. Its layers' matrices are
stored again as f16, and for smollm2-128k the LoRA adapter is merged into them and YaRN written into
the metadata, once, into the cache folder. Files appear under their final name only when complete.
The path of each model is printed on stdout, everything else on stderr.
"""

import argparse
import hashlib
import os
import pathlib
import shlex
import subprocess
import sys

import fetch

SETUP = pathlib.Path(__file__).resolve().parent
TOOL = SETUP / "fast_weights.cc"
# Measured, see docs/performance.md: f16 is the fastest type that keeps the perplexity.
MODELS = {
    "smollm2": {
        "output": "models/SmolLM2-135M-Instruct.F16.gguf",
        "size": 244343840,
        "options": ["f16"],
        "lora": None,
    },
    "smollm2-128k": {
        "output": "models/SmolLM2-135M-128K.F16.gguf",
        "size": 244344000,
        "options": ["f16", "--yarn", "16"],
        "lora": SETUP.parent / "models/smollm2-128k/adapter.gguf",
    },
}
SPACE_MIB = 300


def run_tool(command, what):
    """Runs a program that writes nothing but its result; its messages are shown if it fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except FileNotFoundError:
        raise fetch.FetchError(f"{command[0]} is missing: run setup/packages.sh") from None
    output = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        sys.stderr.write(output)
        raise fetch.FetchError(f"cannot {what} (messages above): {shlex.join(map(str, command))}")
    return output.strip()


def compile_tool(llama, source, folder):
    """Compiles the converter into `folder` and returns the program."""
    library = llama / "bin/libggml-base.so"
    if not library.is_file():
        raise fetch.FetchError(f"{library} is missing: run setup/llama.sh and give its folder")
    program = folder / "fast_weights"
    # No contraction: the same bytes with every compiler's default for fused multiply-add.
    flags = ["-std=c++20", "-O2", "-ffp-contract=off", f"-I{source}/ggml/include"]
    link = [f"-L{library.parent}", "-lggml-base", f"-Wl,-rpath,{library.parent}"]
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    run_tool([*compiler, *flags, TOOL, *link, "-o", program], "compile the converter")
    return program


def make_key(model, base):
    """What the file is made from; another key means: make it again."""
    parts = [fetch.sha256_of(TOOL), base["member_sha256"], *model["options"]]
    if model["lora"] is not None:
        parts.append(fetch.sha256_of(model["lora"]))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def make_model(name, llama, cache):
    model, base = MODELS[name], fetch.SMOLLM2
    output = cache / model["output"]
    stamp = output.with_name(output.name + ".stamp")
    key = make_key(model, base)
    if output.is_file() and fetch.read_stamp(stamp) == fetch.model_stamp(output, key):
        return output
    original = fetch.fetch_model(base, cache)
    with fetch.temp_folder(output.parent) as folder:
        fetch.require_space(folder, SPACE_MIB)
        fetch.say(f"making {output.name}")
        program = compile_tool(llama, cache / fetch.LLAMA_SOURCE["output"], folder)
        temporary = folder / output.name
        command = [program, original, temporary, *model["options"]]
        if model["lora"] is not None:
            command += ["--lora", model["lora"]]
        fetch.say(run_tool(command, f"make {output.name}"))
        size = temporary.stat().st_size
        if size != model["size"]:
            raise fetch.FetchError(
                f"{output.name} came out with {size} bytes, not {model['size']}; it was thrown "
                "away. Run this again; if it repeats, report it with the messages above."
            )
        os.replace(temporary, output)
    fetch.write_stamp(stamp, fetch.model_stamp(output, key))
    return output


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("llama", type=pathlib.Path, help="what setup/llama.sh printed")
    parser.add_argument("model", nargs="*", help="default: all of " + ", ".join(MODELS))
    arguments = parser.parse_args()
    for name in arguments.model:
        if name not in MODELS:
            parser.error(f'there is no model "{name}"; allowed: {", ".join(MODELS)}')
    cache = fetch.cache_folder().absolute()

    def work():
        for name in arguments.model or MODELS:
            print(make_model(name, arguments.llama.absolute(), cache), flush=True)

    return fetch.run_cleanly(cache, work)


if __name__ == "__main__":
    sys.exit(main())
