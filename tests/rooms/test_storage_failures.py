"""The database on real failures: full and read-only disks, damage, kill -9. Nothing acknowledged may be lost."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from p2pe import config
from p2pe.errors import StorageError
from p2pe.storage import contacts
from p2pe.storage.database import open_database
from p2pe.storage.migrations import Tx
from storage_kit import KEY, add_contact, child, marks, put_mark, threaded_world

SCRIPT = Path(__file__).with_name("storage_child.py")


def own_disk(mode: str, directory: Path) -> dict[str, Any]:
    """Runs the child with a tmpfs of 1 MiB on `directory`, in a mount namespace of its own."""
    directory.mkdir()
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--user", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False).returncode != 0:
        pytest.skip("needs root, or user namespaces, to mount a small disk")
    mount = 'mount -t tmpfs -o size=1m,mode=700 tmpfs "$1" && shift && exec "$@"'
    command = [*namespace, "sh", "-c", mount, "sh", str(directory), *child(SCRIPT, mode, str(directory))]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_a_full_disk_is_said_and_loses_nothing_and_work_goes_on_when_there_is_room(tmp_path: Path) -> None:
    answer = own_disk("full", tmp_path / "disk")
    errors = answer["errors"]
    assert len(errors) == 5  # four writers, and the key file
    assert all("disk holding" in error and "is full" in error for error in errors[:4]), errors
    assert "keys failed: the disk is full" in errors[4]
    assert answer["keys"] == "before"
    acknowledged = sorted(f"{name}/{half}" for name in answer["acknowledged"] for half in "ab")
    assert len(acknowledged) > 40
    assert answer["while_full"] == [name for name in acknowledged if not name.startswith("later")]
    assert answer["reopened"] == acknowledged


def test_a_read_only_home_is_said_and_left_as_it_was(tmp_path: Path) -> None:
    answer = own_disk("read_only", tmp_path / "disk")
    assert (
        answer["database"].startswith("StorageError:") and "p2pe.db can't be opened for writing" in answer["database"]
    )
    assert "Read-only" in answer["database"] and "--home" in answer["database"]
    assert answer["keys"].startswith("StorageError:") and "mounted read-only" in answer["keys"]
    assert answer["lock"].startswith("StorageError:") and "mounted read-only" in answer["lock"]
    assert answer["after"] == "keptkeys"


async def test_a_limit_on_the_file_size_is_said_and_the_database_stays_usable(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with open_database(tmp_path / "a.db", KEY, threaded_world()) as database:
        await database.write(partial(put_mark, name="before"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
        try:
            with pytest.raises(StorageError, match=r"writing .*a\.db failed.*nothing was changed"):
                await database.write(partial(put_mark, name="large", value=bytes(2_000_000)))
            assert await database.read(marks) == ["before"]
            await database.write(partial(put_mark, name="small"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await database.write(partial(put_mark, name="large", value=bytes(2_000_000)))
        assert await database.read(marks) == ["before", "large", "small"]


@pytest.mark.parametrize("rounds", [6, pytest.param(50, marks=pytest.mark.slow)])
async def test_kill_9_at_any_instant_keeps_every_acknowledged_commit_and_no_half(tmp_path: Path, rounds: int) -> None:
    chance = random.Random(rounds)
    acknowledged: list[str] = []
    for _ in range(rounds):  # on one file, so that each start recovers what the last kill left
        acknowledged += _burst_until_killed(tmp_path, chance.randrange(1, 400))
    async with open_database(tmp_path / "p2pe.db", KEY, threaded_world()) as database:
        present = set(await database.read(marks))
    assert len(acknowledged) >= rounds
    assert {f"{name}/{half}" for name in acknowledged for half in "ab"} <= present
    assert {name[:-1] + "b" for name in present} == {name[:-1] + "b" for name in present if name.endswith("/a")}


def _burst_until_killed(directory: Path, after: int) -> list[str]:
    """Kills the writer upon its `after`th acknowledgement; returns all that it had written to the pipe by then."""
    lines: list[bytes] = []
    with subprocess.Popen(child(SCRIPT, "burst", str(directory)), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if len(lines) == after:
                process.kill()
    return [line.decode().strip() for line in lines if line.endswith(b"\n")]


# --- damage ---


async def _filled(path: Path) -> int:
    """A closed database with some pages; returns how many."""

    def fill(tx: Tx) -> None:
        add_contact(tx)
        for number in range(200):
            put_mark(tx, f"{number:03}", bytes([number]) * 300)

    async with open_database(path, KEY, threaded_world()) as database:
        await database.write(fill)
        return int(await database.maintain(lambda tx: tx.execute("PRAGMA page_count").get))


def _flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 0x10]))


async def test_one_changed_byte_in_any_page_is_found_at_the_start(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.db", tmp_path / "copy.db"
    pages = await _filled(path)
    assert pages > 20
    for page in range(pages):
        shutil.copy(path, copy)
        _flip(copy, page * 4096 + 100 + page)
        with pytest.raises(StorageError, match=r"copy\.db (is damaged|can't be read with this home's key).*restore"):
            async with open_database(copy, KEY, threaded_world()):
                pass


async def test_in_a_large_database_damage_is_found_when_read_and_never_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "DB_CHECK_BYTES", 0)
    path, copy = tmp_path / "a.db", tmp_path / "copy.db"
    found = 0
    for page in range(1, await _filled(path)):
        shutil.copy(path, copy)
        _flip(copy, page * 4096 + 2000)
        try:
            async with open_database(copy, KEY, threaded_world()) as database:
                rows = await database.read(lambda tx: tx.execute("SELECT key, value FROM meta ORDER BY key").fetchall())
                assert rows == [(f"{number:03}", bytes([number]) * 300) for number in range(200)]
                assert (await database.read(contacts.all_contacts))[0].name == "bob"
        except StorageError:
            found += 1
    assert found > 10  # pages that these two questions touch


async def test_a_truncated_or_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await _filled(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:3000], b"not a database" * 1000, whole[4096:]):
        path.write_bytes(content)
        with pytest.raises(StorageError, match=r"a\.db"):
            async with open_database(path, KEY, threaded_world()):
                pass
        assert path.read_bytes() == content
