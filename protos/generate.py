"""Generates node/p2pe/proto from the sources here; with --check, only says whether it is fresh.

protoc puts the import path of a file into its output: p2pe/proto/<name>_pb2.py, hence the copy to a flat tree.
"""

from __future__ import annotations

import filecmp
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).parent
TARGET = HERE.parent / "node" / "p2pe" / "proto"


def generate(target: Path) -> None:
    """Writes one *_pb2.py and *_pb2.pyi for each .proto file into `target`. Raises SystemExit on an error."""
    with tempfile.TemporaryDirectory() as scratch:
        flat = Path(scratch) / "p2pe" / "proto"
        flat.mkdir(parents=True)
        sources = sorted(HERE.glob("p2pe/v1/*.proto")) + sorted(HERE.glob("libp2p/*.proto"))
        for source in sources:
            shutil.copy(source, flat / source.name)
        well_known = resources.files("grpc_tools") / "_proto"
        arguments = [
            "protoc",
            f"-I{scratch}",
            f"-I{well_known}",
            f"--python_out={scratch}",
            f"--pyi_out={scratch}",
        ]
        if protoc.main([*arguments, *(str(flat / source.name) for source in sources)]) != 0:
            raise SystemExit(1)
        for made in [*flat.glob("*_pb2.py"), *flat.glob("*_pb2.pyi")]:
            shutil.copy(made, target / made.name)


def main() -> None:
    if "--check" not in sys.argv:
        generate(TARGET)
        return
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        names = sorted(path.name for path in Path(scratch).iterdir())
        _, mismatch, errors = filecmp.cmpfiles(scratch, TARGET, names, shallow=False)
        if mismatch or errors:
            raise SystemExit(f"generated code is stale: {', '.join(mismatch + errors)}. Run: make proto")


if __name__ == "__main__":
    main()
