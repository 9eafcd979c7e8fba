#!/usr/bin/python3
"""The logic of claims: which limit binds, what was not run, and that claims.tsv is read whole."""
import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True

import claims  # noqa: E402
import engines  # noqa: E402
import models  # noqa: E402
import sides  # noqa: E402

CLAIM = "x llama:2 ik:1.25 roof:90"


def cell(unit="tokens/s", **values) -> claims.Cell:
    return claims.Cell(unit, values)


def judged(claim: str, results: claims.Results, name: str = "c") -> tuple:
    return claims.judge(("bench", name, claim, "unit", "text"), results)


def with_cell(peers: bool = True, **values) -> claims.Results:
    return claims.Results(cells={"c": cell(**values)}, peers=peers)


class Cells(unittest.TestCase):
    def test_the_strictest_peer_binds(self):
        verdict, words = claims.judge_cell(CLAIM, cell(ours=99, llama=50, ik=70, roof=1000))
        self.assertEqual(verdict, "short")
        self.assertIn("required 100 by 2 x llama", words)
        self.assertIn("1.25 x ik = 87.5", words)
        self.assertIn("90 % of the roof = 900", words)
        self.assertEqual(claims.judge_cell(CLAIM, cell(ours=100, llama=50, ik=70))[0], "held")

    def test_the_roof_binds_where_it_is_lower(self):
        verdict, words = claims.judge_cell(CLAIM, cell(ours=91, llama=50, ik=80, roof=100))
        self.assertEqual(verdict, "held")
        self.assertIn("required 90 by the roof", words)
        self.assertEqual(claims.judge_cell(CLAIM, cell(ours=89, llama=50, ik=80, roof=100))[0],
                         "short")

    def test_best_is_of_what_was_measured(self):
        for values in ({"llama": 50, "ik": 80}, {"ik": 80}, {"other": 80, "ik": 1}):
            self.assertEqual(claims.judge_cell("x best:1.5", cell(ours=119, **values))[0], "short")
            self.assertEqual(claims.judge_cell("x best:1.5", cell(ours=120, **values))[0], "held")

    def test_without_one_of_its_peers_only_the_roof_can_hold_a_claim(self):
        verdict, words = claims.judge_cell(CLAIM, cell(ours=90, ik=70, roof=1000))
        self.assertEqual(verdict, "not run")
        self.assertIn("not measured: llama", words)
        self.assertEqual(claims.judge_cell(CLAIM, cell(ours=80, ik=70, roof=1000))[0], "short")
        self.assertEqual(claims.judge_cell(CLAIM, cell(ours=90, ik=85, roof=100))[0], "held")
        self.assertEqual(claims.judge_cell(CLAIM, cell(ours=90, roof=1000))[0], "not run")
        self.assertEqual(claims.judge_cell(CLAIM, cell(llama=1, roof=1000))[0], "not run")

    def test_of_errors_less_is_better(self):
        for ours, verdict in ((0.2, "short"), (0.1, "held")):
            errors = cell("rms", ours=ours, llama=0.3, ik=0.1)
            self.assertEqual(claims.judge_cell("< best:1", errors)[0], verdict)


class Judgements(unittest.TestCase):
    def test_without_peers(self):
        self.assertEqual(judged(CLAIM, with_cell(peers=False, ours=1, roof=2)),
                         ("not run", "no peer named"))

    def test_without_the_cell(self):
        self.assertEqual(judged(CLAIM, claims.Results(peers=True))[0], "not run")

    def test_measures(self):
        results = claims.Results(measures={"m": 92.0})
        self.assertEqual(judged(">= 92", results, "m")[0], "held")
        self.assertEqual(judged("> 92", results, "m")[0], "short")
        self.assertEqual(judged("> 92", results, "n")[0], "not run")

    def test_lines(self):
        results = claims.Results()
        self.assertTrue(results.read("measure m 3.5 %"))
        self.assertTrue(results.read("cell c GB/s ours=1.5 roof=2"))
        self.assertFalse(results.read("  c 1.5 GB/s"))
        self.assertEqual(results.measures, {"m": 3.5})
        self.assertEqual(results.cells["c"], cell("GB/s", ours=1.5, roof=2))
        with self.assertRaisesRegex(ValueError, "two cells are called c"):
            results.read("cell c GB/s ours=2")


class Table(unittest.TestCase):
    def setUp(self):
        with open(os.path.join(HERE, "claims.tsv")) as lines:
            self.rows = claims.rows_read(lines)

    def test_every_row_is_whole(self):
        for row in self.rows:
            self.assertEqual(len(row), 5, row)
            if ":" in row[2]:
                sign, ratios, _ = claims.terms(row[2])
                self.assertIn(sign, ("x", "<"), row)
                self.assertTrue(ratios, row)
            else:
                self.assertIn(row[2].split()[0], claims.COMPARE, row)
                float(row[2].split()[1])
        names = [row[:2] for row in self.rows]
        self.assertEqual(len(names), len(set(names)))

    def test_every_claim_of_a_comparison_has_a_cell(self):
        made = set()
        for bench in ("gemm", "moe", "attention"):
            for work, _ in sides.works(bench, quick=False):
                for name in (f"{work.name}_{n}_rows" for n in work.rows):
                    made |= {(bench, name), (bench, f"{name}_error")}
        for name in engines.FULL:
            made.add(("prefill", f"{name}_prompt_512"))
            made |= {("decode", f"{name}_batch_{n}") for n in engines.BATCHES}
            made |= {("decode", f"{name}_batch_{n}_alike") for n in engines.BATCHES[1:]
                     if models.is_mixture(name)}
        claimed = {row[:2] for row in self.rows if ":" in row[2]}
        self.assertEqual(claimed - made, set())

    def test_no_two_cells_have_one_name(self):
        names = [f"{work.name}_{n}_rows" for bench in ("gemm", "moe", "attention")
                 for work, _ in sides.works(bench, quick=False) for n in work.rows]
        self.assertEqual(len(names), len(set(names)))

    def test_a_wrong_term_is_refused(self):
        with self.assertRaisesRegex(ValueError, "PEER:RATIO"):
            claims.terms("x llama=2")


class Parsers(unittest.TestCase):
    def test_batch_table(self):
        text = ("main: n_kv_max = 8192\n"
                "|  PP |  TG |  B | N_KV | T_PP s | S_PP t/s | T_TG s | S_TG t/s | T s | S t/s |\n"
                "|---|---|---|---|---|---|---|---|---|---|\n"
                "|  64 |  16 |  4 |  128 |  0.5 |  128.0 |  1.0 |  64.00 |  1.5 |  85.3 |\n"
                "|  64 |  16 |  4 |  128 |  0.5 |  128.0 |  2.0 |  32.00 |  2.5 |  51.2 |\n")
        self.assertEqual(engines.batch_samples(text), {"batch_4": [64.0, 32.0]})
        self.assertEqual(engines.batch_samples(text, "_alike"), {"batch_4_alike": [64.0, 32.0]})

    def test_prompt_json(self):
        self.assertEqual(engines.prompt_samples('[{"samples_ts": [1.5, 2]}]\nsystem: [x]'),
                         {"prompt_512": [1.5, 2.0]})
        self.assertEqual(engines.prompt_samples("error: no model"), {})

    def test_samples_of_ours(self):
        self.assertEqual(engines.samples_of_ours("samples batch_1 2.5:5 3:6\n  x\n"),
                         {"batch_1": [(2.5, 5.0), (3.0, 6.0)]})


if __name__ == "__main__":
    unittest.main()
