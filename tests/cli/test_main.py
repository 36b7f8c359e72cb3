"""The command line, in-process where that proves as much, in a process of its own where it does not."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from jobonnx import Encoder
from jobonnx.bundle.integrity import describe_file, with_checksum
from jobonnx.bundle.manifest import MANIFEST
from jobonnx.cli.main import main
from jobonnx.data.titles import read_titles

PROGRAM = [sys.executable, "-c", "from jobonnx.cli import main; main()"]


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def spawn(*arguments: object, stdin: bytes = b"", program: list[str] = PROGRAM) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*program, *map(str, arguments)], input=stdin, capture_output=True, check=False)


def encoded(output: str) -> list[tuple[str, list[float]]]:
    lines = [json.loads(line) for line in output.splitlines()]
    assert all(set(line) == {"text", "vector"} for line in lines)
    return [(line["text"], line["vector"]) for line in lines]


@pytest.fixture(scope="module")
def reference(bundle: Path) -> Encoder:
    return Encoder(bundle)


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bundle, tmp_path / "copy")


def change_manifest(folder: Path, change: Any) -> None:
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    change(content)
    (folder / MANIFEST).write_text(json.dumps(with_checksum(content)), encoding="utf-8")


# Errors


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["encode", "Koch", "-m", "/nowhere"], 1, "/nowhere: no such bundle folder"),
        (["encode", "Koch", "-m", "{checkpoint}"], 1, "is a checkpoint, not a bundle; export it first"),
        (["encode", "Koch", "-m", "{bundle}", "--variant", "int4"], 1, "has no variant 'int4'"),
        (["encode", "Koch", "-m", "{bundle}", "--variant", "fp16"], 1, "--force"),
        (["encode", "Koch", "-m", "{bundle}", "--provider", "gpu"], 1, "provider 'gpu' is unknown"),
        (["encode", "Koch", "-m", "{bundle}", "--truncate-dim", "129"], 1, "between 1 and 128"),
        (["encode", "Koch", "-m", "{bundle}", "--prompt-name", "x"], 1, "prompt_name='x' is unknown"),
        (["encode", "Koch " * 200, "-m", "{bundle}", "--truncation", "error"], 1, "the limit is 96"),
        (["encode", "-m", "{bundle}", "--file", "/nowhere.txt"], 1, "/nowhere.txt cannot be read (No such file or directory)"),
        (["match", "Koch", "-m", "{bundle}", "--corpus", "/nowhere.txt"], 1, "/nowhere.txt cannot be read"),
        (["match", "Koch", "-m", "{bundle}", "--corpus", "/dev/null"], 1, "/dev/null holds no titles; give it one per line"),
        (["info", "/nowhere"], 1, "no such bundle folder"),
        (["verify", "/nowhere"], 1, "no such bundle folder"),
        (["export", "/nowhere", "-o", "/tmp/never"], 1, "/nowhere"),
        (["encode", "Koch", "--file", "x.txt"], 2, "not both"),
        (["encode", "Koch", "-o", "vectors.csv"], 2, "has to end in .npy or .jsonl"),
        (["encode", "--nonsense"], 2, "--nonsense"),
        (["encode", "Koch", "--truncation", "middle"], 2, "middle"),
        (["encode", "Koch", "--threads", "0"], 2, "0"),
        (["match"], 2, "QUERY"),
        (["match", "Koch", "-k", "0"], 2, "0"),
        (["export"], 2, "--output"),
        (["nonsense"], 2, "nonsense"),
        (["--nonsense"], 2, "--nonsense"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_an_error_is_exactly_one_line_on_stderr(
    arguments: list[str], status: int, says: str, bundle: Path, checkpoint: Path
) -> None:
    result = run(*(a.format(bundle=bundle, checkpoint=checkpoint) for a in arguments))
    assert result.exit_code == status
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith("\n")
    assert says in result.stderr


def test_an_error_of_a_real_process_is_one_line_too(bundle: Path) -> None:
    done = spawn("encode", "Koch", "-m", bundle, "--provider", "gpu")
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.startswith(b"Error: provider 'gpu' is unknown")
    assert done.stderr.count(b"\n") == 1


def test_a_wrong_option_names_the_help() -> None:
    assert "jobonnx encode --help" in run("encode", "--nonsense").stderr


def test_help_and_version() -> None:
    assert "export" in run("--help").stdout
    assert "Rank a list of job titles" in run().output
    assert run("--version").stdout.startswith("jobonnx, version ")
    for command in main.list_commands(click.Context(main)):
        assert run(command, "--help").exit_code == 0


# encode


def test_encode_reads_arguments(bundle: Path, reference: Encoder) -> None:
    result = run("encode", "Koch", "厨师", "Koch", "-m", bundle)
    assert result.stderr == ""
    found = encoded(result.stdout)
    assert [text for text, _ in found] == ["Koch", "厨师", "Koch"]
    np.testing.assert_array_equal(np.array([v for _, v in found], np.float32), reference.encode(["Koch", "厨师", "Koch"]))
    assert "厨师" in result.stdout


LINES = "\ufeffKoch\r\nBürgermeister \n\n厨师\r\n".encode()
TITLES = ["Koch", "Bürgermeister ", "", "厨师"]


def test_encode_reads_a_file_without_its_bom_and_line_ends(bundle: Path, reference: Encoder, tmp_path: Path) -> None:
    (tmp_path / "titles.txt").write_bytes(LINES)
    found = encoded(run("encode", "--file", tmp_path / "titles.txt", "-m", bundle).stdout)
    assert [text for text, _ in found] == TITLES
    np.testing.assert_array_equal(np.array([v for _, v in found], np.float32), reference.encode(TITLES))


def test_encode_reads_stdin(bundle: Path) -> None:
    done = spawn("encode", "-m", bundle, stdin=LINES)
    assert done.stderr == b""
    assert [text for text, _ in encoded(done.stdout.decode())] == TITLES
    assert spawn("encode", "-m", bundle, stdin=LINES.removesuffix(b"\r\n")).stdout == done.stdout
    assert spawn("encode", "-m", bundle).stdout == b""


def test_a_closed_stdin_is_one_line(bundle: Path) -> None:
    done = spawn("encode", "-m", bundle, program=["sh", "-c", 'exec "$@" <&-', "sh", *PROGRAM])
    assert done.returncode == 1
    assert done.stderr == b"Error: stdin is closed; give titles as arguments, in a --file or on stdin\n"


def test_output_is_utf8_whatever_the_code_page(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    (tmp_path / "corpus.txt").write_text("厨师\n", encoding="utf-8")
    done = spawn("match", "厨师", "-m", bundle, "--query-prompt", "", "--corpus", tmp_path / "corpus.txt")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == "厨师\n  1.000  厨师\n"


@pytest.mark.parametrize("way", ["file", "stdin"])
def test_encode_names_the_line_that_is_not_utf8(way: str, bundle: Path, tmp_path: Path) -> None:
    content = b"Koch\nB\xfcrgermeister\nPilot\n"
    path = tmp_path / "latin1.txt"
    path.write_bytes(content)
    arguments = ["--file", path] if way == "file" else []
    result = run("encode", "-m", bundle, *arguments, stdin=content)
    assert result.exit_code == 1
    assert f"{path if way == 'file' else 'stdin'}, line 2 is not UTF-8" in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_argument_that_is_not_utf8_is_encoded_with_the_replacement_character(bundle: Path, reference: Encoder) -> None:
    done = spawn("encode", b"K\xfcche".decode("utf-8", "surrogateescape"), "-m", bundle)
    assert done.stderr == b""
    ((text, vector),) = encoded(done.stdout.decode())
    assert text == "K\ufffdche"
    assert run("match", "K\udcfcche", "-m", bundle, "--corpus", __file__, "-k", 1).stdout.startswith("K\ufffdche\n")
    np.testing.assert_array_equal(np.array(vector, np.float32), reference.encode("K\ufffdche"))


def test_encode_writes_npy_and_json_lines(bundle: Path, reference: Encoder, tmp_path: Path) -> None:
    expected = reference.encode(["Koch", "厨师"])
    for name in ("v.npy", "v.jsonl"):
        result = run("encode", "Koch", "厨师", "-m", bundle, "-o", tmp_path / name)
        assert (result.stdout, result.stderr) == ("", "")
    written = np.load(tmp_path / "v.npy")
    assert written.dtype == np.float32
    np.testing.assert_array_equal(written, expected)
    found = encoded((tmp_path / "v.jsonl").read_text(encoding="utf-8"))
    assert [text for text, _ in found] == ["Koch", "厨师"]
    np.testing.assert_array_equal(np.array([v for _, v in found], np.float32), expected)
    assert sorted(os.listdir(tmp_path)) == ["v.jsonl", "v.npy"]


def test_an_output_takes_the_place_of_the_old_one_whole(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "v.npy").write_bytes(b"before")
    with open(tmp_path / "v.npy", "rb") as reader:
        assert run("encode", "Koch", "-m", bundle, "-o", tmp_path / "v.npy").exit_code == 0
        assert reader.read() == b"before"  # who reads the old file still does, undisturbed
    assert np.load(tmp_path / "v.npy").shape == (1, 128)


def test_encode_passes_its_options_on(bundle: Path, tmp_path: Path) -> None:
    options = [
        "--variant",
        "fp16",
        "--force",
        "--provider",
        "cpu",
        "--threads",
        "1",
        "--prompt-name",
        "query",
        "--truncate-dim",
        "32",
    ]
    long = "Bäcker " * 100
    run("encode", long, "-m", bundle, *options, "--truncation", "left", "-o", tmp_path / "v.npy")
    encoder = Encoder(bundle, variant="fp16", provider="cpu", threads=1, force=True, truncation="left", truncate_dim=32)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), encoder.encode([long], prompt_name="query"), atol=1e-6)


@pytest.mark.parametrize("target", ["missing/v.npy", "file/v.npy", "folder.npy"])
def test_an_output_that_cannot_be_written_is_one_line_and_leaves_nothing(target: str, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "folder.npy" / "kept").touch()
    result = run("encode", "Koch", "-m", bundle, "-o", tmp_path / target)
    assert result.exit_code == 1
    assert f"{tmp_path / target} could not be written" in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.npy"]
    assert (tmp_path / "folder.npy" / "kept").exists()


def test_an_output_goes_through_a_fifo_or_a_symbolic_link(bundle: Path, reference: Encoder, tmp_path: Path) -> None:
    fifo, link, target = tmp_path / "fifo.npy", tmp_path / "link.npy", tmp_path / "target.npy"
    os.mkfifo(fifo)
    end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert run("encode", "Koch", "-m", bundle, "-o", fifo).exit_code == 0
    np.testing.assert_array_equal(np.load(io.BytesIO(os.read(end, 1 << 16))), reference.encode(["Koch"]))
    os.close(end)
    link.symlink_to(target)
    assert run("encode", "Koch", "-m", bundle, "-o", link).exit_code == 0
    assert link.is_symlink()
    np.testing.assert_array_equal(np.load(target), reference.encode(["Koch"]))
    assert sorted(os.listdir(tmp_path)) == ["fifo.npy", "link.npy", "target.npy"]


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE on Windows")
@pytest.mark.parametrize("suffix", ["npy", "jsonl"])
def test_a_full_disk_keeps_the_file_that_was_there(suffix: str, bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / f"v.{suffix}"
    output.write_bytes(b"before")
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); " + PROGRAM[2]
    done = spawn(
        "encode", "-m", bundle, "-o", output, stdin="\n".join(read_titles()[:50]).encode(), program=[*PROGRAM[:2], limited]
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {output} could not be written (".encode())
    assert done.stderr.count(b"\n") == 1
    assert output.read_bytes() == b"before"
    assert os.listdir(tmp_path) == [output.name]


# match


def test_match_ranks_the_corpus_by_cosine(bundle: Path, reference: Encoder, tmp_path: Path) -> None:
    titles = read_titles()[::60]
    corpus = tmp_path / "corpus.txt"
    corpus.write_bytes(("\r\n".join([*titles, titles[0], "Koch"]) + "\r\n").encode())
    scores = (reference.encode_document([*titles, "Koch"]) @ reference.encode_query(["Koch"]).T)[:, 0]
    expected = sorted(zip([*titles, "Koch"], scores.tolist(), strict=True), key=lambda pair: -pair[1])[:5]

    shown = run("match", "Koch", "--corpus", corpus, "-m", bundle, "-k", 5)
    assert shown.stdout == "Koch\n" + "".join(f"  {score:.3f}  {title}\n" for title, score in expected)
    assert expected[0][1] < 0.99, "the model has a prompt for queries"

    result = run("match", "Koch", "厨师", "--corpus", corpus, "-m", bundle, "-k", 5, "--json")
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert (first["query"], second["query"]) == ("Koch", "厨师")
    assert [match["title"] for match in first["matches"]] == [title for title, _ in expected]
    assert [match["score"] for match in first["matches"]] == pytest.approx([score for _, score in expected], abs=1e-5)


def test_match_without_a_corpus_ranks_the_lexicon(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = read_titles()[::50]  # all of it takes a while
    monkeypatch.setattr("jobonnx.data.titles.read_titles", lambda: some)
    query = some[-1]
    (line,) = run("match", query, "-m", bundle, "-k", 3, "--query-prompt", "", "--json").stdout.splitlines()
    matches = json.loads(line)["matches"]
    assert matches[0] == {"title": query, "score": pytest.approx(1, abs=1e-5)}
    assert {match["title"] for match in matches} <= set(some)
    assert len(matches) == 3


def test_match_shows_no_more_than_there_is(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("Koch\nPilot\n")
    assert run("match", "Koch", "--corpus", tmp_path / "corpus.txt", "-m", bundle).stdout.count("\n") == 3


# info and verify


def test_info_says_what_runs_here(bundle: Path, reference: Encoder) -> None:
    facts = json.loads(run("info", bundle, "--json").stdout)
    assert facts["default_variant"] == facts["variant"] == "int8"
    assert facts["provider"] == "cpu"
    assert facts["nodes"] == reference.engine.session.nodes
    assert facts["threads"] == facts["available_threads"] == reference.engine.session.threads
    assert facts["fingerprint"] == reference.fingerprint
    assert facts["model"]["pooling"] == "cls"
    assert [g["parity"]["texts"] > 500 for g in facts["graphs"]] == [True] * 11
    hashed = [p for p in bundle.rglob("*") if p.is_file() and p.name not in (MANIFEST, "README.md")]
    assert facts["bytes"] == sum(p.stat().st_size for p in hashed)
    assert json.loads(run("info", bundle, "--json", "--threads", 1).stdout)["threads"] == 1
    shown = run("info", bundle).stdout
    for text in ("128 dimensions, cls pooling, at most 96 tokens", "int8 on cpu", "threads", "CPUExecutionProvider", "fingerprint"):
        assert text in shown


def test_info_shows_what_was_left_out_and_what_was_kept_degraded(copy: Path) -> None:
    def change(content: Any) -> None:
        content["graphs"][0]["degraded"] = True
        content["rejected"] = [{**content["graphs"][2], "variant": "int4", "missed": ["min_cosine 0.5 (asked: >= 0.99)"]}]

    change_manifest(copy, change)
    lines = run("info", copy).stdout.splitlines()
    assert any("fp32" in line and "degraded" in line for line in lines)
    assert any("int4" in line and "left out" in line for line in lines)


@pytest.mark.parametrize("command", [["encode", "Koch", "-m"], ["match", "Koch", "--corpus", __file__, "-m"], ["info"]])
def test_what_is_degraded_or_untrained_says_so_on_stderr(command: list[object], copy: Path) -> None:
    def change(content: Any) -> None:
        content["model"]["note"] = "untrained weights"
        for graph in content["graphs"]:
            graph["degraded"] = graph["variant"] == "int8"

    change_manifest(copy, change)
    result = run(*command, copy)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "note: untrained weights",
        "note: int8 missed its parity tolerance at export and was kept with --allow-degraded",
    ]
    assert run(*command, copy, "--variant", "fp32").stderr == "note: untrained weights\n"


def test_verify_passes_an_export(bundle: Path) -> None:
    done = spawn("verify", bundle, "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    rows = json.loads(done.stdout)
    assert [(row["variant"], row["target"], row["missed"]) for row in rows] == [
        ("fp32", "cpu", []),
        ("fp32", "standard", []),
        ("fp32", "portable", []),
        ("bf16", "standard", []),
        ("fp16", "cuda", []),
        ("fp16", "tensorrt", []),
        ("fp16", "portable", []),
        ("int8", "cpu", []),
        ("int8", "portable", []),
        ("int8-static", "cpu", []),
        ("int8-static", "standard", []),
    ]
    assert run("verify", bundle).stdout.count("on cpu") == 11


def test_verify_fails_where_a_graphs_parity_is_broken(copy: Path) -> None:
    name = "engine/int8-cpu.onnx"
    graph = onnx.load(copy / name)
    for tensor in graph.graph.initializer:
        if "LayerNorm.weight" in tensor.name:
            gains = np.roll(numpy_helper.to_array(tensor), 1)
            tensor.CopyFrom(numpy_helper.from_array(gains, tensor.name))
    onnx.save(graph, copy / name)
    assert "int8-cpu.onnx is not the file that was exported" in run("verify", copy).stderr
    change_manifest(copy, lambda m: m["files"].update({name: asdict(describe_file(copy / name))}))
    result = run("verify", copy, "--json")
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert len(rows) == 11
    assert [(row["variant"], row["target"]) for row in rows if row["missed"]] == [("int8", "cpu")]
    shown = run("verify", copy)
    assert shown.exit_code == 1
    assert "mean_centred" in shown.stdout


def test_verify_hashes_every_file_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobonnx.bundle.integrity._ALWAYS_HASHED", 0)
    assert run("info", copy).exit_code == 0
    before = (copy / "config.json").stat()
    (copy / "config.json").write_bytes((copy / "config.json").read_bytes().replace(b"gelu", b"relu"))
    os.utime(copy / "config.json", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run("info", copy).exit_code == 0
    result = run("verify", copy)
    assert result.exit_code == 1
    assert "config.json is not the file that was exported" in result.stderr


def test_a_reader_that_leaves_is_no_error(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "titles.txt").write_text("\n".join(read_titles()[:300]), encoding="utf-8")
    process = subprocess.Popen(
        [*PROGRAM, "encode", "--file", str(tmp_path / "titles.txt"), "-m", str(bundle)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()


def test_commands_are_the_ones_promised() -> None:
    context = click.Context(main)
    names = main.list_commands(context)
    assert {"export", "info", "verify", "encode", "match"} <= set(names)
    assert all(isinstance(main.get_command(context, name), click.Command) for name in names)
    assert main.get_command(context, "nonsense") is None


def test_a_command_imports_no_other() -> None:
    code = "import sys, jobonnx.cli.main as m, click; m.main.get_command(click.Context(m.main), 'match'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in loaded if name.startswith("jobonnx.cli.")} == {
        f"jobonnx.cli.{name}" for name in ("input", "main", "options", "prompts", "titles")
    }


def test_match_encodes_a_large_corpus_once(
    bundle: Path, tmp_path: Path, reference: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    titles = [*read_titles()[:1100], *read_titles()[:100]]  # with repeats
    (tmp_path / "corpus.txt").write_text("\n".join(titles), encoding="utf-8")
    arguments = ["match", titles[7], "KOCH", "--corpus", tmp_path / "corpus.txt", "-m", bundle, "-k", 5]
    first, second = run(*arguments).stdout, run(*arguments).stdout
    assert len(list((tmp_path / "cache" / "jobonnx" / "corpora").iterdir())) == 1
    encoded: list[str] = []
    encode = Encoder.encode

    def counted(self: Encoder, sentences: Any, *rest: Any, **options: Any) -> Any:
        encoded.extend(sentences)
        return encode(self, sentences, *rest, **options)

    monkeypatch.setattr(Encoder, "encode", counted)
    third = run(*arguments).stdout
    assert encoded == [titles[7], "KOCH"]
    without = run(*arguments, "--no-cache").stdout
    assert len(encoded) == 2 + 2 + 1100
    assert first == second == third == without


_OWN_END = """
import atexit, sys, threading, time
from jobonnx import cli
{before}
sys.argv = ["jobonnx", "info", "--json"]
cli.main()
"""


@pytest.mark.medium
@pytest.mark.parametrize(
    "before",
    [
        'atexit.register(print, "told at exit")',
        'threading.Thread(target=lambda: (time.sleep(1), print("told at exit"))).start()',
    ],
)
def test_a_command_that_is_done_leaves_nothing_undone(before: str) -> None:
    """It ends the process without freeing its objects: exit handlers and other threads have their turn first."""
    end = subprocess.run([sys.executable, "-c", _OWN_END.format(before=before)], capture_output=True, text=True, check=True)
    assert end.stdout.endswith("told at exit\n")
    assert json.loads(end.stdout.removesuffix("told at exit\n"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_output_that_cannot_be_written_is_an_error() -> None:
    with open("/dev/full", "wb") as full:
        end = subprocess.run([*PROGRAM, "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert end.returncode
    assert "No space left" in end.stderr
