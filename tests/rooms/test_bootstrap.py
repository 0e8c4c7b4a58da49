"""The bootstrap node as a process: ready line, lasting key, self-check, metrics, drain, clear errors."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from p2pe.core.addresses import split_peer
from p2pe.errors import ExitCode

pytestmark = pytest.mark.journey
ANY = "/ip4/127.0.0.1/tcp/0"


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "p2pe_bootstrap", *args]


@contextmanager
def running(home: Path, *args: str, listen: str = ANY) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        command("run", "--home", str(home), "--listen", listen, *args),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_ready_line_key_status_and_drain(tmp_path: Path, how: signal.Signals) -> None:
    with running(tmp_path) as (process, line):
        address, peer_id = split_peer(line)
        assert address.startswith("/ip4/127.0.0.1/tcp/")
        assert not address.endswith("/0")
        assert stat.S_IMODE((tmp_path / "host.key").stat().st_mode) == 0o600
        found = subprocess.run(
            command("status", "--home", str(tmp_path), "--json"), capture_output=True, text=True, check=True
        )
        (check,) = json.loads(found.stdout)
        assert check["is_well"]
        assert check["address"] == line
        assert check["directory"]["servers_known"] == 0
        assert check["directory"]["mode"] == "server"
        text = subprocess.run(command("status", "--home", str(tmp_path)), capture_output=True, text=True, check=True)
        assert "0 of 0 known servers answer" in text.stdout
        second = subprocess.run(
            command("run", "--home", str(tmp_path), "--listen", ANY), capture_output=True, text=True, check=False
        )
        assert second.returncode == ExitCode.FAILED
        assert str(process.pid) in second.stderr
        process.send_signal(how)
        rest, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        assert rest == ""  # one line on standard output, no more
    gone = subprocess.run(command("status", "--home", str(tmp_path)), capture_output=True, text=True, check=False)
    assert gone.returncode == ExitCode.NO_DAEMON
    with running(tmp_path, listen=address) as (_, again):
        assert again == line  # the same key, and the port was freed
        assert split_peer(again)[1] == peer_id


def test_metrics_and_announced_addresses(tmp_path: Path) -> None:
    with socket_port() as port:
        pass
    args = ("--metrics", f"127.0.0.1:{port}", "--announce", "/ip4/192.0.2.9/tcp/4001", "--json")
    with running(tmp_path, *args) as (_, line):
        assert json.loads(line)["addresses"][0].startswith("/ip4/192.0.2.9/tcp/4001/p2p/12D3")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert "p2pe_dht_records 0.0" in text
        assert 'p2pe_dht_served_total{kind="put_value"} 0.0' in text
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/secrets", timeout=10)


def test_all_addresses_are_printed(tmp_path: Path) -> None:
    with running(tmp_path, "--listen", ANY) as (process, first):
        assert process.stdout is not None
        second = process.stdout.readline().strip()
        assert first != second and split_peer(first)[1] == split_peer(second)[1]
        assert (tmp_path / "addresses").read_text().split() == [first, second]


def test_a_persons_home_is_refused(tmp_path: Path) -> None:
    """P2PE_HOME names the home of either."""
    (tmp_path / "keys").touch()
    done = subprocess.run(
        command("run", "--home", str(tmp_path), "--listen", ANY), capture_output=True, text=True, check=False
    )
    assert done.returncode == ExitCode.FAILED
    assert "the home of a person's node" in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["keys"]


@contextmanager
def socket_port() -> Iterator[int]:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield free.getsockname()[1]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["run", "--listen", "nonsense"], ExitCode.USAGE, "isn't an address"),
        (["run", "--listen", ANY, "--metrics", "9000"], ExitCode.USAGE, "HOST:PORT"),
        (["run", "--listen", ANY, "--bootstrap", "/ip4/1.2.3.4/tcp/1"], ExitCode.USAGE, "bootstrap address"),
        (["run", "--listen", "/ip4/192.0.2.1/tcp/4001"], ExitCode.FAILED, "can't listen"),
        (["status", "/ip4/127.0.0.1/tcp/1"], ExitCode.USAGE, "full address"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, args: list[str], code: ExitCode, says: str) -> None:
    done = subprocess.run(command(*args, "--home", str(tmp_path)), capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    with running(tmp_path):
        pass
    (tmp_path / "host.key").chmod(0o644)
    done = subprocess.run(
        command("run", "--home", str(tmp_path), "--listen", ANY), capture_output=True, text=True, check=False
    )
    assert done.returncode == ExitCode.FAILED
    assert "chmod 600" in done.stderr


def test_status_of_a_dead_address_fails(tmp_path: Path) -> None:
    with running(tmp_path) as (_, line):
        pass
    done = subprocess.run(command("status", line), capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.FAILED
    assert "FAILED" in done.stdout
