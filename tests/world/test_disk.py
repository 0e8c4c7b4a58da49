"""The virtual disk: what was synced survives a power cut, the rest may or may not; a killed process loses nothing."""

from __future__ import annotations

import random

import apsw
import pytest
from p2pe.storage.database import open_database
from p2pe_sim.world.disk import SECTOR, Disk

FILE = "a.db"


async def add(disk: Disk, count: int, *, end: str, synchronous: bool = True) -> None:
    mount = disk.mount()
    async with open_database(FILE, None, None, vfs=mount.name, exclusive=True) as database:
        if not synchronous:
            await database.maintain(lambda tx: tx.execute("PRAGMA synchronous = off").fetchall())
        for _ in range(count):
            await database.write(
                lambda tx: tx.execute("INSERT INTO meta SELECT 'k' || count(*), zeroblob(3000) FROM meta").fetchall()
            )
        mount.cut_off()
        if end == "power":
            disk.power_cut()


async def rows(disk: Disk) -> int:
    mount = disk.mount()
    async with open_database(FILE, None, None, vfs=mount.name, exclusive=True) as database:
        assert await database.read(lambda tx: tx.execute("PRAGMA integrity_check").get) == "ok"
        return int(await database.read(lambda tx: tx.execute("SELECT count(*) FROM meta WHERE key LIKE 'k%'").get))


@pytest.mark.parametrize("seed", range(20))
async def test_committed_rows_survive_power_cuts(seed: int) -> None:
    disk = Disk(f"cut{seed}", random.Random(seed))
    for turn in range(1, 4):
        await add(disk, 5, end="power")
        assert await rows(disk) == 5 * turn


async def test_a_killed_process_loses_nothing_that_it_wrote_and_does_nothing_more() -> None:
    disk = Disk("kill", random.Random(1))
    await add(disk, 3, end="kill", synchronous=False)
    assert not disk.is_clean
    assert await rows(disk) == 3


async def test_without_syncs_a_power_cut_is_felt() -> None:
    left = []
    for seed in range(10):
        disk = Disk(f"lazy{seed}", random.Random(seed))
        await add(disk, 1, end="power")
        await add(disk, 10, end="power", synchronous=False)
        left.append(await rows(disk))
        assert disk.effects.writes_lost + disk.effects.writes_torn > 0
    assert min(left) < 11


def test_writes_are_torn_at_sectors() -> None:
    found = set()
    for seed in range(60):
        disk = Disk(f"torn{seed}", random.Random(seed))
        disk.load("f", bytes(4 * SECTOR))
        disk._files["f"].write(0, b"\1" * 4 * SECTOR)
        disk.power_cut()
        content = disk.copy_of("f")
        assert content is not None
        sectors = [content[n : n + SECTOR] for n in range(0, 4 * SECTOR, SECTOR)]
        assert all(len(set(each)) == 1 for each in sectors)
        found.add(tuple(each[0] for each in sectors))
    assert {(0, 0, 0, 0), (1, 1, 1, 1)} < found


async def test_a_full_disk_refuses_and_recovers() -> None:
    disk = Disk("full", random.Random(1))
    mount = disk.mount()
    async with open_database(FILE, None, None, vfs=mount.name, exclusive=True) as database:
        disk.is_full = True
        with pytest.raises(Exception, match="full"):
            await database.write(lambda tx: tx.execute("INSERT INTO meta VALUES ('x', zeroblob(9000))").fetchall())
        disk.is_full = False
        await database.write(lambda tx: tx.execute("INSERT INTO meta VALUES ('kx', zeroblob(9000))").fetchall())
    assert disk.effects.writes_refused > 0
    assert await rows(disk) == 1


async def test_a_node_that_stops_while_its_disk_is_full_ends_well() -> None:
    """SQLite writes the log back when the last connection closes; it stays as it is when there is no room for that."""
    disk = Disk("full", random.Random(1))
    mount = disk.mount()
    async with open_database(FILE, None, None, vfs=mount.name, exclusive=True) as database:
        await database.write(lambda tx: tx.execute("INSERT INTO meta VALUES ('k', x'01')").fetchall())
        disk.is_full = True
    assert disk.effects.writes_refused
    disk.is_full = False
    assert await rows(disk) == 1


def test_a_missing_file_can_t_be_opened_for_reading() -> None:
    disk = Disk("none", random.Random(1))
    mount = disk.mount()
    with pytest.raises(apsw.CantOpenError):
        apsw.Connection("nothing.db", vfs=mount.name, flags=apsw.SQLITE_OPEN_READWRITE).execute("SELECT 1")
