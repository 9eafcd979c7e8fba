#!/usr/bin/python3
"""-Dfront=disabled builds where the front's libraries are not, and its worker says what it lacks.

usage: alone_test.py SOURCES BUILDS

Only the packages below, and what they require, can be found. It builds in a folder of BUILDS, where
other builds are, so that a compiler's cache knows its commands.
"""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SOURCES, BUILDS = sys.argv[1:3]
PACKAGES = ["jansson", "gnutls", "cmocka"]
TARGETS = ["daemon/galerne-worker", "tests/gpu/bench_card", "tests/gpu/worker_run",
           "tests/golden/golden_test", "tests/oracle/oracle_rows"]


def words(*command: str) -> list:
    return subprocess.run(["pkg-config", *command], check=True, text=True,
                          capture_output=True).stdout.split()


def packages_copy(target: str) -> None:
    left, done = list(PACKAGES), set()
    while left:
        name = left.pop()
        if name not in done:
            done.add(name)
            shutil.copy(Path(words("--variable=pcfiledir", name)[0], f"{name}.pc"), target)
            for kind in ("--print-requires", "--print-requires-private"):
                left += [word for word in words(kind, name) if word[0].isalpha()]


class Alone(unittest.TestCase):
    def call(self, *command: str, code: int = 0) -> str:
        done = subprocess.run(command, env=self.environment, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=280)
        self.assertEqual(done.returncode, code, done.stdout[-3000:])
        return done.stdout

    def test_it_builds(self):
        with (tempfile.TemporaryDirectory() as found,
              tempfile.TemporaryDirectory(dir=BUILDS) as build):
            packages_copy(found)
            self.environment = dict(os.environ, PKG_CONFIG_LIBDIR=found)
            self.call("meson", "setup", build, SOURCES, "--buildtype=release", "-Dfront=disabled",
                      "-Dcuda=disabled")
            self.call("ninja", "-C", build, "-j2", *TARGETS)
            worker = f"{build}/daemon/galerne-worker"
            self.assertIn("built with -Dfront=disabled and does not read",
                          self.call(worker, "--model", "one", code=1))
            self.environment["LISTEN_FDS"] = "1"
            self.assertIn("takes none", self.call(worker, "--path", "x", "--socket",
                                                  f"{build}/socket", code=1))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
