"""Programs that people use, with the network of mode "user": what is listed works, the rest fails.

They run from the host's own root, read-only. Their servers are on the host's loopback; by name only
the mirrors that this machine's own pip and apt are set up for are asked for anything.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest

from tests.conftest import Sbx
from tests.support import apt_mirror, capabilities
from tests.support.name_server import Directory, directory
from tests.support.postgres import PostgresServer

ROOT = "/"
SECONDS = 30.0


def need(*programs: str) -> None:
    """Skip when one of the programs is not installed."""
    for program in programs:
        if missing := capabilities.program(program):
            pytest.skip(missing)


class Done:
    """How a command in a sandbox ended, and what the report says of its network."""

    def __init__(self, done: subprocess.CompletedProcess[str], report: Path) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.report = json.loads(report.read_text()) if report.exists() else {}
        self.account: dict[str, Any] = self.report.get("network_account", {})

    @property
    def denied(self) -> set[tuple[str, int]]:
        """(name, or address where none was resolved; port) of what was not let through."""
        return {(row["name"] or row["address"], row["port"]) for row in self.account["denied"]}

    @property
    def refused(self) -> set[str]:
        """Names that were not answered."""
        return {row["name"] for row in self.account["refused_names"]}


@pytest.fixture
def run(sbx: Sbx, tmp_path: Path) -> Callable[..., Done]:
    """Run words with some things allowed, from the host's root or another."""

    def run(
        *words: object,
        allow: tuple[str, ...] = (),
        options: tuple[object, ...] = (),
        root: object = ROOT,
        timeout: float = 60,
    ) -> Done:
        report = tmp_path / "report.json"
        report.unlink(missing_ok=True)
        rules = [word for rule in allow for word in ("--allow", rule)]
        base = ("run", "--quiet", "--network", "user", "--report", report)
        done = sbx(*base, *rules, *options, root, *words, timeout=timeout)
        return Done(done, report)

    return run


