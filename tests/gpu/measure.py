"""The bench: cells one by one, ours / peers / ours, beside the card's own copies and products.

bench_card and peers.py each stay alive and answer a cell a line. The yardsticks come first: B,
bytes a second that a copy reads and writes; F, flops a second of the largest product, torch's where
that is faster. The floor of a cell is the larger of bytes/B and flops/F; % is of that floor.
"""
import fnmatch
import re
import selectors
import subprocess
import sys
import tempfile

import place as places
from checks import Clock, not_run

sys.path.insert(1, str(places.HERE.parent / "bench"))
import claims  # noqa: E402

CELL_SECONDS = 150
ATTEND_BYTES_MIN = 512 << 20  # of keys and values, for a claim on bandwidth


class Asked:
    """A program that answers lines; begun again after it ended."""

    def __init__(self, command: list, environment: dict):
        self.command, self.environment, self.process = command, environment, None
        self.told = tempfile.TemporaryFile()  # its warnings, of which there may be many
        self.words = ""  # of its first line

    def start(self, limit: float) -> None:
        self.told.seek(0)
        self.told.truncate()
        self.process = subprocess.Popen([str(word) for word in self.command],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.told, env=self.environment,
                                        start_new_session=True)
        self.words = self.line(limit)

    def line(self, limit: float) -> str:
        """Its next line. Raises TimeoutError, or EOFError with its last words."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(max(limit, 0)):
                self.stop()
                raise TimeoutError(f"no answer within {limit:.0f} s")
        line = self.process.stdout.readline().decode(errors="replace")
        if line:
            return line.rstrip("\n")
        self.stop()
        self.told.seek(0)
        words = self.told.read().decode(errors="replace").strip().splitlines()
        raise EOFError(words[-1] if words else "the program ended without a word")

    def answer(self, line: str, limit: float) -> str:
        if self.process is None:
            self.start(limit)
        self.process.stdin.write((line + "\n").encode())
        self.process.stdin.flush()
        return self.line(limit)

    def stop(self) -> None:
        if self.process:
            places.end(self.process)
            self.process = None


def pairs(line: str) -> dict:
    return {key: float(value) for key, value in re.findall(r"(\w+)=(\S+)", line)}


def measured_mean(first: dict, second: dict) -> dict:
    return {**first, "seconds": (first["seconds"] + second["seconds"]) / 2}


class Bench:
    def __init__(self, place, asked, clock: Clock):
        self.asked, self.clock = asked, clock
        self.ours = Asked([place.program("gpu", "bench_card"), "-b", asked.backend, "-s",
                           asked.seed], place.environment())
        self.peers = Asked([sys.executable, places.HERE / "peers.py"], place.environment())
        self.peers_absent = "an emulated card has no peers" if asked.dry else ""
        self.bandwidth, self.rate, self.rate_of, self.launch = 0.0, 0.0, "", 0.0

    def limit(self) -> float:
        return min(CELL_SECONDS, self.clock.left())

    def ask(self, cell) -> dict:
        """One answer of ours; raises ValueError where the backend lacks it."""
        line = self.ours.answer(cell.line(self.asked.dry), self.limit())
        if line.startswith("absent "):
            raise ValueError(line.split(" ", 2)[2])
        return pairs(line)

    def ask_peers(self, cell) -> dict:
        """{peer: seconds or why it was not run}"""
        if not cell.peers:
            return {}
        try:
            if not self.peers_absent and self.peers.process is None:
                self.peers.start(self.limit())
                if self.peers.words != "ready":
                    self.peers_absent = self.peers.words.removeprefix("absent ")
            if self.peers_absent:
                return {name: self.peers_absent for name in cell.peers}
            line = self.peers.answer(f"{cell.line(False)} peers={','.join(cell.peers)}",
                                     self.limit())
        except (EOFError, TimeoutError, BrokenPipeError) as error:
            self.peers.stop()
            return {name: str(error) for name in cell.peers}
        found: dict = pairs(line)
        found.update(re.findall(r"(\w+)!([^!]*)!", line))
        return {name: found.get(name, "no answer") for name in cell.peers}

    def yardstick(self, cell, measured: dict, peers: dict) -> None:
        if cell.name == "copy":
            self.bandwidth = measured["bytes"] / measured["seconds"]
        if cell.name == "launch":
            self.launch = measured["seconds"]
        if cell.name == "rate":
            seconds = {"ours": measured["seconds"],
                       **{k: v for k, v in peers.items() if isinstance(v, float)}}
            self.rate_of = min(seconds, key=seconds.get)
            self.rate = measured["flops"] / seconds[self.rate_of]

    def run(self, cell) -> dict:
        """Checks by name: the cell's own, and one for each claim on it."""
        if self.clock.left() <= 1:
            return {cell.name: not_run("no time left")}
        try:
            first = self.ask(cell)
            peers = self.ask_peers(cell)
            measured = measured_mean(first, self.ask(cell)) if peers else first
        except ValueError as error:
            return {cell.name: not_run(str(error))}
        except TimeoutError as error:
            if self.clock.left() <= 1:
                return {cell.name: not_run("no time left")}
            return {cell.name: {"status": "failed", "words": str(error)}}
        except (EOFError, BrokenPipeError) as error:
            self.ours.stop()
            return {cell.name: {"status": "failed", "words": str(error)}}
        self.yardstick(cell, measured, peers)
        return judge(cell, measured, peers, self)

    def close(self) -> None:
        self.ours.stop()
        self.peers.stop()


