"""The package's modules stand on one another without cycles, and each can be imported first."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

import tokensieve

ROOT = pathlib.Path(tokensieve.__file__).parent
FILES = {".".join(("tokensieve", *path.relative_to(ROOT).with_suffix("").parts))
         .removesuffix(".__init__"): path for path in ROOT.rglob("*.py")}


def imported(name, path):
    """The modules of the package that a module imports, inside functions as well. Packages that
    hold it are not counted: Python runs them first in any case."""
    assert all(not (isinstance(node, ast.ImportFrom) and node.level)
               for node in ast.walk(ast.parse(path.read_text()))), f"relative import in {path}"
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in FILES else node.module)
    return {module for module in found & set(FILES)
            if module != name and not name.startswith(f"{module}.")}


def test_the_reader_of_imports(tmp_path):
    file = tmp_path / "some.py"
    file.write_text("import json\nfrom tokensieve import _abi, SelectConfig\n"
                    "def later():\n    from tokensieve.hf.masks import make\n"
                    "    import tokensieve.ops\n")
    assert imported("tokensieve._some", file) == {"tokensieve._abi", "tokensieve.hf.masks",
                                                  "tokensieve.ops"}


def test_no_cycles():
    graph = {name: imported(name, path) for name, path in FILES.items()}
    assert len(graph) > 20 and "tokensieve._call" in graph["tokensieve._attention"]
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the cycle


# Only vLLM loads it, with which other tests run (setup/test.sh vllm).
NEEDS_VLLM = {"tokensieve.vllm.cpu"}


@pytest.mark.parametrize("name", sorted(FILES.keys() - NEEDS_VLLM))
def test_each_module_can_be_the_first(name):
    subprocess.run([sys.executable, "-c", f"import {name}"], check=True, timeout=600)
