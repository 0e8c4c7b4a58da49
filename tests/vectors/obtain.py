"""Unpacks published test vectors from two packages of the Rust registry into a folder (default: build/vectors).

They are other people's data, about 4 MiB: not kept in this repository. Needs `cargo`, and downloads through it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
DEFAULT = HERE.parents[1] / "build" / "vectors"
WYCHEPROOF = (
    "chacha20_poly1305",
    "ed25519",
    "hkdf_sha256",
    "hmac_sha256",
    "mlkem_768",
    "mlkem_768_encaps",
    "x25519",
)


class NoVectors(Exception):
    """They can't be had here. `str()` says why."""


def obtain(target: Path = DEFAULT) -> Path:
    """Returns the folder with `snow.txt` and `wycheproof/*.json`, made if need be. Raises NoVectors."""
    if (target / "snow.txt").is_file():
        return target
    cargo = shutil.which("cargo")
    if cargo is None:
        raise NoVectors("the published vectors come in two Rust packages, and `cargo` isn't installed")
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("Cargo.toml", "none.rs"):
            shutil.copy(HERE / name, scratch)
        done = subprocess.run([cargo, "vendor", "--quiet", "packages"], cwd=scratch, capture_output=True, text=True)
        if done.returncode != 0:
            raise NoVectors(f"cargo could not fetch the published vectors: {done.stderr.strip()[-200:]}")
        packages = Path(scratch) / "packages"
        (target / "wycheproof").mkdir(parents=True, exist_ok=True)
        for name in WYCHEPROOF:
            shutil.copy(packages / "wycheproof" / "src" / "data" / f"{name}_test.json", target / "wycheproof")
        shutil.copy(packages / "snow" / "tests" / "vectors" / "snow.txt", target)  # last: its presence means complete
    return target


if __name__ == "__main__":
    print(obtain(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT))
