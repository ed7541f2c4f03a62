#!/usr/bin/env python3
"""cmake/nvcc_gate.py with a compiler that prints what ptxas prints."""
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

GATE = Path(__file__).resolve().parents[2] / "cmake" / "nvcc_gate.py"
GOOD = """ptxas info    : Compiling entry function '_Z6kernelv' for 'sm_90a'
ptxas info    : Function properties for _Z6kernelv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers
"""
COMPILER = """import pathlib, sys
pathlib.Path(sys.argv[sys.argv.index('-o') + 1]).write_text('object')
print(pathlib.Path(sys.argv[1]).read_text(), file=sys.stderr)
sys.exit(int(sys.argv[2]))
"""


class GateTest(unittest.TestCase):
    def run_gate(self, log, code=0):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "log").write_text(log)
            output = Path(folder) / "out.o"
            result = subprocess.run(
                [sys.executable, GATE, sys.executable, "-c", COMPILER, Path(folder) / "log",
                 str(code), "-o", output],
                capture_output=True, text=True, check=False)
            return result, output.exists()

    def test_clean_log_passes_quietly(self):
        result, kept = self.run_gate(GOOD)
        self.assertEqual((result.returncode, result.stdout.strip(), kept), (0, "", True))

    def test_refuses_what_ptxas_only_reports(self):
        for log in (GOOD.replace("0 bytes spill stores", "8 bytes spill stores"),
                    GOOD.replace("0 bytes stack", "16 bytes stack"),
                    GOOD + "ptxas info : (C7510) Potential Performance Loss: wgmma serialized\n",
                    GOOD + "ptxas info : (C7508) Potential Performance Loss: setmaxnreg ignored\n",
                    GOOD + "ptxas info : (C9999) Potential Performance Loss: something new\n"):
            result, kept = self.run_gate(log)
            self.assertEqual((result.returncode, kept), (1, False), log)
            self.assertIn("ptxas reports", result.stderr)

    def test_names_the_kernel(self):
        result, _ = self.run_gate(GOOD.replace("0 bytes spill loads", "4 bytes spill loads"))
        self.assertIn("_Z6kernelv", result.stderr)

    def test_harmless_note_passes(self):
        note = "ptxas info : (C7519) Potential Performance Loss: moves\n"
        result, kept = self.run_gate(GOOD + note)
        self.assertEqual((result.returncode, kept), (0, True))

    def test_compiler_errors_pass_through(self):
        result, _ = self.run_gate("a.cu(1): error: expected a declaration", 2)
        self.assertEqual(result.returncode, 2)
        self.assertIn("expected a declaration", result.stdout)

    def test_warnings_are_shown(self):
        result, _ = self.run_gate(GOOD + "a.cu(1): warning #177-D: variable was declared\n")
        self.assertIn("#177-D", result.stdout)


if __name__ == "__main__":
    unittest.main()
