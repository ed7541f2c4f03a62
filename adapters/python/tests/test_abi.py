"""_abi.py against the C headers, by a C compiler, and against the library that is loaded."""

import ctypes
import dataclasses
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest

import tokensieve
from tokensieve import BlockConfig, SelectConfig, _abi, _call, _results

INCLUDE = pathlib.Path(__file__).parents[3] / "include"
HEADERS = ("tokensieve/tokensieve_c.h", "tokensieve/tokensieve_blocks_c.h",
           "tokensieve/tokensieve_products_c.h", "tokensieve/tokensieve_profile_c.h")
# Their fields go in and come out as JSON.
OPAQUE = {"tokensieve_select": (SelectConfig, _abi.Select),
          "tokensieve_blocks": (BlockConfig, _abi.Blocks)}
KINDS = {f"tokensieve_{name}": kind for kind, name in _abi.INITS.items()} | {
    "tokensieve_tensor": _abi.Tensor}
ENUMERATORS = {
    "TOKENSIEVE_NUM_STAGES": _abi.NUM_STAGES,
    "TOKENSIEVE_INVALID_ARGUMENT": _abi.INVALID_ARGUMENT,
    "TOKENSIEVE_UNSUPPORTED": _abi.UNSUPPORTED,
    "TOKENSIEVE_DATA_ERROR": _abi.DATA_ERROR,
    "TOKENSIEVE_DENSE_REASON_DISABLED": _abi.DISABLED,
    "TOKENSIEVE_DENSE_REASON_LAYER_NOT_LISTED": _abi.LAYER_NOT_LISTED,
    "TOKENSIEVE_KEYS_PROFILE": _abi.KEYS_PROFILE,
    "TOKENSIEVE_KEYS_ALL": _abi.KEYS_ALL,
    "TOKENSIEVE_F32": _abi.DTYPES.index("float32"),
    "TOKENSIEVE_F16": _abi.DTYPES.index("float16"),
    "TOKENSIEVE_BF16": _abi.DTYPES.index("bfloat16"),
    **{f"TOKENSIEVE_BACKEND_{name.upper()}": i for i, name in enumerate(_abi.BACKENDS)},
    **{f"TOKENSIEVE_PRODUCTS_{name.upper()}": i for i, name in enumerate(_abi.PRODUCTS)},
    **{f"TOKENSIEVE_PATH_{name.upper()}": i for i, name in enumerate(_results.PATHS)}}


