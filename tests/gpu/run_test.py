#!/usr/bin/python3
"""tests/gpu without a card: nothing passes, results merge and hide as they should, a dry run goes.

usage: run_test.py BUILD
"""
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import types
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

import cells  # noqa: E402
import checks  # noqa: E402
import measure  # noqa: E402
import peers  # noqa: E402
import place  # noqa: E402
import results  # noqa: E402

BUILD = sys.argv.pop(1) if len(sys.argv) > 1 else str(ROOT / "build/release")
HELD = {"status": "held", "words": "93.0 %, claimed >= 85 %"}
NOT_RUN = checks.not_run("no time left")


def found(digest: str, **bench) -> dict:
    return {"digest": digest, "card": "Card X", "driver": "1", "toolkit": "13", "date": "today",
            "checks": {**{name: {} for name in results.SECTIONS}, "bench": bench}}


def run(*words: str, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run([HERE / "run", *words, "--build", BUILD], text=True, capture_output=True,
                          env=dict(os.environ, CUDA_VISIBLE_DEVICES="", **more), timeout=100)


class Results(unittest.TestCase):
    def test_new_checks_replace_old_ones_but_never_by_not_run(self):
        merged = results.merge(found("a", one=HELD, two=NOT_RUN), found("a", one=NOT_RUN, two=HELD))
        self.assertEqual(merged["checks"]["bench"], {"one": HELD, "two": HELD})

    def test_results_of_other_sources_are_dropped(self):
        merged = results.merge(found("a", one=HELD), found("b", two=HELD))
        self.assertEqual(merged["checks"]["bench"], {"two": HELD})

    def test_calls_merge_into_one_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = results.save(folder, found("a", one=HELD))
            self.assertEqual(results.save(folder, found("a", two=HELD)), path)
            self.assertEqual(sorted(json.loads(path.read_text())["checks"]["bench"]),
                             ["one", "two"])

    def test_the_page_shows_results_of_these_sources_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "card-x.json")
            path.write_text(json.dumps(found(results.digest(ROOT), one=HELD)))
            self.assertIn("93.0 %", results.page(ROOT, folder))
            path.write_text(json.dumps(found("0" * 64, one=HELD)))
            self.assertNotIn("93.0 %", results.page(ROOT, folder))
            self.assertIn(results.NONE, results.page(ROOT, folder))

    def test_the_page_shows_no_emulated_card(self):
        with tempfile.TemporaryDirectory() as folder:
            emulated = {**found(results.digest(ROOT), one=HELD), "card": "cuda-host, emulated"}
            Path(folder, "x.json").write_text(json.dumps(emulated))
            self.assertIn(results.NONE, results.page(ROOT, folder))

    def test_a_file_that_holds_no_results_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "x.json")
            for text in ("{", "[]", "{}"):
                path.write_text(text)
                with self.assertRaisesRegex(ValueError, re.escape(str(path))):
                    results.read(path)

    def test_the_digest_is_of_what_the_kernels_are(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "kernels/cuda").mkdir(parents=True)
            kernel = Path(folder, "kernels/cuda/mlp.cu")
            kernel.write_text("a")
            before = results.digest(folder)
            kernel.write_text("b")
            self.assertNotEqual(results.digest(folder), before)

    def test_the_page_of_the_repository_is_true(self):
        done = run("page", "--check")
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_exit_codes(self):
        bad = {"status": "short", "words": ""}
        self.assertEqual(results.exit_code({"bench": {"one": HELD}}), 0)
        self.assertEqual(results.exit_code({"bench": {"one": HELD, "two": NOT_RUN}}), 2)
        self.assertEqual(results.exit_code({"bench": {"one": bad, "two": NOT_RUN}}), 1)
        self.assertEqual(results.exit_code({"bench": {}}), 2)


