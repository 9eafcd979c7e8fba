"""`meson install` into an empty root: the units are in place and good, nobody's file is lost."""
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from manager import build_dir

UNITS = ["galerned.service", "galerned.socket", "galerned-admin.socket",
         "galerne-worker@demo.service", "galerne-worker@demo.socket"]
EXPOSURE_MAX = 20  # in tenths, as systemd-analyze shows it: 2.0


def install(root: pathlib.Path) -> None:
    subprocess.run(["meson", "install", "-C", build_dir(), "--no-rebuild", "--quiet", "--destdir",
                    root], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Installed, with the machine's own units beside ours."""
    made = tmp_path_factory.mktemp("root")
    (made / "usr/lib").mkdir(parents=True)
    (made / "lib").symlink_to("usr/lib")
    shutil.copytree("/usr/lib/systemd/system", made / "usr/lib/systemd/system", symlinks=True)
    install(made)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def analyze(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(["systemd-analyze", *arguments], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=60)


def test_units_verify_in_silence(root):
    done = analyze("verify", "--man=no", f"--root={root}", *UNITS)
    assert (done.returncode, done.stdout) == (0, "")


def test_verify_would_see_a_missing_program(root):
    program = root / "usr/bin/galerne-worker"
    program.rename(program.with_suffix(".away"))
    done = analyze("verify", "--man=no", f"--root={root}", *UNITS)
    program.with_suffix(".away").rename(program)
    assert "galerne-worker" in done.stdout


def exposure(root: pathlib.Path, unit: str, threshold: int) -> subprocess.CompletedProcess:
    return analyze("security", "--no-pager", "--offline=yes", f"--threshold={threshold}",
                   f"--root={root}", unit)


@pytest.mark.parametrize("unit", ["galerned.service", "galerne-worker@demo.service"])
def test_hardening(root, unit):
    done = exposure(root, unit, EXPOSURE_MAX)
    (found,) = re.findall(rf"exposure level for {re.escape(unit)}: ([0-9.]+)", done.stdout)
    print(f"{unit}: {found}")
    assert done.returncode == 0, done.stdout
    assert exposure(root, unit, 1).returncode != 0  # a limit that nothing keeps does bite


def directive(root: pathlib.Path, unit: str, name: str) -> list:
    text = (root / "usr/lib/systemd/system" / unit).read_text()
    return re.findall(rf"^{name}=(.*)$", text, re.M)


def test_what_the_daemon_relies_on(root):
    front, worker = "galerned.service", "galerne-worker@.service"
    assert directive(root, front, "Type") == ["notify"]
    assert directive(root, front, "NotifyAccess") == ["main"]
    assert directive(root, front, "PrivateUsers") == []  # it would hide the peer's uid
    assert directive(root, front, "RuntimeDirectoryPreserve") == ["yes"]
    assert directive(root, worker, "PrivateNetwork") == ["yes"]
    assert directive(root, worker, "CacheDirectory") == ["galerne"]  # quantised weights
    assert not any("resources" in line for line in directive(root, worker, "SystemCallFilter"))
    assert directive(root, front, "User") == directive(root, worker, "User") == ["galerne"]
    names = {unit: directive(root, unit, "FileDescriptorName")[0] for unit in
             ["galerned.socket", "galerned-admin.socket", "galerne-worker@.socket"]}
    assert list(names.values()) == ["galerne", "admin", "worker"]
    modes = [directive(root, unit, "SocketMode")[0] for unit in names]
    assert modes == ["0660", "0600", "0600"]


def test_user_and_directories(root):
    subprocess.run(["systemd-sysusers", f"--root={root}", "galerne.conf"], check=True)
    assert re.search(r"^galerne:", (root / "etc/passwd").read_text(), re.M)
    if os.geteuid() != 0:
        pytest.skip("needs root to make directories of another user")
    subprocess.run(["systemd-tmpfiles", "--create", f"--root={root}", "galerne.conf"], check=True)
    owner = re.search(r"^galerne:x:(\d+):", (root / "etc/passwd").read_text(), re.M)[1]
    assert (root / "run/galerne").stat().st_uid == int(owner)
    assert (root / "var/lib/galerne/models").is_dir()


def test_completion(root):
    for name in ["bash-completion/completions/galernectl", "zsh/vendor-completions/_galernectl",
                 "fish/vendor_completions.d/galernectl.fish"]:
        assert "completion of galernectl" in (root / "usr/share" / name).read_text()


def test_configuration_is_good_and_kept(root):
    file = root / "etc/galerne/galerne.yaml"
    check = [root / "usr/bin/galerned", "--check-config", "--config", file]
    done = subprocess.run(check, text=True, capture_output=True)
    assert done.returncode == 0 and "1 model" in done.stdout, done.stderr
    path = re.search(r"^ +path: (\S+)$", file.read_text(), re.M)[1]
    assert (root / path.lstrip("/") / "model.safetensors").exists()
    file.write_text("# mine\n")
    install(root)
    assert file.read_text() == "# mine\n"
    assert "models:" in (root / "usr/share/galerne/galerne.yaml").read_text()
