#!/usr/bin/env python3
"""Compares the machine code (SASS) of every CUDA kernel of two builds."""
import argparse
import re
import subprocess
import sys
from pathlib import Path

EPILOG = """\
A refactoring that leaves the machine code alone needs no new measurements. Keep the old build's
objects, rebuild, compare (a folder is searched for *.cu.o; remove those of deleted sources first):

  cp -r build/src/cuda/CMakeFiles/tokensieve_cuda.dir old
  ninja -C build tokensieve_cuda
  bench/sass_compare.py old build/src/cuda/CMakeFiles/tokensieve_cuda.dir

modes
  identical  every instruction is the same to the bit: registers, immediates, scheduling.
  offsets    as identical, but c[0x0][0x...] counts as one place: for commits that move fields of a
             kernel's parameters. Nothing else is forgiven.

Kernels are matched by demangled name without namespaces; --rename OLD=NEW (a regular expression and
its replacement, as often as needed) is applied to the names of both sides, for template arguments
that got another spelling. Needs cuobjdump and nvdisasm (CUDA toolkit, or pip install
nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm) and c++filt.

exit code: 0 equal, 1 different or a kernel on one side only, 2 usage or no kernels
"""
FUNCTION = re.compile(r"^\s*Function : (\S+)")
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;\s*/\* (0x[0-9a-f]{16}) \*/")
SCHEDULING = re.compile(r"^\s*/\* (0x[0-9a-f]{16}) \*/")  # second word: stalls, barriers, reuse
PARAMETER = re.compile(r"c\[0x0\]\[0x[0-9a-f]+\]")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="object file, library, program or folder of objects")
    parser.add_argument("new", type=Path, help="the same of the other build")
    parser.add_argument("--mode", choices=["identical", "offsets"], default="identical")
    parser.add_argument("--only", default="", metavar="REGEX",
                        help="only kernels whose name matches")
    parser.add_argument("--rename", action="append", default=[], metavar="OLD=NEW")
    parser.add_argument("--show", type=int, default=0, metavar="N",
                        help="print the first N lines that differ of each kernel")
    return parser.parse_args()


def output_of(*command):
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        sys.exit(usage_error(f"{command[0]} is not on PATH; see --help"))
    except subprocess.CalledProcessError as error:
        sys.exit(usage_error(f"{' '.join(command)}: {error.stderr.strip()}"))


def usage_error(text):
    print(f"sass_compare.py: {text}", file=sys.stderr)
    return 2


def files_of(path):
    if not path.exists():
        sys.exit(usage_error(f"{path} does not exist; give an object, a library or a folder"))
    return sorted(path.rglob("*.cu.o")) if path.is_dir() else [path]


def plain_name(name, renames):
    name = re.sub(r"\(anonymous namespace\)::|tokensieve::|cuda::|sm90::|^void ", "", name)
    name = name.replace("(bool)1", "true").replace("(bool)0", "false")
    name = re.sub(r"\((\w+)\)(\d+)", lambda m: m[2] if m[1] == "int" else f"{m[1]}{m[2]}", name)
    name = re.sub(r" (?=>)", "", name.split("(")[0])  # without parameters
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def kernels_of(path, renames, only):
    """{name: instructions} of all kernels below `path`."""
    found, code = {}, None
    for file in files_of(path):
        for line in output_of("cuobjdump", "-sass", str(file)).splitlines():
            if match := FUNCTION.match(line):
                code = found[match.group(1)] = []
            elif code is not None and (match := INSTRUCTION.match(line)):
                code.append(match.groups())
            elif code and len(code[-1]) == 2 and (match := SCHEDULING.match(line)):
                code[-1] += match.groups()
    if not found:
        sys.exit(usage_error(f"{path} holds no kernels"))
    names = output_of("c++filt", *found).splitlines()
    kernels = {plain_name(name, renames): code for name, code in zip(names, found.values())}
    if len(kernels) != len(found):
        sys.exit(usage_error(f"{path}: two kernels have the same name without namespaces"))
    return {name: code for name, code in kernels.items() if re.search(only, name)}


def comparable(code, mode):
    """Text and both words of every instruction; `offsets`: not the first word, which says where."""
    if mode == "identical":
        return [" ".join(instruction) for instruction in code]
    return [f"{PARAMETER.sub('c[0x0][...]', text)} {scheduling}" for text, _, scheduling in code]


def differing_lines(old, new, mode):
    old, new = comparable(old, mode), comparable(new, mode)
    lines = [(a, b) for a, b in zip(old, new) if a != b]
    return lines + [("", b) for b in new[len(old):]] + [(a, "") for a in old[len(new):]]


def main():
    args = arguments()
    try:
        renames = [tuple(text.split("=", 1)) for text in args.rename]
        [re.compile(pattern) for pattern, _ in renames]
    except (ValueError, re.error):
        return usage_error("--rename wants OLD=NEW, where OLD is a regular expression")
    old, new = (kernels_of(path, renames, args.only) for path in (args.old, args.new))
    different = 0
    print(f"{'kernel':<84} {'old':>7} {'new':>7}  result")
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        lines = [] if a is None or b is None else differing_lines(a, b, args.mode)
        result = ("only new" if a is None else "only old" if b is None else
                  f"{len(lines)} lines differ" if lines else "equal")
        different += result != "equal"
        print(f"{name:<84} {len(a or []):>7} {len(b or []):>7}  {result}")
        for left, right in lines[:args.show]:
            print(f"    - {left}\n    + {right}")
    total = len(old.keys() | new.keys())
    print(f"{total - different} of {total} kernels are equal (mode {args.mode})")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
