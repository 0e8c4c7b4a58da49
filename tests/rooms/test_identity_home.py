"""The home directory, its lock, and where passphrases come from."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from p2pe.control.server import bind_socket
from p2pe.errors import Conflict, StorageError, UsageError
from p2pe.identity.files import read_private, write_private
from p2pe.identity.home import MAX_SOCKET_PATH, Home, default_home
from p2pe.identity.passphrase import existing_passphrase, given_passphrase, new_passphrase

HOLD = """
import sys
from pathlib import Path
from p2pe.identity.home import Home
with Home(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


def test_a_second_process_is_refused_with_the_id_of_the_first_and_a_killed_one_holds_nothing(home: Home) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(Conflict, match=f"in use by another p2pe, process {holder.pid}:"), home.lock():
            pass
        assert home.holder() == holder.pid
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert home.lock_file.read_text() == f"{holder.pid}\n"  # stale, and it doesn't matter
        assert home.holder() is None
        with home.lock():
            assert home.holder() == os.getpid()
    assert home.holder() is None


def test_the_lock_is_let_go_after_an_error(home: Home) -> None:
    with pytest.raises(ZeroDivisionError), home.lock():
        1 / 0
    with home.lock():
        pass


def test_a_missing_home_is_explained(tmp_path: Path) -> None:
    home = Home(tmp_path / "none")
    with pytest.raises(StorageError, match="p2pe init"), home.lock():
        pass
    assert home.holder() is None


def test_a_home_that_others_may_write_in_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StorageError, match=r"mode 0777.*chmod 700"):
        Home(tmp_path).create()
    tmp_path.chmod(0o755)
    Home(tmp_path).create()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="making"):
        Home(tmp_path / "file").create()


def test_a_home_that_others_came_to_write_in_runs_no_more(home: Home) -> None:
    home.path.chmod(0o777)
    with pytest.raises(StorageError, match=r"mode 0777.*chmod 700"), home.lock():
        pass
    home.path.chmod(0o700)
    with home.lock():
        pass


def test_a_path_too_long_for_the_socket_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    longest = tmp_path / ("x" * (MAX_SOCKET_PATH - len(str(tmp_path / "x" / "api.sock")) + 1))
    with pytest.raises(UsageError, match="too long"):
        Home(longest.with_name(longest.name + "x")).create()
    assert list(tmp_path.iterdir()) == []
    Home(longest).create()
    bind_socket(Home(longest).socket).close()


def test_the_home_comes_from_the_environment_or_the_platform(tmp_path: Path) -> None:
    assert default_home({"P2PE_HOME": str(tmp_path)}) == Home(tmp_path)
    assert default_home({"P2PE_HOME": ""}).path.name == "p2pe"


def test_a_private_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    write_private(path, b"one")
    (tmp_path / "keys.new").write_bytes(b"left by a crash")
    write_private(path, b"two")
    assert read_private(path, 10) == b"two"
    assert [file.name for file in tmp_path.iterdir()] == ["keys"]
    with pytest.raises(StorageError, match="longer than 2 bytes"):
        read_private(path, 2)


# --- passphrases ---


def ask(*answers: str):  # type: ignore[no-untyped-def]
    remaining = iter(answers)
    return lambda prompt: next(remaining)


def test_the_sources_in_their_order(tmp_path: Path) -> None:
    one, two, credentials = tmp_path / "one", tmp_path / "two", tmp_path / "credentials"
    one.write_text("first line\n")
    two.write_text("second\r\n")
    credentials.mkdir()
    environment = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert given_passphrase(None, environment) is None
    (credentials / "p2pe-passphrase").write_text("third")
    assert given_passphrase(None, environment) == "third"
    environment["P2PE_PASSPHRASE_FILE"] = str(two)
    assert given_passphrase(None, environment) == "second"
    assert given_passphrase(one, environment) == "first line"
    assert existing_passphrase(one, environment, sealed=True, ask=ask()) == "first line"


def test_only_a_sealed_key_file_is_asked_about() -> None:
    assert existing_passphrase(None, {}, sealed=True, ask=ask("typed")) == "typed"
    assert existing_passphrase(None, {}, sealed=False, ask=ask()) is None
    assert existing_passphrase(None, {}, sealed=True, ask=None) is None


def test_a_new_passphrase_is_typed_twice_and_may_be_none() -> None:
    assert new_passphrase(None, {}, ask=ask("caf\u0065\u0301 noir", "caf\u00e9 noir")) == "caf\u00e9 noir"
    assert new_passphrase(None, {}, ask=ask("")) is None
    assert new_passphrase(None, {}, ask=None) is None
    with pytest.raises(UsageError, match="differ"):
        new_passphrase(None, {}, ask=ask("one", "two"))


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"\xff\xfe", b"x" * 5000])
def test_an_unfit_passphrase_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UsageError, match="file"):
        given_passphrase(tmp_path / "file", {})


def test_a_missing_passphrase_file_is_refused_rather_than_ignored(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="passphrase file"):
        given_passphrase(tmp_path / "none", {})
    with pytest.raises(StorageError):
        given_passphrase(None, {"P2PE_PASSPHRASE_FILE": str(tmp_path / "none")})
