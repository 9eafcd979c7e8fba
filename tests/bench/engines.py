"""Whole models beside other engines, taking turns: prompts of 512 tokens, and 1 to 32 sequences.

Ours is bench_decode; a peer is measured by its own llama-bench (prompt) and llama-batched-bench
(sequences), in its build folder. The order in a model is ours, each peer, ours again, so that a
change of the machine's mood shows on both sides of a peer; probes run inside of ours, before each
of its rounds. All samples of a cell make one median. Keys and values have 16 bits on both sides. A
call that does not end in time is killed, and what it had printed counts.

What a mixture does depends on its tokens. One peer's program gives each sequence random tokens, the
other one gives all of them the same, so that a step of it needs no more experts than one sequence:
ours is measured in both ways, and each peer stands beside the one that is its own.

On a busy machine spinning barriers collapse and figures of two threads say nothing. With --own-time
(and one thread, whose own time bench_decode measures) a peer's figures are divided by the part of
the wall's time that its process had the core.
"""
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import models

HERE = os.path.dirname(os.path.abspath(__file__))
BATCHES = (1, 4, 16, 32)
START_TOKENS, STEP_COUNT = 64, 8  # of a peer's sequences; bench_decode begins with as many
QUICK = ["d-q4_1", "a-q4_0", "b-q8_0"]
FULL = ["d-q4_1", "a-q8_0", "a-q4_0", "a-bf16", "b-q8_0", "b-q4_0", "b-bf16"]


def called(command: list, limit_s: float) -> tuple:
    """(what it printed, to its end or to its time's; the part of the time that it had a core)"""
    def children_s() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    name, output = os.path.basename(command[0]), ""
    own_s, start_s = children_s(), time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:  # where a peer leaves its log
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  text=True, errors="replace", timeout=limit_s, cwd=folder)
        output = done.stdout + done.stderr  # one of the peers prints its table on standard error
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or [""]
            print(f"  {name}: exit code {done.returncode}: {last[0][:160]}", flush=True)
    except subprocess.TimeoutExpired as late:
        print(f"  {name}: stopped after {limit_s:g} s", flush=True)
        output = ((late.stdout or b"") + (late.stderr or b"")).decode(errors="replace")
    return output, (children_s() - own_s) / (time.monotonic() - start_s)


def samples_of_ours(output: str) -> dict:
    """{prompt_512, batch_N: [(tokens/s, of the roof)]}"""
    found = {}
    for line in output.splitlines():
        words = line.split()
        if words[:1] == ["samples"]:
            found[words[1]] = [tuple(map(float, word.split(":"))) for word in words[2:]]
    return found


def prompt_samples(output: str) -> dict:
    """{prompt_512: [tokens/s of each repetition]}, of the list that llama-bench prints first."""
    try:
        runs, _ = json.JSONDecoder().raw_decode(output[output.index("["):])
        rates = [float(value) for run in runs for value in run["samples_ts"]]
    except (ValueError, KeyError, TypeError):
        rates = []
    return {"prompt_512": rates} if rates else {}


def batch_samples(output: str, ending: str = "") -> dict:
    """{batch_N: [tokens/s]} of a table whose columns are PP TG B N_KV T_PP S_PP T_TG S_TG T S; the
    ending is of more sequences than one."""
    found: dict = {}
    for line in output.splitlines():
        words = [word.strip() for word in line.strip().strip("|").split("|")]
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            continue
        if len(numbers) == 10:
            name = f"batch_{int(numbers[2])}" + (ending if numbers[2] > 1 else "")
            found.setdefault(name, []).append(numbers[7])
    return found


class Peer:
    """Another engine's programs, with the settings that it is best with."""

    def __init__(self, folder: str):
        self.bench = os.path.join(folder, "bin/llama-bench")
        self.batched = os.path.join(folder, "bin/llama-batched-bench")
        usage = called_quietly([self.bench, "--help"])
        # The one that lays weights out anew only when told to, and has fused mixtures.
        self.repacks = "run-time-repack" in usage
        self.is_alike = self.repacks  # the same one; its sequences all have the same tokens

    def missing(self) -> str:
        return next((p for p in (self.bench, self.batched) if not os.access(p, os.X_OK)), "")

    def prompt(self, path: str, threads: int, repeats: int) -> list:
        command = [self.bench, "-m", path, "-p", "512", "-n", "0", "-t", str(threads), "-fa", "1",
                   "-r", str(repeats), "-o", "json"]
        # No run to warm up: it would cost as much as a sample, of which the median is taken.
        return command + (["-w", "0", "-rtr", "1", "-fmoe", "1", "-muge", "1"] if self.repacks
                          else ["--no-warmup"])

    def batch(self, path: str, threads: int, repeats: int) -> list:
        times = [str(n) for n in BATCHES for _ in range(repeats)]
        command = [self.batched, "-m", path, "-c", "8192", "-b", "2048", "-ub", "512",
                   "-npp", str(START_TOKENS), "-ntg", str(STEP_COUNT), "-npl", ",".join(times),
                   "-pps", "-t", str(threads), "-tb", str(threads), "-fa", "on"]
        return command + (["-rtr", "-muge"] if self.repacks else [])


