"""Every system side by side on the same titles, in one run: jobonnx, its peers, and the limits of the machine.

    python benchmarks/compare.py WORK CHECKPOINT --titles TITLES.txt -o benchmarks/results/NAME

CHECKPOINT is a folder. Without weights in it (names, config and tokenizer only) a synthetic checkpoint of its full size is made in
the work folder, see jobonnx_export/testing.py. TITLES.txt has one title per line, as they come: repeats are dropped, lengths stay.

What is built (checkpoint, bundle, the peers' exports, their environments) stays in the work folder and is taken from there the next
time, so a run that was broken off goes on; --build-only stops before the measuring. Peers run in environments made from the lists
in peers/*.txt, unless this Python satisfies the list or --environment names one that does.

Makes the folder NAME with the same report as `jobonnx bench`: report.json, report.md and report.html (needs requirements.txt).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import limits
from jobonnx.bundle.manifest import TOKENIZER
from jobonnx.files import new_folder, read_lines
from jobonnx.runtime.machine import available_threads
from jobonnx.text.tokenizer import Tokenizer
from jobonnx_bench.bundle import bundle_systems, read_shape
from jobonnx_bench.environment import record
from jobonnx_bench.limits import combine, join, measure_gemm
from jobonnx_bench.limits import run as run_limits
from jobonnx_bench.process import System, WorkerLostError, build
from jobonnx_bench.render.folder import write_report
from jobonnx_bench.render.markdown import report_markdown
from jobonnx_bench.report import LimitsPass, Report, Shape
from jobonnx_bench.rounds import Schedule, run
from jobonnx_bench.workload import Sizes, Workload, draw
from jobonnx_export.testing import synthetic_checkpoint

PEERS = Path(__file__).parent / "peers"
ENVIRONMENTS = ("sentence-transformers", "openvino")  # each a list in peers/
_JOBONNX_OPENVINO = "jobonnx-openvino"  # a Python with jobonnx and onnxruntime-openvino, for CPUs that the plug-in does not take
REFERENCE = "st-torch-fp32"
_OUTLIERS = 15  # of the synthetic checkpoint, see jobonnx_export/testing.py


@dataclass(frozen=True)
class Peer:
    """A peer, and the steps that make its files, in order, in the folder named after the first."""

    name: str
    adapter: str  # in peers/
    environment: str
    options: dict[str, Any]
    model: str = ""  # the file that it loads, in that folder; the checkpoint's weights if left out
    steps: tuple[str, ...] = ()  # of with_sentence_transformers.build


_ST, _OPTIMUM, _OPENVINO = "with_sentence_transformers.py", "with_optimum.py", "with_openvino.py"
_ONNX_FILE, _QINT8_FILE = "onnx/model.onnx", "onnx/model_qint8_avx512_vnni.onnx"
_OPENVINO_FILE, _NNCF_FILE = "openvino/openvino_model.xml", "openvino/openvino_model_qint8_quantized.xml"
_QINT8, _NNCF = ("onnx", "onnx-qint8"), ("openvino", "openvino-int8")
KNOWN_PEERS = (
    Peer(REFERENCE, _ST, "sentence-transformers", {"backend": "torch", "dtype": "float32"}),
    Peer("st-torch-bf16", _ST, "sentence-transformers", {"backend": "torch", "dtype": "bfloat16"}),
    Peer("st-onnx", _ST, "sentence-transformers", {"backend": "onnx", "file_name": _ONNX_FILE}, _ONNX_FILE, ("onnx",)),
    Peer("st-onnx-qint8", _ST, "sentence-transformers", {"backend": "onnx", "file_name": _QINT8_FILE}, _QINT8_FILE, _QINT8),
    Peer("optimum-ortmodel", _OPTIMUM, "sentence-transformers", {}, _ONNX_FILE, ("onnx",)),
    Peer("st-openvino", _ST, "openvino", {"backend": "openvino", "file_name": _OPENVINO_FILE}, _OPENVINO_FILE, ("openvino",)),
    Peer("st-openvino-int8", _ST, "openvino", {"backend": "openvino", "file_name": _NNCF_FILE}, _NNCF_FILE, _NNCF),
    # The same file without sentence-transformers around it: OpenVINO at its best for one title, and in bulk.
    Peer("openvino-int8", _OPENVINO, "openvino", {"streams": 1, "batch_size": 32}, _NNCF_FILE, _NNCF),
    Peer("openvino-int8-2-streams", _OPENVINO, "openvino", {"streams": 2, "batch_size": 32}, _NNCF_FILE, _NNCF),
)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def take_checkpoint(work: Path, source: Path) -> Path:
    """Take the source itself, or a synthetic checkpoint of its size if it has no weights."""
    if list(source.glob("*.safetensors")) or list(source.glob("*.bin")):
        return source
    folder = work / "checkpoint"
    if not folder.exists():
        say("making a synthetic checkpoint")
        synthetic_checkpoint(source, folder, outliers=_OUTLIERS)
    return folder


def take_bundle(work: Path, checkpoint: Path) -> Path:
    folder = work / "bundle"
    if not folder.exists():
        from jobonnx_export.pipeline import export

        # Random weights miss the tolerance of int8; what is timed has all layers in int8, as trained weights have them.
        export(str(checkpoint), folder, allow_degraded=True, progress=lambda step: say(f"exporting the bundle: {step}"))
    return folder


def take_environment(work: Path, name: str, given: dict[str, Path]) -> Path:
    """Find a Python that satisfies peers/NAME.txt: the one given, this one, or that of an environment made for it."""
    if name in given:
        return given[name]
    requirements = PEERS / f"{name}.txt"
    if _satisfied(requirements):
        return Path(sys.executable)
    folder = work / "environments" / name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = folder / "installed.txt"  # the list that it was made from
    if not done.is_file() or done.read_text() != requirements.read_text():
        say(f"installing peers/{name}.txt")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
        done.write_text(requirements.read_text())
    return python


def _satisfied(requirements: Path) -> bool:
    pins = [line.split("==") for line in requirements.read_text().splitlines() if "==" in line]
    try:
        return all(version(name).partition("+")[0] == wanted for name, wanted in pins)
    except PackageNotFoundError:
        return False


def take_built(work: Path, python: Path, steps: Sequence[str], checkpoint: Path, calibration: Path) -> Path:
    """Make the folder with a peer's files, step by step; a step that was done from the same checkpoint is not done again."""
    folder = work / "built" / steps[0]
    folder.parent.mkdir(parents=True, exist_ok=True)
    made_from: dict[str, Any] = {"checkpoint": str(checkpoint.resolve()), "weights": _stamp(checkpoint)}
    for step in steps:
        if step == "openvino-int8":
            made_from["calibration"] = hashlib.sha256(calibration.read_bytes()).hexdigest()
        done = work / "built" / f"{step}.json"
        if done.is_file() and json.loads(done.read_text())["made_from"] == made_from:
            continue
        for later in steps[steps.index(step) :]:
            (work / "built" / f"{later}.json").unlink(missing_ok=True)
        say(f"building {step}")
        options = {"step": step, "checkpoint": str(checkpoint), "calibration": str(calibration)}
        system = System(step, PEERS / _ST, options, python=python, folder=folder)
        seconds = build(system, work / "logs" / f"build-{step}.log")
        say(f"built {step} in {seconds:.0f} s")
        done.write_text(json.dumps({"made_from": made_from, "seconds": seconds}))
    return folder