class Checks(unittest.TestCase):
    def test_verdicts(self):
        good = "[       OK ] one\n"
        self.assertEqual(checks.verdict(0, good)["status"], "passed")
        self.assertEqual(checks.verdict(0, "skipped: no sm90\n")["status"], "not run")
        self.assertEqual(checks.verdict(1, good + "x: off by 3\n")["status"], "failed")
        self.assertEqual(checks.verdict(-11, "")["status"], "failed")

    def test_a_program_that_the_clock_ends_was_not_run(self):
        clock = checks.Clock(0.03)
        self.assertEqual(checks.run_program(["sleep", "60"], {}, clock)["words"], "no time left")

    def test_a_program_that_hangs_takes_its_children_along(self):
        began = time.monotonic()
        with self.assertRaises(subprocess.TimeoutExpired):
            place.output_of(["sh", "-c", "sleep 60 & echo $!; wait"], 0.5)
        self.assertLess(time.monotonic() - began, 10)

    def test_a_program_that_the_driver_holds_is_left(self):
        class Held:
            pid, stdin, stdout = 2**22 + 1, None, None  # no process has such a number

            def wait(self, seconds):
                raise subprocess.TimeoutExpired("held", seconds)
        place.end(Held())

    def test_without_a_card_nothing_passes(self):
        for section in results.SECTIONS:
            done = run(section)
            self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
            *lines, total = done.stdout.splitlines()
            self.assertEqual(total, f"{len(lines)} not run")
            for line in lines:
                self.assertRegex(line, r"^not run: \S+: no card \(.+\)$")


