#!/usr/bin/python3
"""bench_side and sides.py on small shapes: sides_test.py BENCH_SIDE

A second process of ours stands for a peer: cells, errors and claims come out as they would.
"""
import contextlib
import io
import os
import subprocess
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True

import claims  # noqa: E402
import sides  # noqa: E402

BENCH = sys.argv.pop() if len(sys.argv) > 1 else ""


def answers(*lines: str, where: str = "ours") -> subprocess.CompletedProcess:
    return subprocess.run([BENCH, where, "2"], input="".join(line + "\n" for line in lines),
                          capture_output=True, text=True, timeout=60)


class Program(unittest.TestCase):
    def error_of(self, load: str, n_rows: int) -> float:
        done = answers(load, f"rows {n_rows}", "run 0.001")
        self.assertEqual(done.returncode, 0, done.stderr)
        *_, error, times = done.stdout.splitlines()
        wall, busiest = map(float, times.split()[1:])
        self.assertGreater(wall, 0)
        self.assertGreaterEqual(busiest, 0)
        return float(error.split()[1])

    def test_errors_are_what_the_types_cost(self):
        """Not zero where rows are rounded, and no more than rounding explains."""
        for kind, least, most in (("q8_0", 5e-4, 0.02), ("q4_0", 5e-4, 0.02), ("q4_1", 5e-4, 0.02),
                                  ("bf16", 1e-9, 0.005)):
            for load in (f"product {kind} 64 96", f"moe {kind} 64 96 4 2"):
                for n_rows in (1, 5):
                    error = self.error_of(load, n_rows)
                    self.assertTrue(least < error < most, f"{load}, {n_rows} rows: {error}")

    def test_attention(self):
        for kind, most in (("f32", 1e-5), ("bf16", 0.01), ("q8_0", 0.02)):
            for n_rows in (1, 5):
                self.assertLess(self.error_of(f"attention {kind} 4 2 64 64 2", n_rows), most)

    def test_bad_lines(self):
        small = "attention f32 4 2 64 64 1"
        for lines, words in ((["product q9_9 64 64"], "no type \"q9_9\""),
                             (["nonsense"], "not understood: nonsense"),
                             (["rows 1"], "nothing is loaded"),
                             (["run 1"], "no rows were prepared"),
                             (["probe speed"], "no probe \"speed\""),
                             ([small, "rows 65"], "more rows than its context")):
            done = answers(*lines)
            self.assertEqual(done.returncode, 1, lines)
            self.assertIn(words, done.stderr)

    def test_a_folder_without_a_peer(self):
        done = answers(where="/nonexistent")
        self.assertEqual(done.returncode, 1)
        self.assertIn("/nonexistent: no libggml.so", done.stderr)


class Comparison(unittest.TestCase):
    def compared(self, peers: dict, work: sides.Work) -> tuple:
        results, out = claims.Results(peers=True), io.StringIO()
        with contextlib.redirect_stdout(out):
            comparison = sides.Comparison(BENCH, peers, 1, rounds=2, own_time=False)
            try:
                comparison.run(work, 0.001)
            finally:
                comparison.close()
        for line in out.getvalue().splitlines():
            results.read(line)
        return results, out.getvalue()

    def test_cells(self):
        results, _ = self.compared({"llama": "ours"}, sides.product("q8_0", (2, 9), (64, 96)))
        self.assertEqual(set(results.cells), {"q8_0_2_rows", "q8_0_2_rows_error", "q8_0_9_rows",
                                              "q8_0_9_rows_error"})
        self.assertEqual(set(results.cells["q8_0_2_rows"].values), {"ours", "llama", "roof"})
        errors = results.cells["q8_0_2_rows_error"].values
        self.assertEqual(errors["ours"], errors["llama"])
        row = ("gemm", "q8_0_2_rows", "x llama:1000", "Gop/s", "")
        self.assertEqual(claims.judge(row, results)[0], "short")

    def test_a_peer_that_cannot_start_is_left_out(self):
        results, said = self.compared({"ik": "/nonexistent"}, sides.product("q8_0", (1,), (64, 96)))
        self.assertIn("ik: not run: ik ended: bench_side: /nonexistent", said)
        self.assertEqual(set(results.cells["q8_0_1_rows"].values), {"ours", "roof"})

    def test_what_ours_cannot_load_has_no_cell(self):
        work = sides.Work("x", "product q9_9 64 64", (1,), "Gop/s", 1.0, "int8", lambda *_: 0.0)
        results, said = self.compared({}, work)
        self.assertIn("ours: not run", said)
        self.assertEqual(results.cells, {})

    def test_figures(self):
        work = sides.product("q8_0", (1,), (1000, 1000))
        self.assertAlmostEqual(work.figure(2, 1e6, 1e-3), 4)
        self.assertAlmostEqual(work.roof(1, 1e6, read=10, arithmetic=1e9), 20)
        self.assertAlmostEqual(work.roof(1, 1e6, read=1e9, arithmetic=7), 7)
        self.assertAlmostEqual(sides.moe("q8_0", (1,)).bytes_read(8, 1), 2e6)


if __name__ == "__main__":
    unittest.main()