def _stamp(checkpoint: Path) -> list[list[Any]]:
    return [
        [p.name, p.stat().st_size, p.stat().st_mtime_ns]
        for p in sorted(checkpoint.glob("*"))
        if p.suffix in (".safetensors", ".bin")
    ]


def take_peer(peer: Peer, work: Path, checkpoint: Path, calibration: Path, given: dict[str, Path]) -> System:
    """Make a peer ready to run; one that could not be made ready says why."""
    system = System(peer.name, PEERS / peer.adapter, dict(peer.options))
    try:
        python = take_environment(work, peer.environment, given)
        folder = take_built(work, python, peer.steps, checkpoint, calibration) if peer.steps else checkpoint
    except WorkerLostError as lost:
        return replace(system, absent=f"its files could not be built: {lost}")
    except (subprocess.CalledProcessError, OSError) as error:
        return replace(system, absent=f"peers/{peer.environment}.txt could not be installed: {error}")
    if peer.adapter != _ST:
        system.options["checkpoint"] = str(checkpoint)  # for the tokenizer and the pooling
    files = _parts(folder / peer.model) if peer.model else tuple(checkpoint.glob("*.safetensors"))
    return replace(system, python=python, folder=folder, files=files)


def _parts(model: Path) -> tuple[Path, ...]:
    """Find a model file and the weights beside it."""
    beside = (model, model.with_suffix(".bin"), model.with_name(f"{model.name}_data"), model.with_name(f"{model.name}.data"))
    return tuple(path for path in beside if path.is_file())


def in_given_environment(system: System, given: dict[str, Path]) -> System:
    """Run ours on OpenVINO in the Python given for that, which says itself what it cannot run."""
    if system.options["provider"] != "openvino" or _JOBONNX_OPENVINO not in given:
        return system
    return replace(system, python=given[_JOBONNX_OPENVINO], absent=None)


def measure_limits(shape: Shape, pythons: dict[str, Path], large: int) -> LimitsPass:
    """One pass: ONNX Runtime's products in this Python, and limits.py in each environment that has an engine."""
    found = [measure_gemm(shape, ["cpu"], available_threads())]
    for environment, engines in {"sentence-transformers": ["torch", "read"], "openvino": ["openvino"]}.items():
        if environment in pythons:
            # Not by -m and not with -P: limits.py imports jobonnx_bench.gemm, which lies beside it, where no jobonnx is installed.
            command = [str(pythons[environment]), limits.__file__, "--large", str(large), "--engines", *engines]
            command += ["--hidden", str(shape.hidden), "--intermediate", str(shape.intermediate), "--layers", str(shape.layers)]
            found.append(run_limits(command, " and ".join(engines)))
    return join(found)


