"""Token Sparse Attention for long prompts: bindings of libtokensieve (docs/python.md).

>>> import tokensieve
>>> out = tokensieve.attention(q, k, v, select=tokensieve.SelectConfig(fill="local"))

Hugging Face models: ``import tokensieve.hf``, then ``attn_implementation="tokensieve"``.
"""

from tokensieve._abi import ArgumentError, Error, UnsupportedError
from tokensieve._attention import (KeptTokens, Report, attention, info, select_tokens,
                                   set_num_threads)
from tokensieve._block_mask import BlockMask
from tokensieve._config import Fingerprint, Profile, SelectConfig
from tokensieve._context import dense, sparse
from tokensieve._sieve import sieve

__all__ = ["ArgumentError", "BlockMask", "Error", "Fingerprint", "KeptTokens", "Profile", "Report",
           "SelectConfig", "UnsupportedError", "attention", "dense", "info", "select_tokens",
           "set_num_threads", "sieve", "sparse"]
