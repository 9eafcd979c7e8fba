"""Completion scripts: driven in the shells that they are for, and complete beside --help."""
import re
import shutil
import subprocess

import pytest

from test_galernectl import failed, good, run

COMMANDS = ["status", "models", "generate", "chat", "tokenize", "trace", "metrics", "completion"]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    made = {}
    for shell in ("bash", "zsh", "fish"):
        made[shell] = folder / f"_{shell}"
        made[shell].write_text(good(run(None, "completion", shell)))
    return made


def complete(script, *words: str) -> set:
    """What bash offers for the last of `words`."""
    driver = f'source "{script}"; shift 0; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); ' \
             '_galernectl; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", driver, "bash", "galernectl", *words],
                          capture_output=True, text=True, timeout=10)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return set(done.stdout.split())


def options_of(*words: str) -> set:
    """Every --name of a help text's option lines."""
    found = re.findall(r"^ +(?:-\w, )?(--[\w-]+)", good(run(None, *words, "--help")), re.M)
    assert found
    return set(found)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_offered(scripts, command):
    wanted = options_of(command)
    assert wanted <= complete(scripts["bash"], command, "-")
    for shell in ("zsh", "fish"):
        text = scripts[shell].read_text()
        for option in wanted:
            assert f"--{option[2:]}[" in text or f"-l {option[2:]} " in text, (shell, option)


def test_bash(scripts):
    bash = scripts["bash"]
    assert set(COMMANDS) <= complete(bash, "")
    assert complete(bash, "gen") == {"generate"}
    assert complete(bash, "-o", "") == {"table", "json"}
    assert complete(bash, "generate", "--output", "j") == {"json"}
    assert complete(bash, "--json", "status", "--fol") == {"--follow"}
    assert complete(bash, "models", "--fol") == set()  # another command's
    assert complete(bash, "generate", "--model", "") == set()  # a value, not an option
    assert complete(bash, "completion", "") == {"bash", "zsh", "fish"}
    assert "/etc/passwd" in complete(bash, "--socket", "/etc/passw")


@pytest.mark.parametrize("shell, check", [("zsh", ["zsh", "-n"]),
                                          ("fish", ["fish", "--no-execute"])])
def test_syntax(scripts, shell, check):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([*check, scripts[shell]], capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stderr) == (0, "")


def test_fish(scripts):
    if not shutil.which("fish"):
        pytest.skip("fish is not installed")

    def offered(line: str) -> set:
        done = subprocess.run(["fish", "-c", f"source {scripts['fish']}; complete -C '{line}'"],
                              capture_output=True, text=True, timeout=20)
        return {one.split("\t")[0] for one in done.stdout.splitlines()}
    assert set(COMMANDS) <= offered("galernectl ")
    assert "--follow" in offered("galernectl status --fo")
    assert "--follow" not in offered("galernectl models --fo")
    assert offered("galernectl -o ") == {"table", "json"}


def test_wrong_shell():
    failed(run(None, "completion"), 64, "expected a shell")
    failed(run(None, "completion", "tcsh"), 64, "tcsh", "bash, zsh or fish")
