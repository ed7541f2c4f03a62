"""Tensor parallel: the library's all-gather over a torch.distributed group."""

from __future__ import annotations

import ctypes as C
import sys
from typing import Any

from tokensieve import _abi


class Gather:
    """RunOptions.all_gather of one call. `workspace`: the CUDA tensor that the scores lie in."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self.workspace: Any = None
        self.problem: BaseException | None = None
        self._callback = _abi.ALL_GATHER(self._call)
        self.address = C.cast(self._callback, C.c_void_p).value

    def _call(self, _context: Any, data: int, size: int, _stream: Any) -> int:
        try:
            self._gather(data, size)
        except BaseException as problem:  # must not pass through C
            self.problem = problem
            return 1
        return 0

    def _gather(self, data: int, size: int) -> None:
        torch = sys.modules["torch"]
        total, begin = self.group.size() * size, self.group.rank() * size
        if self.workspace is None:
            memory = (C.c_char * total).from_address(data)
            parts = torch.frombuffer(memory, dtype=torch.uint8)
        else:
            parts = self.workspace.narrow(0, data - self.workspace.data_ptr(), total)
        # NCCL enqueues on torch's current stream, which is the call's.
        collectives = torch.distributed
        all_gather = getattr(collectives, "all_gather_single", None)  # its name from torch 2.13 on
        (all_gather or collectives.all_gather_into_tensor)(
            parts, parts.narrow(0, begin, size).clone(), group=self.group)


def gathering(group: Any) -> Gather | None:
    """What a call over `group` needs; None if all heads are here."""
    return None if group is None or group.size() == 1 else Gather(group)


def group_of(module: Any) -> Any:
    """The group over which tensor parallelism splits a layer, by the mesh of its weights
    (DTensors); None if there is none or it is not clear which dimension of the mesh it is."""
    for weight in module.parameters():
        mesh = getattr(weight, "device_mesh", None)
        if mesh is None:
            continue
        if mesh.ndim == 1:
            return mesh.get_group()
        return mesh.get_group("tp") if "tp" in (mesh.mesh_dim_names or ()) else None
    return None
