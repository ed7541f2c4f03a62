"""Type checkers and readers: annotations, py.typed and docstrings of everything public."""

import importlib.resources
import inspect

import pytest

import tokensieve
import tokensieve.hf
import tokensieve.ops

PUBLIC = [(f"{module.__name__}.{name}", getattr(module, name))
          for module in (tokensieve, tokensieve.hf) for name in module.__all__]
PUBLIC += [(f"{name}.{method}", value) for name, kind in PUBLIC if inspect.isclass(kind)
           for method, value in vars(kind).items()
           if inspect.isroutine(value) and not method.startswith("_")]


def test_py_typed():
    assert importlib.resources.files("tokensieve").joinpath("py.typed").is_file()


@pytest.mark.parametrize("name, value", PUBLIC, ids=[name for name, _ in PUBLIC])
def test_annotations_and_docstrings(name, value):
    value = getattr(value, "__func__", value)  # of a staticmethod
    documentation = inspect.getdoc(value)
    assert documentation and len(documentation) > 15
    if inspect.isclass(value):
        return
    signature = inspect.signature(value)
    assert signature.return_annotation is not signature.empty
    for parameter in signature.parameters.values():
        assert parameter.name == "self" or parameter.annotation is not parameter.empty
        # Explained in the "Parameters" section, or mentioned in a docstring of a sentence.
        assert parameter.name in (*documentation.replace("*", " ").replace(",", " ").split(),
                                  "self") or f"`{parameter.name}`" in documentation, parameter


def test_the_operator_has_the_parameters_of_attention():
    mine = list(inspect.signature(tokensieve.ops.attention._init_fn).parameters)
    theirs = list(inspect.signature(tokensieve.attention).parameters)
    assert sorted(mine) == sorted(set(theirs) - {
        "return_report", "out", "keep", "group", "block_mask", "block_scores", "block_thresholds",
        "block_sizes"})
