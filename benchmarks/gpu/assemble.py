"""Put the pieces of prepare.py together on the machine with the GPU: an environment, the checkpoint's small files, titles.

    python benchmarks/gpu/assemble.py KIT -o PLACE

The environment is made of links to the packages of the Python that runs this, and of what travelled. Where onnxruntime-gpu
travelled, the machine's own onnxruntime is left out of it, because two of them overwrite each other. Nothing is installed or
changed elsewhere.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from pieces import unpack

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=Path, help="folder with the pieces")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PLACE", help="folder to make")
    arguments = parser.parse_args()
    began = time.monotonic()
    unpack(arguments.kit, arguments.output)
    unpacked = time.monotonic()
    python = make_environment(arguments.output)
    print(f"{python}: unpacked in {unpacked - began:.1f} s, environment in {time.monotonic() - unpacked:.1f} s")


def make_environment(place: Path) -> Path:
    """Make PLACE/env of this Python's packages and those in PLACE/site; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "env")], check=True)
    python = place / "env" / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = place / "env" / "lib" / version / "site-packages"
    ours = {path.name for path in (place / "site").iterdir()} if (place / "site").is_dir() else set()
    sources = [(place / "site").resolve(), *(Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))]
    for source in sources:
        for path in sorted(source.iterdir()) if source.is_dir() else ():
            beside = path.name.startswith("onnxruntime") and "onnxruntime" in ours and path.name not in ours
            if not beside and not os.path.lexists(packages / path.name):
                (packages / path.name).symlink_to(path)
    (packages / "jobonnx-tree.pth").write_text("\n".join(str(ROOT / part) for part in ("src", "export", "benchmarks")))
    return python


if __name__ == "__main__":
    main()
