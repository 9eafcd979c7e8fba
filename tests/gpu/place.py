"""Where the programs are: a build folder, or a bundle that was made of one.

A bundle is a folder with these scripts, bin/, modules/, lib/ (shared libraries that the other
machine may lack; its own C library is used), golden/, demo/, and facts.json: the digest of the
kernels' sources and the CUDA toolkit that the module was built with.
"""
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import results

HERE = Path(__file__).resolve().parent
ORACLES = ["linear", "mlp", "moe", "rows", "attend", "attention", "head", "sample", "exact"]
SCRIPTS = ["run", "place.py", "checks.py", "measure.py", "cells.py", "results.py", "peers.py",
           "claims.tsv"]
# What the target has by itself: its C library is as old as its loader.
SYSTEM = re.compile(r"^(ld-linux.*|libc|libm|libpthread|libdl|librt)\.so")
BUNDLE_BYTES_MAX = 64 << 20
NVCC = ["nvcc", "/usr/local/cuda/bin/nvcc"]


def find_program(*names: str) -> str:
    return next((found for found in map(shutil.which, names) if found), "")


def words_of(command: list) -> str:
    """What a program printed; empty when it is not there or failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def toolkit() -> str:
    nvcc = find_program(*NVCC)
    found = re.search(r"release [\d.]+, V([\d.]+)", words_of([nvcc, "--version"]) if nvcc else "")
    return found.group(1) if found else "unknown"


class Place:
    def __init__(self, build: str = ""):
        self.is_bundle = (HERE / "facts.json").exists()
        if self.is_bundle:
            self.root, self.base = HERE, HERE
            self.modules, self.golden_data = HERE / "modules", HERE / "golden"
            self.demo = HERE / "demo"
            facts = json.loads((HERE / "facts.json").read_text())
            self.digest, self.toolkit = facts["digest"], facts["toolkit"]
        else:
            self.root = HERE.parent.parent
            self.base = Path(build or os.environ.get("GALERNE_BUILD", self.root / "build/release"))
            self.base = self.base.resolve()
            self.modules = self.base / "kernels/cuda"
            self.golden_data = self.root / "tests/golden"
            self.demo = self.root / "model/demo/galerne-demo"
            self.digest, self.toolkit = results.digest(self.root), toolkit()

    def program(self, kind: str, name: str) -> Path:
        folder = self.base / "bin" if self.is_bundle else self.base / "tests" / kind
        return folder / name

    def environment(self, **more: str) -> dict:
        environment = dict(os.environ, GALERNE_MODULES=str(self.modules), **more)
        if self.is_bundle:
            had = os.environ.get("LD_LIBRARY_PATH", "")
            environment["LD_LIBRARY_PATH"] = f"{HERE / 'lib'}:{had}".rstrip(":")
        return environment

    def card(self, backend: str) -> tuple:
        """(what the card calls itself, "") or ("", why there is none)."""
        program = self.program("gpu", "bench_card")
        if not program.exists():
            return "", f"{program} is not built"
        done = subprocess.run([program, "-b", backend], env=self.environment(), text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
        found = re.match(r"card (.*)", done.stdout)
        if done.returncode == 0 and found:
            return found.group(1), ""
        words = done.stderr.strip().splitlines() or [f"bench_card ended with {done.returncode}"]
        return "", words[-1].removeprefix("bench_card: ")

    def facts(self, card: str) -> dict:
        driver = words_of(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
        return {"card": card, "driver": (driver.strip().splitlines() or ["unknown"])[0],
                "toolkit": self.toolkit}

    def golden(self) -> list:
        """(name, arguments of golden_test) of every golden model that fits a bundle."""
        found = []
        for folder in sorted(self.golden_data.glob("tiny-*")):
            model = folder / "model.gguf"
            if (folder / "config.json").exists():
                found.append((folder.name, [folder]))
            if model.exists():
                gguf = folder.name + ("-gguf" if found and found[-1][0] == folder.name else "")
                found.append((gguf, [folder, model]))
        for folder in sorted((self.golden_data / "demo").glob("*/")):
            if (folder / "golden.json").exists() and self.demo.exists():
                found.append((f"demo-{folder.name}", [folder, self.demo]))
        return found


def libraries(programs: list) -> set:
    found = set()
    for program in programs:
        for name, path in re.findall(r"^\s*(\S+) => (/\S+)", words_of(["ldd", program]), re.M):
            if not SYSTEM.match(name):
                found.add(Path(path))
    return found


def bundle(place: Place, target: Path) -> int:
    """Makes `target` anew; its size. Raises with what is missing, or what is too large."""
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target}: not empty")
    programs = [place.program("oracle", f"oracle_{name}") for name in ORACLES]
    programs += [place.program("golden", "golden_test"), place.program("gpu", "bench_card")]
    modules = [place.modules / "galerne-cuda.so", place.modules / "galerne-cuda-host.so"]
    missing = [str(path) for path in programs + modules if not path.exists()]
    if missing:
        raise ValueError("not built: " + ", ".join(missing))
    for name in ("bin", "modules", "lib"):
        (target / name).mkdir(parents=True)
    for files, folder in ((programs, "bin"), (modules, "modules"),
                          (sorted(libraries(programs + modules)), "lib"),
                          ([HERE / name for name in SCRIPTS], "."),
                          ([place.root / "tests/bench/claims.py"], ".")):
        for path in files:
            shutil.copy(path, target / folder / path.name)
    for path in list((target / "bin").iterdir()) + list((target / "modules").iterdir()):
        subprocess.run(["strip", "--strip-debug", path], check=False)
    for folder in list(place.golden_data.glob("tiny-*")) + [place.golden_data / "demo"]:
        shutil.copytree(folder, target / "golden" / folder.name)
    shutil.copytree(place.demo, target / "demo")
    (target / "facts.json").write_text(
        json.dumps({"digest": place.digest, "toolkit": place.toolkit}) + "\n")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    if size > BUNDLE_BYTES_MAX:
        raise ValueError(f"{target}: {size / 2**20:.1f} MiB, more than 64")
    return size
