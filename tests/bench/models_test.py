#!/usr/bin/python3
"""models.py: names, the vocabulary, and files that our reader takes: models_test.py BENCH_DECODE

The files need the package gguf, from an interpreter named in GALERNE_GGUF_PYTHON or from a private
environment that is made once, in build/. Exit code 77: it cannot be had.
"""
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = Path(HERE).parent.parent
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True

import models  # noqa: E402

PYTHON = os.environ.get("GALERNE_GGUF_PYTHON", "")
BENCH = sys.argv.pop() if len(sys.argv) > 1 else ""


def written(folder: str, *names: str) -> subprocess.CompletedProcess:
    return subprocess.run([PYTHON, os.path.join(HERE, "models.py"), "--folder", folder, "--python",
                           PYTHON, *names], capture_output=True, text=True)


class Names(unittest.TestCase):
    def test_names(self):
        self.assertEqual(models.split("a-q8_0"), ("a", "q8_0"))
        for wrong in ("a", "a-q5_0", "z-q8_0", ""):
            with self.assertRaisesRegex(ValueError, "expected SHAPE-TYPE"):
                models.split(wrong)

    def test_vocabulary(self):
        tokens, scores, types = models.vocabulary(32000)
        self.assertEqual([len(tokens), len(scores), len(types)], [32000] * 3)
        self.assertEqual(len(set(tokens)), 32000)
        self.assertEqual(types.count(6), 256)

    def test_sizes_of_the_shapes(self):
        """Parameters, in 1e9."""
        billions = {}
        for name in ("a", "b", "c"):
            total = 0
            for _, dims, _ in models.tensors(models.SHAPES[name], "q8_0"):
                count = 1
                for dim in dims:
                    count *= dim
                total += count
            billions[name] = round(total / 1e9, 2)
        self.assertEqual(billions, {"a": 1.52, "b": 1.1, "c": 11.87})


class Files(unittest.TestCase):
    def test_our_reader_takes_them(self):
        with tempfile.TemporaryDirectory() as folder:
            for kind in models.TYPES:
                path = written(folder, f"tiny-{kind}").stdout.strip()
                done = subprocess.run([BENCH, "-r", "1", path, "1", "tiny"], capture_output=True,
                                      text=True)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn("samples batch_32", done.stdout)
            self.assertEqual([f for f in os.listdir(folder) if ".part" in f], [])

    def test_the_same_seed_gives_the_same_bytes(self):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            first = Path(written(one, "tiny-q4_0").stdout.strip()).read_bytes()
            self.assertEqual(first, Path(written(two, "tiny-q4_0").stdout.strip()).read_bytes())
            other = written(one, "--seed", "2", "tiny-q4_0").stdout.strip()
            self.assertNotEqual(first, Path(other).read_bytes())
            half = len(first) // 2  # of the weights: nothing is left as zeros
            self.assertLess(first[half:].count(0), (len(first) - half) // 16)

    def test_a_wrong_name(self):
        with tempfile.TemporaryDirectory() as folder:
            done = written(folder, "tiny-q9_0")
            self.assertEqual(done.returncode, 2)
            self.assertIn("no model is called tiny-q9_0", done.stderr)


if __name__ == "__main__":
    if not PYTHON:
        try:
            build = ROOT / "build"
            build.mkdir(exist_ok=True)
            PYTHON = models.python_with_gguf(build, None)
        except (SystemExit, subprocess.CalledProcessError) as error:
            print(f"SKIP models: {error}", file=sys.stderr)
            sys.exit(77)
    unittest.main()
