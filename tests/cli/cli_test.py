"""Runs the CLI as a user would: cli_test.py PROGRAM ProgramTest|LlamaTest."""
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

PROGRAM = sys.argv[1]
BIN = pathlib.Path(PROGRAM).parent
CODE = "48213"
# Threads that wait must not spin on cores that something else is using.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
DOCUMENT = (
    "The observatory was founded in 1911 by Dr. Ada Moreno. "
    f"The access code of the dome is {CODE}. Visitors come on Fridays.\n"
)


def run(*arguments, env=None, timeout=600):
    return subprocess.run(
        [PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=timeout,
        stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})


class CliCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.document = self.folder / "document.txt"
        self.document.write_text(DOCUMENT)

    def expect(self, code, *arguments, says="", **options):
        result = run(*arguments, **options)
        self.assertEqual(result.returncode, code, f"{arguments}: {result.stdout}{result.stderr}")
        self.assertIn(says, result.stdout + result.stderr)
        return result


class ProgramTest(CliCase):
    def test_help_of_every_command(self):
        self.expect(0, "--version", says="tokensieve ")
        self.expect(0, "--help", says="profile")
        for command in ("ask", "profile", "eval", "tune", "report", "bench", "verify", "exec",
                        "info"):
            self.expect(0, command, "--help", says="Examples:")

    def test_eval_explains_its_configurations(self):
        self.expect(0, "eval", "--config", "list", says="forced:keep=")

    def test_usage_errors_exit_2(self):
        self.expect(2, says="subcommand")
        self.expect(2, "asks", "smollm2")
        self.expect(2, "ask", says="MODEL")
        self.expect(2, "ask", "smollm2", "--file", self.document, "", says="question")
        self.expect(2, "ask", "smollm2", "--file", self.document, says="question")
        self.expect(2, "ask", "m", "--file", "d", "q", "--attention", "fast", says="dense")
        self.expect(2, "ask", "m", "--file", "d", "q", "--threads", "0", says="threads")
        self.expect(2, "ask", "m", "--file", "d", "q", "--paper", "--profile", "p")
        for command in (("ask", "m", "--file", "d", "q"), ("eval", "m"), ("tune", "m"),
                        ("exec", "--", "true")):
            command = (command[0], "--ubatch", "0", *command[1:])
            self.expect(2, *command, says="--ubatch")
        self.expect(2, "ask", "m", "--file", "d", "q", "--ctx", "512", "--ubatch", "513",
                    says="--ubatch: 513 is beyond --ctx 512")
        self.expect(2, "ask", "m", "--file", "d", "q", "--blocks", "given", says="antidiagonal")
        for command in (("ask", "m", "--file", "d", "q"), ("eval", "m"), ("tune", "m"),
                        ("exec", "--", "true"), ("bench",)):
            self.expect(2, command[0], "--products", "fp16", *command[1:], says="split")
        self.expect(2, "ask", "m", "--file", "d", "q", env={"TOKENSIEVE_PRODUCTS": "fp16"},
                    says="split")
        self.expect(2, "bench", "--products", "split", "--isa", "baseline",
                    says="products split cannot be measured here: the instruction set has no")
        self.expect(2, "bench", "--blocks", "flex", "--gamma", "1.5", says="[0, 1]")
        self.expect(2, "bench", "--blocks", "flex", "--backend", "cuda", says="on the CPU")
        self.expect(2, "bench", "--blocks", "flex", "--bench", "layer")
        for unread, allowed in ((("--gamma", "0.5"), "with --blocks flex;"),
                                (("--blocks", "none", "--slashes", "9"), "vertical_slash;"),
                                (("--blocks", "pooled", "--threshold", ".5"), "antidiagonal;"),
                                (("--blocks", "flex", "--ubatch", "512"), "--bench layer"),
                                (("--bench", "attend", "--window", "256"), "with --blocks;"),
                                (("--backend", "cuda", "--isa", "avx2"), "--backend cpu;"),
                                (("--backend", "cuda", "--threads", "2"), "--backend cpu;")):
            self.expect(2, "bench", *unread, says=" ".join(unread[-2:]) + " is not read")
            self.expect(2, "bench", *unread, says=allowed)
        for unread in (("--blocks", "flex"), ("--paper",), ("--profile", "smollm2")):
            self.expect(2, "ask", "m", "--file", "d", "q", "--attention", "dense", *unread,
                        says="is not read with --attention dense")
        self.expect(2, "ask", "m", "--file", "d", "q", "--attention", "dense", "--compare",
                    says="--attention")
        self.expect(2, "profile", "m", "--text", "t", "--tau", "nan", says="tau")
        self.expect(2, "eval", "m", "--lengths", "12", says="lengths")
        self.expect(2, "tune", "m", "--budget", "lots", says="0.5%")
        self.expect(2, "profile", "m", "--text", "t", "--window", "100", says="multiple of 64")
        self.expect(2, "profile", "m", "--text", "t", "--tau", ".1", "--keep-ratio", ".2")

    def test_info(self):
        facts = json.loads(self.expect(0, "info", "--json").stdout)
        self.assertIn("cpu", facts["backends"])
        self.assertGreaterEqual(facts["threads"], 1)
        self.assertGreaterEqual(len(facts["profiles"]), 4)
        self.assertEqual(list(facts["products"]), ["exact", "split", "bf16"])
        self.assertEqual(facts["products"]["exact"],
                         {"isa": facts["isas_supported"][0], "reason": ""})
        for name in ("split", "bf16"):
            product = facts["products"][name]
            self.assertEqual(product["isa"] is None, product["reason"] != "")
        facts = json.loads(self.expect(0, "info", "--json", env={"TOKENSIEVE_ISA": "baseline"})
                           .stdout)
        self.assertEqual(facts["products"]["split"],
                         {"isa": None, "reason": "the instruction set has no matrix tiles"})
        self.expect(0, "info", env={"TOKENSIEVE_ISA": "baseline"},
                    says="not bf16: the instruction set has no matrix tiles")
        self.expect(0, "info", says=facts["version"])

    def test_output_that_was_not_written_is_an_error(self):
        golden = pathlib.Path(__file__).parent.parent / "golden"
        run_file = pathlib.Path(__file__).parent.parent / "data" / "eval_run.jsonl"
        commands = (("info",), ("info", "--json"), ("--help",), ("--version",),
                    ("ask", "--help"), ("eval", "--config", "list"),
                    ("verify", golden, "--backend", "ref"), ("bench", "--help"),
                    ("report", run_file, "-o", self.folder / "page.html"),
                    ("report", run_file, "--pool"))
        for command in commands:
            for redirection, why in ((">/dev/full", "No space left"), (">&-", "Bad file")):
                script = f'"$@" {redirection}'
                result = subprocess.run(["sh", "-c", script, "sh", PROGRAM, *map(str, command)],
                                        capture_output=True, text=True, timeout=600)
                self.assertEqual(result.returncode, 1, command)
                self.assertEqual(result.stderr.count("cannot write standard output"), 1, command)
                self.assertIn(why, result.stderr, command)
        self.assertTrue((self.folder / "page.html").exists(), "what could be written, was")
        # Nobody listens to errors: no reason to stop.
        result = subprocess.run(["sh", "-c", '"$@" 2>/dev/full', "sh", PROGRAM, "info"],
                                capture_output=True, text=True, timeout=600)
        self.assertEqual(result.returncode, 0)
        # A usage error stays one.
        result = subprocess.run(["sh", "-c", '"$@" >/dev/full', "sh", PROGRAM, "asks"],
                                capture_output=True, text=True, timeout=600)
        self.assertEqual(result.returncode, 2)

    def test_output_paths_are_checked_first(self):
        for command in (("report", "no-such-run.jsonl"), ("tune", "no-such-model"),
                        ("profile", "no-such-model", "--text", "t")):
            if command[0] != "report" and not (BIN / "libggml-tokensieve.so").exists():
                continue
            self.expect(1, *command, "-o", "/nonexistent/x", says="cannot write /nonexistent/x")

    def test_interrupt_ends_what_has_nothing_to_clean_up(self):
        run_file = self.folder / "run.jsonl"
        os.mkfifo(run_file)
        process = subprocess.Popen([PROGRAM, "report", run_file, "-o", self.folder / "page.html"],
                                   stderr=subprocess.PIPE)
        with run_file.open("w"):  # it reads, and will not come to an end
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=600)
        self.assertEqual(process.returncode, 130)
        self.assertEqual([p.name for p in self.folder.glob("page*")], [])

    def test_verify(self):
        golden = pathlib.Path(__file__).parent.parent / "golden"
        self.expect(0, "verify", golden, "--backend", "ref", says="ok")
        self.expect(2, "verify", golden, "--backend", "abacus", says="allowed")

    @unittest.skipUnless((BIN / "libggml-tokensieve.so").exists(), "built without llama.cpp")
    def test_exec_sets_the_environment(self):
        result = self.expect(0, "exec", "--mode", "sparse", "--profile", "smollm2", "--stats",
                             "--products", "bf16", "--ubatch", "4096", "--", "/usr/bin/env")
        variables = dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
        self.assertTrue(variables["GGML_BACKEND_PATH"].endswith("libggml-tokensieve.so"))
        self.assertIn("libtokensieve_preload.so", variables["LD_PRELOAD"])
        self.assertEqual(variables["TOKENSIEVE_MODE"], "sparse")
        self.assertEqual(variables["LLAMA_ARG_UBATCH"], "4096")
        self.assertEqual(variables["LLAMA_ARG_BATCH"], "4096")
        self.assertEqual(variables["TOKENSIEVE_STATS"], "1")
        self.assertEqual(variables["TOKENSIEVE_PRODUCTS"], "bf16")
        self.assertTrue(variables["TOKENSIEVE_PROFILE"].endswith("profiles/smollm2.json"))
        self.assertEqual(run("exec", "--", "/bin/sh", "-c", "exit 7").returncode, 7)

    @unittest.skipUnless((BIN / "libggml-tokensieve.so").exists(), "built without llama.cpp")
    def test_exec_from_any_folder(self):
        files = [PROGRAM, BIN / "libggml-tokensieve.so", BIN / "libtokensieve_preload.so"]
        for name, can in (("my tools", True), ("a;b", True), ("a:b", False), ("a b;c", False)):
            folder = self.folder / name
            folder.mkdir()
            for file in files:
                (folder / pathlib.Path(file).name).symlink_to(pathlib.Path(file).resolve())
            shutil.copy(PROGRAM, folder / "program")  # its folder is where it looks
            result = subprocess.run(
                [folder / "program", "exec", "--", "/bin/cat", "/proc/self/maps"],
                capture_output=True, text=True, timeout=600)
            self.assertEqual(result.returncode, 0 if can else 1, result.stderr)
            if can:
                self.assertEqual(result.stderr, "")
                self.assertIn("libtokensieve_preload.so", result.stdout, "it was not loaded")
            else:
                self.assertIn("move or link the folder", result.stderr)

    def test_exec_errors(self):
        self.expect(1, "exec", "--", "no-such-program", says="PATH")
        self.expect(2, "exec", says="PROGRAM")
        if (BIN / "libggml-tokensieve.so").exists():
            self.expect(1, "exec", "--", "env", env={"TOKENSIEVE_PLUGIN": "/no.so"}, says="plug-in")
            self.expect(1, "exec", "--profile", "nope", "--", "env", says="smollm2-128k")


