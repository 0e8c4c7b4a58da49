"""Many rows in one statement, both ways.

Why: SQLite runs in a worker thread, and apsw gives up Python's global lock at every step of a statement. When
the event loop is busy, getting the lock back takes up to `sys.getswitchinterval()`: measured, 500 rows through
`executemany` beside a busy thread cost 2,100 us a row, in one statement 35 us, on an idle machine 6 and 4 us.
So what is hot goes in as one blob with the places of its records as JSON, and comes out as one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

_SIZE_BITS: Final = 20  # a record is below 1 MiB: MAX_BODY_BYTES and its columns
RECORDS: Final = (
    f"(SELECT key AS n, value >> {_SIZE_BITS} AS at, value & {(1 << _SIZE_BITS) - 1} AS size FROM json_each(?2))"
)


def pack(records: Sequence[bytes]) -> tuple[bytes, str]:
    """The parameters ?1 (all records) and ?2 (where each lies) of a statement that selects from RECORDS.

    There, `substr(?1, at + 1, size)` is record number `n`.
    """
    places, at = [], 0
    for each in records:
        size = len(each)
        places.append(at << _SIZE_BITS | size)
        at += size
    return b"".join(records), repr(places)


# Fixed-size values: `id IN KEYS_OF_32`, or FROM it, with ?1 the joined values and ?2 their number.
KEYS_OF_32: Final = """(
    WITH RECURSIVE each(n) AS (SELECT 0 WHERE ?2 > 0 UNION ALL SELECT n + 1 FROM each WHERE n + 1 < ?2)
    SELECT substr(?1, n * 32 + 1, 32) AS id FROM each)"""


def cut(joined: bytes | None, size: int) -> list[bytes]:
    """What `group_concat(column, '')` of blobs of one size gave, taken apart. None (no rows) gives []."""
    if not joined:
        return []
    return [joined[at : at + size] for at in range(0, len(joined), size)]


def cut_sizes(joined: bytes | None, sizes: Iterable[int]) -> Iterator[bytes]:
    """The same for blobs of different sizes."""
    at = 0
    whole = joined or b""
    for size in sizes:
        yield whole[at : at + size]
        at += size


def numbers(joined: str | None) -> list[int]:
    """What `group_concat(column, ',')` of integers gave."""
    return list(map(int, joined.split(","))) if joined else []
