"""What a server was asked for: TOKENSIEVE_PROFILE, and "tokensieve" in --additional-config."""

from __future__ import annotations

import functools
import json
import logging
import os
from typing import Any

from tokensieve import _context
from tokensieve._abi import ArgumentError, Error
from tokensieve._config import Fingerprint, Profile
from tokensieve._model_config import fingerprint

VARIABLE, KEY = "TOKENSIEVE_PROFILE", "tokensieve"
_ALLOWED = "profile, layers, min_tokens, select"
# Below vLLM's own logger, so that lines look and go like its own.
_log = logging.getLogger("vllm.tokensieve")


def named_by_environment() -> Profile | None:
    """The profile that TOKENSIEVE_PROFILE names; None: it is not set."""
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    try:
        return Profile.load(name)
    except (Error, OSError) as problem:
        raise ArgumentError(f"{VARIABLE}: {problem}") from problem


def of_server(vllm_config: Any) -> Profile | None:
    """The profile of a server's model; None: nobody asked for sparse reading.

    Raises
    ------
    ArgumentError
        A setting is wrong, or the profile is for another model.
    """
    additional = vllm_config.additional_config
    asked = additional.get(KEY) if isinstance(additional, dict) else None
    named = named_by_environment()
    speculative = vllm_config.speculative_config
    drafts = speculative is not None and (
        speculative.draft_model_config is vllm_config.model_config)
    if drafts or asked is None and named is None:
        return None  # drafts are short, and verified
    model = fingerprint(vllm_config.model_config.hf_config)
    return _read(json.dumps(asked, sort_keys=True), named, model)


@functools.lru_cache(maxsize=16)
def _read(text: str, named: Profile | None, model: Fingerprint) -> Profile:
    asked = json.loads(text)
    try:
        if asked is None and named is not None:
            named.check(model)
            return named
        return _asked(asked, named, model)
    except (Error, OSError) as problem:
        source = VARIABLE if asked is None else f"--additional-config: {KEY}"
        raise ArgumentError(f"{source}: {problem}") from problem


def _asked(asked: Any, named: Profile | None, model: Fingerprint) -> Profile:
    """The profile that an object of --additional-config describes."""
    if not isinstance(asked, dict):
        raise ArgumentError(f"{asked!r:.80} is no object; allowed: an object with any of "
                            f"{_ALLOWED} (docs/vllm.md), {{}} for the library's default")
    for name in asked:
        if name not in _ALLOWED.split(", "):
            raise ArgumentError(f"unknown setting {name!r:.80}; allowed: {_ALLOWED}")
    profile = _profile(asked.get("profile"), named, model)
    profile.check(model)
    select, min_tokens = asked.get("select", {}), asked.get("min_tokens")
    if not isinstance(select, dict) or not select.keys().isdisjoint(("layers", "min_tokens")):
        raise ArgumentError(f"select is {select!r:.80}; allowed: an object with settings of "
                            "\"select\" in docs/profile.md")
    if min_tokens is not None and (type(min_tokens) is not int or min_tokens < 1):
        raise ArgumentError(f"min_tokens is {min_tokens!r:.80}; allowed: an integer from 1")
    override = _context.sparse(layers=_layers(asked.get("layers"), model), min_tokens=min_tokens,
                               **select)
    changed = _context.apply(override, profile)
    changed.to_json()  # raises for what no profile may say
    return changed


def _profile(given: Any, named: Profile | None, model: Fingerprint) -> Profile:
    if given is None:
        return named or Profile.default(model)
    if isinstance(given, dict):
        return Profile.parse(json.dumps(given), "profile")
    if isinstance(given, str) and given:
        return Profile.load(given)
    raise ArgumentError(f"profile is {given!r:.80}; allowed: the name of a shipped one, a JSON "
                        "file, or a profile as an object")


def _layers(given: Any, model: Fingerprint) -> list[int] | None:
    """Layers that exist, in any order."""
    if given is None:
        return None
    most = model.num_layers - 1
    if not isinstance(given, list) or any(type(n) is not int or not 1 <= n <= most for n in given):
        raise ArgumentError(f"layers is {given!r:.80}; allowed: a list of integers from 1 to "
                            f"{most} (layer 0 is never sparse)")
    return given


@functools.lru_cache(maxsize=16)
def say(profile: Profile, chunk: int) -> None:
    """What a server will do, once in its log; `chunk`: the most tokens of a step."""
    selects = [profile.select_of(layer) for layer in profile.sparse_layers]
    fills = sorted({select.fill for select in selects})
    _log.info("tokensieve: prompts of %d tokens and more are read sparsely in %d of %s layers, "
              "with %s fill (profile %r)", profile.min_tokens, len(selects),
              profile.fingerprint.num_layers or "all", " and ".join(fills), profile.model)
    if "zero" in fills:
        _log.warning("tokensieve: zero fill leaves zeros in rows that later chunks of prompts "
                     "above %d tokens, prefixes from the cache and prompt_logprobs read; use local "
                     "fill (docs/vllm.md)", chunk)
