#!/usr/bin/python3
"""Start to first token of the demo model, and resident memory of front and worker.

Starts galerned with the demo model, calls `galernectl generate` as soon as the socket is there
(retrying until the daemon serves), and takes the time from exec to the first byte of text. Seven
rounds, medians. Prints `measure NAME VALUE UNIT` lines.
"""
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("GALERNE_BUILD", os.path.join(ROOT, "build/release"))
DEMO = os.path.join(ROOT, "model/demo/galerne-demo")
ROUNDS = 7


def resident_mib(pid: int) -> float:
    """VmRSS less the shared memory and file pages that VmRSS counts too: RssAnon + RssFile."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmRSS"].split()[0]) / 1024


def one_round() -> dict:
    runtime = tempfile.mkdtemp(prefix="galerne-bench-")
    config = os.path.join(runtime, "galerne.yaml")
    with open(config, "w") as file:
        file.write(f"runtime_dir: {runtime}\nmodels:\n  - name: demo\n    path: {DEMO}\n")
    log = open(os.path.join(runtime, "log"), "w+")
    started = time.monotonic()
    daemon = subprocess.Popen([f"{BUILD}/daemon/galerned", "--config", config], stderr=log)
    try:
        while True:
            if time.monotonic() - started > 30 or daemon.poll() is not None:
                log.seek(0)
                sys.exit("start: the daemon did not serve:\n" + log.read())
            client = subprocess.run(
                [f"{BUILD}/admin/galernectl", "--socket", f"{runtime}/galerne.sock", "generate",
                 "--model", "demo", "--max-tokens", "1", "The capital of Portugal is"],
                capture_output=True, timeout=30)
            if client.returncode == 0 and client.stdout.strip():
                break
            time.sleep(0.002)
        first_token_s = time.monotonic() - started
        status = json.loads(subprocess.run(
            [f"{BUILD}/admin/galernectl", "--socket", f"{runtime}/admin.sock", "status", "-o",
             "json"], capture_output=True, timeout=30, check=True).stdout)
        text = json.dumps(status)
        worker = int(re.search(r'"worker_pid": ?"?(\d+)', text).group(1))
        weights = int(re.search(r'"weights_bytes": ?"?(\d+)', text).group(1))
        return {"first_token_s": first_token_s, "front_mib": resident_mib(daemon.pid),
                "worker_mib": resident_mib(worker), "weights_mib": weights / 2**20}
    finally:
        daemon.terminate()
        daemon.wait(timeout=40)
        log.close()
        shutil.rmtree(runtime, ignore_errors=True)


def main() -> None:
    rounds = [one_round() for _ in range(ROUNDS)]
    middle = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    over = middle["worker_mib"] - middle["weights_mib"]
    print(f"start to first token, demo: {middle['first_token_s']:.3f} s")
    print(f"resident: front {middle['front_mib']:.1f} MiB, worker {middle['worker_mib']:.1f} MiB, "
          f"of it weights {middle['weights_mib']:.1f} MiB")
    print(f"measure start_to_first_token {middle['first_token_s']:.4f} s")
    print(f"measure front_resident {middle['front_mib']:.2f} MiB")
    print(f"measure worker_over_weights {over:.2f} MiB")


if __name__ == "__main__":
    main()
