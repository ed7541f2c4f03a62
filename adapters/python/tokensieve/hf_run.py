"""Runs a Python program that knows nothing of tokensieve, with attn_implementation="tokensieve".

usage: python -m tokensieve.hf_run PROGRAM [ARGUMENT...]

PROGRAM is an installed command (lm_eval), a module (lm_eval.__main__) or a .py file. It runs as
always, in this process, after `import tokensieve.hf`. TOKENSIEVE_PROFILE names the profile, for
example smollm2-128k; without it the upper half of the layers runs sparse.

example: TOKENSIEVE_PROFILE=llama-3.1-8b python -m tokensieve.hf_run lm_eval --model hf \\
           --model_args pretrained=FOLDER,attn_implementation=tokensieve --tasks TASK
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import runpy
import sys


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__.strip())
        sys.exit(0 if len(sys.argv) > 1 else 2)
    program = sys.argv[1]
    sys.argv = sys.argv[1:]
    import tokensieve.hf  # noqa: F401  (registers the attention)
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
        return
    for command in importlib.metadata.entry_points(group="console_scripts", name=program):
        sys.exit(command.load()())
    try:
        found = importlib.util.find_spec(program)
    except ImportError:  # of a parent package
        found = None
    if found is None:
        print(f"hf_run: there is no command, module or file {program!r} in this environment",
              file=sys.stderr)
        sys.exit(2)
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