class Bench(unittest.TestCase):
    def test_every_claim_is_on_a_cell_and_every_dry_name_is_one(self):
        all_cells = cells.all_cells()
        names = [cell.name for cell in all_cells]
        self.assertEqual(len(set(names)), len(names))
        self.assertLessEqual(set(cells.DRY), set(names))
        for group, pattern, *_ in measure.CLAIMS:
            self.assertTrue(any(cell.group == group and measure.fnmatch.fnmatch(cell.name, pattern)
                                for cell in all_cells), pattern)

    def judged(self, name: str, peers_found: dict, **measured: float) -> dict:
        cell = next(cell for cell in cells.all_cells() if cell.name == name)
        bench = types.SimpleNamespace(bandwidth=1e12, rate=1e15, rate_of="ours", launch=2e-6,
                                      asked=types.SimpleNamespace(dry=False))
        base = {"seconds": 1.0, "bytes": 0.0, "flops": 0.0, "alone": 0.0, "distinct": 0.0}
        return {check: part["status"] for check, part in
                measure.judge(cell, {**base, **measured}, peers_found, bench).items()}

    def test_claims_are_judged(self):
        name = "step_mistral_bf16_b1"
        self.assertEqual(self.judged(name, {}, bytes=0.86e12)[f"{name} >= 85"], "held")
        self.assertEqual(self.judged(name, {}, bytes=0.84e12)[f"{name} >= 85"], "short")
        self.assertEqual(self.judged("prefill_2k", {"flash": 0.9, "cudnn": 0.96}),
                         {"prefill_2k": "measured", "prefill_2k x best:0.95": "short"})
        self.assertEqual(self.judged("prefill_2k", {"flash": 0.96, "cudnn": "no cuDNN"}),
                         {"prefill_2k": "measured", "prefill_2k x best:0.95": "held"})
        self.assertEqual(self.judged("prefill_2k", {"flash": "no torch"})["prefill_2k x best:0.95"],
                         "not run")
        self.assertEqual(self.judged("dense_gaps", {}, alone=0.98)["dense_gaps <= 3"], "held")
        self.assertEqual(self.judged("dense_gaps", {}, alone=0.9)["dense_gaps <= 3"], "short")
        self.assertEqual(self.judged("attend_bf16_1x1k", {}, bytes=4e6),
                         {"attend_bf16_1x1k": "measured"})

    @unittest.skipUnless(peers.ABSENT, "torch sees a card")
    def test_without_torch_peers_say_so(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            peers.main()
        self.assertRegex(out.getvalue(), r"^absent (no torch|torch sees no card)")


@unittest.skipUnless(Path(BUILD, "kernels/cuda/galerne-cuda-host.so").exists(), "no emulated card")
class Dry(unittest.TestCase):
    def test_every_kind_of_check_goes_through(self):
        for section in ("oracle", "golden"):
            done = run(section, "--dry")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        done = run("bench", "--dry")
        self.assertIn(done.returncode, (0, 2), done.stdout + done.stderr)
        for name in cells.DRY:
            absent = f"not run: {name}: this build has no type called"
            self.assertTrue(f"measured: {name}:" in done.stdout or absent in done.stdout, name)

    def test_misuse_is_no_result(self):
        for words in (["nothing"], ["bench", "--minutes", "x"], ["bundle"]):
            self.assertEqual(run(*words).returncode, 64, words)

    def test_a_name_that_is_none_is_refused(self):
        self.assertEqual(run("bench", "--dry", "--only", "nothing").returncode, 64)


@unittest.skipUnless(Path(BUILD, "kernels/cuda/galerne-cuda.so").exists(), "built without nvcc")
@unittest.skipUnless(Path(BUILD, "kernels/cuda/galerne-cuda-host.so").exists(), "no emulated card")
class Bundle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.here = Path(cls.folder.name, "bundle")
        done = run("bundle", str(cls.here))
        if done.returncode:
            raise AssertionError(done.stdout + done.stderr)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def there(self, *words: str, **more: str) -> subprocess.CompletedProcess:
        """As on the other machine: no folder and no variable of this one's is named."""
        return subprocess.run([self.here / "run", *words], cwd="/", text=True, capture_output=True,
                              env={"PATH": "/usr/bin:/bin", **more}, timeout=100)

    def test_it_is_below_64_mib_and_holds_its_libraries(self):
        files = [path for path in self.here.rglob("*") if path.is_file()]
        self.assertLess(sum(path.stat().st_size for path in files), 64 << 20)
        programs = list((self.here / "bin").iterdir()) + list((self.here / "modules").iterdir())
        self.assertGreaterEqual(len(programs), len(place.ORACLES) + 4)
        for program in programs:
            told = subprocess.run(["ldd", program], text=True, stdout=subprocess.PIPE,
                                  env={"PATH": "/usr/bin:/bin",
                                       "LD_LIBRARY_PATH": str(self.here / "lib")}).stdout
            for name, path in re.findall(r"^\s*(\S+) => (.*?)(?: \(.*)?$", told, re.M):
                self.assertTrue(place.SYSTEM.match(name) or path.startswith(str(self.here)),
                                f"{program.name}: {name} => {path}")

    def test_it_goes_from_anywhere(self):
        done = self.there("oracle", "--dry", "--only", "rows-sm80")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("passed: rows-sm80", done.stdout)
        done = self.there("all", CUDA_VISIBLE_DEVICES="")
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        *lines, total = done.stdout.splitlines()
        self.assertEqual(total, f"{len(lines)} not run")
        self.assertFalse((self.here / "results").exists())

    def test_calls_merge_and_a_card_that_hangs_is_left(self):
        """The emulated card in the place of the real one's module."""
        module = self.here / "modules/galerne-cuda.so"
        kept = module.read_bytes()
        shutil.copy(self.here / "modules/galerne-cuda-host.so", module)
        try:
            for name in ("rows-sm80", "rows-sm90"):
                done = self.there("oracle", "--only", name)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            done = self.there("oracle", "--only", "linear-plain", "--minutes", "0.05",
                              GALERNE_CUDA_HOST_FAULT="hang:1")
            self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        finally:
            module.write_bytes(kept)
        (path,) = (self.here / "results").iterdir()
        found = results.read(path)
        shutil.rmtree(path.parent)
        self.assertEqual({n: c["status"] for n, c in found["checks"]["oracle"].items()},
                         {"rows-sm80": "passed", "rows-sm90": "passed", "linear-plain": "not run"})
        self.assertEqual((found["digest"], found["card"]),
                         (results.digest(ROOT), "cuda-host, emulated"))
        self.assertTrue(found["driver"] and found["toolkit"] and found["date"])


if __name__ == "__main__":
    unittest.main()
