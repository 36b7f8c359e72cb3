"""Prove that two source trees export the same bytes: every graph and data file of every variant and target, compared one by one.

    git worktree add ../before 6ca9c17
    python benchmarks/same_graphs.py ../before --work ../same-graphs

Run it before and after a change of the exporter that is meant to change no graph. Each tree exports in processes of its own, with
its own PYTHONPATH. What the tree before exported stays in the work folder and is used again, as long as that folder is kept.

Compared are every file of each bundle but the manifest and README.md, and of the manifest the model, the recipes and the
fingerprints. Of graphs, what they say of themselves is left out: metadata, producer and version. Files that
were renamed on purpose are paired by `RENAMED`. The synthetic checkpoints that the exports start from are compared as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx

from jobonnx.files import sha256

ROOT = Path(__file__).parents[1]
# The tree before -> this tree, in file names and in the manifest's targets.
RENAMED = {"openvino": "standard"}
# Options of the tests' `make_checkpoint`; of each checkpoint every variant is exported.
SYNTHETIC: dict[str, dict[str, object]] = {
    "cls": {"prompts": {"query": "query: ", "document": ""}},
    "mean": {"pooling": "mean"},
    "not-normalized": {"normalize": False},
    "layers-in-float": {"outliers": 15.0},
}
# A bound that int8 misses with all layers in int8, so that the export leaves some in float.
STRICT = {"layers-in-float": 0.9999}
TRAINED = {"trained": "training/checkpoint", "outliers": "training/outlier_twin"}  # in the tree before
# Both programs run in either tree, hence the two names of a module.
_MAKE = """
import json, pathlib, sys
try:
    from helpers.checkpoints import make_checkpoint
except ImportError:
    from checkpoints import make_checkpoint
for name, options in json.loads(sys.argv[2]).items():
    make_checkpoint(pathlib.Path(sys.argv[1]) / name / "tiny", **options)
"""
_EXPORT = """
import json, pathlib, sys
try:
    from jobonnx_export.pipeline import export
    from jobonnx.parity.measure import TOLERANCES
except ImportError:
    from jobonnx_export.export import export
    from jobonnx.parity import TOLERANCES
checkpoint, output, bound = sys.argv[1], pathlib.Path(sys.argv[2]), float(sys.argv[3])
if bound:
    for variant in ("int8", "int8-static"):
        TOLERANCES[variant] = {"mean_centred": bound}
bundle = export(checkpoint, output, allow_degraded=bool(bound))
prints = {variant: bundle.fingerprint(variant) for variant in bundle.variants}
output.with_suffix(".fingerprints.json").write_text(json.dumps(prints, sort_keys=True))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="a source tree of jobonnx from before the change")
    parser.add_argument("--work", type=Path, required=True, help="folder for the exports; those of the tree before are used again")
    parser.add_argument("--only", nargs="*", metavar="NAME", help=f"of {', '.join([*SYNTHETIC, *TRAINED])}; the default is all")
    options = parser.parse_args()
    names = options.only or [*SYNTHETIC, *TRAINED]
    before, after = options.work.resolve() / "before", options.work.resolve() / "after"
    shutil.rmtree(after, ignore_errors=True)
    for tree, folder in ((options.before.resolve(), before), (ROOT, after)):
        if not (folder / "checkpoints").exists():
            _run(tree, _MAKE, str(folder / "checkpoints"), json.dumps(SYNTHETIC))
        for name in names:
            # Both trees export the same checkpoints: the tokenizer of a synthetic one is trained anew each time.
            source = options.before.resolve() / TRAINED[name] if name in TRAINED else before / "checkpoints" / name / "tiny"
            if not (folder / f"{name}.fingerprints.json").exists():
                print(f"exporting {name} with {tree.name}", flush=True)
                _run(tree, _EXPORT, str(source), str(folder / name), str(STRICT.get(name, 0.0)))
    different = 0
    for line, same in _compared(before, after, names):
        print(f"{'equal' if same else 'DIFFERENT':9} {line}")
        different += not same
    sys.exit(f"{different} are different" if different else 0)


def _run(tree: Path, program: str, *arguments: str) -> None:
    path = os.pathsep.join(str(tree / folder) for folder in ("src", "export", "tests"))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "2"}  # a sum's last digit hangs on the threads
    subprocess.run([sys.executable, "-c", program, *arguments], env=environment, check=True)


def _compared(before: Path, after: Path, names: list[str]) -> Iterator[tuple[str, bool]]:
    """Tell what was compared and whether it is the same, one line for each file, recipe and fingerprint."""
    for name in SYNTHETIC:
        one, other = (sha256(folder / "checkpoints" / name / "tiny" / "model.safetensors") for folder in (before, after))
        yield f"{name}: the synthetic tensors  {one[:16]}", one == other
    for name in names:
        renamed = {_renamed(path): path for path in _files(before / name)}
        new = set(_files(after / name))
        for path in sorted(renamed.keys() | new):
            if path in ("manifest.json", "README.md"):
                continue
            if path not in new or path not in renamed:
                yield f"{name}: {path} is {'gone' if path in renamed else 'new'}", False
                continue
            one, other = _digest(before / name / renamed[path]), _digest(after / name / path)
            shown = path if renamed[path] == path else f"{renamed[path]} -> {path}"
            yield f"{name}: {shown}  {(after / name / path).stat().st_size:,} bytes  {one[:16]}", one == other
        for what, earlier, later in zip(("model", "recipes", "fingerprints"), _said(before, name), _said(after, name), strict=True):
            yield f"{name}: {what} in the manifest", earlier == later


def _said(folder: Path, name: str) -> tuple[str, str, str]:
    """Of a manifest: the model, the recipe of every graph by variant and target, and the fingerprints."""
    manifest = json.loads((folder / name / "manifest.json").read_text(encoding="utf-8"))
    recipes = sorted((graph["variant"], _renamed(graph["target"]), graph["recipe"]) for graph in manifest["graphs"])
    for new in ("vocabulary", "white_space"):  # the tree before has none
        manifest["model"].pop(new, None)
    model = json.dumps(manifest["model"], sort_keys=True)
    return model, json.dumps(recipes), (folder / f"{name}.fingerprints.json").read_text()


def _digest(path: Path) -> str:
    """Hash a file; of a graph, all but what it says of itself."""
    if path.suffix != ".onnx":
        return sha256(path)
    model = onnx.load(path, load_external_data=False)
    model.ClearField("metadata_props")
    for field in ("producer_name", "producer_version", "model_version"):
        model.ClearField(field)
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def _renamed(text: str) -> str:
    for old, new in RENAMED.items():
        text = text.replace(old, new)
    return text


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


if __name__ == "__main__":
    main()
