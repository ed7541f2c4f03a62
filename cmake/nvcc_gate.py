#!/usr/bin/env python3
"""Compiler launcher for nvcc: fails where ptxas only warns.

usage: nvcc_gate.py COMPILER_COMMAND...

nvcc exits with 0 when a kernel spills registers, uses a stack frame or has its wgmma instructions
serialised (C7510, C7520), so this reads what ptxas says (the build passes -Xptxas -v) and removes
the object file of a compilation that must not pass. Quiet otherwise.
"""
import re
import subprocess
import sys
from pathlib import Path

# C7519: a wgmma that waits for a register move; harmless, and some instances have it.
ALLOWED = re.compile(r"C7519")
REFUSED = [
    re.compile(r"Potential Performance Loss"),
    re.compile(r"\bC75(08|10|20)\b"),  # setmaxnreg ignored; wgmma serialised
]
USAGE = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
KERNEL = re.compile(r"(?:Compiling entry function|Function properties for) '?([\w$]+)'?")
NOISE = re.compile(r"^(ptxas info|ptxas \. info| +\d+ bytes stack frame|$)|^\w+\.cudafe\d*\.")


def complaints(log):
    """Lines of a compilation's log that must not be there."""
    found = []
    kernel = "?"
    for line in log.splitlines():
        if match := KERNEL.search(line):
            kernel = match.group(1)
        if (match := USAGE.search(line)) and any(int(n) > 0 for n in match.groups()):
            found.append(f"{kernel}: {line.strip()}")
        elif not ALLOWED.search(line) and any(r.search(line) for r in REFUSED):
            found.append(line.strip())
    return found


def output_file(command):
    return next((Path(b) for a, b in zip(command, command[1:]) if a == "-o"), None)


def main(command):
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         errors="replace")
    found = complaints(run.stdout)
    shown = [line for line in run.stdout.splitlines() if run.returncode or not NOISE.match(line)]
    if shown:
        print("\n".join(shown))
    if not found or run.returncode:
        return run.returncode
    print("error: ptxas reports what the kernels must not have (docs/kernels/cuda.md):",
          file=sys.stderr)
    for line in found:
        print(f"  {line}", file=sys.stderr)
    if (output := output_file(command)) is not None:
        output.unlink(missing_ok=True)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) if len(sys.argv) > 1 else "usage: nvcc_gate.py COMPILER_COMMAND...")
