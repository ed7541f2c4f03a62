"""vLLM's CPU backend, with prompts that the library reads. It has CPU_ATTN's place and name: vLLM's
CPU platform knows no other.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from vllm.config import get_current_vllm_config, get_layers_from_vllm_config
from vllm.distributed import get_tp_group
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.models.utils import extract_layer_index
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends import cpu_attn

from tokensieve._abi import UnsupportedError
from tokensieve._threads import pool
from tokensieve.vllm import counters, cpus, policy, reading
from tokensieve.vllm.pages import Geometry, Reader
from tokensieve.vllm.rows import Row, Step

_SAY_EVERY = 10.0  # seconds between lines of the log, as vLLM's own statistics


class Prompts(NamedTuple):
    """What a step's metadata has beside vLLM's own, if prompts are in it."""

    step: Step
    reader: Reader | None  # None: no layer of the group reads sparsely


class Backend(cpu_attn.CPUAttentionBackend):
    """Registered as CPU_ATTN."""

    @staticmethod
    def get_impl_cls() -> type[Impl]:
        return Impl

    @staticmethod
    def get_builder_cls() -> type[Builder]:
        return Builder


class Builder(cpu_attn.CPUAttentionMetadataBuilder):
    """Splits each step by rows, once for all layers of a cache group."""

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any,
                 device: torch.device) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        layers = get_layers_from_vllm_config(vllm_config, Attention, layer_names)
        self._layers = [layer for layer in layers.values()
                        if isinstance(layer.impl, Impl) and layer.impl.profile is not None]
        self._reader: Reader | None = None
        for layer in self._layers:
            if layer.impl.reads_prompts(layer.layer_name):
                spec = kv_cache_spec
                self._reader = Reader(
                    Geometry(spec.block_size, spec.num_kv_heads, spec.head_size, spec.dtype),
                    functools.partial(layer.impl.do_kv_cache_update, layer),
                    vllm_config.model_config.max_model_len)
                pool.cpus = cpus.of_process()
                policy.say(layer.impl.profile, vllm_config.scheduler_config.max_num_batched_tokens)
                break

    def build(self, common_prefix_len: int, common_attn_metadata: Any,
              fast_build: bool = False) -> Any:
        metadata = super().build(common_prefix_len, common_attn_metadata, fast_build)
        if self._layers:
            step = Step(common_attn_metadata,
                        functools.partial(super().build, 0, fast_build=True))
            for reason, rows in step.dense.items():
                counters.count_dense(reason, rows * len(self._layers))
            counters.say(_SAY_EVERY)
            if step.prompts:
                metadata.tokensieve = Prompts(step, self._reader)
        return metadata


class Impl(cpu_attn.CPUAttentionBackendImpl):
    """One layer: prompts by the library where it decides so, everything else by vLLM."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.profile = policy.of_server(get_current_vllm_config())
        self._dense_reason = self._why_never()

    def _why_never(self) -> str:
        """Why no prompt is read sparsely here, whatever the profile says, or ""."""
        reasons = {
            "not causal": self.attn_type != AttentionType.DECODER,
            "sliding layer": self.sliding_window != -1,
            "position bias": self.alibi_slopes is not None,
            "quantised cache": self.is_fp8_kv_cache,
            "unsupported head_dim": self.head_size % 16 != 0 or self.head_size > 256,
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    def reads_prompts(self, name: str) -> bool:
        """Whether a prompt may be read by the library in the layer of that name."""
        return (self.profile is not None and not self._dense_reason
                and _index(name) in self.profile.sparse_layers)

    def forward(self, layer: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                kv_cache: torch.Tensor, attn_metadata: Any, output: torch.Tensor,
                output_scale: Any = None, output_block_scale: Any = None) -> torch.Tensor:
        prompts: Prompts | None = getattr(attn_metadata, "tokensieve", None)
        if prompts is not None and output_scale is None and output_block_scale is None:
            done = self._read_prompts(layer, prompts, query, key, value, kv_cache,
                                      attn_metadata.block_table, output)
            if done:
                for begin, end, metadata in prompts.step.without(done):
                    super().forward(layer, query[begin:end], key[begin:end], value[begin:end],
                                    kv_cache, metadata, output[begin:end])
                return output
        return super().forward(layer, query, key, value, kv_cache, attn_metadata, output,
                               output_scale, output_block_scale)

    def _read_prompts(self, layer: Any, prompts: Prompts, query: torch.Tensor, key: torch.Tensor,
                      value: torch.Tensor, kv_cache: torch.Tensor, block_table: torch.Tensor,
                      output: torch.Tensor) -> list[Row]:
        """The rows that the library has read; the others are vLLM's."""
        step, reader = prompts
        if self._dense_reason:
            counters.count_dense(self._dense_reason, len(step.prompts))
            return []
        assert self.profile is not None  # else the step would have no prompts
        what = reading.Layer(_index(layer.layer_name), self.profile, self.scale,
                             float(self.logits_soft_cap or 0.0), self.sinks, _group())

        def keys(row: Row) -> tuple[torch.Tensor, torch.Tensor]:
            shared = self.kv_sharing_target_layer_name is not None  # its own were not stored
            if row.queries == row.keys and not shared:
                return key[row.begin:row.end], value[row.begin:row.end]
            if reader is None or reader.geometry != Geometry.of(kv_cache):
                raise UnsupportedError(f"the layer's pages are {Geometry.of(kv_cache)}; allowed: "
                                       f"those of its group, {reader and reader.geometry}")
            return reader.read(kv_cache, block_table[row.place], row.keys)

        return [row for row in step.prompts
                if reading.read(what, row, query[row.begin:row.end], functools.partial(keys, row),
                                output[row.begin:row.end])]


@functools.lru_cache(maxsize=None)
def _index(name: str) -> int:
    """A layer's number; 0, which is never sparse, for those that have none of their own."""
    try:
        return int(extract_layer_index(name))
    except (AssertionError, ValueError):
        return 0


def _group() -> Any:
    """The ranks over which vLLM splits heads; None: all are here."""
    ranks = get_tp_group()
    return ranks.device_group if ranks.world_size > 1 else None
