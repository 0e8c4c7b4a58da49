"""A disk in memory that can lose its power, as a VFS for SQLite.

What is written is kept twice: as the running program sees it, and as it is on the platter. A sync makes the second
equal to the first. A power cut keeps of the writes since the last sync an arbitrary part: each one whole, torn at a
sector, or not at all. Writes of a program that was merely killed stay, as they do in an operating system's cache.

It has no shared memory, so that the database is opened in exclusive locking mode: the write-ahead log, its frames,
checksums and syncs are the same as in production; only the log's index lies in the heap instead of a shared file.
Bytes of a sector that a write doesn't touch survive it (SQLITE_IOCAP_POWERSAFE_OVERWRITE), as SQLite assumes of the
real disks that production runs on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import apsw

SECTOR: Final = 512  # bytes that are written whole or not at all
_POWERSAFE_OVERWRITE: Final = apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE
_Write = tuple[int, bytes | None]  # (offset, data), or (size, None): cut to that size


class _Inode:
    __slots__ = ("durable", "exists_durably", "pending", "view")

    def __init__(self) -> None:
        self.view = bytearray()
        self.durable = bytearray()
        self.pending: list[_Write] = []
        self.exists_durably = False

    def copy(self) -> _Inode:
        other = _Inode()
        other.view, other.durable = bytearray(self.view), bytearray(self.durable)
        other.pending, other.exists_durably = list(self.pending), self.exists_durably
        return other

    def write(self, offset: int, data: bytes) -> None:
        _apply(self.view, offset, data)
        self.pending.append((offset, data))

    def cut(self, size: int) -> None:
        _apply(self.view, size, None)
        self.pending.append((size, None))

    def sync(self) -> None:
        for offset, data in self.pending:
            _apply(self.durable, offset, data)
        self.pending.clear()
        self.exists_durably = True

    def power_cut(self, rng: Random, losses: DiskEffects) -> None:
        for offset, data in self.pending:
            fate = rng.random()
            if fate < 0.5:
                losses.writes_lost += 1
            elif data is None or fate < 0.75:
                _apply(self.durable, offset, data)
            else:
                losses.writes_torn += 1
                for start in range(offset - offset % SECTOR, offset + len(data), SECTOR):
                    low, high = max(start, offset), min(start + SECTOR, offset + len(data))
                    if rng.random() < 0.5:
                        _apply(self.durable, low, data[low - offset : high - offset])
        self.pending.clear()
        self.view = bytearray(self.durable)


def _apply(image: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        if offset < len(image):
            del image[offset:]
        else:
            image.extend(bytes(offset - len(image)))
        return
    if offset > len(image):
        image.extend(bytes(offset - len(image)))
    image[offset : offset + len(data)] = data


@dataclass(slots=True)
class DiskEffects:
    """What power cuts and other faults did to this disk."""

    writes_lost: int = 0
    writes_torn: int = 0
    writes_refused: int = 0  # while it was full
    syncs: int = 0


@dataclass(slots=True)
class Disk:
    """One machine's. `mount` gives a process its view of it; there is one at a time."""

    name: str
    rng: Random
    effects: DiskEffects = field(default_factory=DiskEffects)
    is_full: bool = False
    syncs_lie: bool = False  # a disk that acknowledges syncs and doesn't do them: for mutants
    _files: dict[str, _Inode] = field(default_factory=dict)
    _deleted: dict[str, _Inode] = field(default_factory=dict)  # removed, but not yet durably so
    _mounts: int = 0

    def mount(self) -> Mount:
        self._mounts += 1
        return Mount(self, f"sim-{self.name}-{self._mounts}")

    @property
    def is_clean(self) -> bool:
        """Whether a power cut now would lose nothing."""
        return not self._deleted and all(not each.pending for each in self._files.values())

    def power_cut(self) -> None:
        for name, inode in self._deleted.items():
            if self.rng.random() < 0.5 and name not in self._files:
                self._files[name] = inode
        self._deleted.clear()
        for name, inode in list(self._files.items()):
            if not inode.exists_durably and self.rng.random() < 0.5:
                del self._files[name]
                self.effects.writes_lost += 1
            else:
                inode.power_cut(self.rng, self.effects)

    def erase(self) -> None:
        self._files.clear()
        self._deleted.clear()

    def load(self, name: str, content: bytes) -> None:
        """Puts a file there, durably."""
        inode = self._files[name] = _Inode()
        inode.write(0, content)
        inode.sync()

    def copy_of(self, name: str) -> bytes | None:
        inode = self._files.get(name)
        return None if inode is None else bytes(inode.view)


