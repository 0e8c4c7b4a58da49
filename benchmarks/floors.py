"""What this machine can do at best, measured in the same run: the product's figures mean something beside these."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import apsw
import trio
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

FRAME = 64 * 1024  # bytes
SECONDS = 1.0  # of measuring, each


def sqlite_floor() -> dict[str, float]:
    """Single commits and rows in batches of 100, a second; synchronous=FULL, WAL, unencrypted, 300-byte rows."""
    with tempfile.TemporaryDirectory() as folder:
        database = apsw.Connection(str(Path(folder) / "floor.db"))
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        body = bytes(300)
        commits = 0
        began = time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            database.execute("INSERT INTO t (body) VALUES (?)", (body,))
            commits += 1
        single = commits / (time.perf_counter() - began)
        rows = 0
        began = time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            with database:
                database.executemany("INSERT INTO t (body) VALUES (?)", [(body,)] * 100)
            rows += 100
        batched = rows / (time.perf_counter() - began)
        database.close()
    return {"sqlite_full_commits_per_s": single, "sqlite_full_rows_per_s_by_100": batched}


async def _encrypted_pipe() -> float:
    """MiB/s through trio TCP on loopback, ChaCha20-Poly1305 in 64 KiB frames, both ends in this process."""
    key = os.urandom(32)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    received = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal received
        cipher, count, buffer = ChaCha20Poly1305(key), 0, bytearray()
        async for chunk in stream:
            buffer += chunk
            while len(buffer) >= FRAME + 16:
                cipher.decrypt(count.to_bytes(12, "big"), bytes(buffer[: FRAME + 16]), None)
                del buffer[: FRAME + 16]
                count += 1
                received += FRAME

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        client = await trio.open_tcp_stream("127.0.0.1", port)
        cipher, data, began = ChaCha20Poly1305(key), bytes(FRAME), time.perf_counter()
        count = 0
        while time.perf_counter() - began < SECONDS:
            await client.send_all(cipher.encrypt(count.to_bytes(12, "big"), data, None))
            count += 1
        took = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    return received / took / 2**20


def floors() -> dict[str, float]:
    """All floors by name."""
    return {**sqlite_floor(), "trio_tcp_chacha20_mib_per_s": trio.run(_encrypted_pipe)}
