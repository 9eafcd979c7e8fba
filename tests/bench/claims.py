"""Claims and their verdicts: what claims.tsv says, beside what a bench measured.

A claim has one of two forms.

    SIGN LIMIT: `>= 92`
        of a figure that a bench prints as `measure NAME VALUE UNIT`
    x PEER:RATIO... [roof:PART]: `x llama:1.2 ik:1 roof:92`
        of a cell, `cell NAME UNIT ours=V llama=V ik=V roof=V`. Ours must reach RATIO times each
        named peer; `best:RATIO` is of the best of all that were measured. With roof:PART the claim
        is the lesser of that and PART % of the cell's roof, which is what the probes of the same
        run allow. Both are printed, and which one bound.
    < PEER:RATIO...
        the same of a cell where less is better (an error)

Only columns that the run measured count. A claim that lacks one of its peers can be short, or held
by the roof; else it was not run, whatever the other peers say.
"""
import operator
import re
from dataclasses import dataclass, field

COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass
class Cell:
    unit: str
    values: dict = field(default_factory=dict)  # ours, llama, ik, roof: those that were measured


@dataclass
class Results:
    measures: dict = field(default_factory=dict)  # name: value
    cells: dict = field(default_factory=dict)     # name: Cell
    peers: bool = False                           # whether any was named

    def read(self, line: str) -> bool:
        """Takes a `measure` or `cell` line; false: it is for people."""
        words = line.split()
        if words[:1] == ["measure"]:
            self.measures[words[1]] = float(words[2])
            return True
        if words[:1] == ["cell"]:
            pairs = (word.split("=") for word in words[3:])
            if words[1] in self.cells:
                raise ValueError(f"two cells are called {words[1]}")
            self.cells[words[1]] = Cell(words[2], {name: float(value) for name, value in pairs})
            return True
        return False


def rows_read(lines) -> list:
    """(bench, name, claim, unit, text) of each claim."""
    return [tuple(line.rstrip("\n").split("\t")) for line in lines if not line.startswith("#")]


def terms(claim: str) -> tuple:
    """(sign, {peer: ratio}, roof's part or None)"""
    sign, *words = claim.split()
    ratios = {}
    for word in words:
        if not re.fullmatch(r"\w+:[\d.]+", word):
            raise ValueError(f"claim \"{claim}\": \"{word}\" is not PEER:RATIO")
        name, ratio = word.split(":")
        ratios[name] = float(ratio)
    return sign, ratios, ratios.pop("roof", None)


def required_by_peers(sign: str, ratios: dict, values: dict) -> dict:
    """{what: value} that ours is compared with, of the peers that were measured."""
    peers = {n: v for n, v in values.items() if n not in ("ours", "roof")}
    best = max if sign == "x" else min
    found = {}
    for name, ratio in ratios.items():
        if name == "best" and peers:
            of = best(peers, key=peers.get)
            found[f"{ratio:g} x {of}"] = ratio * peers[of]
        elif name in peers:
            found[f"{ratio:g} x {name}"] = ratio * peers[name]
    return found


def judge_cell(claim: str, cell: Cell) -> tuple:
    """(verdict, words): verdict is held, short or not run."""
    sign, ratios, part = terms(claim)
    found = required_by_peers(sign, ratios, cell.values)
    if "ours" not in cell.values:
        return "not run", "ours was not measured"
    if not found:
        return "not run", "none of its peers was measured"
    ours = cell.values["ours"]
    strictest = max if sign == "x" else min
    what = strictest(found, key=found.get)
    limit, bound = found[what], what
    words = ", ".join(f"{name} = {value:.4g}" for name, value in found.items())
    if sign == "x" and part is not None and "roof" in cell.values:
        roof = cell.values["roof"] * part / 100
        words += f", {part:g} % of the roof = {roof:.4g}"
        if roof < limit:
            limit, bound = roof, "the roof"
    held = ours >= limit if sign == "x" else ours <= limit
    missing = [n for n in ratios if n != "best" and n not in cell.values]
    if missing:
        words += "; not measured: " + " ".join(missing)
    verdict = "short" if not held else "not run" if missing and bound != "the roof" else "held"
    return (verdict,
            f"{ours:.4g} {cell.unit}, required {limit:.4g} by {bound} ({words})")


def compares(row: tuple) -> bool:
    """Whether it is of a cell, which has peers."""
    return ":" in row[2]


def judge(row: tuple, results: Results) -> tuple:
    """(verdict, words) of one claim."""
    _, name, claim, unit, _ = row
    if compares(row):
        if not results.peers:
            return "not run", "no peer named"
        if name not in results.cells:
            return "not run", "the bench gave no such cell"
        return judge_cell(claim, results.cells[name])
    sign, limit = claim.split()
    if name not in results.measures:
        return "not run", "the bench gave no such measure"
    held = COMPARE[sign](results.measures[name], float(limit))
    words = f"claimed {claim} {unit}, measured {results.measures[name]:g}"
    return ("held" if held else "short"), words
