"""The daemon as a service: a small service manager in Python starts the real galerned and
galerne-worker with inherited sockets, NOTIFY_SOCKET and a watchdog. GALERNE_BUILD names the build.
"""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
STUBS = tempfile.mkdtemp(prefix="galerne-service-stubs-")


def make_stubs() -> None:
    plugin = shutil.which("grpc_python_plugin")
    if not plugin:
        raise RuntimeError("grpc_python_plugin is missing: install protobuf-compiler-grpc")
    subprocess.run(["protoc", "-I", str(ROOT / "proto"), f"--python_out={STUBS}",
                    f"--grpc_python_out={STUBS}", f"--plugin=protoc-gen-grpc_python={plugin}",
                    "galerne/v1/inference.proto", "galerne/admin/v1/admin.proto"], check=True)


make_stubs()
sys.path.insert(0, STUBS)
sys.path.insert(0, str(pathlib.Path(__file__).parent))

from manager import Manager  # noqa: E402  (needs the stubs)


def pytest_sessionfinish(session, exitstatus) -> None:
    shutil.rmtree(STUBS, ignore_errors=True)


@pytest.fixture
def manager():
    """Makes service managers that end with the test, and all that they started with them."""
    made = []

    def make(**settings) -> Manager:
        made.append(Manager(**settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for log in pathlib.Path(tempfile.gettempdir()).glob(f"galerne-service-{os.getpid()}-*/log"):
            report.sections.append((str(log), log.read_text(errors="replace")[-6000:]))
