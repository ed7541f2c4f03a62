"""The entry point: puts the backend in place, or says why that cannot be."""

from __future__ import annotations

import logging
import os

from tokensieve._abi import UnsupportedError
from tokensieve.vllm import policy

OLDEST, NEWEST = (0, 26), (0, 32)  # tried ones; between them layers see the same interface
_BACKEND = "tokensieve.vllm.cpu.Backend"
_log = logging.getLogger("vllm.tokensieve")


def register() -> None:
    """Puts the backend in CPU_ATTN's place; vLLM calls this in each process, perhaps repeatedly.

    Raises
    ------
    ArgumentError
        TOKENSIEVE_PROFILE names no profile.
    UnsupportedError
        TOKENSIEVE_PROFILE is set, but this vLLM's version or platform cannot have it.
    """
    import vllm
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    problem = _version_problem(vllm.__version__)
    if not problem and not current_platform.is_cpu():
        problem = (f"vLLM's platform is {current_platform.device_name}; allowed: cpu. Leave "
                   "TOKENSIEVE_PROFILE unset, or keep plug-ins out with VLLM_PLUGINS=''")
    place = AttentionBackendEnum.CPU_ATTN
    if not problem and place.is_overridden() and place.get_path() != _BACKEND:
        problem = (f"another plug-in has put {place.get_path()} in the place of CPU_ATTN; choose "
                   "one with VLLM_PLUGINS=tokensieve")
    if not problem:
        policy.named_by_environment()  # a wrong one is said now, not when the model is loaded
        register_backend(place, _BACKEND)
    elif os.environ.get(policy.VARIABLE):
        raise UnsupportedError(f"tokensieve: {problem}")
    else:
        _log.info("tokensieve is installed, and does nothing here: %s", problem)


def _version_problem(version: str) -> str:
    """Why a version of vLLM is not taken, or ""."""
    numbers = version.split("+")[0].split(".")
    try:
        release = int(numbers[0]), int(numbers[1])
    except (IndexError, ValueError):
        release = (0, 0)
    if OLDEST <= release <= NEWEST:
        return ""
    oldest, newest = (".".join(map(str, bound)) for bound in (OLDEST, NEWEST))
    return (f"this is vLLM {version}; allowed: {oldest} to {newest}. Install one of these, or "
            "leave TOKENSIEVE_PROFILE unset")
