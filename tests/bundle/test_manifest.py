"""What opens as a bundle, what does not, and what a fingerprint stands for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import jobonnx.bundle.manifest as module
from jobonnx import Bundle, Encoder, JobonnxError
from jobonnx.bundle import integrity
from jobonnx.bundle.integrity import describe_file, with_checksum
from jobonnx.bundle.manifest import MANIFEST, tokenizer_sha256
from jobonnx.files import sha256

GRAPH = "engine/fp32-cpu.onnx"


@pytest.fixture
def copy(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle to spoil, with no stamps known of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(bundle, tmp_path / "copy")


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of every size are known by their stamps after the first load."""
    monkeypatch.setattr(integrity, "_ALWAYS_HASHED", 0)


def change_manifest(folder: Path, change: Callable[[Any], Any], seal: bool = True) -> None:
    path = folder / MANIFEST
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(with_checksum(content) if seal else content), encoding="utf-8")


def flip_a_byte(path: Path, keep_time: bool = False) -> None:
    """Change one byte in place: same size, same inode."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_size, before.st_ino) == (after.st_size, after.st_ino)


def test_an_export_opens_with_all_it_says_of_itself(bundle: Path, checkpoint: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.variants == ("fp32", "bf16", "fp16", "int8", "int8-static")
    assert opened.default_variant == "int8"
    assert (opened.model.dimension, opened.model.max_tokens, opened.model.pooling, opened.model.normalize) == (128, 96, "cls", True)
    assert opened.model.prompts == {"query": "query: ", "document": ""}
    assert opened.model.source == checkpoint.name
    on_disk = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert set(opened.files) == on_disk - {MANIFEST, "README.md"}
    assert all(opened.files[name] == describe_file(bundle / name) for name in opened.files)
    assert Bundle.open(str(bundle)) == opened


def test_any_missing_file_is_named(copy: Path) -> None:
    names = list(Bundle.open(copy).files)
    assert len(names) > 8
    for name in names:
        (copy / name).rename(copy / "away")
        with pytest.raises(JobonnxError, match="is missing from the bundle") as caught:
            Bundle.open(copy)
        assert str(copy / name) in str(caught.value)
        (copy / "away").rename(copy / name)
    Bundle.open(copy)


def test_any_altered_file_is_named_on_first_load(copy: Path) -> None:
    for name in json.loads((copy / MANIFEST).read_text(encoding="utf-8"))["files"]:
        flip_a_byte(copy / name, keep_time=True)
        with pytest.raises(JobonnxError, match="is not the file that was exported") as caught:
            Bundle.open(copy)
        assert str(copy / name) in str(caught.value)
        flip_a_byte(copy / name, keep_time=True)
    Bundle.open(copy)


def test_a_small_file_is_hashed_at_every_load(copy: Path) -> None:
    Bundle.open(copy)
    flip_a_byte(copy / "config.json", keep_time=True)
    with pytest.raises(JobonnxError, match=r"config\.json is not the file"):
        Bundle.open(copy)


@pytest.mark.usefixtures("all_large")
def test_a_large_file_is_hashed_once_then_known_by_its_stamp(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def counted(path: Path) -> str:
        hashed.append(path.name)
        return sha256(path)

    monkeypatch.setattr(integrity, "sha256", counted)
    names = {Path(name).name for name in Bundle.open(copy).files}
    assert names <= set(hashed)
    hashed.clear()
    Bundle.open(copy)
    assert set(hashed) == {MANIFEST, module.PROMPTS}  # what may be edited is hashed each time
    Bundle.open(copy, verify=True)
    assert names <= set(hashed)


@pytest.mark.usefixtures("all_large")
def test_verify_catches_what_keeps_its_stamp(copy: Path) -> None:
    Bundle.open(copy)
    flip_a_byte(copy / GRAPH, keep_time=True)
    Bundle.open(copy)  # what the stamp trusts
    with pytest.raises(JobonnxError, match=r"fp32-cpu\.onnx is not the file"):
        Bundle.open(copy, verify=True)


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("way", ["mtime", "inode", "size"])
def test_a_large_file_with_another_stamp_is_hashed_again(way: str, copy: Path) -> None:
    Bundle.open(copy)
    path = copy / GRAPH
    before = path.stat()
    if way == "mtime":
        flip_a_byte(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    elif way == "inode":
        shutil.copy2(path, copy / "new")
        flip_a_byte(copy / "new")
        os.utime(copy / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(copy / "new", path)
    else:
        path.write_bytes(path.read_bytes() + b"\0")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(JobonnxError, match=r"fp32-cpu\.onnx is not the file"):
        Bundle.open(copy)


@pytest.mark.usefixtures("all_large")
def test_a_touched_but_equal_file_opens(copy: Path) -> None:
    Bundle.open(copy)
    os.utime(copy / GRAPH)
    Bundle.open(copy)


@pytest.mark.usefixtures("all_large")
def test_stamps_of_another_export_in_the_same_place_count_for_nothing(copy: Path) -> None:
    Bundle.open(copy)
    change_manifest(copy, lambda m: m["files"][GRAPH].update(sha256="0" * 64))
    with pytest.raises(JobonnxError, match=r"fp32-cpu\.onnx is not the file"):
        Bundle.open(copy)


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("content", ["", "[]", "7", '{"engine/fp32-cpu.onnx": null}'])
def test_broken_stamps_cost_a_hash_and_nothing_else(content: str, copy: Path, tmp_path: Path) -> None:
    Bundle.open(copy)
    (stamps,) = (tmp_path / "cache" / "jobonnx" / "verified").iterdir()
    stamps.write_text(content)
    flip_a_byte(copy / GRAPH, keep_time=True)
    with pytest.raises(JobonnxError, match=r"fp32-cpu\.onnx is not the file"):
        Bundle.open(copy)


@pytest.mark.usefixtures("all_large")
def test_a_cache_that_cannot_be_written_does_not_stop_a_load(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    Bundle.open(copy)


@pytest.mark.usefixtures("all_large")
def test_a_user_without_a_home_does_not_stop_a_load(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    Bundle.open(copy)


@pytest.mark.parametrize(
    "content",
    ["", "{", "\ufeff{}", b"\xff\xfe".decode("latin-1") * 3, "[" * 100_000, "9" * 5000],
    ids=["empty", "cut", "byte-order mark", "not UTF-8", "deeply nested", "a long number"],
)
def test_a_manifest_that_is_not_json_is_one_sentence(content: str, copy: Path) -> None:
    (copy / MANIFEST).write_text(content, encoding="latin-1" if "\xff" in content else "utf-8")
    with pytest.raises(JobonnxError, match=r"manifest\.json is not valid JSON"):
        Bundle.open(copy)


@pytest.mark.parametrize("content", ["[]", "{}", "null", "7", '{"format": 1}', '{"format": "1"}', '{"format": null}'])
def test_json_that_is_no_manifest_is_one_sentence(content: str, copy: Path) -> None:
    (copy / MANIFEST).write_text(content)
    with pytest.raises(JobonnxError, match=r"manifest\.json.*; export or download the bundle again") as caught:
        Bundle.open(copy)
    assert "\n" not in str(caught.value)


def test_a_newer_format_asks_for_an_upgrade_whatever_else_it_says(copy: Path) -> None:
    (copy / MANIFEST).write_text(json.dumps({"format": module.FORMAT + 1, "all": "new"}))
    with pytest.raises(JobonnxError, match=r"format 2 is newer than this jobonnx reads \(1\); upgrade jobonnx"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["files"].update({"../outside.txt": asdict(describe_file(Path(__file__)))}),
        lambda m: m["files"].update({"engine/../../outside.txt": asdict(describe_file(Path(__file__)))}),
        lambda m: m["files"].update({str(Path(__file__).resolve()): asdict(describe_file(Path(__file__)))}),
        lambda m: m["graphs"][0].update(path="../outside.txt"),
        lambda m: m["files"].pop("tokenizer.json"),
        lambda m: m["files"].pop(GRAPH),
        lambda m: m["files"][GRAPH].pop("sha256"),
        lambda m: m.update(files=[]),
        lambda m: m.update(graphs=[]),
        lambda m: m.update(default_variant="fp64"),
        lambda m: m["model"].pop("pooling"),
        lambda m: m["model"].update(surprise=1),
        lambda m: m.update(format=-1),
        lambda m: m.update(format=True),
        lambda m: m["model"].update(max_tokens="96"),
        lambda m: m["model"].update(pad_id=-1),
        lambda m: m["model"].update(normalize=1),
        lambda m: m["model"].update(prompts={"query": 7}),
        lambda m: m["model"].update(prompts=["query"]),
        lambda m: m["model"].update(default_prompt_name="passage"),
        lambda m: m["model"].update(white_space="stripped"),
    ],
    ids=[
        "a file above the folder",
        "a file above the folder, further down",
        "an absolute path",
        "a graph above the folder",
        "tokenizer not listed",
        "graph not listed",
        "no hash",
        "files is a list",
        "no graph",
        "default variant without a graph",
        "model incomplete",
        "model with an unknown field",
        "negative format",
        "format is true",
        "limit is a text",
        "negative padding",
        "normalize is a number",
        "prompt is a number",
        "prompts is a list",
        "default prompt unknown",
        "white space stripped",
    ],
)
@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "without a seal"])
def test_a_manifest_that_jobonnx_would_not_write_is_refused(change: Callable[[Any], Any], seal: bool, copy: Path) -> None:
    """A checksum is no reason to trust a field."""
    shutil.copyfile(__file__, copy.parent / "outside.txt")
    change_manifest(copy, lambda m: (change(m), m.pop("sha256")), seal)
    with pytest.raises(JobonnxError, match=r"manifest\.json.*; export or download"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda m: m["graphs"][0]["parity"].pop("texts"), r"graphs\[0\]\.parity: object missing required field texts"),
        (lambda m: m["graphs"][0].update(parity=7), r"graphs\[0\]\.parity: expected object, got int"),
        (lambda m: m["graphs"][0].update(parity={"min_cosine": "high"}), r"graphs\[0\]\.parity"),
        (lambda m: m["graphs"][0].update(target=None), r"graphs\[0\]\.target: expected str, got null"),
        (lambda m: m.update(rejected=[7]), r"rejected\[0\]: expected object, got int"),
        (lambda m: m.update(rejected=[{"variant": "int8"}]), r"rejected\[0\]: object missing required field"),
        (lambda m: m["files"][GRAPH].update(size=-1), "size -1"),
        (lambda m: m["files"][GRAPH].update(size=1e300), "expected int, got float"),
        (lambda m: m["model"].update(dimension=10**400), "dimension"),
        (lambda m: m["model"].update(note="\ud800"), "half of a surrogate pair"),
    ],
)
def test_a_sealed_manifest_with_an_odd_field_names_it(change: Callable[[Any], Any], field: str, copy: Path) -> None:
    change_manifest(copy, change)
    with pytest.raises(JobonnxError, match=rf"manifest\.json.*{field}"):
        Bundle.open(copy)


def test_a_key_twice_is_refused(copy: Path) -> None:
    text = (copy / MANIFEST).read_text(encoding="utf-8")
    (copy / MANIFEST).write_text(text.replace('"format": 1,', '"format": 1, "format": 1,', 1), encoding="utf-8")
    with pytest.raises(JobonnxError, match="key 'format' stands there twice"):
        Bundle.open(copy)


@pytest.mark.parametrize("name", ["unlisted.data", "fp16.data"])
def test_a_graph_reads_no_other_data_file_than_the_manifest_says(name: str, copy: Path) -> None:
    """Hashes are right, the checksum is right: a crafted bundle."""
    path = copy / GRAPH
    other = b"\x12" + bytes([len(name)]) + name.encode()
    path.write_bytes(path.read_bytes().replace(b"\x12\tfp32.data", other))
    if name == "unlisted.data":
        shutil.copyfile(copy / "engine" / "fp32.data", copy / "engine" / name)
    change_manifest(copy, lambda m: m["files"].update({GRAPH: asdict(describe_file(path))}))
    with pytest.raises(JobonnxError, match=r"fp32-cpu\.onnx reads a data file that the manifest does not name for it"):
        Bundle.open(copy)


def test_a_data_file_named_in_another_spelling_is_refused(copy: Path) -> None:
    """Value before key is the same message to a parser of protocol buffers."""
    path = copy / GRAPH
    usual = b"\n\x08location\x12\tfp32.data"
    assert usual in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(usual, b"\x12\tevil.data\n\x08location", 1))
    change_manifest(copy, lambda m: m["files"].update({GRAPH: asdict(describe_file(path))}))
    with pytest.raises(JobonnxError, match="reads a data file that the manifest does not name"):
        Bundle.open(copy)


def test_an_empty_name_is_no_bundle() -> None:
    for empty in ("", "  "):
        with pytest.raises(JobonnxError, match="the bundle's name is empty"):
            Bundle.open(empty)


@pytest.mark.parametrize(
    "change",
    [
        {"pad_id": 0},
        {"vocabulary": 7},
        {"normalize": False},
        {"max_tokens": 95},
        {"prompts": {"query": "Frage: ", "document": ""}},
        {"note": "é"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_manifest_altered_since_the_export_is_refused(change: dict[str, Any], copy: Path) -> None:
    change_manifest(copy, lambda m: m["model"].update(change), seal=False)
    with pytest.raises(JobonnxError, match=r"manifest\.json is not the manifest that was exported \(its sha256 differs\)"):
        Bundle.open(copy)
    change_manifest(copy, lambda m: None)
    assert all(getattr(Bundle.open(copy).model, field) == value for field, value in change.items())


def test_a_manifest_without_its_checksum_is_refused(copy: Path) -> None:
    change_manifest(copy, lambda m: m.pop("sha256"), seal=False)
    with pytest.raises(JobonnxError, match="its sha256 differs"):
        Bundle.open(copy)


def test_a_checkpoint_is_told_how_to_become_a_bundle(checkpoint: Path) -> None:
    with pytest.raises(JobonnxError, match=r"is a checkpoint, not a bundle; export it first: jobonnx export \S+ -o BUNDLE"):
        Bundle.open(checkpoint)


def test_any_other_folder_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(JobonnxError, match=r"manifest\.json is missing, so this is no bundle"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "file.txt"])
def test_what_is_not_a_folder_is_no_bundle(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").touch()
    with pytest.raises(JobonnxError, match="no such bundle folder") as caught:
        Bundle.open(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_what_is_not_from_the_hub_has_no_revision(bundle: Path) -> None:
    with pytest.raises(JobonnxError, match=rf"{bundle} is a folder, which has no revision 'v1'; leave --revision away"):
        Bundle.open(bundle, revision="v1")
    with pytest.raises(JobonnxError, match=r"the small model comes with jobonnx and has no revision 'v1'; leave --revision away"):
        Bundle.open(revision="v1")


def test_variants_and_targets_map_to_graphs(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert {(g.variant, g.target): g.path for g in opened.graphs} == {
        ("fp32", "cpu"): GRAPH,
        ("fp32", "standard"): "engine/fp32-standard.onnx",
        ("fp32", "portable"): "onnx/model.onnx",
        ("bf16", "standard"): "engine/fp32-standard.onnx",  # OpenVINO rounds it
        ("fp16", "cuda"): "engine/fp16-cuda.onnx",
        ("fp16", "tensorrt"): "engine/fp16-tensorrt.onnx",
        ("fp16", "portable"): "onnx/model_fp16.onnx",
        ("int8", "cpu"): "engine/int8-cpu.onnx",
        ("int8", "portable"): "onnx/model_quantized.onnx",
        ("int8-static", "cpu"): "engine/int8-static-cpu.onnx",
        ("int8-static", "standard"): "engine/int8-static-standard.onnx",
    }
    assert {g.variant: g.data for g in opened.graphs if g.target != "portable"} == {
        "fp32": "engine/fp32.data",
        "bf16": "engine/fp32.data",
        "fp16": "engine/fp16.data",
        "int8": "engine/int8.data",
        "int8-static": "engine/int8.data",
    }
    found = opened.graph("int8", "cpu")
    assert found is not None
    assert found.path == "engine/int8-cpu.onnx"
    assert opened.graph("int8", "cuda") is None


def test_vectors_that_may_be_mixed_have_one_fingerprint(bundle: Path, copy: Path) -> None:
    opened = Bundle.open(bundle)
    print_ = opened.fingerprint("int8")
    assert len(print_) == 64
    assert Bundle.open(copy).fingerprint("int8") == print_
    moved = copy.rename(copy.with_name("moved"))
    assert Bundle.open(moved).fingerprint("int8") == print_
    assert opened.fingerprint("int8", "error") == print_  # nothing is ever cut, so nothing is cut differently
    assert opened.fingerprint("int8", "right", opened.model.dimension) == print_
    for other in (
        replace(opened, model=replace(opened.model, source="other/name", revision="0" * 40, note="a note", prompts={})),
        replace(opened, tools={"torch": "9"}, folder=Path("elsewhere"), files={}, default_variant="fp32", rejected=()),
        replace(opened, graphs=tuple(replace(g, path=f"moved/{g.path}", degraded=True) for g in opened.graphs)),
    ):
        assert other.fingerprint("int8") == print_


def test_whatever_decides_a_vector_changes_the_fingerprint(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Bundle.open(bundle)
    changes: dict[str, Any] = {
        "tensors_sha256": "0" * 64,
        "tokenizer_sha256": "0" * 64,
        "pooling": "mean",
        "normalize": False,
        "max_tokens": 95,
        "dimension": 127,
        "white_space": "stripped",
    }
    monkeypatch.setattr(module.Model, "__post_init__", lambda self: None)  # it knows one kind of white space
    prints = [
        *(opened.fingerprint(variant) for variant in opened.variants),
        opened.fingerprint("fp32", "left"),
        opened.fingerprint("fp32", dimension=64),
        *(replace(opened, model=replace(opened.model, **{f: v})).fingerprint("fp32") for f, v in changes.items()),
        replace(opened, graphs=tuple(replace(g, recipe="another") for g in opened.graphs)).fingerprint("fp32"),
    ]
    assert len(set(prints)) == len(prints) == 15


def test_a_tokenizer_is_the_same_whatever_padding_is_baked_in(copy: Path) -> None:
    path = copy / "tokenizer.json"
    before = tokenizer_sha256(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["padding"], content["truncation"] = {"strategy": {"Fixed": 64}}, {"max_length": 7}
    path.write_text(json.dumps(dict(reversed(content.items())), indent=4), encoding="utf-8")
    assert tokenizer_sha256(path) == before
    content["normalizer"] = None
    path.write_text(json.dumps(content), encoding="utf-8")
    assert tokenizer_sha256(path) != before


# What may change


@pytest.mark.parametrize("name", ["README.md", "LICENSE", ".gitattributes", "onnx/model_q4.onnx"])
def test_files_that_the_manifest_does_not_list_may_be_anything(name: str, copy: Path) -> None:
    (copy / name).write_bytes(b"\xff anything")
    Bundle.open(copy)
    (copy / name).unlink()
    Bundle.open(copy)


def change_prompts(folder: Path, change: Callable[[Any], Any]) -> None:
    path = folder / module.PROMPTS
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(dict(reversed(content.items())), indent=7), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "prompts", "default"),
    [
        (lambda c: c.update(prompts={"query": "Frage: ", "passage": "é"}), {"query": "Frage: ", "passage": "é"}, None),
        (lambda c: c.update(default_prompt_name="query"), {"query": "query: ", "document": ""}, "query"),
        (lambda c: c.pop("prompts"), {}, None),
    ],
    ids=["other prompts", "another default", "none"],
)
def test_edited_prompts_are_taken_with_a_note(
    change: Callable[[Any], Any], prompts: dict[str, str], default: str | None, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = Bundle.open(copy)
    change_prompts(copy, change)
    opened = Bundle.open(copy)
    assert (opened.model.prompts, opened.model.default_prompt_name) == (prompts, default)
    assert opened.fingerprint("int8") == before.fingerprint("int8"), "prompts are no part of it"
    assert f"{copy / module.PROMPTS}: its prompts were changed since the export" in caplog.text


def test_prompts_in_another_layout_are_no_change(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = Bundle.open(copy)
    change_prompts(copy, lambda content: None)
    assert Bundle.open(copy).model == before.model
    assert not caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(similarity_fn_name="dot"), "is not the file that was exported"),
        (lambda c: c.update(similarity_fn_name="dot", prompts={}), "is not the file that was exported"),
        (lambda c: c.update(new=1), "is not the file that was exported"),
        (lambda c: c.update(prompts=["query"]), "prompts: expected object, got array; mend its prompts"),
        (lambda c: c.update(prompts={"query": 7}), r"prompts.*expected str, got int; mend its prompts"),
        (lambda c: c.update(default_prompt_name="passage"), "default_prompt_name 'passage' is none of the prompts"),
    ],
)
def test_any_other_change_beside_the_prompts_is_refused(change: Callable[[Any], Any], message: str, copy: Path) -> None:
    change_prompts(copy, change)
    with pytest.raises(JobonnxError, match=rf"config_sentence_transformers\.json.*{message}"):
        Bundle.open(copy)


def test_prompts_that_are_no_json_are_no_edit(copy: Path) -> None:
    (copy / module.PROMPTS).write_text("{")
    with pytest.raises(JobonnxError, match=r"config_sentence_transformers\.json is not the file that was exported"):
        Bundle.open(copy)


# One variant


def test_a_variant_needs_its_own_graphs_and_what_belongs_to_none(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    small = {name for name in opened.files if not name.startswith(("engine/", "onnx/"))}
    assert {"tokenizer.json", "config.json", "reference.npy"} <= small
    assert set(opened.files_of("int8")) == small | {"engine/int8-cpu.onnx", "engine/int8.data"}
    assert set(opened.files_of("bf16")) == small | {"engine/fp32-standard.onnx", "engine/fp32.data"}
    assert opened.files_of(module.DEFAULT) == opened.files_of("int8")
    assert set(opened.files_of("no such variant")) == small
    assert opened.files_of(None) == opened.files


def test_files_of_other_variants_are_not_looked_at(copy: Path) -> None:
    flip_a_byte(copy / GRAPH)
    (copy / "onnx" / "model.onnx").unlink()
    Bundle.open(copy, variant="int8")
    Bundle.open(copy, variant=module.DEFAULT, verify=True)
    Encoder(copy, provider="cpu").close()
    for variant in ("fp32", None):
        with pytest.raises(JobonnxError, match=r"is not the file that was exported|is missing"):
            Bundle.open(copy, variant=variant)


@pytest.mark.usefixtures("all_large")
def test_variants_opened_in_turn_are_hashed_once_each(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variant in ("int8", "fp32"):
        Bundle.open(copy, variant=variant)
    hashed: list[str] = []

    def counted(path: Path) -> str:
        hashed.append(path.name)
        return sha256(path)

    monkeypatch.setattr(integrity, "sha256", counted)
    for variant in ("int8", "fp32"):
        Bundle.open(copy, variant=variant)
    assert set(hashed) == {MANIFEST, module.PROMPTS}  # what may be edited is hashed each time
