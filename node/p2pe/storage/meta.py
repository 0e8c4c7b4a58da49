"""Single values by name: bytes in, bytes out, with helpers for numbers and text."""

from __future__ import annotations

from p2pe.storage.migrations import Tx

STREAM_ID = "stream_id"  # 16 bytes: this installation's sending order; see docs/protocol.md "Order"
CREATED_AT = "created_at"
RESTORED_AT = "restored_at"
RECOVER_UNTIL = "recover_until"  # Unix milliseconds: until then contacts find us by our identity key as well


def get(tx: Tx, key: str) -> bytes | None:
    row = tx.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else bytes(row[0])


def put(tx: Tx, key: str, value: bytes) -> None:
    tx.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value))


def delete(tx: Tx, key: str) -> None:
    tx.execute("DELETE FROM meta WHERE key = ?", (key,))


def get_number(tx: Tx, key: str) -> int | None:
    raw = get(tx, key)
    return None if raw is None else int(raw)


def put_number(tx: Tx, key: str, value: int) -> None:
    put(tx, key, str(value).encode())


def get_text(tx: Tx, key: str) -> str | None:
    raw = get(tx, key)
    return None if raw is None else raw.decode()


def put_text(tx: Tx, key: str, value: str) -> None:
    put(tx, key, value.encode())