def share(cell, measured: dict, bench) -> float:
    """% of the floor; of `gaps`, what is lost. 0: there is no yardstick."""
    if cell.kind == "gaps":
        return 100 * (1 - measured["alone"] / measured["seconds"])
    if not bench.bandwidth:
        return 0
    floor = max(measured["bytes"] / bench.bandwidth,
                measured["flops"] / bench.rate if bench.rate else 0)
    return 100 * floor / measured["seconds"]


def figure(cell, measured: dict, bench) -> float:
    seconds = measured["seconds"]
    return {"us": 1e6 * seconds, "GB/s": measured["bytes"] / seconds / 1e9,
            "TFLOP/s": measured["flops"] / seconds / 1e12,
            "%": share(cell, measured, bench)}[cell.unit]


def judge_claim(cell, claim: str, measured: dict, peers: dict, bench) -> dict:
    sign, *words = claim.split()
    if sign != "x":
        if cell.group == "attend" and measured["bytes"] < ATTEND_BYTES_MIN:
            return {}
        value = share(cell, measured, bench)
        if cell.kind != "gaps" and not bench.bandwidth:
            return not_run("the copy that is the yardstick was not run")
        held = claims.COMPARE[sign](value, float(words[0]))
        return {"status": "held" if held else "short", "value": value,
                "words": f"{value:.1f} %, claimed {claim} %"}
    name, ratio = words[0].split(":")
    timed = {k: v for k, v in peers.items() if isinstance(v, float) and name in (k, "best")}
    if not timed:
        why = "; ".join(f"{k}: {v}" for k, v in peers.items()) or "no such peer"
        return not_run(why)
    best = min(timed, key=timed.get)
    value = timed[best] / measured["seconds"]
    return {"status": "held" if value >= float(ratio) else "short", "value": value,
            "words": f"{value:.2f} x {best}, claimed {ratio} x"}


def judge(cell, measured: dict, peers: dict, bench) -> dict:
    words = f"{figure(cell, measured, bench):.4g} {cell.unit}, {1e6 * measured['seconds']:.1f} us"
    if cell.kind == "step" and measured["distinct"]:
        words += f"; {measured['distinct']:.0f} layers have weights of their own"
    if cell.name == "rate":
        words += f"; the yardstick is {bench.rate_of}"
    if cell.group == "attend" and measured["bytes"] < ATTEND_BYTES_MIN and bench.launch:
        words += f", {1e6 * (measured['seconds'] - bench.launch):.1f} us over a launch"
    own = {"status": "measured", "words": words, **measured,
           "peers": {k: v for k, v in peers.items()}}
    if bench.asked.dry:
        own["words"] = "went through on an emulated card, whose times mean nothing"
        return {cell.name: own}
    found = {cell.name: own}
    for group, pattern, claim, _, _ in CLAIMS:
        if group == cell.group and fnmatch.fnmatch(cell.name, pattern):
            judged = judge_claim(cell, claim, measured, peers, bench)
            if judged:
                found[f"{cell.name} {claim}"] = judged
    return found


def claims_read() -> list:
    with open(places.HERE / "claims.tsv") as lines:
        return claims.rows_read(lines)


CLAIMS = claims_read()