def header_text():
    """The headers without comments."""
    text = "".join((INCLUDE / header).read_text(encoding="utf-8") for header in HEADERS)
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def header_structs():
    """The structs of the headers: name to names of fields."""
    structs = {}
    for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \1;", header_text(), re.DOTALL):
        fields = [re.search(r"\(\*(\w+)\)|(\w+)(?:\[\w+\])?$", field.strip())
                  for field in body.split(";") if field.strip()]
        structs[name] = [field[1] or field[2] for field in fields]
    return structs


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What a C compiler makes of the headers: "struct", "struct.field" or enumerator to numbers."""
    compiler = shlex.split(os.environ.get("CC", "")) or [
        name for name in ("cc", "gcc", "clang") if shutil.which(name)][:1]
    if not compiler:
        pytest.skip("no C compiler")
    lines = [f'printf("{name} %d\\n", (int){name});' for name in ENUMERATORS]
    for name, fields in header_structs().items():
        lines.append(f'printf("{name} %d\\n", (int)sizeof({name}));')
        lines += [f'printf("{name}.{field} %d %d\\n", (int)offsetof({name}, {field}), '
                  f"(int)sizeof((({name}*)0)->{field}));" for field in fields]
    folder = tmp_path_factory.mktemp("abi")
    includes = "".join(f"#include <{header}>\n" for header in HEADERS)
    body = "\n".join(lines)
    (folder / "abi.c").write_text(
        f"#include <stdio.h>\n{includes}int main(void) {{\n{body}\nreturn 0;\n}}\n")
    subprocess.run([*compiler, "-std=c99", "-I", INCLUDE, folder / "abi.c", "-o", folder / "abi"],
                   check=True)
    output = subprocess.run([folder / "abi"], check=True, capture_output=True, text=True).stdout
    return {name: tuple(map(int, numbers))
            for name, *numbers in map(str.split, output.splitlines())}


def test_every_struct_is_known():
    defined = {kind for kind in vars(_abi).values()
               if isinstance(kind, type) and issubclass(kind, ctypes.Structure)}
    assert defined == set(KINDS.values())
    assert set(header_structs()) == set(KINDS)


@pytest.mark.parametrize("name", sorted(set(KINDS) - set(OPAQUE)))
def test_layout_is_the_header_s(compiled, name):
    fields = {field: (getattr(KINDS[name], field).offset, getattr(KINDS[name], field).size)
              for field, _ in KINDS[name]._fields_}
    assert list(fields) == header_structs()[name]
    assert fields == {field: compiled[f"{name}.{field}"] for field in fields}
    assert (ctypes.sizeof(KINDS[name]),) == compiled[name]


def test_enumerators_are_the_header_s(compiled):
    assert ENUMERATORS == {name: compiled[name][0] for name in ENUMERATORS}
    listed = re.compile(
        r"TOKENSIEVE_(?:BACKEND|PATH|KEYS|PRODUCTS(?!_REASON))_\w+(?= =)|TOKENSIEVE_B?F\d+")
    assert set(listed.findall(header_text())) <= set(ENUMERATORS)


def test_the_library_has_the_header_s_sizes(compiled):
    sizes = {f"tokensieve_{name}": _abi.function(f"{name}_init_sized")(None, ctypes.c_size_t(0))
             for name in _abi.INITS.values()}
    tensor = _abi.Tensor()
    _abi.library().tokensieve_tensor_init_bshd(ctypes.byref(tensor), None, 0, *[_abi.I64(1)] * 4)
    sizes["tokensieve_tensor"] = tensor.struct_size
    assert sizes == {name: compiled[name][0] for name in KINDS}


@pytest.mark.parametrize("name", sorted(OPAQUE))
def test_settings_are_opaque_with_room(compiled, name):
    config, kind = OPAQUE[name]
    defaults = _abi.new(kind)
    assert ctypes.sizeof(defaults) >= compiled[name][0]
    assert not any(bytes(defaults)[compiled[name][0]:])
    assert (set(header_structs()[name]) - {"struct_size", "reserved"} ==
            {field.name for field in dataclasses.fields(config)})
    assert config._from_c(defaults) == config()


def test_work_is_estimated_before_the_run():
    select = SelectConfig(budget="keep_ratio", keep_ratio=0.25, min_keep=0, obs_window=64,
                          fill="local", local_window=128, dense_policy="never")
    shape = _abi.new(_abi.Shape)
    shape.seqlen_q = shape.seqlen_kv = 640
    shape.num_q_heads, shape.num_kv_heads, shape.head_dim = 4, 2, 32
    plan = _call._Plan(shape, select, _abi.BACKENDS.index("cpu"), 1, (1, 0))
    work_of, planned_keep = map(_abi.function, ("work_of", "planned_keep"))
    work_of.restype, work_of.argtypes = _abi.F64, [_abi.PTR, _abi.I64]
    planned_keep.restype = _abi.I64
    keep = planned_keep(plan.handle)
    assert keep == 576 // 4
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((1, 640, heads, 32), dtype=np.float32) for heads in (4, 2, 2))
    _, report = tokensieve.attention(q, k, v, select=select, return_report=True)
    assert report.keep_count == keep + 64
    assert abs(report.work - work_of(plan.handle, keep)) < 0.02
    # What the sets make, counted: windows and sinks of all rows, keys before those of kept rows.
    kept = tokensieve.select_tokens(q, k, select=select)
    begin = np.maximum(0, np.arange(640) // 64 * 64 - 128)
    pairs = 4 * int((np.arange(640) - begin + 1 + np.minimum(4, begin)).sum())
    for row in kept.indices[0, :, :int(kept.count[0])]:
        pairs += sum(int(((row >= 4) & (row < begin[token])).sum()) for token in row)
    assert report.work == pytest.approx(pairs / (4 * 640 * 641 / 2), rel=1e-12)
    assert report.work < 0.7