def main() -> None:
    arguments = _arguments()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = take_checkpoint(work, arguments.source)
    shape = read_shape(checkpoint)
    limit = json.loads((checkpoint / "sentence_bert_config.json").read_text())["max_seq_length"]
    tokenizer = Tokenizer(checkpoint / TOKENIZER, limit)
    sizes = Sizes(arguments.bulk, arguments.repeated, arguments.singles, arguments.groups8, arguments.groups32)
    workload = draw(read_lines(arguments.titles), tokenizer.encode, sizes)

    calibration = work / "calibration.txt"
    calibration.write_text("\n".join(_calibration(arguments.calibration, set(workload.tokens))), encoding="utf-8")
    given = dict(arguments.environment)
    chosen = [peer for peer in KNOWN_PEERS if any(fnmatch(peer.name, pattern) for pattern in arguments.systems)]
    systems = [take_peer(peer, work, checkpoint, calibration, given) for peer in chosen]
    if any(pattern.startswith(("jobonnx", "*")) for pattern in arguments.systems):
        bundle = arguments.bundle or take_bundle(work, checkpoint)
        ours = [in_given_environment(system, given) for system in bundle_systems(str(bundle))]
        systems += [system for system in ours if any(fnmatch(system.name, pattern) for pattern in arguments.systems)]
    if arguments.build_only:
        return

    pythons = {}
    if not arguments.no_limits:
        wanted = {"sentence-transformers", *(peer.environment for peer in chosen)}
        pythons = {name: take_environment(work, name, given) for name in ENVIRONMENTS if name in wanted}
    if arguments.output:
        with new_folder(arguments.output) as folder:
            write_report(_measure(arguments, systems, workload, checkpoint, shape, pythons), folder)
        say(f"{arguments.output / 'report.html'}")
    else:
        print(report_markdown(_measure(arguments, systems, workload, checkpoint, shape, pythons)))


def _measure(
    arguments: argparse.Namespace,
    systems: Sequence[System],
    workload: Workload,
    checkpoint: Path,
    shape: Shape,
    pythons: dict[str, Path],
) -> Report:
    passes: list[LimitsPass] = []
    environment = record()
    reserve = arguments.reserve
    if reserve is None:  # loading holds a checkpoint twice at worst
        reserve = 3 * sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    results = run(
        systems,
        workload,
        arguments.work / "run",
        Schedule(arguments.rounds, arguments.minutes, reserve_bytes=reserve),
        reference=REFERENCE,
        before_round=lambda: passes.append(measure_limits(shape, pythons, arguments.large)) if pythons else None,
        progress=say,
    )
    found = combine(passes, shape) if passes else None
    return Report(environment, shape, workload.summary(), tuple(results), found)


def _calibration(given: Path | None, measured: set[str]) -> list[str]:
    """Titles for int8: those given, or the exporter's own; never one that may be measured."""
    if given:
        titles = read_lines(given)
    else:
        from jobonnx_export.texts import calibration_titles

        titles = calibration_titles()
    return [title for title in titles if title and title not in measured]


def _arguments() -> argparse.Namespace:
    def environment(text: str) -> tuple[str, Path]:
        name, _, python = text.partition("=")
        known = (*ENVIRONMENTS, _JOBONNX_OPENVINO)
        if name not in known or not python:
            raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PYTHON with NAME one of {', '.join(known)}")
        return name, Path(python)

    sizes = Sizes()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for everything that is built")
    parser.add_argument("source", type=Path, help="checkpoint folder, with or without weights")
    parser.add_argument("--titles", type=Path, required=True, help="one title per line")
    parser.add_argument("--bundle", type=Path, help="a bundle of the same checkpoint; exported into the work folder if left out")
    parser.add_argument("--calibration", type=Path, help="titles for static int8, one per line; the exporter's own if left out")
    parser.add_argument(
        "--systems", nargs="+", default=["*"], metavar="PATTERN", help=f"{', '.join(p.name for p in KNOWN_PEERS)}, jobonnx-*"
    )
    parser.add_argument(
        "--environment",
        type=environment,
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="a Python with what peers/NAME.txt lists; jobonnx-openvino: with jobonnx and onnxruntime-openvino, for ours",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, help="no round begins that would end later")
    parser.add_argument("--bulk", type=int, default=sizes.bulk, help="distinct titles in the bulk call")
    parser.add_argument("--repeated", type=int, default=sizes.repeated, help="titles in the call with repeats")
    parser.add_argument("--singles", type=int, default=sizes.singles, help="calls with one title per round")
    parser.add_argument("--groups8", type=int, default=sizes.groups8, help="calls with 8 titles per round")
    parser.add_argument("--groups32", type=int, default=sizes.groups32, help="calls with 32 titles per round")
    parser.add_argument(
        "--reserve", type=int, metavar="BYTES", help="free memory before a process starts; 3 x the checkpoint if left out"
    )
    parser.add_argument("--large", type=int, default=2 << 30, metavar="BYTES", help="size of the large buffer that is read")
    parser.add_argument("--no-limits", action="store_true", help="leave the machine's limits out")
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("-o", "--output", type=Path, metavar="NAME", help="folder to make for the report")
    return parser.parse_args()


if __name__ == "__main__":
    main()
