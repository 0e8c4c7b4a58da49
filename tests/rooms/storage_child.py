"""Run as a process of its own by test_storage_failures.py: `storage_child.py MODE DIRECTORY`.

Prints one JSON object, or for `burst` a line for each acknowledged commit until it is killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import trio
from p2pe.errors import P2peError, StorageError
from p2pe.identity.files import read_private, write_private
from p2pe.identity.home import Home
from p2pe.storage.database import Database, open_database
from p2pe.storage.migrations import Tx
from storage_kit import KEY, marks, put_mark, threaded_world


def put_pair(tx: Tx, name: str) -> None:
    """Two rows and a growing blob: half of it would show."""
    put_mark(tx, f"{name}/a", os.urandom(600))
    put_mark(tx, f"{name}/b", os.urandom(600))


async def burst(directory: Path) -> None:
    run = os.getpid()

    async def write(database: Database, task: int) -> None:
        number = 0
        while True:
            await database.write(partial(put_pair, name=f"{run}-{task}-{number}"))
            os.write(1, f"{run}-{task}-{number}\n".encode())
            number += 1

    async with open_database(directory / "p2pe.db", KEY, threaded_world()) as database, trio.open_nursery() as nursery:
        for task in range(8):
            nursery.start_soon(write, database, task)


async def full(directory: Path) -> dict[str, object]:
    """On a disk of 1 MiB: writes until it is full, sees that all is as it was, frees space, and goes on."""
    path, filler, keys = directory / "p2pe.db", directory / "filler", directory / "keys"
    acknowledged: list[str] = []
    errors: list[str] = []
    write_private(keys, b"before")

    async def write_until_full(database: Database, task: int) -> None:
        for number in range(1000):
            name = f"{task}-{number}"
            try:
                await database.write(partial(put_pair, name=name))
            except StorageError as error:
                errors.append(str(error))
                return
            acknowledged.append(name)

    async with open_database(path, KEY, threaded_world()) as database:
        filler.write_bytes(bytes(512 * 1024))
        async with trio.open_nursery() as nursery:
            for task in range(4):
                nursery.start_soon(write_until_full, database, task)
        with open(directory / "rest", "wb", buffering=0) as rest:  # noqa: ASYNC230 - nothing else runs
            try:
                while True:
                    rest.write(bytes(1024))
            except OSError:
                pass
        try:
            write_private(keys, b"after" * 2000)
        except StorageError as error:
            errors.append(str(error))
        while_full = await database.read(marks)
        filler.unlink()
        await database.write(partial(put_pair, name="later"))
        acknowledged.append("later")
    async with open_database(path, KEY, threaded_world()) as database:
        reopened = await database.read(marks)
    return {
        "acknowledged": acknowledged,
        "errors": errors,
        "while_full": while_full,
        "reopened": reopened,
        "keys": read_private(keys, 100).decode(),
    }


async def read_only(directory: Path) -> dict[str, str]:
    """On a disk that becomes read-only: what opening and writing say."""
    home, answers = Home(directory), {}
    write_private(home.keys, b"keys")
    async with open_database(home.database, KEY, threaded_world()) as database:
        await database.write(partial(put_mark, name="kept"))
    with home.lock():
        pass
    subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)  # noqa: ASYNC221
    try:
        async with open_database(home.database, KEY, threaded_world()):
            pass
    except P2peError as error:
        answers["database"] = f"{type(error).__name__}: {error}"
    try:
        write_private(home.keys, b"other")
    except P2peError as error:
        answers["keys"] = f"{type(error).__name__}: {error}"
    try:
        with home.lock():
            pass
    except P2peError as error:
        answers["lock"] = f"{type(error).__name__}: {error}"
    subprocess.run(["mount", "-o", "remount,rw", str(directory)], check=True)  # noqa: ASYNC221
    async with open_database(home.database, KEY, threaded_world()) as database:
        answers["after"] = ",".join(await database.read(marks)) + read_private(home.keys, 10).decode()
    return answers


MODES = {"burst": burst, "full": full, "read_only": read_only}

if __name__ == "__main__":
    result = trio.run(MODES[sys.argv[1]], Path(sys.argv[2]))
    print(json.dumps(result))
