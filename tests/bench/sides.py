"""Products, mixtures and attention of our CPU backend beside other engines, taking turns.

Each side is a process (bench_side) that loads the same random weights and then does as it is told.
A cell is measured in rounds: the probes, ours, each peer; the probes, ours again, each peer again,
and so on, and the probes once more. Medians over the rounds. Few rows are timed by the clock on the
wall, many by the own time of the busiest thread.
"""
import os
import re
import select
import statistics
import subprocess
from dataclasses import dataclass

ANSWER_S = 180  # a side that is silent for so long is given up
WALL_ROWS = 8   # up to so many rows: by the wall


class SideLost(Exception):
    """The side ended, or did not answer in time."""


class Side:
    def __init__(self, program: str, name: str, where: str, threads: int):
        self.command, self.name, self.process = [program, where, str(threads)], name, None
        self.title = self.open()

    def open(self) -> str:
        environment = dict(os.environ, OMP_NUM_THREADS=self.command[2])
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, env=environment)
        # What a peer prints must not fill the pipe; only the end of it matters.
        os.set_blocking(self.process.stderr.fileno(), False)
        self.words = b""
        return self.answer()

    def stderr_drain(self) -> None:
        while data := self.process.stderr.read(65536):
            self.words = (self.words + data)[-2000:]

    def answer(self) -> str:
        """The rest of the next line that begins with ok; a peer's library may print others."""
        text = b""
        while not (found := re.search(rb"^ok ?(.*)\n", text, re.M)):
            streams = [self.process.stdout, self.process.stderr]
            ready, _, _ = select.select(streams, [], [], ANSWER_S)
            self.stderr_drain()
            if not ready:
                self.lost(f"gave no answer in {ANSWER_S} s")
            if self.process.stdout in ready:
                data = os.read(self.process.stdout.fileno(), 4096)
                text += data
                if not data:
                    self.lost("ended")
        return found[1].decode(errors="replace").strip()

    def lost(self, how: str):
        self.close()
        last = self.words.decode(errors="replace").strip().splitlines()[-1:]
        raise SideLost(f"{self.name} {how}" + (f": {last[0]}" if last else ""))

    def tell(self, line: str) -> str:
        if self.process is None:
            self.open()
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.lost("ended")
        return self.answer()

    def close(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


@dataclass(frozen=True)
class Work:
    """What is loaded, and how its figures follow from a time."""
    name: str         # of its cells: NAME_N_rows
    load: str
    rows: tuple
    unit: str         # Gop/s, or GB/s of what is loaded
    ops: float        # of one row
    arithmetic: str   # its probe
    bytes_read: callable = None  # (megabytes loaded, rows) -> bytes of a run

    def figure(self, n_rows: int, read_bytes: float, seconds: float) -> float:
        return (read_bytes if self.unit == "GB/s" else self.ops * n_rows) / seconds / 1e9

    def roof(self, n_rows: int, read_bytes: float, read: float, arithmetic: float) -> float:
        seconds = max(read_bytes / 1e9 / read, self.ops * n_rows / 1e9 / arithmetic)
        return self.figure(n_rows, read_bytes, seconds)


def arithmetic_of(kind: str) -> str:
    """The probe of the widest instructions for a type."""
    return "bf16" if kind == "bf16" else "int8"


def product(kind: str, rows: tuple, size: tuple = (4096, 28672)) -> Work:
    columns, outputs = size
    return Work(kind, f"product {kind} {columns} {outputs}", rows, "Gop/s",
                2.0 * columns * outputs, arithmetic_of(kind),
                lambda megabytes, n_rows: megabytes * 1e6)


def moe(kind: str, rows: tuple, hidden: int = 2048, ffn: int = 7168) -> Work:
    def bytes_read(megabytes: float, n_rows: int) -> float:
        return megabytes * 1e6 * (1 - 0.75 ** n_rows)  # of 8 experts, two a row

    return Work(f"moe_{kind}", f"moe {kind} {hidden} {ffn} 8 2", rows, "Gop/s",
                2.0 * 2 * 3 * hidden * ffn, arithmetic_of(kind), bytes_read)


def attention_decode(kind: str, context: int) -> Work:
    layers = max(1, 32768 // context)  # 134 MB of K and V in 16 bits, more than a cache holds
    return Work(f"decode_{kind}_{context}", f"attention {kind} 32 8 128 {context} {layers}", (1,),
                "GB/s", 4.0 * 32 * 128 * context * layers, arithmetic_of(kind),
                lambda megabytes, n_rows: megabytes * 1e6)


def attention_prefill(kind: str, context: int, chunk: int = 512) -> Work:
    """The last `chunk` rows of a context."""
    pairs = context - (chunk - 1) / 2
    return Work(f"prefill_{kind}_{context}", f"attention {kind} 32 8 128 {context} 1", (chunk,),
                "Gop/s", 4.0 * 32 * 128 * pairs, arithmetic_of(kind), lambda megabytes, n_rows: 0.0)


class Comparison:
    """Runs works on all sides and prints their cells."""

    def __init__(self, program: str, peers: dict, threads: int, rounds: int, own_time: bool):
        self.rounds, self.own_time = rounds, own_time
        self.sides = {}
        for name, where in {"ours": "ours", **peers}.items():
            try:
                self.sides[name] = Side(program, name, where, threads)
                print(f"  {name}: {self.sides[name].title}", flush=True)
            except SideLost as lost:
                print(f"  {name}: not run: {lost}", flush=True)

    def close(self) -> None:
        for side in self.sides.values():
            side.close()

    def each(self, names: list, line: str) -> dict:
        """Answers of those sides that gave one; a side that did not is taken off `names`."""
        answers = {}
        for name in list(names):
            try:
                answers[name] = self.sides[name].tell(line)
            except SideLost as lost:
                print(f"  {name}: not run: {lost}", flush=True)
                names.remove(name)
        return answers

    def probe(self, kind: str) -> float:
        return float(self.sides["ours"].tell(f"probe {kind}"))

    def run(self, work: Work, seconds: float) -> None:
        names = list(self.sides)
        loaded = self.each(names, work.load)
        if "ours" not in names:
            return
        megabytes = float(next(iter(loaded.values())))
        for n_rows in work.rows:
            self.run_rows(work, n_rows, list(names), megabytes, seconds)

    def run_rows(self, work: Work, n_rows: int, names: list, megabytes: float,
                 seconds: float) -> None:
        errors = self.each(names, f"rows {n_rows}")
        times = {name: [] for name in names}
        reads, arithmetic = [], []
        own = self.own_time or n_rows > WALL_ROWS
        for _ in range(self.rounds):
            if "ours" not in names:
                return
            reads.append(self.probe("read"))
            arithmetic.append(self.probe(work.arithmetic))
            for name, answer in self.each(names, f"run {seconds}").items():
                times[name].append(float(answer.split()[1 if own else 0]))
        reads.append(self.probe("read"))
        arithmetic.append(self.probe(work.arithmetic))
        read_bytes = work.bytes_read(megabytes, n_rows)
        values = {name: work.figure(n_rows, read_bytes, statistics.median(times[name]))
                  for name in names}
        # In its own time a thread can read faster than the probe, which others delayed.
        read = float("inf") if self.own_time else statistics.median(reads)
        values["roof"] = work.roof(n_rows, read_bytes, read, statistics.median(arithmetic))
        self.report(work, n_rows, values, errors, "own" if own else "wall")

    @staticmethod
    def report(work: Work, n_rows: int, values: dict, errors: dict, clock: str) -> None:
        words = [f"{work.name:18} {n_rows:4} rows {work.unit:5} {clock:4}"]
        words += [f"{name} {value:7.1f}" for name, value in values.items()]
        best = max((v for n, v in values.items() if n not in ("ours", "roof")), default=0)
        if best and "ours" in values:
            words.append(f"ours / best peer {values['ours'] / best:.2f}")
        words.append("error " + " ".join(f"{n} {float(e):.2g}" for n, e in errors.items()))
        print("  " + "   ".join(words), flush=True)
        cell = f"{work.name}_{n_rows}_rows"
        print(f"cell {cell} {work.unit} " + " ".join(f"{n}={v:.6g}" for n, v in values.items()))
        pairs = " ".join(f"{n}={float(e):.4g}" for n, e in errors.items())
        print(f"cell {cell}_error rms {pairs}", flush=True)


def works(bench: str, quick: bool) -> list:
    """[(work, seconds of a side's turn)]"""
    if bench == "gemm":
        kinds = ("q8_0", "q4_0", "bf16")
        rows = (1, 2, 4, 8, 192) if quick else (1, 2, 4, 8, 192, 512)
        return [(product(kind, rows), 0.05) for kind in kinds]
    if bench == "moe":
        kinds = ("q8_0", "q4_0") if quick else ("q8_0", "q4_0", "bf16")
        return [(moe(kind, (24, 192)), 0.05) for kind in kinds]
    contexts = (1024, 4096) if quick else (1024, 4096, 16384)
    kinds = ("bf16",) if quick else ("bf16", "q8_0")
    return ([(attention_decode(kind, c), 0.05) for kind in kinds for c in contexts] +
            [(attention_prefill(kind, c), 0.05) for kind in kinds for c in contexts])


def compare(bench: str, program: str, peers: dict, options) -> None:
    print(f"{bench}, {options.threads} threads:")
    comparison = Comparison(program, peers, options.threads, 3 if options.quick else 5,
                            options.own_time)
    try:
        for work, seconds in works(bench, options.quick):
            if options.only and not any(word in work.name for word in options.only):
                continue
            comparison.run(work, seconds)
    finally:
        comparison.close()
