"""TCP: always TLS, always a client certificate; files that change under load; bad guests."""
import hashlib
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

import grpc
import pytest
from galerne.admin.v1 import admin_pb2, admin_pb2_grpc
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc

from daemon import NARROW, build_dir, details, wait_until
from test_galernectl import run as galernectl

TEN = pb.GenerateRequest(model="tiny", text="hello", max_tokens=10)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Tls:
    """A daemon on TCP with its own copy of the authority's files."""

    def __init__(self, fresh, authority, directory, **settings):
        self.files = directory / "tls"
        shutil.copytree(authority, self.files)
        self.authority = authority
        self.port = free_port()
        own = {"tcp_listen": f"127.0.0.1:{self.port}", "tls_certificate": self.files / "server.pem",
               "tls_key": self.files / "server.key", "tls_client_ca": self.files / "ca.pem"}
        self.daemon = fresh(**{**own, **settings})
        self.channels = self.daemon.channels

    def channel(self, client="alice", options=(), root="ca") -> grpc.Channel:
        read = [None, None] if client is None else [
            (self.authority / f"{client}.{kind}").read_bytes() for kind in ("key", "pem")]
        made = grpc.secure_channel(
            f"127.0.0.1:{self.port}",
            grpc.ssl_channel_credentials((self.authority / f"{root}.pem").read_bytes(), *read),
            [*options, ("grpc.use_local_subchannel_pool", 1)])
        self.channels.append(made)
        return made

    def stub(self, client="alice", **how) -> inference_pb2_grpc.InferenceStub:
        return inference_pb2_grpc.InferenceStub(self.channel(client, **how))

    def generate(self, client="alice", stub=None) -> int:
        """Output tokens of a small call."""
        stub = stub or self.stub(client)
        return list(stub.Generate(TEN, timeout=10))[-1].usage.output_tokens

    def refused(self, client, stub=None) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as caught:
            self.generate(client, stub)
        return caught.value

    def install(self, name: str, target: str) -> None:
        """Puts another file in place as tools do: written beside it, then renamed."""
        shutil.copy(self.authority / name, self.files / "new")
        os.rename(self.files / "new", self.files / target)

    def log_has(self, words: str, count: int = 1) -> None:
        self.daemon.log_has(words, count)

    def raw_context(self, client="alice") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority / "ca.pem")
        context.check_hostname = False
        context.set_alpn_protocols(["h2"])
        if client:
            context.load_cert_chain(self.authority / f"{client}.pem",
                                    self.authority / f"{client}.key")
        return context

    def server_certificate(self) -> str:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as plain:
            with self.raw_context().wrap_socket(plain) as wrapped:
                return hashlib.sha256(wrapped.getpeercert(binary_form=True)).hexdigest()


def fingerprint(path) -> str:
    pem = path.read_text()
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


@pytest.fixture
def tls(fresh, authority, tmp_path):
    return lambda **settings: Tls(fresh, authority, tmp_path, **settings)


def test_who_may_come(tls):
    one = tls()
    assert one.generate("alice") == 10
    assert one.generate("bob") == 10
    one.log_has('peer "alice"')
    one.log_has('peer "spiffe://test/bob"')
    for client in None, "expired", "stranger":
        assert one.refused(client).code() == grpc.StatusCode.UNAVAILABLE  # no handshake, no call
    assert one.generate("alice") == 10
    # a client that expects another daemon
    assert one.refused("alice", one.stub(root="other-ca")).code() == grpc.StatusCode.UNAVAILABLE
    one.log_has("finish length", 3)
    assert one.daemon.log_tail().count("finish length") == 3


def test_no_plaintext(tls):
    one = tls()
    channel = grpc.insecure_channel(f"127.0.0.1:{one.port}")
    one.channels.append(channel)
    with pytest.raises(grpc.RpcError) as caught:
        one.generate(stub=inference_pb2_grpc.InferenceStub(channel))
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert "finish" not in one.daemon.log_tail()


