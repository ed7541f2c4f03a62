"""Token Sparse Attention for long prompts: bindings of libtokensieve (docs/python.md).

>>> import tokensieve
>>> out = tokensieve.attention(q, k, v, select=tokensieve.SelectConfig(fill="local"))

Hugging Face models: ``import tokensieve.hf``, then ``attn_implementation="tokensieve"``.
"""

from tokensieve._abi import ArgumentError, Error, UnsupportedError
from tokensieve._attention import (attention, attention_varlen, estimate_blocks, info,
                                   select_tokens)
from tokensieve._block_mask import BlockMask
from tokensieve._blocks import BlockConfig
from tokensieve._config import Fingerprint, LayerChoice, Profile
from tokensieve._context import dense, sparse
from tokensieve._results import KeptTokens, Report
from tokensieve._select import SelectConfig
from tokensieve._sieve import sieve
from tokensieve._threads import set_num_threads

__all__ = ["ArgumentError", "BlockConfig", "BlockMask", "Error", "Fingerprint", "KeptTokens",
           "LayerChoice", "Profile", "Report", "SelectConfig", "UnsupportedError", "attention",
           "attention_varlen", "dense", "estimate_blocks", "info", "select_tokens",
           "set_num_threads", "sieve", "sparse"]
