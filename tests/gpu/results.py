"""Results of a card: one JSON file for each card, merged from call to call.

    {"digest", "card", "driver", "toolkit", "date", "checks": {SECTION: {NAME: CHECK}}}

A section is a subcommand of tests/gpu/run. A check is {"status", "words", ...}: passed, failed,
held, short, measured (a figure without a claim) or not run. `digest` is of the sources of the
kernels: a result of other sources is no result, so a file of another digest is begun anew. What
was not run replaces nothing that was.
"""
import datetime
import hashlib
import json
import os
import re
from pathlib import Path

SECTIONS = ["oracle", "golden", "sanitize", "bench"]
SOURCES = ["kernels/*.[ch]", "kernels/cuda/*", "model/forward.[ch]"]
BAD, UNKNOWN = ("failed", "short"), "not run"


def sources(root: Path) -> list:
    return sorted({path for pattern in SOURCES for path in Path(root).glob(pattern)
                   if path.is_file() and path.suffix not in (".pyc", ".orig", ".rej")})


def digest(root: Path) -> str:
    """SHA-256 over the kernels' sources, names and contents."""
    found = hashlib.sha256()
    for path in sources(root):
        data = path.read_bytes()
        found.update(f"{path.relative_to(root)} {len(data)}\n".encode() + data)
    return found.hexdigest()


def empty(digest_now: str, facts: dict) -> dict:
    return {"digest": digest_now, **facts, "checks": {name: {} for name in SECTIONS}}


def file_name(facts: dict) -> str:
    return re.sub(r"[^a-z0-9]+", "-", facts.get("card", "unknown").lower()).strip("-") + ".json"


def read(path: Path) -> dict:
    with open(path) as file:
        try:
            found = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path}: no JSON ({error}): move it away") from None
    if not (isinstance(found, dict) and isinstance(found.get("digest"), str)
            and isinstance(found.get("checks"), dict)):
        raise ValueError(f"{path}: no results of tests/gpu/run: it lacks digest or checks")
    return found


def merge(old: dict, new: dict) -> dict:
    """New checks over old ones of the same sources."""
    if not old or old["digest"] != new["digest"]:
        old = empty(new["digest"], {})
    merged = {**old, **{k: v for k, v in new.items() if k != "checks"}}
    merged["checks"] = {}
    for section in SECTIONS:
        had = old["checks"].get(section, {})
        kept = dict(had)
        for name, check in new["checks"].get(section, {}).items():
            if check["status"] != UNKNOWN or name not in had or had[name]["status"] == UNKNOWN:
                kept[name] = check
        merged["checks"][section] = kept
    return merged


def save(folder: Path, new: dict) -> Path:
    """Merges into the card's file; the name of a half-written file is never the file's."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(new)
    merged = merge(read(path) if path.exists() else None, new)
    merged["date"] = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    part = path.with_suffix(".part")
    part.write_text(json.dumps(merged, indent=1, sort_keys=True) + "\n")
    os.replace(part, path)
    return path


def counts(section: dict) -> dict:
    found: dict = {}
    for check in section.values():
        found[check["status"]] = found.get(check["status"], 0) + 1
    return found


def exit_code(checks: dict) -> int:
    """0 all well, 1 one failed or is short, 2 else, when one was not run or there is none."""
    statuses = [c["status"] for section in checks.values() for c in section.values()]
    if any(s in BAD for s in statuses):
        return 1
    return 2 if UNKNOWN in statuses or not statuses else 0


# ---- the page ----

BEGIN, END = "<!-- tests/gpu/run page: begin -->", "<!-- tests/gpu/run page: end -->"
NONE = ("*Not run.* No results of the kernels as they are now lie in `tests/gpu/results`:\n"
        "no figure of speed on a card is known, and none is claimed.")


def table(found: dict) -> list:
    lines = [f"On {found['card']}, driver {found['driver']}, CUDA {found['toolkit']}, "
             f"{found['date']}:", "", "| check | status | |", "|---|---|---|"]
    for section in SECTIONS:
        checks = found["checks"].get(section, {})
        if not checks:
            lines.append(f"| {section} | not run | |")
        elif section != "bench":
            words = ", ".join(f"{n} {status}" for status, n in sorted(counts(checks).items()))
            lines.append(f"| {section} | {words} | |")
        for name, check in sorted(checks.items()):
            if section == "bench" or check["status"] in BAD:
                lines.append(f"| {name} | {check['status']} | {check['words']} |")
    return lines


def page(root: Path, folder: Path) -> str:
    """What docs/performance.md says of cards: results of these sources, or that none are."""
    now, lines = digest(root), []
    for path in sorted(Path(folder).glob("*.json")):
        found = read(path)
        if found["digest"] == now and "emulated" not in found["card"]:
            lines += table(found) + [""]
    return "\n".join([BEGIN, ""] + (lines or [NONE, ""]) + [END])


def page_write(root: Path, folder: Path, document: Path, check: bool) -> bool:
    """Whether the document already said it; without `check` it says it afterwards."""
    text = document.read_text()
    start, end = text.find(BEGIN), text.find(END)
    if start < 0 or end < start:
        raise ValueError(f"{document}: expected the lines {BEGIN} and {END}")
    new = text[:start] + page(root, folder) + text[end + len(END):]
    if not check and new != text:
        document.write_text(new)
    return new == text
