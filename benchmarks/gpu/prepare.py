"""Prepare what has to travel to a machine with a GPU and without package registries, cut into pieces.

    python benchmarks/gpu/prepare.py CHECKPOINT --titles FILE [FILE ...] -o KIT --piece-mib 20 --pieces 4

CHECKPOINT holds a checkpoint's config, tokenizer and settings; weights are never sent, the machine makes its own. KIT gets a
folder for each piece. Send the pieces in any order, one or several at a time, to the same place on the machine, and run assemble.py
there.

Most of the weight is one library of onnxruntime-gpu, which holds each kernel once for each kind of GPU. Only those of --capability
are kept. Where even that exceeds the plan, the kit is made without it, which is said, and run.py measures what needs only what is
there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from fatbin import blank_other_gpus
from pieces import TooLargeError, pack

_WHEEL = "onnxruntime-gpu==1.31.1"  # CUDA 13; see docs/providers.md
_SMALL = ("msgspec==0.22.0",)  # what jobonnx needs and a machine with PyTorch lacks
# Python needs neither the library for C programs, of which its own module holds a copy, nor the provider for TensorRT.
_LEFT_OUT = ("libonnxruntime.so", "libonnxruntime_providers_tensorrt.so", "onnxruntime/transformers/", "onnxruntime/tools/")
_CUDA = "libonnxruntime_providers_cuda.so"
_SETTINGS = (
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def main() -> None:
    arguments = _arguments()
    began = time.monotonic()
    common: dict[str, bytes | Path] = {
        f"checkpoint/{name}": arguments.checkpoint / name
        for name in (*_SETTINGS, *_TOKENIZER)
        if (arguments.checkpoint / name).is_file()
    }
    titles = distinct_titles(arguments.titles)
    common["titles.txt"] = "\n".join(titles).encode()
    with tempfile.TemporaryDirectory() as temporary:
        for wheel in download(_SMALL, arguments.python, Path(temporary)):
            common |= from_wheel(wheel, None)
        onnxruntime = {} if arguments.without_onnxruntime else gpu_files(arguments, Path(temporary))
    try:
        folders = pack(onnxruntime | common, arguments.output, arguments.piece_mib, arguments.pieces)
    except TooLargeError as error:
        print(f"without onnxruntime-gpu: {error}")
        folders = pack(common, arguments.output, arguments.piece_mib, arguments.pieces)
    for folder in folders:
        print(f"{folder}: {(folder / 'content').stat().st_size / 2**20:.2f} MiB")
    print(f"{len(titles):,} distinct titles; {time.monotonic() - began:.0f} s")


def distinct_titles(paths: list[Path]) -> list[str]:
    """Titles of several files, one per line, repeats and empty lines dropped."""
    lines = (line.strip() for path in paths for line in path.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def gpu_files(arguments: argparse.Namespace, temporary: Path) -> dict[str, bytes | Path]:
    """onnxruntime-gpu as it will lie in site-packages, with the code of one kind of GPU."""
    (wheel,) = [arguments.wheel] if arguments.wheel else download((_WHEEL,), arguments.python, temporary)
    return from_wheel(wheel, arguments.capability)


def download(requirements: tuple[str, ...], python: str, folder: Path) -> list[Path]:
    """Download wheels for Linux on x86-64, without what they depend on."""
    platforms = [part for age in ("2_28", "2_27", "2_17") for part in ("--platform", f"manylinux_{age}_x86_64")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += ["--python-version", python, "--implementation", "cp", *platforms, *requirements]
    before = set(folder.glob("*.whl"))
    subprocess.run(command, check=True)
    return sorted(set(folder.glob("*.whl")) - before)


def from_wheel(wheel: Path, capability: int | None) -> dict[str, bytes | Path]:
    """Files of a wheel by their place; CUDA's library with the code of one kind of GPU alone."""
    found: dict[str, bytes | Path] = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith("/") or any(part in name for part in _LEFT_OUT):
                continue
            content = archive.read(name)
            if capability is not None and name.endswith(_CUDA):
                library = bytearray(content)
                sizes = blank_other_gpus(library, capability)
                print(", ".join(f"sm_{kind} {size / 2**20:.1f} MiB" for kind, size in sorted(sizes.items())))
                content = bytes(library)
            found[f"site/{name}"] = content
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder with a checkpoint's config.json, tokenizer.json and settings")
    parser.add_argument("--titles", type=Path, nargs="+", required=True, metavar="FILE", help="one title per line")
    parser.add_argument("--piece-mib", type=float, default=20, metavar="MIB", help="most MiB of one piece (20)")
    parser.add_argument("--pieces", type=int, default=4, metavar="N", help="most pieces (4)")
    parser.add_argument("--capability", type=int, default=90, help="the GPU's compute capability: 90 for H100 and H200")
    parser.add_argument("--python", default="3.12", metavar="VERSION", help="the machine's Python")
    parser.add_argument(
        "--wheel", type=Path, metavar="FILE", help=f"a wheel of onnxruntime-gpu; {_WHEEL} is downloaded if left out"
    )
    parser.add_argument(
        "--without-onnxruntime", action="store_true", help="send no onnxruntime-gpu: the machine has one, or it is too large"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="KIT", help="folder for the pieces")
    return parser.parse_args()


if __name__ == "__main__":
    main()
