#!/usr/bin/python3
"""Runs bench_sim with the given arguments; --figures writes its table and plots to docs/figures.

The comparison goes to docs/figures/sim.md, the plots, plain SVG, beside it.
"""
import math
import os
import subprocess
import sys
import tempfile
from collections import defaultdict

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("GALERNE_BUILD", os.path.join(ROOT, "build/release"))
FIGURES = os.path.join(ROOT, "docs/figures")

POLICIES = {"fcfs": ("first come, first served", "#9a9a9a"), "vtc": ("VTC", "#d9822b"),
            "vtc_reserve": ("VTC, max_tokens reserved", "#7b5ea7"), "fair": ("Galerne", "#0b6e99")}
COMPARED = {"chat": "short chat beside long prompts", "bursts": "steady beside bursts",
            "flood": "one of eight floods"}
HOSTILE = {"calm": "nobody", "neighbour": "one more, always full", "long_prompts": "long prompts",
           "one_token": "one-token spam", "liars": "max_tokens liar",
           "surprises": "surprise lengths", "leavers": "cancel storm",
           "hoarder": "idle-credit hoarder", "thrash": "prefix thrash"}

Data = dict[tuple[str, str, str], float]  # (day, policy, what) -> value


class Svg:
    def __init__(self, width: int, height: int, title: str):
        self.width, self.height, self.parts = width, height, []
        self.text(width / 2, 22, title, "middle", 15)

    def text(self, x: float, y: float, words: str, anchor: str = "start", size: int = 12,
             more: str = "") -> None:
        words = words.replace("&", "&amp;").replace("<", "&lt;")
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" '
                          f'text-anchor="{anchor}" {more}>{words}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, color: str = "#ddd") -> None:
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
                          f'stroke="{color}"/>')

    def path(self, points: list[tuple[float, float]], color: str) -> None:
        words = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{words}" fill="none" stroke="{color}" '
                          'stroke-width="2.2" stroke-linejoin="round"/>')

    def box(self, x: float, y: float, width: float, height: float, color: str) -> None:
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
                          f'height="{height:.1f}" fill="{color}"/>')

    def legend(self, x: float, y: float, names: list[str]) -> None:
        for name in names:
            title, color = POLICIES[name]
            self.box(x, y - 10, 12, 12, color)
            self.text(x + 18, y, title)
            x += 40 + 6.4 * len(title)

    def write(self, name: str) -> None:
        with open(os.path.join(FIGURES, name), "w") as out:
            out.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} '
                      f'{self.height}" width="{self.width}" height="{self.height}" '
                      'font-family="sans-serif" fill="#222">\n'
                      f'<rect width="{self.width}" height="{self.height}" fill="white"/>\n')
            out.write("\n".join(self.parts) + "\n</svg>\n")


class LogScale:
    """From value to height; the lower edge is at `bottom`."""

    def __init__(self, low: float, high: float, bottom: float, height: float):
        self.low, self.high, self.bottom, self.height = low, high, bottom, height

    def __call__(self, value: float) -> float:
        part = math.log(min(max(value, self.low), self.high) / self.low)
        return self.bottom - self.height * part / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        first = math.ceil(math.log10(self.low))
        return [10.0 ** e for e in range(first, math.floor(math.log10(self.high)) + 1)]


def number(value: float) -> str:
    if value < 10:
        return f"{value:.2g}"
    if value < 10000:
        return f"{value:.0f}"
    return f"{value / 1e3:.3g}k" if value < 1e6 else f"{value / 1e6:.3g}M"


def grid(svg: Svg, scale: LogScale, left: float, width: float, unit: str) -> None:
    for tick in scale.ticks():
        svg.line(left, scale(tick), left + width, scale(tick))
        svg.text(left - 6, scale(tick) + 4, number(tick) + unit, "end", 11)


