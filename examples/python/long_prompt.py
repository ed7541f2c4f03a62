"""A long prompt through a Hugging Face model, dense and sparse side by side.

usage: long_prompt.py [MODEL] [--tokens 6000] [--profile NAME_OR_FILE] [--layers 8]

MODEL is smollm2, smollm2-128k or a folder. Without one it is a small Llama with random weights. The
tokens are random: times and keep ratios are real, the text is not. Needs torch and transformers
(`pip install '.[hf]'`).
"""

import argparse
import statistics
import time

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import tokensieve.hf


def load(name, layers):
    if name in ("smollm2", "smollm2-128k"):
        return tokensieve.hf.load(name)[0]
    if name:
        return AutoModelForCausalLM.from_pretrained(name, attn_implementation="tokensieve")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=4096, hidden_size=576, intermediate_size=1536,
                         num_hidden_layers=layers, num_attention_heads=9, num_key_value_heads=3,
                         max_position_embeddings=32768)
    config._attn_implementation = "tokensieve"
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def prefill(model, ids):
    """Seconds to the first token, and its logits."""
    begin = time.perf_counter()
    logits = model(ids, logits_to_keep=1).logits[0, -1]
    return time.perf_counter() - begin, logits


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=6000)
    parser.add_argument("--profile", help="a file, or a shipped one such as smollm2-128k")
    parser.add_argument("--layers", type=int, default=8, help="of the model without a folder")
    options = parser.parse_args()

    model = load(options.model, options.layers)
    if options.profile or options.model in ("smollm2", "smollm2-128k"):
        tokensieve.hf.configure(model, options.profile or options.model)
    else:
        keep_a_fifth = tokensieve.SelectConfig(budget="keep_ratio", keep_ratio=0.2, share="layer",
                                               fill="local")
        tokensieve.hf.configure(model, select=keep_a_fifth,
                                layers=range(2, model.config.num_hidden_layers))
    ids = torch.randint(2, model.config.vocab_size, (1, options.tokens))

    prefill(model, ids[:, :256])  # warm up
    times = {"torch SDPA": [], "dense": [], "sparse": []}
    for _ in range(options.repeats):
        model.set_attn_implementation("sdpa")
        times["torch SDPA"].append(prefill(model, ids)[0])
        model.set_attn_implementation("tokensieve")
        with tokensieve.dense():
            seconds, dense = prefill(model, ids)
        times["dense"].append(seconds)
        tokensieve.hf.reset_stats(model)
        seconds, sparse = prefill(model, ids)
        times["sparse"].append(seconds)
    print(f"{options.tokens} tokens: " + ", ".join(f"{name} {statistics.median(all_):.2f} s"
                                                   for name, all_ in times.items()))
    print(f"cosine of the next token's logits: {torch.cosine_similarity(dense, sparse, 0):.4f}")
    for layer, stats in tokensieve.hf.stats(model).items():
        done = (f"kept {stats.keep_ratio:.1%} in {stats.seconds * 1e3:.0f} ms" if stats.sparse
                else "dense: " + ", ".join(stats.reasons))
        print(f"layer {layer:2d}  {done}")


if __name__ == "__main__":
    main()
