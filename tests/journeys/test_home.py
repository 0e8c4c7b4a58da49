"""What goes wrong with a home folder is said clearly, and loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from p2pe_sim.processes import Person, Processes, eventually, pair, settled

pytestmark = pytest.mark.journey


def run_to_its_end(person: Person, *options: str) -> subprocess.CompletedProcess[str]:
    """A `p2pe run` that is expected to end by itself."""
    return person.command("run", "--home", str(person.home), "--listen", "/ip4/127.0.0.1/tcp/0", *options, check=False)


def test_a_second_daemon_is_refused_with_the_first_ones_process_id(story: Processes) -> None:
    alice = story.person("alice").start()
    assert alice.node is not None
    second = run_to_its_end(alice)
    assert second.returncode == 1
    assert str(alice.node.process.pid) in second.stderr
    with alice.client() as client:
        assert client.status()["pid"] == alice.node.process.pid


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_gracefully(how: signal.Signals, story: Processes) -> None:
    alice = story.person("alice").start()
    assert alice.node is not None
    assert alice.node.end(how) == 0
    alice.node = None
    assert not (alice.home / "api.sock").exists()
    alice.start()


def test_under_nohup_a_closed_terminal_is_nothing(story: Processes) -> None:
    alice = story.person("alice")
    alice.inside = ("nohup",)
    alice.start()
    assert alice.node is not None
    alice.node.process.send_signal(signal.SIGHUP)
    assert alice.stop() == 0
    assert '"signal": "SIGTERM"' in (alice.world.running[-1].log_text())


def test_passphrase_right_wrong_and_missing(story: Processes, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("correct horse\n")
    wrong.write_text("incorrect horse\n")
    alice = Person("alice", tmp_path / "home", story)
    alice.command("init", "--passphrase-file", str(right), "--json")
    for options in (["--passphrase-file", str(wrong)], []):
        failed = run_to_its_end(alice, *options)
        assert failed.returncode == 1
        assert "passphrase" in failed.stderr.lower()
        assert "Traceback" not in failed.stderr
    alice.options = ("--listen", "/ip4/127.0.0.1/tcp/0", "--passphrase-file", str(right))
    alice.start()


def test_a_corrupt_database_is_named_and_left_alone(story: Processes) -> None:
    alice = story.person("alice").start()
    alice.stop()
    [database] = alice.home.glob("*.db")
    damaged = bytearray(database.read_bytes())
    damaged[: len(damaged) // 2] = os.urandom(len(damaged) // 2)
    database.write_bytes(damaged)
    failed = run_to_its_end(alice)
    assert failed.returncode == 1
    assert str(database) in failed.stderr
    assert "Traceback" not in failed.stderr
    assert database.read_bytes() == bytes(damaged)


def test_no_home_and_no_daemon(story: Processes, tmp_path: Path) -> None:
    nobody = Person("nobody", tmp_path / "none", story)
    missing = run_to_its_end(nobody)
    assert missing.returncode in (1, 4)
    assert "p2pe init" in missing.stderr
    alice = story.person("alice")
    for command in (["status"], ["inbox"], ["send", "bob", "x"], ["contacts"], ["outbox"]):
        assert alice.command(*command, check=False).returncode == 3
    again = alice.command("init", check=False)
    assert again.returncode == 1


def test_init_in_a_used_home_asks_for_nothing(story: Processes) -> None:
    alice = story.person("alice")
    keyboard, terminal = os.openpty()  # nobody types: a prompt would wait for ever
    again = subprocess.run(alice.command_line("init"), stdin=terminal, capture_output=True, start_new_session=True)
    os.close(keyboard)
    os.close(terminal)
    assert again.returncode == 1 and b"exists already" in again.stderr
    assert b"passphrase" not in again.stdout + again.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="a small full disk needs root to mount a tmpfs")
def test_a_full_disk_is_said_and_nothing_is_lost(couple: tuple[Person, Person], tmp_path: Path) -> None:
    """Alice's home is on a disk of 6 MiB that somebody else fills up."""
    alice, bob = couple
    alice.stop()
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        subprocess.run(["cp", "-a", str(alice.home), str(disk / "home")], check=True)
        alice.home = disk / "home"
        alice.start()
        bob.stop()
        accepted = []
        with alice.client() as client:
            accepted.append(client.send("bob", "before it is full")["id"])
            with (disk / "hog").open("wb") as hog:
                try:
                    while True:
                        hog.write(bytes(1 << 16))
                        hog.flush()
                except OSError:
                    pass
            refused = 0
            for number in range(400):
                done = alice.command("send", "bob", f"{number} " + "x" * 30_000, check=False)
                if done.returncode:
                    refused += 1
                    assert "full" in done.stderr
                    break
                accepted.append(done.stdout.split()[0])
            assert refused
            (disk / "hog").unlink()
            accepted.append(client.send("bob", "after it has space again")["id"])
        bob.start()
        settled(alice, accepted)
        assert len(bob.inbox("alice")) == len(accepted)
        alice.stop()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a read-only home needs root to mount one")
def test_a_read_only_home_is_said(story: Processes) -> None:
    alice = story.person("alice").start()
    alice.stop()
    home = str(alice.home)
    if subprocess.run(["mount", "--bind", "-o", "ro", home, home], capture_output=True).returncode:
        pytest.skip("nothing can be mounted read-only here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", home], check=True)
        failed = run_to_its_end(alice)
        assert failed.returncode == 1
        assert home in failed.stderr
        assert "Traceback" not in failed.stderr
    finally:
        subprocess.run(["umount", "-l", home], check=True)
    alice.start()


def test_logs_never_hold_texts_names_or_keys(story: Processes) -> None:
    alice, bob = story.person("alice"), story.person("bob")
    for person in (alice, bob):
        person.name += "-unmistakable"  # what the other calls them; the home, which logs name, is called otherwise
        person.start()
    pair(alice, bob)
    with alice.client() as client:
        key = client.status()["identity_key"]
        settled(alice, [client.send(bob.name, "an unmistakable text")["id"]])
    eventually("the message", lambda: bob.inbox(alice.name))
    logs = [person.node.log_text() for person in (alice, bob) if person.node is not None]
    assert all(logs), "no logs: this test would prove nothing"
    for log in logs:
        for secret in ("unmistakable", key):
            assert secret not in log
