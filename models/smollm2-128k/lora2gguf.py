"""Converts the LoRA adapter (safetensors, Hugging Face names) into a llama.cpp GGUF adapter.

usage: lora2gguf.py OUT.gguf PART.safetensors...        (needs: pip install gguf safetensors numpy)
"""

import re
import sys

import numpy as np
from gguf import GGUFWriter
from safetensors.numpy import load_file

GGUF_NAME = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
# llama.cpp stores the rows of these two in its own rotary order, head by head.
HEADS_TO_PERMUTE = {"q_proj": 9, "k_proj": 3}
LORA_SCALE = 2.0  # the trained model is W + 2 B A


def permute_rotary(weight, heads):
    rows, columns = weight.shape
    return (
        weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(weight.shape)
    )


def convert(name, tensor):
    """Returns the GGUF name and the fp16 data of one half (a or b) of one projection's adapter."""
    layer, projection, half = re.match(r"model\.layers\.(\d+)\.\w+\.(\w+)\.([ab])$", name).groups()
    data = tensor.astype(np.float32)
    if half == "b":
        data = data * LORA_SCALE
        if projection in HEADS_TO_PERMUTE:
            data = permute_rotary(data, HEADS_TO_PERMUTE[projection])
    name = f"blk.{layer}.{GGUF_NAME[projection]}.weight.lora_{half}"
    return name, np.ascontiguousarray(data.astype(np.float16))


def main(output, parts):
    tensors = {}
    for part in parts:
        tensors.update(load_file(part))
    writer = GGUFWriter(output, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 0.0)  # 0: no further scale, it is folded into B
    for name in sorted(tensors):
        writer.add_tensor(*convert(name, tensors[name]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
