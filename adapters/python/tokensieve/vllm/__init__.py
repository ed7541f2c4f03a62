"""vLLM: long prompts are read sparsely by an unpatched vLLM (docs/vllm.md).

`register` is the entry point `vllm.general_plugins`, which vLLM calls in each of its processes. Who
asked for nothing (TOKENSIEVE_PROFILE, or "tokensieve" in --additional-config) gets vLLM as it is.
"""

from tokensieve.vllm.counters import ServerStats, stats
from tokensieve.vllm.plugin import register

__all__ = ["ServerStats", "register", "stats"]
