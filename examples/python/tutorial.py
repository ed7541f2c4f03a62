"""From a model to pictures: a long prompt read densely and sparsely, and what sparse layers kept.

usage: tutorial.py [--tokens 4500] [--folder tutorial]

Writes keep_ratio.png and kept_tokens.png. Needs matplotlib and what `make setup` fetched
(`pip install '.[hf]' matplotlib`).
"""

import argparse
import pathlib
import time

import matplotlib
import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

import tokensieve.hf

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

SETTINGS = dict(min_tokens=256, min_keep=64, keep_ratio=0.2)  # so that short prompts show it too


def make_prompt(tokenizer, tokens):
    """Token ids of a document with one fact in its middle and a question about it, and the fact's
    place in it."""
    fact = "The special magic number for Cairo mentioned in the document is 37519.\n"
    line = ("Page {}. The harbour was quiet, and the clerks wrote letters until the lamps were "
            "lit.\n")
    lines = [line.format(i) for i in range(max(2, tokens // 22))]
    lines.insert(len(lines) // 2, fact)
    question = "What is the special magic number for Cairo mentioned in the document?"
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "".join(lines) + question}],
                                        add_generation_prompt=True, return_tensors="pt",
                                        return_dict=True)["input_ids"]
    needle = tokenizer(fact)["input_ids"]
    text = ids[0].tolist()
    begin = next(i for i in range(len(text)) if text[i:i + len(needle)] == needle)
    return ids, (begin, begin + len(needle))


def answer(model, tokenizer, ids):
    """The answer, and the seconds that it took."""
    begin = time.perf_counter()
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20,
                         do_sample=False)
    return (tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True),
            time.perf_counter() - begin)


@torch.no_grad()
def kept_tokens(model, ids, select):
    """Which tokens each sparse layer keeps: bool [layers, tokens]."""
    kept = torch.ones(model.config.num_hidden_layers, ids.shape[1], dtype=torch.bool)
    attention = AttentionInterface()["tokensieve"]
    sparse_layers = tokensieve.Profile.load("smollm2-128k").sparse_layers

    def watch(module, query, key, *args, **kwargs):
        chosen = tokensieve.select_tokens(query, key, select=select, layout="bhsd")
        if module.layer_idx in sparse_layers:
            kept[module.layer_idx] = False
            kept[module.layer_idx, chosen.indices[0, 0, :chosen.count[0]].long()] = True
        return attention(module, query, key, *args, **kwargs)

    AttentionInterface.register("watch", watch)
    AttentionMaskInterface.register("watch", AttentionMaskInterface()["tokensieve"])
    model.set_attn_implementation("watch")
    model(ids, logits_to_keep=1)
    model.set_attn_implementation("tokensieve")
    return kept


def plot_keep_ratios(layers, path):
    figure, axes = pyplot.subplots(figsize=(8, 3), layout="constrained")
    ratios = [1.0 if layer.keep_ratio is None else layer.keep_ratio for layer in layers.values()]
    axes.bar(list(layers), ratios, label="kept tokens")
    axes.plot(list(layers), [layer.work for layer in layers.values()], "o",
              color="C1", label="attention work")
    axes.set(xlabel="layer", ylabel="share of dense", ylim=(0, 1.05),
             title="What each layer keeps and computes")
    axes.legend(loc="center right")
    figure.savefig(path, dpi=120)


def plot_kept_tokens(kept, fact, path):
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    axes.imshow(kept, aspect="auto", interpolation="nearest", cmap="Blues", vmin=0, vmax=1.3)
    axes.axvspan(*fact, color="C1", alpha=0.5, label="the fact that is asked for")
    axes.set(xlabel="token", ylabel="layer", title="Kept tokens (blue)")
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tokens", type=int, default=4500, help="about (default: 4500)")
    parser.add_argument("--folder", type=pathlib.Path, default="tutorial")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)

    # A transformers model; its shipped profile says which layers are sparse.
    model, tokenizer = tokensieve.hf.load("smollm2-128k")
    ids, fact = make_prompt(tokenizer, options.tokens)

    with tokensieve.dense():
        dense, dense_seconds = answer(model, tokenizer, ids)
    settings = tokensieve.sparse(**SETTINGS, dense_policy="never")
    with settings:
        sparse, sparse_seconds = answer(model, tokenizer, ids)
    print(f"{ids.shape[1]} tokens\ndense  {dense_seconds:6.2f} s  {dense}\n"
          f"sparse {sparse_seconds:6.2f} s  {sparse}")

    with settings, torch.no_grad(), tokensieve.hf.measure() as layers:
        model(ids, logits_to_keep=1)
    plot_keep_ratios(layers, options.folder / "keep_ratio.png")
    select = tokensieve.SelectConfig(budget="keep_ratio", keep_ratio=SETTINGS["keep_ratio"],
                                     min_keep=SETTINGS["min_keep"], share="layer",
                                     fill="local", dense_policy="never")
    with settings:
        kept = kept_tokens(model, ids, select)
    plot_kept_tokens(kept, fact, options.folder / "kept_tokens.png")
    keeping = kept[2:, slice(*fact)].float().mean(dim=1) > 0.5
    print(f"layers that keep most of the fact: {int(keeping.sum())} of {len(keeping)} sparse ones")
    print(f"pictures: {options.folder}/keep_ratio.png, {options.folder}/kept_tokens.png")


if __name__ == "__main__":
    main()
