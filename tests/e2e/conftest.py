"""End to end: the real galerned and galerne-worker, driven by grpcio, which is not our code.

GALERNE_BUILD names the build directory. Python stubs are made at test time. Every daemon has a
runtime directory of its own and is stopped by its pid; what it logged is printed when a test fails.
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
GRPC_PROTO = pathlib.Path(os.environ.get("GRPC_PROTO_DIR", "/usr/share/grpc-proto"))

STUBS = tempfile.mkdtemp(prefix="galerne-stubs-")


def make_stubs() -> None:
    """Stubs of our contract, and of google.rpc, health and reflection under names of their own:
    as "google" and "grpc" they would hide the packages of these names."""
    plugin = shutil.which("grpc_python_plugin")
    if not plugin:
        raise RuntimeError("grpc_python_plugin is missing: install protobuf-compiler-grpc")
    sets = [(ROOT / "proto", ["galerne/v1/inference.proto", "galerne/admin/v1/admin.proto"]),
            (ROOT / "proto/google", ["rpc/status.proto", "rpc/error_details.proto"]),
            (GRPC_PROTO / "grpc", ["health/v1/health.proto", "reflection/v1/reflection.proto",
                                   "reflection/v1alpha/reflection.proto"])]
    for include, names in sets:
        subprocess.run(["protoc", "-I", str(include), f"--python_out={STUBS}",
                        f"--grpc_python_out={STUBS}", f"--plugin=protoc-gen-grpc_python={plugin}",
                        *names], check=True)


make_stubs()
sys.path.insert(0, STUBS)
sys.path.insert(0, str(pathlib.Path(__file__).parent))

from daemon import Daemon  # noqa: E402  (needs the stubs)


def pytest_sessionfinish(session, exitstatus) -> None:
    shutil.rmtree(STUBS, ignore_errors=True)


@pytest.fixture(scope="session")
def daemon():
    """The daemon that most tests share: two tiny models, two listener threads."""
    with Daemon() as made:
        yield made


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """Certificates by tests/e2e/make_ca; tests change copies only."""
    folder = tmp_path_factory.mktemp("ca")
    subprocess.run([pathlib.Path(__file__).parent / "make_ca", folder], check=True)
    return folder


@pytest.fixture
def fresh():
    """Makes daemons that end with the test: fresh(config lines...)."""
    made = []

    def make(**settings) -> Daemon:
        one = Daemon(**settings)
        made.append(one)
        return one

    yield make
    for one in made:
        one.stop(signal.SIGKILL)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    one = item.funcargs.get("daemon") if hasattr(item, "funcargs") else None
    if report.when == "call" and report.failed and one is not None:
        report.sections.append(("galerned", "\n".join(one.log_tail().splitlines()[-40:])))