@pytest.mark.parametrize("version, good", [
    (ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True),
    (ssl.TLSVersion.TLSv1_3, True)])
def test_versions(tls, version, good):
    one = tls()
    context = one.raw_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", one.port), timeout=5) as plain:
        if good:
            with context.wrap_socket(plain) as wrapped:
                assert wrapped.recv(9)[3:4] == b"\x04"  # the SETTINGS of HTTP/2
        else:
            with pytest.raises(OSError):
                context.wrap_socket(plain)


def test_operators_do_not_come_by_tcp(tls):
    one = tls()
    with pytest.raises(grpc.RpcError) as caught:
        admin_pb2_grpc.AdminStub(one.channel()).Status(admin_pb2.StatusRequest(), timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "admin.sock" in caught.value.details()


def test_revoked_by_removal(tls, authority, tmp_path):
    """Whoever leaves the list is refused on the connection that is open, and loses what runs."""
    listed = tmp_path / "clients"
    listed.write_text(f"# who may come\nalice\nsha256:{fingerprint(authority / 'bob.pem')}\n")
    one = tls(tls_clients=listed)
    alice, bob = one.stub("alice"), one.stub("bob")
    assert one.generate(stub=alice) == 10 and one.generate(stub=bob) == 10
    running = one.stub("bob", options=NARROW).Generate(
        pb.GenerateRequest(model="tiny", text="hello", max_tokens=500, logprobs=20), timeout=30)
    next(running)
    listed.write_text("alice\n")
    one.daemon.process.send_signal(signal.SIGHUP)
    one.log_has("TLS files are loaded")
    error = one.refused("bob", bob)
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "spiffe://test/bob" in error.details() and details(error)
    one.log_has("a running call over TCP ends")
    with pytest.raises(grpc.RpcError) as caught:
        list(running)
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert one.generate(stub=alice) == 10
    one.daemon.wait_idle()
    listed.write_text("alice.test\nspiffe://test/bob\n")  # without a signal
    one.log_has("TLS files are loaded", 2)
    assert one.generate(stub=alice) == 10 and one.generate(stub=bob) == 10


def test_authority_that_is_removed(tls):
    """A client whose authority went is refused at its next connection."""
    one = tls()
    assert one.generate("alice") == 10
    one.install("other-ca.pem", "ca.pem")
    one.log_has("TLS files are loaded")
    assert one.refused("alice").code() == grpc.StatusCode.UNAVAILABLE
    assert one.generate("stranger") == 10


def test_certificate_changes_under_load(tls, authority):
    one = tls(connection_streams_max=1000)
    begin, done, failed = one.server_certificate(), [], []
    assert begin == fingerprint(authority / "server.pem")
    stop = time.monotonic() + 6

    def load(fresh_channels: bool) -> None:
        stub = one.stub()
        while time.monotonic() < stop:
            try:
                done.append(one.generate(stub=one.stub() if fresh_channels else stub))
            except grpc.RpcError as error:
                failed.append(error)
    streams = [one.stub(options=NARROW).Generate(
        pb.GenerateRequest(model="tiny", text="hello", max_tokens=500, logprobs=20), timeout=60)
        for _ in range(8)]
    for stream in streams:
        next(stream)
    threads = [threading.Thread(target=load, args=(n % 2 == 0,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for name in "server2", "server", "server2":  # the key lies apart for a moment each time
        time.sleep(0.6)
        one.install(f"{name}.pem", "server.pem")
        one.install(f"{name}.key", "server.key")
        wait_until(name, lambda: one.server_certificate() == fingerprint(authority / f"{name}.pem"))
    for thread in threads:
        thread.join()
    assert not failed, failed[:3]
    assert len(done) > 20 and set(done) == {10}
    for stream in streams:  # opened under the first certificate
        assert list(stream)[-1].usage.output_tokens == 500


def test_bad_files_are_not_taken(tls, authority):
    one = tls()
    good = fingerprint(authority / "server.pem")
    loaded = 0
    for name, target, words in [("server2.key", "server.key", "is not the key of"),
                                ("expired.pem", "server.pem", "expired on"),
                                ("alice.key", "server.pem", "expected certificates in PEM"),
                                ("server.pem", "server.key", "expected a private key in PEM"),
                                ("server.key", "ca.pem", "expected certificates in PEM")]:
        one.install(name, target)
        one.log_has(words)
        assert one.server_certificate() == good and one.generate() == 10
        one.install(target, target)
        loaded += 1
        one.log_has("TLS files are loaded", loaded)
    (one.files / "server.pem").unlink()
    one.log_has("No such file")
    assert one.generate() == 10


def start_refused(daemon) -> str:
    done = subprocess.run([build_dir() / "daemon/galerned", "--config", daemon.config], timeout=20,
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize("change, words", [
    ({"tls_key": "server2.key"}, "is not the key of"),
    ({"tls_certificate": "expired.pem", "tls_key": "expired.key"}, "expired on"),
    ({"tls_certificate": "none.pem"}, "none.pem"),
    ({"tls_client_ca": "ca.key"}, "tls_client_ca|expected certificates in PEM"),
    ({"tls_clients": "ca.key"}, "this is a PEM file"),
    ({"tcp_listen": "localhost:7443"}, "numeric address"),
    ({"tcp_listen": "127.0.0.1:0"}, "from 1 to 65535"),
    ({"tcp_listen": "127.0.0.1:70000"}, "from 1 to 65535"),
    ({"tcp_listen": "127.0.0.1"}, "numeric address"),
    ({"tcp_listen": "192.0.2.1:7443"}, "192.0.2.1:7443"),
    ({"tcp_listen": "127.0.0.1:7443,127.0.0.1:7443"}, "stands twice"),
    ({"keepalive_time_ms": 1}, "from 1000 to"),
    ({"tls_handshake_timeout_ms": 0}, "from 100 to"),
])
def test_bad_settings(fresh, authority, change, words):
    settings = {"tcp_listen": f"127.0.0.1:{free_port()}", "tls_certificate": "server.pem",
                "tls_key": "server.key", "tls_client_ca": "ca.pem", **change}
    for key in "tls_certificate", "tls_key", "tls_client_ca", "tls_clients":
        if key in settings:
            settings[key] = authority / settings[key]
    said = start_refused(fresh(start=False, **settings))
    assert any(word in said for word in words.split("|")), said


def test_tcp_needs_certificates(fresh):
    said = start_refused(fresh(start=False, tcp_listen=f"127.0.0.1:{free_port()}"))
    assert "tcp_listen needs tls_certificate" in said


def test_port_that_is_taken(fresh, tls):
    one = tls()
    other = fresh(start=False, tcp_listen=f"127.0.0.1:{one.port}",
                  tls_certificate=one.files / "server.pem", tls_key=one.files / "server.key",
                  tls_client_ca=one.files / "ca.pem")
    said = start_refused(other)
    assert f"127.0.0.1:{one.port}" in said and "somebody listens there already" in said
    assert one.generate() == 10


def test_credentials_directory(fresh, authority, monkeypatch):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(authority))
    port = free_port()
    fresh(tcp_listen=f"127.0.0.1:{port}", tls_certificate="server.pem", tls_key="server.key",
          tls_client_ca="ca.pem")
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


def resident_kib(daemon) -> int:
    with open(f"/proc/{daemon.process.pid}/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def closed_within(sockets, seconds: float) -> bool:
    """Every one of them is closed by the daemon."""
    end = time.monotonic() + seconds
    for s in sockets:
        try:
            s.settimeout(max(0.01, end - time.monotonic()))
            while s.recv(4096):
                pass
        except socket.timeout:
            return False
        except OSError:
            pass
    return True


def bad_guests(one) -> list:
    """300 connections: silent, with half a hello, with garbage."""
    guests = []
    for i in range(300):
        s = socket.create_connection(("127.0.0.1", one.port), timeout=5)
        if i % 3 == 1:
            s.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20))
        elif i % 3 == 2:
            s.sendall(os.urandom(2000))
        guests.append(s)
    return guests


def test_half_open_handshakes_and_garbage(tls):
    one = tls(tls_handshake_timeout_ms=1000)
    stub = one.stub()
    assert one.generate(stub=stub) == 10
    guests = bad_guests(one)
    assert one.generate(stub=stub) == 10 and one.generate() == 10
    assert closed_within(guests, 5)
    for s in guests:
        s.close()
    assert one.generate(stub=stub) == 10


def test_figures_of_bad_guests(tls):
    """What they cost while they are there, and that a second crowd costs no more."""
    one = tls(tls_handshake_timeout_ms=1000)
    assert one.generate() == 10
    resident = [resident_kib(one.daemon)]
    for _ in range(2):
        guests = bad_guests(one)
        resident.append(resident_kib(one.daemon))
        assert closed_within(guests, 5)
        for s in guests:
            s.close()
    print(f"resident KiB before, at the first 300, at the second 300: {resident}")
    assert resident[1] - resident[0] < 100 * 1024
    assert resident[2] - resident[1] < 20 * 1024


def test_renegotiation_is_refused(tls):
    """TLS 1.2 by the openssl program, which asks for a new handshake at a line of "R".

    It waits for the server's SETTINGS first: data that meets the program in the middle of its
    handshake is an error of its own and says nothing of the server."""
    one = tls()
    client = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{one.port}", "-tls1_2", "-alpn", "h2",
         "-cert", one.authority / "alice.pem", "-key", one.authority / "alice.key",
         "-CAfile", one.authority / "ca.pem"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
    try:
        said, heard = b"", time.monotonic()
        while b"Verify return code" not in said or time.monotonic() < heard + 1:
            if select.select([client.stdout], [], [], 0.1)[0]:
                said += os.read(client.stdout.fileno(), 65536)
                heard = time.monotonic()
        assert b"Verify return code: 0" in said
        client.stdin.write(b"R\n")
        assert client.wait(15) != 0
        assert b"renegotiation" in client.stdout.read().lower()
    finally:
        client.kill()
        client.wait()
    assert one.generate() == 10


def test_figures_of_a_thousand_idle_connections(tls):
    one = tls(tcp_connections_max=1200)
    stub = one.stub()
    assert one.generate(stub=stub) == 10
    before, context, guests = resident_kib(one.daemon), one.raw_context(), []

    def connect() -> None:
        for _ in range(250):
            plain = socket.create_connection(("127.0.0.1", one.port), timeout=20)
            guests.append(context.wrap_socket(plain))
    threads = [threading.Thread(target=connect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(guests) == 1000
    grown = resident_kib(one.daemon) - before
    print(f"{grown / 1000:.0f} KiB a connection")
    began = time.monotonic()
    assert one.generate(stub=stub) == 10 and one.generate() == 10
    assert time.monotonic() - began < 5
    assert grown < 400 * 1024
    for guest in guests:
        guest.close()


def test_connections_have_a_bound(tls):
    """What comes beyond waits outside; who is in goes on; the door opens again."""
    one = tls(tcp_connections_max=20)
    stub = one.stub()
    assert one.generate(stub=stub) == 10
    context = one.raw_context()
    guests = [context.wrap_socket(socket.create_connection(("127.0.0.1", one.port), timeout=5))
              for _ in range(20)]
    one.log_has("new ones wait")
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", one.port), timeout=1.5).close()
    assert one.generate(stub=stub) == 10
    assert list(one.daemon.inference().Generate(TEN, timeout=10))[-1].usage.output_tokens == 10
    for guest in guests:
        guest.close()
    one.log_has("are taken again")
    assert one.generate() == 10


def test_connections_grow_old(tls):
    """An old connection is left for a new one; a stream on it goes on, and idle ones are closed."""
    one = tls(connection_age_max_ms=1000, connection_idle_max_ms=1500)
    stream = one.stub(options=NARROW).Generate(
        pb.GenerateRequest(model="tiny", text="hello", max_tokens=500, logprobs=20), timeout=30)
    next(stream)
    stub, end, n = one.stub(), time.monotonic() + 3, 0
    while time.monotonic() < end:
        assert one.generate(stub=stub) == 10
        n += 1
    assert n > 3
    assert list(stream)[-1].usage.output_tokens == 500
    guest = one.raw_context().wrap_socket(
        socket.create_connection(("127.0.0.1", one.port), timeout=5))
    guest.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
    assert closed_within([guest], 8)


def test_frozen_peer_is_found(tls):
    one = tls(keepalive_time_ms=1000, keepalive_timeout_ms=1000)
    guest = one.raw_context().wrap_socket(
        socket.create_connection(("127.0.0.1", one.port), timeout=5))
    guest.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
    assert closed_within([guest], 8)  # it answers no ping
    assert one.generate() == 10


def test_galernectl_over_tcp(tls):
    one = tls()

    def run(*words, client="alice", root="ca"):
        return galernectl(None, *words, "--server", f"127.0.0.1:{one.port}", "--tls-ca",
                          one.authority / f"{root}.pem", "--tls-cert",
                          one.authority / f"{client}.pem", "--tls-key",
                          one.authority / f"{client}.key")
    local = galernectl(one.daemon, "generate", "--model", "tiny", "-n", 8, "hello")
    done = run("generate", "--model", "tiny", "-n", 8, "hello")
    assert done.returncode == 0, done.stderr
    assert done.stdout == local.stdout and done.stdout
    assert run("models").stdout == galernectl(one.daemon, "models").stdout
    for how in {"client": "stranger"}, {"client": "expired"}, {"root": "other-ca"}:
        done = run("models", "--timeout", 10, **how)
        assert done.returncode == 7 and "certificate" in done.stderr
    done = run("status")
    assert done.returncode == 64 and "unix socket" in done.stderr
    done = galernectl(None, "models", "--server", f"127.0.0.1:{one.port}")
    assert done.returncode == 64 and "--tls-ca" in done.stderr
    done = galernectl(None, "models", "--server", "nowhere")
    assert done.returncode == 64 and "HOST:PORT" in done.stderr
    done = galernectl(None, "models", "--server", "localhost:1", "--tls-ca", "/no/such")
    assert done.returncode == 1 and "/no/such" in done.stderr
    done = galernectl(None, "models", "--server", "localhost:1", "--tls-ca", __file__)
    assert done.returncode == 1 and "PEM" in done.stderr


def test_key_that_everybody_can_read(tls):
    one = tls()
    assert "can be read by everybody" not in one.daemon.log_tail()
    (one.files / "server.key").chmod(0o644)
    one.daemon.process.send_signal(signal.SIGHUP)
    one.log_has("server.key can be read by everybody")
    assert one.generate() == 10


def test_drain_over_tcp(tls):
    """Streams go on to their end; guests that sit there, and half handshakes, do not hold it up."""
    one = tls()
    guests = [one.raw_context().wrap_socket(
        socket.create_connection(("127.0.0.1", one.port), timeout=5)) for _ in range(20)]
    guests += [socket.create_connection(("127.0.0.1", one.port), timeout=5) for _ in range(20)]
    stream = one.stub(options=NARROW).Generate(
        pb.GenerateRequest(model="tiny", text="hello", max_tokens=500, logprobs=20), timeout=30)
    next(stream)
    other = one.stub()
    assert one.generate(stub=other) == 10
    one.daemon.process.send_signal(signal.SIGTERM)
    one.log_has("SIGTERM: draining")
    assert one.refused("alice", other).code() == grpc.StatusCode.UNAVAILABLE
    assert list(stream)[-1].usage.output_tokens == 500
    assert one.daemon.process.wait(10) == 0
    for guest in guests:
        guest.close()