class Mount(apsw.VFS):
    """One process's VFS on a disk; its `name` is what apsw.Connection takes."""

    def __init__(self, disk: Disk, name: str) -> None:
        self.disk = disk
        self.name = name
        self.is_cut_off = False
        self.open: dict[_File, None] = {}
        super().__init__(name, "memdb", makedefault=False)

    def cut_off(self) -> None:
        """The process was killed. While its tasks unwind, what they still write goes to a copy that nobody reads."""
        if self.is_cut_off:
            return
        self.is_cut_off = True
        ghosts = {name: inode.copy() for name, inode in self.disk._files.items()}
        for file in self.open:
            if file.name is not None:
                file.inode = ghosts.get(file.name) or file.inode.copy()
        self.disk = Disk(self.name, Random(0), _files=ghosts)

    def xFullPathname(self, name: str) -> str:  # noqa: N802 - SQLite's names
        return name

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> Any:  # noqa: N802
        key = name.filename() if isinstance(name, apsw.URIFilename) else name
        if key is None:
            return _File(self, _Inode(), None)
        inode = self.disk._files.get(key)
        if inode is None:
            if not flags[0] & apsw.SQLITE_OPEN_CREATE:
                raise apsw.CantOpenError(f"{key} doesn't exist")
            inode = self.disk._files[key] = _Inode()
        flags[1] = flags[0]
        return _File(self, inode, key)

    def xDelete(self, name: str, sync_directory: bool) -> None:  # noqa: N802
        inode = self.disk._files.pop(name, None)
        if inode is None:
            raise apsw.IOError(f"{name} doesn't exist")
        if not sync_directory and inode.exists_durably:
            self.disk._deleted[name] = inode

    def xAccess(self, name: str, flags: int) -> bool:  # noqa: N802
        return name in self.disk._files

    def xRandomness(self, count: int, exclude: object = None) -> bytes:  # noqa: N802
        return self.disk.rng.randbytes(count)

    def xCurrentTimeInt64(self) -> int:  # noqa: N802
        return 212_666_256_000_000  # no statement of ours asks for the time

    def xSleep(self, microseconds: int) -> int:  # noqa: N802
        return microseconds


class _File:
    """What SQLite calls for one open file (the methods of apsw.VFSFile)."""

    def __init__(self, mount: Mount, inode: _Inode, name: str | None) -> None:
        self._mount = mount
        self.inode = inode
        self.name = name
        self._lock = 0
        mount.open[self] = None

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return bytes(self.inode.view[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        disk = self._mount.disk
        if disk.is_full and self.name is not None:
            disk.effects.writes_refused += 1
            raise apsw.FullError("no space left on the virtual disk")
        self.inode.write(offset, bytes(data))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self.inode.cut(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        disk = self._mount.disk
        disk.effects.syncs += 1
        if not disk.syncs_lie:
            self.inode.sync()
            disk._deleted.clear()  # journalling file systems put earlier deletions on the disk with any sync

    def xFileSize(self) -> int:  # noqa: N802
        return len(self.inode.view)

    def xClose(self) -> None:  # noqa: N802
        self._mount.open.pop(self, None)

    def xLock(self, level: int) -> None:  # noqa: N802
        self._lock = level

    def xUnlock(self, level: int) -> None:  # noqa: N802
        self._lock = level

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return self._lock >= apsw.SQLITE_LOCK_RESERVED

    def xFileControl(self, op: int, pointer: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return 4096

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return int(_POWERSAFE_OVERWRITE)