def called_quietly(command: list) -> str:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


class Measured:
    """Samples of one model: {what: {column: [values]}}."""

    def __init__(self):
        self.samples: dict = {}

    def add(self, column: str, found: dict) -> None:
        for what, values in found.items():
            self.samples.setdefault(what, {}).setdefault(column, []).extend(values)

    def add_ours(self, found: dict) -> None:
        self.add("ours", {what: [rate for rate, _ in pairs] for what, pairs in found.items()})
        self.add("roof", {what: [roof for _, roof in pairs] for what, pairs in found.items()})

    def report(self, name: str) -> None:
        for what, columns in self.samples.items():
            middle = {column: statistics.median(values) for column, values in columns.items()}
            words = [f"{column} {value:8.1f} ({min(all_of):.1f}-{max(all_of):.1f})"
                     for (column, value), all_of in zip(middle.items(), columns.values())
                     if column != "roof"]
            peers = [value for column, value in middle.items() if column not in ("ours", "roof")]
            if "ours" in middle and peers:
                words.append(f"ours / best peer {middle['ours'] / max(peers):.2f}")
            if "ours" in middle:
                words.append(f"{100 * middle['ours'] / middle['roof']:.0f} % of the roof")
            print(f"  {name:7} {what:14} " + "   ".join(words), flush=True)
            print(f"cell {name}_{what} tokens/s " +
                  " ".join(f"{column}={value:.6g}" for column, value in middle.items()), flush=True)


def model_measure(name: str, path: str, program: str, peers: dict, options) -> None:
    measured = Measured()
    wanted = {"decode": ["batch"], "prefill": ["prompt"]}.get(options.bench, ["prompt", "batch"])
    repeats = 3 if options.quick else 5
    part = ["-p", wanted[0]] if len(wanted) == 1 else []
    ours = [program, "-k", "bf16", "-r", "3", *part, path, str(options.threads), name]

    def ours_once():
        measured.add_ours(samples_of_ours(called(ours, options.limit)[0]))

    def peer_once(column: str, command: list, read):
        output, part = called(command, options.limit)
        found = read(output)
        if options.own_time:
            found = {what: [rate / part for rate in rates] for what, rates in found.items()}
        measured.add(column, found)

    ours_once()
    for column, peer in peers.items():
        if "prompt" in wanted:
            peer_once(column, peer.prompt(path, options.threads, repeats), prompt_samples)
        if "batch" in wanted:
            ending = "_alike" if peer.is_alike and models.is_mixture(name) else ""
            peer_once(column, peer.batch(path, options.threads, repeats),
                      lambda output, ending=ending: batch_samples(output, ending))
        ours_once()
    measured.report(name)


def path_of(name: str, options) -> str:
    """The model's file, made if it is one of ours; empty, the reason said, when there is none."""
    if name.startswith("d-"):
        if not options.smollm2:
            print(f"  {name}: not run: it is not here; packaging/fetch-model smollm2 gets it")
        return options.smollm2
    command = [sys.executable, os.path.join(HERE, "models.py"), "--folder", options.cache, name]
    command += ["--python", options.python] if options.python else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(f"  {name}: not run: models.py could not write it")
        return ""
    return done.stdout.strip()


def compare(program: str, folders: dict, options) -> None:
    peers = {}
    for column, folder in folders.items():
        peer = Peer(folder)
        if peer.missing():
            print(f"  {column}: not run: {peer.missing()} is not there")
        else:
            peers[column] = peer
    names = options.only or (QUICK if options.quick else FULL)
    print(f"whole models, {options.threads} threads, K and V of 16 bits:")
    for name in names:
        path = path_of(name, options)
        if path:
            model_measure(name, path, program, peers, options)


def known(name: str) -> bool:
    try:
        return name.startswith("d-") or bool(models.split(name))
    except ValueError:
        return False
