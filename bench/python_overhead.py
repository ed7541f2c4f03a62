#!/usr/bin/env python3
"""What a call from Python costs over the C call: dense attention of one token over one token.

The C call is timed through ctypes with arguments made beforehand, less what ctypes itself takes for
a function that does nothing. Times are the least mean of --rounds short runs, so that other work
on the machine counts little.

  bench/python_overhead.py [--rounds N] [--json]
"""

import argparse
import ctypes
import json
import time

import torch

import tokensieve
from tokensieve import _abi, _call

_CALLS = 50


def microseconds(function, rounds):
    """The time of one call."""
    least = float("inf")
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(_CALLS):
            function()
        least = min(least, time.perf_counter() - begin)
    return least / _CALLS * 1e6


def c_call(q):
    """tokensieve_run on q alone, nothing left to prepare."""
    tokensieve.attention(q, q, q, out=torch.empty_like(q))
    _call.frames.clear()
    out = torch.empty_like(q)
    tokensieve.attention(q, q, q, out=out)
    ((frame,),) = _call.frames.values()
    workspace = ctypes.create_string_buffer(frame.workspace_bytes)
    arguments = (frame.plan.handle, ctypes.byref(frame.inputs), ctypes.byref(frame.outputs),
                 workspace, len(workspace), ctypes.byref(frame.options),
                 ctypes.byref(frame.status))
    run = _abi.library().tokensieve_run
    return lambda alive=(q, out): run(*arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=400, help="default: 400")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    q = torch.randn(1, 1, 1, 16)
    array, out = q.numpy(), torch.empty_like(q)
    nothing = _abi.library().tokensieve_workspace_bytes
    times = {name: microseconds(function, options.rounds) for name, function in {
        "ctypes alone": lambda: nothing(None),
        "C call through ctypes": c_call(q),
        "torch tensors, out given": lambda: tokensieve.attention(q, q, q, out=out),
        "torch tensors": lambda: tokensieve.attention(q, q, q),
        "torch tensors, with a report": lambda: tokensieve.attention(q, q, q, return_report=True),
        "NumPy arrays": lambda: tokensieve.attention(array, array, array),
    }.items()}
    c = times["C call through ctypes"] - times["ctypes alone"]
    overhead = {name: value - c for name, value in list(times.items())[2:]}
    if options.json:
        print(json.dumps({"c_call_us": c, "overhead_us": overhead}))
        return
    print(f"C call: {c:.2f} us. Over it:")
    for name, value in overhead.items():
        print(f"  {name:30} {value:6.2f} us")


if __name__ == "__main__":
    main()