class LlamaTest(CliCase):
    QUESTION = "What is the access code of the dome?"

    def long_document(self):
        filler = "The keeper of the lamp walks along the shore and counts the boats. " * 60
        path = self.folder / "long.txt"
        path.write_text(filler + DOCUMENT + filler)
        return path

    def small_profile(self):
        """The shipped profile, cheap and with gates low enough for a prompt of ~1,900 tokens."""
        shipped = pathlib.Path(__file__).parents[2] / "profiles" / "smollm2.json"
        profile = json.loads(shipped.read_text())
        profile["min_tokens"] = 256
        profile["select"] |= {
            "min_keep": 256,
            "keep_ratio": 0.2,
            "local_window": 512,
            "obs_window": 128,
            "sinks": 4,
        }
        path = self.folder / "profile.json"
        path.write_text(json.dumps(profile))
        return path

    def test_stock_answer_goes_to_stdout(self):
        result = self.expect(0, "ask", "smollm2", "--file", self.document, "--attention", "stock",
                             self.QUESTION)
        self.assertIn(CODE, result.stdout)
        self.assertNotIn("tokens/s", result.stdout)

    def test_compare_json(self):
        result = self.expect(0, "ask", "smollm2", "--file", self.long_document(), self.QUESTION,
                             "--compare", "--json", "--profile", self.small_profile())
        report = json.loads(result.stdout)
        self.assertGreater(report["prompt_tokens"], 1500)
        runs = {r["attention"]: r for r in report["runs"]}
        self.assertEqual(list(runs), ["stock", "dense", "sparse"])
        for r in runs.values():
            self.assertGreater(r["prefill_ms"], r["attention_ms"])
            self.assertGreater(r["attention_ms"], 0)
        self.assertEqual(runs["stock"]["answer"], runs["dense"]["answer"])
        self.assertEqual(runs["stock"]["keep_ratio"], 1)
        self.assertEqual(runs["dense"]["sparse_layers"], 0)
        self.assertEqual(runs["sparse"]["sparse_layers"], 28)
        self.assertLess(runs["sparse"]["keep_ratio"], 0.4)
        self.assertIn(CODE, runs["sparse"]["answer"])

    def test_blocks(self):
        result = self.expect(0, "ask", "smollm2", "--file", self.long_document(), self.QUESTION,
                             "--json", "--profile", self.small_profile(),
                             "--blocks", "antidiagonal")
        sparse, = json.loads(result.stdout)["runs"]
        self.assertLess(sparse["block_density"], 1)
        self.assertEqual(sparse["sparse_layers"], 28)
        self.assertIn(CODE, sparse["answer"])

    def test_products_that_are_not_there_are_exact(self):
        ask = ("ask", "smollm2", "--file", self.long_document(), self.QUESTION, "--attention",
               "dense", "--max-tokens", 16)
        for option, env in (("--products=split", {}), ("--json", {"TOKENSIEVE_PRODUCTS": "split"})):
            result = self.expect(0, *ask, option, env={"TOKENSIEVE_ISA": "baseline", **env})
            self.assertIn("exact (the instruction set has no matrix tiles)",
                          result.stdout + result.stderr)
            self.assertIn(CODE, result.stdout)

    def test_chunks_give_the_answer(self):
        for ubatch in ("512", "700"):
            result = self.expect(0, "ask", "smollm2", "--file", self.long_document(), self.QUESTION,
                                 "--json", "--profile", self.small_profile(), "--ubatch", ubatch)
            sparse, = json.loads(result.stdout)["runs"]
            self.assertEqual((sparse["mode"], sparse["ubatch"]), ("chunk", int(ubatch)))
            self.assertEqual(sparse["sparse_layers"], 28)
            self.assertIn(CODE, sparse["answer"])

    def test_failures_name_the_fix(self):
        ask = ["ask", "smollm2", "--file", self.document, "q?"]
        self.expect(1, "ask", "smollm2", "--file", self.folder / "none", "q?", says="cannot open")
        self.expect(1, *ask, "--ctx", "70", says="raise --ctx")
        self.expect(1, *ask, "--ubatch", "100000", says="beyond the context; allowed: 1 to 8192")
        self.expect(1, "eval", "smollm2", "--ubatch", "100000", says="allowed: 1 to 8192")
        self.expect(1, "tune", "smollm2", "--ubatch", "100000", says="allowed: 1 to 8192")
        self.expect(1, *ask, "--profile", "llama-3.1-8b", says="another model")
        self.expect(1, *ask, "--profile", "nope", says="smollm2-128k")
        self.expect(1, *ask, env={"TOKENSIEVE_PLUGIN": "/no.so"}, says="make build")
        self.expect(1, "ask", self.document, "--file", self.document, "q?", says="GGUF")
        model = json.loads(run("info", "--json").stdout)
        path = pathlib.Path(model["cache"]) / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
        cut = self.folder / "cut.gguf"
        cut.write_bytes(path.read_bytes()[:5_000_000])
        self.expect(1, "ask", cut, "--file", self.document, "q?", says="truncated")
        self.expect(1, "ask", "smollm2", "--file", cut, "q?", says="UTF-8")

    def test_profile(self):
        output = self.folder / "made.json"
        self.expect(0, "profile", "smollm2", "--text", self.long_document(), "--max-tokens", "600",
                    "-o", output, says="Drift per layer")
        profile = json.loads(output.read_text())
        self.assertAlmostEqual(sum(profile["drift"]), 1, places=9)
        self.assertEqual(len(profile["drift"]), 30)
        self.assertNotIn(0, profile["sparse_layers"])
        self.assertEqual(len(profile["sparse_layers"]), 15)
        self.expect(1, "profile", "smollm2", "--text", self.document, says="at least 64")

    def test_a_prompt_beyond_the_context_is_all_that_is_said(self):
        for options, says in ((("--ctx", "70"), "raise --ctx"),
                              (("--max-tokens", "9000"), "lower --max-tokens"),
                              (("--ubatch", "100000"), "beyond the context")):
            result = self.expect(1, "ask", "smollm2", "--file", self.document, self.QUESTION,
                                 *options, says=says, env={"TOKENSIEVE_STATS": "1"})
            self.assertEqual(result.stdout, "")
            self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)

    def interrupted(self, moved, *arguments):
        """Ctrl-C once the terminal has shown `moved`; what the terminal showed."""
        terminal, its_end = pty.openpty()
        with open(self.folder / "stdout", "w") as output:
            process = subprocess.Popen([PROGRAM, *map(str, arguments)], stdin=subprocess.DEVNULL,
                                       stdout=output, stderr=its_end)
        os.close(its_end)
        shown, sent = "", False
        while True:
            try:
                shown += os.read(terminal, 4096).decode(errors="replace")
            except OSError:  # the process has ended
                break
            if not sent and re.search(moved, shown):
                process.send_signal(signal.SIGINT)
                sent = True
        os.close(terminal)
        self.assertEqual(process.wait(600), 130, shown)
        self.assertIn("cancelled", shown)
        return shown

    # Prompts are one chunk, which takes half a minute: a bar that says how much is left has moved
    # within it, and there is no result if the chunk was not read to its end.
    def test_interrupt_within_a_chunk(self):
        text = self.folder / "book.txt"
        text.write_text(self.long_document().read_text() * 3)
        for attention in ("stock", "dense", "sparse"):
            shown = self.interrupted(
                r"reading \(\w+\) .* left", "ask", "smollm2", "--file", text, "--attention",
                attention, "--ubatch", 8192, self.QUESTION)
            self.assertNotIn("tokens in", shown)
            self.assertEqual((self.folder / "stdout").read_text(), "")

    def test_interrupt_leaves_whole_results(self):
        run, profile = self.folder / "run.jsonl", self.folder / "profile.json"
        long = ("smollm2", "--lengths", 7600, "--cases", 1, "--ubatch", 8192)
        for command in (("eval", *long, "--tasks", "multi_key", "--config", "dense", "-o", run),
                        ("tune", *long, "-o", profile, "--results", run)):
            self.interrupted(command[0] + r" .* left", *command)
            lines = run.read_text().splitlines(keepends=True)
            self.assertTrue(all(line.endswith("\n") for line in lines))
            self.assertEqual([json.loads(line)["type"] for line in lines], ["run"])
            run.unlink()
        self.assertEqual([p.name for p in self.folder.glob("profile*")], [])

    def test_output_that_was_not_written_is_an_error(self):
        ask = ("ask", "smollm2", "--file", self.document, "--max-tokens", 3, self.QUESTION)
        profile = ("profile", "smollm2", "--text", self.long_document(), "--max-tokens", 100)
        for command in (ask, (*ask, "--json"), profile):
            result = subprocess.run(["sh", "-c", '"$@" >/dev/full', "sh", PROGRAM,
                                     *map(str, command)],
                                    capture_output=True, text=True, timeout=600)
            self.assertEqual(result.returncode, 1, command)
            self.assertIn("cannot write standard output", result.stderr)

    def test_the_answer_ends_before_what_is_said_about_it(self):
        result = subprocess.run(
            [PROGRAM, "ask", "smollm2", "--file", str(self.document), self.QUESTION],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
        self.assertRegex(result.stdout, r"(?m)^sparse: \d+ tokens in ")

    def test_a_byte_order_mark_is_no_text(self):
        marked = self.folder / "marked.txt"
        marked.write_bytes(b"\xef\xbb\xbf" + self.document.read_bytes())
        counts = [json.loads(self.expect(
            0, "ask", "smollm2", "--file", file, "--attention", "stock", "--max-tokens", 1,
            "--json", self.QUESTION).stdout)["prompt_tokens"] for file in (self.document, marked)]
        self.assertEqual(counts[0], counts[1])


if __name__ == "__main__":
    if sys.argv[2] == "LlamaTest" and not json.loads(run("info", "--json").stdout)["models"]:
        print("no model in the cache: `make setup` fetches it")
        sys.exit(77)
    unittest.main(argv=[sys.argv[0], sys.argv[2], "-v"])