def first_tokens_draw(data: Data) -> None:
    """Quantiles, with the tail stretched: each nine has as much room as the one before."""
    svg = Svg(1080, 400, "time to the first token, all tenants but the heavy one")
    ticks = [(10, "1 %"), (500, "50 %"), (900, "90 %"), (990, "99 %"), (999, "99.9 %")]

    def across(permille: int) -> float:
        return -math.log10(1 - permille / 1000) / 3

    for i, (day, title) in enumerate(COMPARED.items()):
        left, width = 60 + i * 345, 290
        scale = LogScale(0.05, 1000, 340, 270)
        grid(svg, scale, left, width, " s" if i == 0 else "")
        svg.text(left + width / 2, 58, title, "middle", 13)
        for permille, words in ticks:
            x = left + width * across(permille)
            svg.line(x, 70, x, 340)
            svg.text(x, 356, words, "middle", 11)
        for policy, (_, color) in POLICIES.items():
            points = [(left + width * across(int(what)), scale(value))
                      for (d, p, what), value in sorted(data.items())
                      if d == day and p == policy and what.isdigit()]
            svg.path(sorted(points), color)
    svg.legend(170, 386, list(POLICIES))
    svg.write("first_tokens.svg")


def bars_draw(data: Data, days: dict, policies: list[str], what: str, name: str, title: str,
              scale_ends: tuple[float, float], unit: str) -> None:
    width = 110 + 190 * len(days) if len(days) < 5 else 110 + 110 * len(days)
    svg = Svg(width, 380, title)
    scale = LogScale(*scale_ends, 300, 240)
    room = (width - 110) / len(days)
    grid(svg, scale, 80, width - 110, unit)
    for i, (day, label) in enumerate(days.items()):
        bar = room * 0.8 / len(policies)
        for j, policy in enumerate(policies):
            if (day, policy, what) not in data:
                continue
            value = data[day, policy, what]
            x = 80 + room * (i + 0.1) + bar * j
            svg.box(x, scale(value), bar * 0.9, 300 - scale(value), POLICIES[policy][1])
            svg.text(x + bar * 0.45, scale(value) - 4, number(value), "middle", 10)
        words = label.split(" ")
        half = (len(words) + 1) // 2
        svg.text(80 + room * (i + 0.5), 318, " ".join(words[:half]), "middle", 11)
        svg.text(80 + room * (i + 0.5), 332, " ".join(words[half:]), "middle", 11)
    svg.legend(80, 366, policies)
    svg.write(name)


def figures_write(series: str, table: str) -> None:
    data: Data = defaultdict(float)
    with open(series) as rows:
        for row in rows:
            day, policy, what, value = row.split("\t")
            data[day, policy, what] = float(value)
    os.makedirs(FIGURES, exist_ok=True)
    first_tokens_draw(data)
    bars_draw(data, COMPARED, list(POLICIES), "gap", "gaps.svg",
              "worst service gap between two tenants that both have somebody in line",
              (1000, 2000000), "")
    bars_draw(data, HOSTILE, ["fcfs", "vtc", "fair"], "p99", "hostile.svg",
              "p99 of the first token of honest tenants, by who is beside them", (0.3, 1000), " s")
    with open(os.path.join(FIGURES, "sim.md"), "w") as out:
        out.write("# The scheduler in simulation\n\nWritten by `tests/bench/run sim --figures`; "
                  "[the scheduler](../scheduler.md) says what it means.\n\n"
                  "![first tokens](first_tokens.svg)\n![gaps](gaps.svg)\n"
                  "![hostile](hostile.svg)\n\n" + table)


def main() -> int:
    arguments = [a for a in sys.argv[1:] if a != "--figures"]
    program = os.path.join(BUILD, "tests/bench/bench_sim")
    with tempfile.NamedTemporaryFile(suffix=".tsv") as series:
        done = subprocess.run([program, "--series", series.name] + arguments, text=True,
                              stdout=subprocess.PIPE)
        print(done.stdout, end="")
        if "--figures" in sys.argv and done.returncode == 0:
            lines = [w for w in done.stdout.splitlines() if not w.startswith("measure ")]
            while lines and ("a second of CPU time" in lines[-1] or not lines[-1]):
                lines.pop()
            figures_write(series.name, "\n".join(lines) + "\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
