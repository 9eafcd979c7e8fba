"""Checks that pass or fail on a card: ops beside ref, golden models, the sanitizer of the toolkit.

A check is {"status", "words"}: passed, failed, or not run, which is never passed. A program that
the clock of the whole call cut short is not run either.
"""
import re
import subprocess
import time

import place as places

CHECK_SECONDS = 240
TIERS = ["sm80", "sm90", "plain"]
# Programs and tests that the sanitizer ends in seconds.
SANITIZED = [("linear", "*types*"), ("mlp", "*types*"), ("moe", "*ties*"), ("rows", "*"),
             ("attend", "*decode*"), ("attend", "*windows*"), ("sample", "*ties*")]
SANITIZERS = ["memcheck", "racecheck", "initcheck", "synccheck"]
# Of these tools also with the kernels of 9.0 alone, whose bulk copies racecheck does not follow.
SANITIZERS_90 = ["memcheck", "synccheck"]
# One of each kind on an emulated card, where everything takes a thousand times as long.
DRY = {"oracle": ["rows-sm80", "linear-plain"],
       "golden": ["tiny-llama-q4_0", "worker-tiny-llama-bf16"]}
DRY_FILTER = {"linear": "*types*"}


class Clock:
    def __init__(self, minutes: float):
        self.end = time.monotonic() + 60 * minutes

    def left(self) -> float:
        return self.end - time.monotonic()


def not_run(words: str) -> dict:
    return {"status": "not run", "words": words}


def verdict(code: int, output: str) -> dict:
    """Of a program of tests: what its own lines say, and its exit code."""
    passed = len(re.findall(r"^\[       OK \]", output, re.M))
    skipped = re.findall(r"^skipped: (.*)$", output, re.M)
    if code == 0 and passed:
        more = f", {len(skipped)} skipped" if skipped else ""
        return {"status": "passed", "words": f"{passed} tests{more}"}
    if code == 0:
        return not_run(skipped[0] if skipped else "the program ran no test")
    words = [line for line in output.splitlines()
             if line.strip() and not re.match(r"^\[( RUN|=|  PASSED|       OK)", line)]
    return {"status": "failed", "words": " / ".join(words[:6])[:600] or f"exit code {code}"}


def run_program(command: list, environment: dict, clock: Clock) -> dict:
    """Runs one program of tests within what is left of the clock."""
    limit = min(CHECK_SECONDS, clock.left())
    if limit <= 1:
        return not_run("no time left")
    try:
        code, output = places.output_of(command, limit, environment)
    except subprocess.TimeoutExpired:
        if limit < CHECK_SECONDS:
            return not_run("no time left")
        return {"status": "failed", "words": f"did not end within {CHECK_SECONDS} s"}
    except OSError as error:
        return not_run(str(error))
    return verdict(code, output)


def oracle_names() -> list:
    return [f"{name}-{tier}" for tier in TIERS for name in places.ORACLES]


def oracle_run(place, name: str, asked, clock: Clock) -> dict:
    program, tier = name.rsplit("-", 1)
    more = {"GALERNE_ORACLE_BACKEND": asked.backend, "GALERNE_ORACLE_TIER": tier,
            "GALERNE_ORACLE_SEED": str(asked.seed)}
    if asked.dry:
        more["GALERNE_ORACLE_FILTER"] = DRY_FILTER.get(program, "*")
    check = run_program([place.program("oracle", f"oracle_{program}")], place.environment(**more),
                        clock)
    return {**check, "seed": asked.seed}


def golden_names(place) -> list:
    return [name for name, _ in place.golden() + place.graphs() + place.workers()]


def golden_run(place, name: str, asked, clock: Clock) -> dict:
    graphs, workers = dict(place.graphs()), dict(place.workers())
    if name in workers:
        command = [place.program("gpu", "worker_run"), place.program("daemon", "galerne-worker"),
                   asked.backend, "", *workers[name]]
    elif name in graphs:
        folder, tier, steps = graphs[name]
        command = [place.program("golden", "graphs_test"), folder, asked.backend, tier, steps]
    else:
        command = [place.program("golden", "golden_test"), *dict(place.golden())[name]]
    return run_program(command, place.environment(GALERNE_ORACLE_BACKEND=asked.backend), clock)


def sanitize_names() -> list:
    return [f"{tool}-{program}-{word.strip('*') or 'all'}-{tier}" for tool in SANITIZERS
            for program, word in SANITIZED
            for tier in (["sm80", "sm90"] if tool in SANITIZERS_90 else ["sm80"])]


def sanitize_run(place, name: str, asked, clock: Clock) -> dict:
    sanitizer = places.find_program("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")
    if not sanitizer:
        return not_run("no compute-sanitizer in PATH or /usr/local/cuda/bin")
    if asked.dry:
        return not_run("an emulated card has no kernels for compute-sanitizer")
    tool, program, word, tier = name.split("-")
    filters = {f"{p}-{w.strip('*') or 'all'}": w for p, w in SANITIZED}
    return run_program(
        [sanitizer, "--tool", tool, "--error-exitcode", "9",
         place.program("oracle", f"oracle_{program}")],
        place.environment(GALERNE_ORACLE_BACKEND=asked.backend, GALERNE_ORACLE_TIER=tier,
                          GALERNE_ORACLE_FILTER=filters[f"{program}-{word}"]), clock)
