"""From a checkpoint to a bundle: what it holds, what it leaves out, and that nothing half-made stays behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from helpers.checkpoints import MAX_TOKENS
from helpers.figures import figure
from jobonnx import Encoder, __version__
from jobonnx.bundle.manifest import Bundle
from jobonnx.cli.main import main
from jobonnx.errors import JobonnxError
from jobonnx.parity.measure import TOLERANCES, tolerance_violations
from jobonnx_export import pipeline
from jobonnx_export.pipeline import export
from jobonnx_export.texts import parity_texts

IMPOSSIBLE = {"min_cosine": 1.1}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder for bundles to be made in."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def manifest_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return content


# What a bundle holds


def test_manifest_lists_every_file_with_size_and_sha256(bundle: Path) -> None:
    listed = manifest_of(bundle)["files"]
    paths = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    assert set(listed) == set(paths) - {"manifest.json", "README.md"}
    for name, entry in listed.items():
        data = paths[name].read_bytes()
        assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_nothing_is_beside_the_bundle_and_all_of_it_is_readable(bundle: Path) -> None:
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in (bundle, *bundle.rglob("*")))


def test_manifest_says_what_the_model_is(bundle: Path) -> None:
    content = manifest_of(bundle)
    model = content["model"]
    assert (model["source"], model["revision"]) == ("tiny", None)
    assert (model["dimension"], model["max_tokens"], model["pooling"], model["normalize"]) == (128, MAX_TOKENS, "cls", True)
    assert model["prompts"] == {"query": "query: ", "document": ""}
    assert {"torch", "transformers", "optimum", "onnx", "onnxruntime", "jobonnx"} <= content["tools"].keys()
    assert content["tools"]["torch"] == torch.__version__


def test_every_variant_has_its_graph_and_int8_is_the_default(bundle: Path) -> None:
    content = manifest_of(bundle)
    graphs = {(g["variant"], g["target"]) for g in content["graphs"]}
    assert {("fp32", "cpu"), ("fp16", "cuda"), ("fp16", "tensorrt"), ("int8", "cpu"), ("fp32", "portable")} <= graphs
    assert content["default_variant"] == "int8"
    assert content["rejected"] == []


def test_parity_is_recorded_for_every_graph_and_within_tolerance(checkpoint: Path, bundle: Path) -> None:
    opened = Bundle.open(bundle)
    for graph in opened.graphs:
        assert figure(graph.parity, "texts") >= 600
        assert 0 < figure(graph.parity, "max_abs") < 0.1
        assert 0.9 < figure(graph.parity, "top10_overlap") <= 1
        for field, bound in TOLERANCES[graph.variant].items():
            assert figure(graph.parity, field) <= bound if field == "max_abs" else figure(graph.parity, field) >= bound
    figures = {graph.variant: figure(graph.parity, "mean_centred") for graph in opened.graphs}
    assert figures["int8"] < figures["bf16"] < figures["fp16"] < figures["fp32"], "figures that are not measured"


def test_reference_vectors_are_pytorchs(checkpoint: Path, bundle: Path) -> None:
    from sentence_transformers import SentenceTransformer

    texts = json.loads((bundle / "reference.json").read_text(encoding="utf-8"))
    vectors = np.load(bundle / "reference.npy")
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, SentenceTransformer(str(checkpoint), device="cpu").encode(texts), atol=2e-6)
    assert set(texts) < set(parity_texts(Encoder(bundle, provider="cpu").tokenizer, ["query: "]))


@pytest.fixture(scope="module")
def elsewhere(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint in another folder and format, exported to int8 alone."""
    folder = tmp_path_factory.mktemp("elsewhere") / "another-name"
    shutil.copytree(checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({f"roberta.{name}": tensor for name, tensor in tensors.items()}, folder / "pytorch_model.bin")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["truncation"] = {"direction": "Right", "max_length": 7, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    export(str(folder), folder.parent / "bundle", ["int8"])
    return folder.parent / "bundle"


def test_fingerprint_and_vectors_are_the_same_for_the_same_model_elsewhere(bundle: Path, elsewhere: Path) -> None:
    one, other = Bundle.open(bundle), Bundle.open(elsewhere)
    assert one.model.source != other.model.source
    assert one.fingerprint("int8") == other.fingerprint("int8")
    first, second = (Encoder(folder, variant="int8", provider="cpu").encode(["Koch", "工程师"]) for folder in (bundle, elsewhere))
    np.testing.assert_array_equal(first, second)


def test_fingerprint_differs_by_variant_and_by_one_weight(checkpoint: Path, bundle: Path, place: Path, few_texts: None) -> None:
    one = Bundle.open(bundle)
    assert len({one.fingerprint(variant) for variant in one.variants}) == 5
    shutil.copytree(checkpoint, place / "other")
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"][0] += 1e-4
    save_file(tensors, place / "other" / "model.safetensors", {"format": "pt"})
    other = export(str(place / "other"), place / "bundle", ["fp16"])
    assert other.fingerprint("fp16") != one.fingerprint("fp16")


def test_without_fp32_there_is_no_portable_graph_and_int8_is_the_default(elsewhere: Path) -> None:
    assert not (elsewhere / "onnx").exists()
    assert manifest_of(elsewhere)["default_variant"] == "int8"


def test_command_line_prints_the_manifest(checkpoint: Path, place: Path, few_texts: None) -> None:
    done = CliRunner().invoke(main, ["export", str(checkpoint), "-o", str(place / "out"), "--variant", "fp16", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == manifest_of(place / "out")


# Tolerances


@pytest.fixture
def strict_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOLERANCES, "int8", IMPOSSIBLE)


def test_rejected_variant_is_left_out_with_its_figures_and_exit_status_1(
    checkpoint: Path, place: Path, few_texts: None, strict_int8: None
) -> None:
    arguments = ["export", str(checkpoint), "-o", str(place / "out"), "--variant", "fp16", "--variant", "int8"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "left out" in done.output
    assert "warning: int8 (cpu) missed its tolerance and was left out" in done.stderr
    opened = Bundle.open(place / "out")
    assert opened.variants == ("fp16",)
    assert opened.default_variant == "fp16"
    (rejected,) = opened.rejected
    assert rejected.variant == "int8"
    assert rejected.missed == (f"min_cosine {rejected.parity.min_cosine:.6g} (asked: >= 1.1)",)
    left = {path.name for path in (place / "out" / "engine").iterdir()}
    assert left == {"fp16-cuda.onnx", "fp16-tensorrt.onnx", "fp16.data"}


@pytest.mark.slow
def test_rejected_variant_that_nobody_asked_for_is_a_warning(
    checkpoint: Path, place: Path, few_texts: None, strict_int8: None
) -> None:
    done = CliRunner().invoke(main, ["export", str(checkpoint), "-o", str(place / "out")])
    assert done.exit_code == 0
    assert "warning: int8 (cpu, portable) missed its tolerance and was left out" in done.stderr
    assert "int8" not in Bundle.open(place / "out").variants


def test_allow_degraded_keeps_it_marked(checkpoint: Path, place: Path, few_texts: None, strict_int8: None) -> None:
    arguments = ["export", str(checkpoint), "-o", str(place / "out"), "--variant", "fp16", "--variant", "int8", "--allow-degraded"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    opened = Bundle.open(place / "out")
    assert {g.variant: g.degraded for g in opened.graphs} == {"fp16": False, "int8": True}
    assert opened.default_variant == "fp16"
    loaded = CliRunner().invoke(main, ["encode", "-m", str(place / "out"), "--variant", "int8", "Koch"])
    assert "kept with --allow-degraded" in loaded.stderr
    assert "float=none" in opened.recipe("int8")


@pytest.mark.slow
def test_layers_that_int8_ruins_stay_in_float_until_it_passes(
    checkpoint: Path, bundle: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_int8 = next(g for g in Bundle.open(bundle).graphs if g.variant == "int8")
    assert "float=none" in all_int8.recipe
    halfway = 1 - 0.9 * (1 - figure(all_int8.parity, "mean_centred"))
    monkeypatch.setitem(TOLERANCES, "int8", {"mean_centred": halfway})
    steps: list[str] = []
    made = export(str(checkpoint), place / "out", ["int8"], progress=steps.append)
    (graph,) = made.graphs
    in_float = graph.recipe.split("float=")[1].split(",")
    assert len(in_float) in (2, 4, 8)
    assert f"writing int8 for cpu, {len(in_float)} layers in float" in steps
    shown = CliRunner().invoke(main, ["info", str(place / "out")]).stdout
    assert f"int8 for cpu, layers in float: {', '.join(in_float)}" in shown
    assert figure(graph.parity, "mean_centred") >= halfway
    assert made.rejected == ()
    assert made.fingerprint("int8") != Bundle.open(bundle).fingerprint("int8")


def test_variant_that_gives_nan_is_not_kept_even_degraded(checkpoint: Path, tmp_path: Path, place: Path, few_texts: None) -> None:
    """A bias that float16 cannot hold."""
    source = spoil(checkpoint, tmp_path / "spoilt", "encoder.layer.1.output.dense.bias", 3e38)
    with pytest.warns(RuntimeWarning, match="overflow"), pytest.raises(JobonnxError, match="mean_centred NaN"):
        export(source, place / "out", ["fp16"], allow_degraded=True)
    assert empty(place)


def test_all_variants_rejected_leave_no_folder(
    checkpoint: Path, place: Path, few_texts: None, strict_int8: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOLERANCES, "fp16", IMPOSSIBLE)
    with pytest.raises(
        JobonnxError,
        match=r"every variant missed its tolerance \(fp16/cuda: min_cosine .*; fp16/tensorrt: .*; int8/cpu: min_cosine",
    ):
        export(str(checkpoint), place / "out", ["fp16", "int8"])
    assert empty(place)


def test_nan_never_passes(bundle: Path) -> None:
    from jobonnx.parity.measure import measure

    vectors = np.load(bundle / "reference.npy")
    spoilt = vectors.copy()
    spoilt[3, 4] = np.nan
    assert all(tolerance_violations(variant, measure(vectors, spoilt)) for variant in ("fp32", "fp16", "int8", "int8-static"))


# Refusals, and what they leave behind


def empty(place: Path) -> bool:
    return list(place.iterdir()) == []


def test_output_that_exists_is_left_alone(checkpoint: Path, place: Path) -> None:
    (place / "out").mkdir()
    with pytest.raises(JobonnxError, match="exists already"):
        export(str(checkpoint), place / "out", ["fp16"])
    assert [path.name for path in place.rglob("*")] == ["out"]


@pytest.mark.parametrize("module", ["torch", "safetensors", "huggingface_hub"])
def test_module_that_is_not_installed_is_one_line(
    checkpoint: Path, place: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    source = "somebody/checkpoint" if module == "huggingface_hub" else str(checkpoint)
    done = CliRunner().invoke(main, ["export", source, "-o", str(place / "out"), "--variant", "fp16"])
    assert done.exit_code == 1
    sentence = f'Error: exporting needs {module}; run: pip install "jobonnx[cpu,export]" (any build of torch will do)'
    steps = [] if module == "huggingface_hub" else [f"checking {checkpoint.name}"]  # one line each where stderr is no terminal
    assert done.stderr.splitlines() == [*steps, sentence]
    assert empty(place)


@pytest.mark.parametrize("package", ["transformers", "optimum-onnx", "safetensors"])
def test_package_without_metadata_is_one_line_before_the_work(
    checkpoint: Path, place: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == package:
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr("jobonnx_export.pipeline.version", version)
    monkeypatch.setattr("jobonnx_export.pipeline.locate", lambda source, revision: pytest.fail("the work began"))
    done = CliRunner().invoke(main, ["export", str(checkpoint), "-o", str(place / "out")])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: exporting needs {package}; run: pip install")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("variants", "needed"), [(["fp16"], False), (["int8", "fp16"], False), (["fp16", "fp32"], True)])
def test_only_the_portable_graph_needs_optimum(variants: list[str], needed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in ("optimum", "optimum-onnx", "jobonnx"):  # jobonnx runs from its tree too
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr("jobonnx_export.pipeline.version", version)
    if needed:
        with pytest.raises(PackageNotFoundError, match="optimum"):
            pipeline._tools(variants)
    else:
        assert pipeline._tools(variants)["jobonnx"] == __version__


@pytest.mark.parametrize("variants", [["int4"], ["fp32", "int4"], []])
def test_unknown_variant(checkpoint: Path, place: Path, variants: list[str]) -> None:
    with pytest.raises(JobonnxError, match="pick from fp32, bf16, fp16, int8") as caught:
        export(str(checkpoint), place / "out", variants)
    assert not variants or "int4" in str(caught.value)
    assert empty(place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_place_that_cannot_be_written_to(checkpoint: Path, place: Path) -> None:
    place.chmod(0o555)
    with pytest.raises(JobonnxError, match="out could not be written"):
        export(str(checkpoint), place / "out", ["fp16"])


def test_place_that_is_a_file(checkpoint: Path, place: Path) -> None:
    (place / "file").touch()
    with pytest.raises(JobonnxError, match="out could not be written"):
        export(str(checkpoint), place / "file" / "out", ["fp16"])


def spoil(checkpoint: Path, folder: Path, name: str, value: float) -> str:
    shutil.copytree(checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[5] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def test_nan_weights_leave_nothing(checkpoint: Path, tmp_path: Path, place: Path) -> None:
    source = spoil(checkpoint, tmp_path / "spoilt", "encoder.layer.1.output.dense.weight", float("nan"))
    with pytest.raises(JobonnxError, match=r"tensor encoder.layer.1.output.dense.weight holds NaN"):
        export(source, place / "out", ["fp16"])
    assert empty(place)


def test_weights_that_overflow_leave_nothing(checkpoint: Path, tmp_path: Path, place: Path, few_texts: None) -> None:
    source = spoil(checkpoint, tmp_path / "spoilt", "embeddings.LayerNorm.weight", 3e38)
    with pytest.raises(JobonnxError, match="PyTorch itself gives NaN or infinity"):
        export(source, place / "out", ["fp16"])
    assert empty(place)


def test_tokenizer_of_another_model(checkpoint: Path, tmp_path: Path, place: Path) -> None:
    """Its ids would point beyond the embedding table."""
    shutil.copytree(checkpoint, tmp_path / "mixed")
    path = tmp_path / "mixed" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"].append(["zzzz", -9.0])
    content["added_tokens"][-1]["id"] += 1
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(JobonnxError, match=r"token id \d+ is beyond config.json.s vocab_size"):
        export(str(tmp_path / "mixed"), place / "out", ["fp16"])
    assert empty(place)


def test_broken_tokenizer(checkpoint: Path, tmp_path: Path, place: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "broken")
    (tmp_path / "broken" / "tokenizer.json").write_text("{}")
    with pytest.raises(JobonnxError, match=f"^{re.escape(str(tmp_path / 'broken' / 'tokenizer.json'))} is not a tokenizer"):
        export(str(tmp_path / "broken"), place / "out", ["fp16"])
    assert empty(place)


def lose_special_tokens(content: Any) -> None:
    content["post_processor"]["special_tokens"] = {}


def lose_unknown_token(content: Any) -> None:
    content["model"]["unk_id"] = None


def break_normalizer(content: Any) -> None:
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}


@pytest.mark.parametrize("spoilt", [lose_special_tokens, lose_unknown_token, break_normalizer])
def test_tokenizer_that_panics_is_one_sentence_before_the_work(
    checkpoint: Path, tmp_path: Path, place: Path, spoilt: Callable[[Any], None]
) -> None:
    """Panics of Rust are no `Exception`. The sentence names the checkpoint's file, not a copy that is gone."""
    shutil.copytree(checkpoint, tmp_path / "broken")
    path = tmp_path / "broken" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    spoilt(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    steps: list[str] = []
    with pytest.raises(JobonnxError, match=f"^{re.escape(str(path))} ") as caught:
        export(str(tmp_path / "broken"), place / "out", ["fp16"], progress=steps.append)
    assert "\n" not in str(caught.value)
    assert steps == ["checking broken"]
    assert empty(place)


def test_prompt_that_no_manifest_can_hold_is_refused_before_the_work(checkpoint: Path, tmp_path: Path, place: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "spoilt")
    path = tmp_path / "spoilt" / "config_sentence_transformers.json"
    path.write_text('{"prompts": {"query": "\\ud800"}}')
    steps: list[str] = []
    with pytest.raises(JobonnxError, match=f"^{re.escape(str(path))} holds half of a surrogate pair"):
        export(str(tmp_path / "spoilt"), place / "out", ["fp16"], progress=steps.append)
    assert steps == ["checking spoilt"]
    assert empty(place)


@pytest.mark.parametrize("kind", ["a link to nothing", "a loop", "a file"])
def test_output_name_that_is_taken_is_refused_before_the_work(checkpoint: Path, place: Path, kind: str) -> None:
    if kind == "a file":
        (place / "out").touch()
    else:
        (place / "out").symlink_to(place / ("nothing" if kind == "a link to nothing" else "out"))
    with pytest.raises(JobonnxError, match=r"out exists already; remove it or name another folder"):
        export(str(checkpoint), place / "out", ["fp16"], progress=lambda step: pytest.fail("the work began"))
    assert [path.name for path in place.iterdir()] == ["out"]


def test_output_that_cannot_be_made_is_refused_before_the_work(checkpoint: Path, place: Path) -> None:
    with pytest.raises(JobonnxError, match="could not be written"):
        export(str(checkpoint), place / "out\0", ["fp16"], progress=lambda step: pytest.fail("the work began"))
    assert empty(place)


def test_small_file_that_is_a_link_to_nothing_is_not_left_out(checkpoint: Path, tmp_path: Path, place: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "spoilt")
    path = tmp_path / "spoilt" / "special_tokens_map.json"
    path.unlink()
    path.symlink_to("lost")
    with pytest.raises(JobonnxError, match=f"^{re.escape(str(path))} is a link to nothing"):
        export(str(tmp_path / "spoilt"), place / "out", ["fp16"])
    assert empty(place)


@pytest.mark.parametrize("step", ["reading and hashing the tensors", "measuring fp16 for cuda", "hashing the files"])
def test_any_failure_leaves_nothing_not_even_the_folders_above(checkpoint: Path, place: Path, few_texts: None, step: str) -> None:
    def progress(now: str) -> None:
        if now == step:
            raise MemoryError

    with pytest.raises(MemoryError):
        export(str(checkpoint), place / "a" / "b" / "out", ["fp16"], progress=progress)
    assert empty(place)


def test_folders_above_the_bundle_are_made(checkpoint: Path, place: Path, few_texts: None) -> None:
    export(str(checkpoint), place / "a" / "b" / "out", ["fp16"])
    assert Bundle.open(place / "a" / "b" / "out").variants == ("fp16",)


def test_nothing_can_be_loaded_before_the_end(checkpoint: Path, place: Path, few_texts: None) -> None:
    seen: list[str] = []

    def progress(step: str) -> None:
        assert not (place / "out").exists()
        for folder in place.iterdir():
            seen.append(folder.name)
            with pytest.raises(JobonnxError):
                Bundle.open(folder)

    export(str(checkpoint), place / "out", ["fp16"], progress=progress)
    assert len(set(seen)) == 1
    assert seen[0].startswith(".out.")


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow past 700 kB: the kernel then fails a write as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk(checkpoint: Path, place: Path, few_texts: None, small_disk: None) -> None:
    with pytest.raises(JobonnxError, match=r"out could not be written .*; free some space") as caught:
        export(str(checkpoint), place / "out", ["fp16"])
    assert "File too large" in str(caught.value)
    assert empty(place)


@pytest.mark.slow
def test_full_disk_in_optimums_process(
    checkpoint: Path, place: Path, few_texts: None, small_disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is inherited by it; our own graph is not written here."""
    monkeypatch.setattr("jobonnx_export.pipeline.write_float_graph", lambda *arguments, **options: pytest.fail("it went on"))
    with pytest.raises(JobonnxError, match="optimum could not export it"):
        export(str(checkpoint), place / "out", ["fp32"])
    assert empty(place)


SCRIPT = """
import shutil, signal, sys
from pathlib import Path
from jobonnx import signals
from jobonnx.errors import Stopped
from jobonnx_export import texts
from jobonnx_export.pipeline import export

def rmtree(*arguments, **options):
    signal.raise_signal(int(sys.argv[4]))
    really(*arguments, **options)

really, shutil.rmtree = shutil.rmtree, rmtree
texts.PER_LANGUAGE = texts.CALIBRATION_PER_LANGUAGE = 12
signals.install()  # as the command line does in its first line
try:
    export(sys.argv[1], Path(sys.argv[2]), [sys.argv[3]], progress=lambda step: print(step, flush=True))
except Stopped as stopped:
    sys.exit(128 + stopped.number)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "variant", "step"),
    [
        (signal.SIGTERM, "fp16", "writing fp16 for cuda"),
        (signal.SIGHUP, "fp16", "hashing the files"),
        (signal.SIGINT, "fp32", "exporting the portable graph with optimum"),
    ],
)
def test_process_that_is_stopped_leaves_nothing_even_if_a_second_signal_meets_the_clean_up(
    checkpoint: Path, place: Path, number: int, variant: str, step: str
) -> None:
    arguments = [str(checkpoint), str(place / "a" / "out"), variant, str(int(number))]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == step:
            assert [path.name for path in (place / "a").iterdir()] != []
            process.send_signal(number)
            break
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    assert empty(place)


def test_handlers_of_signals_are_left_alone(checkpoint: Path, place: Path, few_texts: None) -> None:
    """They are the program's, not the library's."""

    def progress(step: str) -> None:
        assert [signal.getsignal(number) for number in numbers] == before

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    export(str(checkpoint), place / "out", ["fp16"], progress=progress)
    progress("afterwards")
