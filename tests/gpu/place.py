"""Where the programs are: a build folder, or a bundle that was made of one.

A bundle is a folder with these scripts, bin/, modules/, lib/ (shared libraries that the other
machine may lack; its own C library is used), golden/, demo/, and facts.json: the digest of the
kernels' sources and the CUDA toolkit that the module was built with.
"""
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import results

HERE = Path(__file__).resolve().parent
ORACLES = ["linear", "mlp", "moe", "rows", "kv", "attend", "attention", "head", "sample", "exact"]
# Models that a worker of its own process serves; their golden.json has the prompt.
WORKERS = ["tiny-llama-bf16", "tiny-mixtral-bf16", "demo"]
# Models whose decode steps are replayed, with the tier of the kernels.
GRAPHS = [("tiny-llama", "sm90"), ("tiny-llama", "sm80"), ("tiny-mixtral", "sm80")]
SCRIPTS = ["run", "place.py", "checks.py", "measure.py", "cells.py", "results.py", "peers.py",
           "claims.tsv"]
# What the target has by itself: its C library is as old as its loader.
SYSTEM = re.compile(r"^(ld-linux.*|libc|libm|libpthread|libdl|librt)\.so")
BUNDLE_BYTES_MAX = 64 << 20
NVCC = ["nvcc", "/usr/local/cuda/bin/nvcc"]
OPEN_SECONDS = 60
KILL_SECONDS = 5


def find_program(*names: str) -> str:
    return next((found for found in map(shutil.which, names) if found), "")


def end(process: subprocess.Popen) -> None:
    """Ends a program that leads a session, and its children. One that a driver holds may outlive
    it: it is left after a while, since the call has to end in time."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        process.wait(KILL_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    for stream in filter(None, (process.stdin, process.stdout)):
        try:
            stream.close()
        except BrokenPipeError:
            pass


def output_of(command: list, seconds: float, environment: dict = None) -> tuple:
    """(exit code, what it printed); raises TimeoutExpired after `seconds`, without the program."""
    process = subprocess.Popen([str(word) for word in command], env=environment, text=True,
                               errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        end(process)
    return process.returncode, output


def words_of(command: list) -> str:
    """What a program printed; empty when it is not there or failed."""
    try:
        code, output = output_of(command, OPEN_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return output if code == 0 else ""


def driver() -> str:
    """The driver's version, by its tool or by the kernel, which needs no tool."""
    lines = words_of(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]).split()
    try:
        told = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        told = ""
    return (lines or re.findall(r"^NVRM.*?  (\d+\.[\d.]+) ", told, re.M) or ["unknown"])[0]


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
        folder = "bin" if self.is_bundle else "daemon" if kind == "daemon" else f"tests/{kind}"
        return self.base / folder / name

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
        try:
            code, output = output_of([program, "-b", backend], OPEN_SECONDS, self.environment())
        except subprocess.TimeoutExpired:
            return "", f"not open after {OPEN_SECONDS} s: the driver hangs, or is slow"
        found = re.match(r"card (.*)", output)
        if code == 0 and found:
            return found.group(1), ""
        words = output.strip().splitlines() or [f"bench_card ended with {code}"]
        return "", words[-1].removeprefix("bench_card: ")

    def facts(self, card: str) -> dict:
        return {"card": card, "driver": driver(), "toolkit": self.toolkit}

    def graphs(self) -> list:
        """(name, arguments of graphs_test but for the backend)"""
        return [(f"graphs-{model}-{tier}", [self.golden_data / model, tier, "60"])
                for model, tier in GRAPHS]

    def workers(self) -> list:
        """(name, model, prompt) for worker_run"""
        found = []
        for name in WORKERS:
            golden = self.golden_data / ("demo/plain" if name == "demo" else name)
            model = self.demo if name == "demo" else golden
            if model.exists():
                prompt = json.loads((golden / "golden.json").read_text())["prompt"]
                found.append((f"worker-{name}", [model, ",".join(map(str, prompt))]))
        return found

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


def built_check(place: Place, files: list) -> None:
    """Raises when `files` are not of the sources as they are, whose digest a result would carry."""
    if place.is_bundle:
        return
    targets = [os.path.relpath(path, place.base) for path in files if path.exists()]
    told = words_of(["ninja", "-C", place.base, "-n", *targets])
    if told and "no work to do" not in told:
        raise ValueError(f"{place.base}: built of other sources than these: ninja -C {place.base}")


def bundle(place: Place, target: Path) -> int:
    """Makes `target` anew; its size. Raises with what is missing, or what is too large."""
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target}: not empty")
    programs = [place.program("oracle", f"oracle_{name}") for name in ORACLES]
    programs += [place.program("golden", "golden_test"), place.program("golden", "graphs_test"),
                 place.program("gpu", "bench_card"), place.program("gpu", "worker_run"),
                 place.program("daemon", "galerne-worker")]
    modules = [place.modules / "galerne-cuda.so", place.modules / "galerne-cuda-host.so"]
    missing = [str(path) for path in programs + modules if not path.exists()]
    if missing:
        raise ValueError("not built: " + ", ".join(missing))
    built_check(place, programs + modules)
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