@contextlib.contextmanager
def process(*command: object, port: int, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A server program of the host that listens at a port of its loopback."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    with subprocess.Popen([str(word) for word in command], **{**quiet, **more}) as server:
        try:
            wait_for_port(port, server)
            yield server
        finally:
            server.kill()


def wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    """Return once somebody listens; the table is read, for some servers serve one client only."""
    wanted = f"0100007F:{port:04X}"
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            words = line.split()
            if words[1] in {wanted, f"00000000:{port:04X}"} and words[3] == "0A":
                return
        assert server.poll() is None, "the server ended"
        time.sleep(0.02)
    raise TimeoutError(f"nobody listens at {port}")


def free_port() -> int:
    """A port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files over HTTP/1, without a log."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[int]:
    """The port of a web server on 127.0.0.1 that shows the folder "www"."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file").write_text("served\n")
    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A bare git repository with one commit, ready for HTTP servers that know no git."""
    need("git")
    work, bare = tmp_path / "work", tmp_path / "repository.git"
    for words in (
        ("init", "-q", work),
        (
            "-C",
            work,
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "commit",
            "-q",
            "-m",
            "first",
            "--allow-empty",
        ),
        ("clone", "-q", "--bare", work, bare),
        ("-C", bare, "update-server-info"),
    ):
        subprocess.run(["git", *map(str, words)], check=True, timeout=SECONDS)
    return bare


# -- web


@pytest.mark.parametrize("policy", ["strict", "default", "ci"])
def test_curl(run: Callable[..., Done], web: int, policy: str) -> None:
    need("curl")
    words = ("curl", "-sS", "-m", "10", f"http://host:{web}/file")
    done = run(*words, allow=(f"host:{web}",), options=("--policy", policy))
    assert (done.code, done.out) == (0, "served\n"), done.err
    assert done.denied == set()


def test_curl_to_what_is_not_listed(run: Callable[..., Done], web: int) -> None:
    need("curl")
    begun = time.monotonic()
    done = run("curl", "-sS", "-m", "20", f"http://host:{web}/file", allow=("host:1",))
    assert done.code == 7, done.err
    assert ("host", web) in done.denied
    done = run("curl", "-sS", "-m", "20", "http://www.sbx.example/", allow=(f"host:{web}",))
    assert done.code == 6, done.err
    assert done.refused == {"www.sbx.example"}
    assert time.monotonic() - begun < 20, "a refusal comes at once"


def test_git_clone_over_http(
    run: Callable[..., Done], web: int, repository: Path, tmp_path: Path
) -> None:
    repository.rename(tmp_path / "www" / "repository.git")
    script = (
        f"git clone -q http://host:{web}/repository.git /tmp/x && git -C /tmp/x log --format=%s"
    )
    done = run("sh", "-c", script, allow=(f"host:{web}",))
    assert (done.code, done.out) == (0, "first\n"), done.err


SSH_SERVER = """
mount -t tmpfs none /root
mkdir -m 700 /root/.ssh
cp "$1/key.pub" /root/.ssh/authorized_keys
chmod 600 /root/.ssh/authorized_keys
chmod 700 /root
exec dropbear -F -E -r "$1/host" -p "127.0.0.1:$2" -P "$1/pid"
"""


def test_git_clone_over_ssh(run: Callable[..., Done], repository: Path, tmp_path: Path) -> None:
    need("git", "ssh", "ssh-keygen", "dropbear", "dropbearkey", "newuidmap")
    port = free_port()
    keys = tmp_path / "keys"
    keys.mkdir()
    quiet = {"check": True, "timeout": SECONDS, "capture_output": True}
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", keys / "key"], **quiet)  # type: ignore[call-overload]
    subprocess.run(["dropbearkey", "-t", "ed25519", "-f", keys / "host"], **quiet)  # type: ignore[call-overload]
    # The server is root of a user namespace: the home in which it looks for keys is its own.
    own = (
        "unshare",
        "--user",
        "--map-root-user",
        "--map-auto",
        "--mount",
        "--fork",
        "--kill-child",
    )
    ssh = (
        f"ssh -F none -i /mnt/key -p {port} -o StrictHostKeyChecking=no -o BatchMode=yes "
        "-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    )
    script = f"git clone -q root@host:{repository} /tmp/x && git -C /tmp/x log --format=%s"
    with process(*own, "sh", "-ec", SSH_SERVER, "sh", keys, port, port=port):
        options = ("-v", f"{keys}:/mnt:ro", "-e", f"GIT_SSH_COMMAND={ssh}")
        done = run("sh", "-c", script, allow=(f"host:{port}",), options=options)
    assert (done.code, done.out) == (0, "first\n"), done.err


def test_a_web_server_inside_is_published(sbx: Sbx, run: Callable[..., Done]) -> None:
    need("/usr/bin/python3")
    port = free_port()
    del run
    words = ("/usr/bin/python3", "-m", "http.server", "8000", "-d", "/etc")
    options = ("--quiet", "--network", "user", "-p", f"{port}:8000")
    started = sbx.start("run", *options, ROOT, *words)
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/hostname", timeout=5) as got:
                    assert got.status == 200
                break
            except OSError:
                assert started.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
    finally:
        started.terminate()
        started.communicate(timeout=SECONDS)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)


# -- other protocols


def test_nc_probes(run: Callable[..., Done], web: int) -> None:
    need("nc")
    closed = free_port()
    ports = (web, closed, 1)
    script = "; ".join(f"nc -zv host {port}; echo $?" for port in ports)
    done = run("sh", "-c", script, allow=(f"host:{web}", f"host:{closed}"))
    assert done.out.split() == ["0", "1", "1"], done.err
    said = done.err.splitlines()
    assert "succeeded" in said[0]
    assert "refused" in said[1]
    assert "No route to host" in said[2]
    assert done.denied == {("host", 1)}


@pytest.mark.parametrize("reverse", [(), ("-R",)], ids=["up", "down"])
def test_iperf3(run: Callable[..., Done], reverse: tuple[str, ...]) -> None:
    need("iperf3")
    port = free_port()
    with process("iperf3", "-s", "-1", "-B", "127.0.0.1", "-p", port, port=port):
        words = ("iperf3", "-c", "host", "-p", port, "-n", "256M", "-J", *reverse)
        done = run(*words, allow=(f"host:{port}/tcp",))
    assert done.code == 0, done.out
    moved = json.loads(done.out)["end"]["sum_received"]["bytes"]
    assert moved >= 128 << 20, "what is still on its way when the client ends is not counted"
    (row,) = [
        row
        for row in done.account["destinations"]
        if row["sent_bytes" if not reverse else "received_bytes"] > 1 << 20
    ]
    assert row["port"] == port


def test_redis(run: Callable[..., Done], tmp_path: Path) -> None:
    need("redis-cli", "redis-check-rdb")
    port = free_port()
    server = tmp_path / "redis-server"  # one program under several names
    server.symlink_to(shutil.which("redis-check-rdb") or "")
    words = (server, "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", tmp_path)
    script = (
        f"redis-cli -h host -p {port} set k v; redis-cli -h host -p {port} get k; "
        f"seq 1 1000 | sed 's/^/incrby n /' | redis-cli -h host -p {port} | tail -n 1"
    )
    with process(*words, port=port):
        done = run("sh", "-c", script, allow=(f"host:{port}",))
    assert done.out.split() == ["OK", "v", "500500"], done.err


def test_postgres(run: Callable[..., Done]) -> None:
    need("psql")
    with PostgresServer() as server:
        options = ("-e", "PGHOST=host", "-e", f"PGPORT={server.port}", "-e", "PGUSER=somebody")
        words = ("psql", "-X", "-A", "-t", "-d", "data", "-c", "select 42")
        done = run(*words, allow=(f"host:{server.port}",), options=options)
    assert (done.code, done.out) == (0, "42\n"), done.err
    assert server.asked == ["select 42"]


JAVA = """
import java.net.URI;
import java.net.http.*;
public class Client {
    public static void main(String[] words) throws Exception {
        for (String word : words) {
            try {
                var request = HttpRequest.newBuilder(URI.create(word)).build();
                var client = HttpClient.newHttpClient();
                System.out.print(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
            } catch (java.io.IOException error) {
                System.out.println(error.getClass().getSimpleName());
            }
        }
    }
}
"""
NODE = """
(async () => { for (const word of process.argv.slice(1)) {
    try { process.stdout.write(await (await fetch(word)).text()); }
    catch (error) { console.log(error.cause.code); }
} })()
"""
# A proxy that nobody serves: who minded it would reach nothing.
PROXIES = tuple(
    word
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "all_proxy")
    for word in ("-e", f"{name}=http://192.0.2.1:9")
)


def test_a_client_in_java_that_ignores_proxies(
    run: Callable[..., Done], web: int, tmp_path: Path
) -> None:
    need("java", "javac")
    (tmp_path / "Client.java").write_text(JAVA)
    subprocess.run(["javac", "Client.java"], cwd=tmp_path, check=True, timeout=60)
    words = (f"http://host:{web}/file", f"http://host:{web - 1}/", "http://www.sbx.example/")
    options = ("-v", f"{tmp_path}:/mnt:ro", *PROXIES)
    done = run("java", "-cp", "/mnt", "Client", *words, allow=(f"host:{web}",), options=options)
    assert done.code == 0, done.err
    assert done.out.split() == ["served", "ConnectException", "ConnectException"]
    assert done.refused == {"www.sbx.example"}


def test_a_client_in_node_that_ignores_proxies(run: Callable[..., Done], web: int) -> None:
    need("node")
    words = (f"http://host:{web}/file", f"http://host:{web - 1}/", "http://www.sbx.example/")
    done = run("node", "-e", NODE, *words, allow=(f"host:{web}",), options=PROXIES)
    assert done.code == 0, done.err
    served, closed, unknown = done.out.split()
    assert served == "served"
    assert closed in {"EHOSTUNREACH", "EACCES"}
    assert unknown in {"EAI_AGAIN", "ENOTFOUND"}


# -- by name: what this machine's own package managers are set up for


def pip_says(key: str) -> str:
    """What this machine's own pip is set to, "" for nothing."""
    found = os.environ.get(f"PIP_{key.upper().replace('-', '_')}")
    words = [sys.executable, "-m", "pip", "config", "get", f"global.{key}"]
    asked = functools.partial(
        subprocess.run, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    return found or asked(words).stdout.strip()


def pip_index() -> str:
    """The address of the package index that pip uses here: what it is set to, or its own."""
    if said := pip_says("index-url"):
        return said.rstrip("/") + "/"
    own = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    words = [sys.executable, "-c", own]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        pytest.skip("pip tells no index")
    return done.stdout.strip().rstrip("/") + "/"


CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
PACKAGE = "iniconfig"  # small, pure Python, and itself needs nothing


@pytest.fixture
def index() -> tuple[str, set[str]]:
    """The index of packages, and the names of all hosts that a download from it asks."""
    found = pip_index()
    if urlsplit(found).scheme not in {"http", "https"}:
        pytest.skip("pip is set up for no index of the network")
    page = urljoin(found, f"{PACKAGE}/")
    try:
        with urllib.request.urlopen(page, timeout=SECONDS) as got:  # noqa: S310
            links = re.findall(r'href="([^"#]+)', got.read().decode())
    except OSError as error:
        pytest.skip(f"the index of packages cannot be reached: {error}")
    hosts = {urlsplit(urljoin(page, link)).hostname for link in links}
    return found, {host for host in (*hosts, urlsplit(found).hostname) if host}


def certificates() -> str:
    """The file of certificates that this machine's own pip believes."""
    return pip_says("cert") or ssl.get_default_verify_paths().cafile or CERTIFICATES


def test_pip_install_by_name_only(
    run: Callable[..., Done], debian: Path, index: tuple[str, set[str]]
) -> None:
    url, hosts = index
    port = urlsplit(url).port or (443 if urlsplit(url).scheme == "https" else 80)
    options = (
        *("-v", f"{certificates()}:{CERTIFICATES}:ro"),
        *("-e", f"PIP_CERT={CERTIFICATES}", "-e", f"PIP_INDEX_URL={url}"),
    )
    script = (
        f"python3 -m pip install -q --no-cache-dir --no-deps --target /tmp/site {PACKAGE} >&2 && "
        f"PYTHONPATH=/tmp/site python3 -c 'import {PACKAGE}; print({PACKAGE}.__name__)'"
    )
    allow = tuple(f"{host}:{port}/tcp" for host in sorted(hosts))
    done = run("sh", "-c", script, root=debian, allow=allow, options=options, timeout=110)
    assert (done.code, done.out) == (0, f"{PACKAGE}\n"), done.err
    assert done.denied == set()
    assert done.refused == set()
    assert {row["name"] for row in done.account["destinations"]} <= hosts
    without = run("sh", "-c", script, root=debian, allow=("host:1",), options=options, timeout=110)
    assert without.code != 0
    assert urlsplit(url).hostname in without.refused


def test_apt_get_update_by_name_only(run: Callable[..., Done], debian_own: Path) -> None:
    listed = list(apt_mirror.sources(debian_own / "etc" / "apt"))
    uris = {urlsplit(uri) for uri, _ in listed}
    if not uris or any(uri.scheme not in {"http", "https"} for uri in uris):
        pytest.skip("the root file system's apt is set up for no mirror of the network")
    allow = tuple(f"{uri.hostname}:{uri.port or 80}" for uri in sorted(uris))
    words = ("sh", "-c", "apt-get -q update -o Acquire::Retries=2 && ls /var/lib/apt/lists")
    done = run(*words, root=debian_own, allow=allow, options=("--root",), timeout=110)
    assert done.code == 0, done.out + done.err
    assert "InRelease" in done.out
    assert "Err:" not in done.out
    names = {uri.hostname for uri in uris}
    assert {row["name"] for row in done.account["destinations"]} <= names
    assert {row["name"] for row in done.account["destinations"]}


def test_a_listed_name_is_open_at_its_ports_only(
    run: Callable[..., Done], debian_own: Path
) -> None:
    need("nc")
    uri = urlsplit(next(apt_mirror.sources(debian_own / "etc" / "apt"))[0])
    name, port = uri.hostname or "", uri.port or 80
    try:
        address = socket.getaddrinfo(name, port, socket.AF_INET)[0][4][0]
        socket.create_connection((name, port), timeout=10).close()
    except OSError as error:
        pytest.skip(f"the mirror cannot be reached: {error}")
    script = (
        f"nc -4 -z -w 9 {address} {port}; echo $?; nc -4 -z -w 9 {name} {port}; echo $?; "
        f"nc -4 -z -w 9 {address} {port}; echo $?; nc -4 -z -w 9 {name} {port + 1}; echo $?"
    )
    done = run("sh", "-c", script, allow=(f"{name}:{port}",))
    assert done.out.split() == ["1", "0", "0", "1"], done.err
    assert done.denied == {(str(address), port), (name, port + 1)}


# -- IPv6 first


EYEBALLS = """
import asyncio, sys
async def main():
    where = sys.argv[1], int(sys.argv[2])
    _, writer = await asyncio.open_connection(*where, happy_eyeballs_delay=0.25)
    print(writer.get_extra_info("peername")[0])
    writer.close()
asyncio.run(main())
"""


@pytest.fixture
def names() -> Iterator[Directory]:
    """A name server that says what the test wants."""
    with directory() as found:
        yield found


@pytest.mark.parametrize("first", ["fd12:3456::1", "2001:db8::1"], ids=["denied", "unreachable"])
@pytest.mark.parametrize("client", ["curl", "asyncio"])
def test_ipv6_first_clients_come_to_ipv4(
    run: Callable[..., Done],
    debian_own: Path,
    names: Directory,
    first: str,
    client: str,
) -> None:
    need("curl", "/usr/bin/python3")
    uri = urlsplit(next(apt_mirror.sources(debian_own / "etc" / "apt"))[0])
    try:
        address = str(socket.getaddrinfo(uri.hostname, 80, socket.AF_INET)[0][4][0])
        socket.create_connection((address, 80), timeout=10).close()
    except OSError as error:
        pytest.skip(f"the mirror cannot be reached: {error}")
    names.addresses["both.sbx.example"] = [address, first]
    words: tuple[object, ...] = ("/usr/bin/python3", "-c", EYEBALLS, "both.sbx.example", "80")
    if client == "curl":
        words = (
            "curl",
            "-s",
            "-m",
            "20",
            "-o",
            "/dev/null",
            "-w",
            "%{remote_ip}",
            "http://both.sbx.example/",
        )
    allow = ("both.sbx.example:80",)
    done = run(*words, allow=allow, options=("--dns", names.place))
    assert (done.code, done.out.strip()) == (0, address), done.err
