"""Looks for traces: in all memory of a running process, in all files below a folder, in captured packets."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

_PIECE: Final = 16 * 2**20  # bytes read at once
_SKIPPED: Final = ("[vvar]", "[vsyscall]", "[vvar_vclock]")


def needles(**named: str | bytes) -> dict[str, bytes]:
    """What to look for, by name: each text in the forms in which a program may hold it."""
    found: dict[str, bytes] = {}
    for name, value in named.items():
        if isinstance(value, bytes):
            found[name] = value
            found[f"{name} in hex"] = value.hex().encode()
        else:
            found[name] = value.encode()
            found[f"{name} in UTF-16"] = value.encode("utf-16-le")
    return found


def in_memory(pid: int, wanted: Mapping[str, bytes]) -> dict[str, int]:
    """How often each needle occurs in the readable memory of a process. Raises PermissionError where that is
    forbidden, ProcessLookupError when the process has ended."""
    counts = dict.fromkeys(wanted, 0)
    searched = 0
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            fields = line.split(None, 5)
            if not fields[1].startswith("r") or fields[-1] in _SKIPPED:
                continue
            start, end = (int(edge, 16) for edge in fields[0].split("-"))
            for piece in _pieces(memory, start, end, max(map(len, wanted.values()))):
                searched += len(piece)
                _count(piece, wanted, counts)
    if not searched:
        raise ProcessLookupError(f"process {pid} has no memory that can be read")
    return counts


def _pieces(memory, start: int, end: int, overlap: int) -> Iterable[bytes]:  # type: ignore[no-untyped-def]
    """Overlapping, so that nothing is missed at a seam. What the kernel won't give is left out."""
    at = start
    while at < end:
        size = min(_PIECE + overlap, end - at)
        try:
            memory.seek(at)
            piece = memory.read(size)
        except (OSError, ValueError, OverflowError):
            piece = b""
        if piece:
            yield piece
        at += _PIECE


def in_files(folder: Path, wanted: Mapping[str, bytes]) -> dict[str, int]:
    """How often each needle occurs in the contents, and in the names, of all files below a folder."""
    counts = dict.fromkeys(wanted, 0)
    for path in sorted(folder.rglob("*")):
        _count(str(path.relative_to(folder)).encode(), wanted, counts)
        if path.is_file() and not path.is_symlink() and path.stat().st_size:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                _count(content, wanted, counts)
    return counts


def in_bytes(content: bytes, wanted: Mapping[str, bytes]) -> dict[str, int]:
    counts = dict.fromkeys(wanted, 0)
    _count(content, wanted, counts)
    return counts


def _count(content: bytes | mmap.mmap, wanted: Mapping[str, bytes], counts: dict[str, int]) -> None:
    for name, needle in wanted.items():
        counts[name] += sum(1 for _ in re.finditer(re.escape(needle), content))


def seen(counts: Mapping[str, int]) -> dict[str, int]:
    """Only those that occur."""
    return {name: count for name, count in counts.items() if count}
