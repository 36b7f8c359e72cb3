"""`jobonnx evaluate` and `jobonnx rank`, with a stub in the encoder's place."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import jobonnx
from jobonnx.arrays import Floats
from jobonnx.cli.evaluate import evaluate, rank
from jobonnx.cli.main import main
from jobonnx.errors import JobonnxError, ProviderUnavailableError
from jobonnx.files import sha256

QUERIES, CORPUS = "1\tnurse\n2\tcook\n3\tpilot\n", "7\tstaff nurse\n8\tline cook\n9\tbaker\n"
QRELS = "1\t0\t7\t1\n2\t0\t8\t1\n2\t0\t9\t1\n"

asked: list[dict[str, Any]] = []  # what encoders were made with
prompted: list[tuple[str, dict[str, Any]]] = []  # the first text and the prompt of each call of `encode`


class StubEncoder:
    """Hashed words; int8 is fp32 with another hash."""

    note = ""

    def __init__(self, bundle: str | None = None, variant: str | None = None, **options: Any) -> None:
        asked.append({"bundle": bundle, "variant": variant, **options})
        if variant == "fp16" and not options["force"]:
            raise ProviderUnavailableError("fp16 needs a GPU.")
        self.variant = variant or "int8"
        prompts = {"query": "query: ", "document": "title: "}
        self.bundle = SimpleNamespace(
            model=SimpleNamespace(note=self.note, source="stub", prompts=prompts, default_prompt_name="document")
        )
        self.prompts = prompts
        self.graph = SimpleNamespace(degraded=self.variant == "fp16")
        self.fingerprint = f"print-{self.variant}"

    def encode(self, texts: list[str], **prompt: Any) -> Floats:
        prompted.append((texts[0], prompt))
        vectors = np.full((len(texts), 16), 0.01, np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                vectors[row, hashlib.md5(f"{word}{self.variant}".encode()).digest()[0] % 16] += 1
        unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked.clear()
    prompted.clear()
    opened = SimpleNamespace(variants=("fp32", "fp16", "int8"), default_variant="int8")
    monkeypatch.setattr(jobonnx, "Encoder", StubEncoder)
    monkeypatch.setattr(jobonnx.Bundle, "open", lambda *_, **__: opened)


@pytest.fixture
def german(tmp_path: Path) -> Path:
    folder = tmp_path / "german"
    folder.mkdir()
    for name, text in {"queries": QUERIES, "corpus_elements": CORPUS, "qrels.tsv": QRELS}.items():
        (folder / name).write_text(text)
    return folder


def run(command: click.Command, *arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_json_of_all_variants(german: Path) -> None:
    result = run(evaluate, german, "--variant", "all", "--json")
    data = json.loads(result.stdout)
    assert data["fingerprints"] == {"fp32": "print-fp32", "int8": "print-int8"}
    assert data["datasets"] == {
        "german": {"queries": 3, "documents": 3, "counts": {"queries_without_relevant": 1}},
    }
    assert list(data["variants"]) == ["fp32", "int8"]
    assert data["skipped"] == {"fp16": "fp16 needs a GPU."}
    assert "fp16 skipped: fp16 needs a GPU." in result.stderr
    assert data["variants"]["fp32"]["german"]["queries"] == 2
    assert len(data["variants"]["fp32"]["german"]["metrics"]) == 37 + 5
    assert data["variants"]["int8"]["german"]["difference"].keys() == data["variants"]["int8"]["german"]["metrics"].keys()
    assert "german, queries without a relevant document, left out of the averages: 1" in result.stderr


def test_chosen_variant_is_set_against_the_reference(german: Path) -> None:
    assert list(json.loads(run(evaluate, german, "--json").stdout)["variants"]) == ["fp32", "int8"]
    assert list(json.loads(run(evaluate, german, "--variant", "fp32", "--json").stdout)["variants"]) == ["fp32"]


OPTIONS = ("--model", "b", "--revision", "r", "--provider", "cpu", "--threads", 2, "--force")
MEANT = {"bundle": "b", "revision": "r", "provider": "cpu", "threads": 2, "force": True}


def test_options_of_an_encoder_reach_it(german: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    bundle = jobonnx.Bundle.open()

    def open_bundle(*source: Any, **rest: Any) -> Any:
        opened.append((*source, rest))
        return bundle

    monkeypatch.setattr(jobonnx.Bundle, "open", open_bundle)
    run(evaluate, german, *OPTIONS)
    assert opened == [("b", {"revision": "r", "variant": "default"})]
    run(rank, german / "queries", german / "corpus_elements", "-o", tmp_path / "run.trec", *OPTIONS, "--variant", "int8")
    assert asked == [MEANT | {"variant": variant} for variant in ("fp32", "int8", "int8")]


def test_all_variants_with_force_include_fp16(german: Path) -> None:
    result = run(evaluate, german, "--variant", "all", "--force", "--json")
    assert list(json.loads(result.stdout)["variants"]) == ["fp32", "fp16", "int8"]
    assert "note: fp16 missed its parity tolerance" in result.stderr


def test_note_of_a_bundle_is_said_once(german: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StubEncoder, "note", "trained on too little")
    said = "note: trained on too little\n"
    assert run(evaluate, german, "--variant", "all", "--json").stderr.count(said) == 1
    files = german / "queries", german / "corpus_elements"
    assert run(rank, *files, "-o", tmp_path / "run.trec").stderr.count(said) == 1


def test_bundle_without_the_reference_says_so_where_there_is_something_to_compare(
    german: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "fp32, which the others are compared with, is not in the bundle: no differences are shown\n"
    for variants in (("int8",), ("int8", "bf16")):
        opened = SimpleNamespace(variants=variants, default_variant="int8")
        monkeypatch.setattr(jobonnx.Bundle, "open", lambda *_, opened=opened, **__: opened)
        result = run(evaluate, german, "--variant", "all", "--json")
        data = json.loads(result.stdout)
        assert data["reference"] is None
        assert "difference" not in data["variants"]["int8"]["german"]
        assert result.stderr.count(said) == len(variants) - 1


def test_bundle_with_the_reference_names_it(german: Path) -> None:
    result = run(evaluate, german, "--json")
    assert json.loads(result.stdout)["reference"] == "fp32"
    assert "no differences" not in result.stderr


def test_variant_that_the_bundle_lacks(german: Path) -> None:
    for others in ((), ("--variant", "all")):
        with pytest.raises(JobonnxError, match="no variant 'int2'; choose among fp32, fp16, int8 or all"):
            run(evaluate, german, *others, "--variant", "int2")


def test_variant_that_the_machine_cannot_run_is_refused_when_named(german: Path) -> None:
    for others in ((), ("--variant", "all")):
        with pytest.raises(JobonnxError, match="fp16 needs a GPU"):
            run(evaluate, german, *others, "--variant", "fp16")


def test_reference_that_the_machine_cannot_run_is_skipped(german: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutFp32(StubEncoder):
        def __init__(self, bundle: str | None = None, variant: str | None = None, **options: Any) -> None:
            if variant == "fp32":
                raise ProviderUnavailableError("no fp32 graph for provider 'coreml'")
            super().__init__(bundle, variant, **options)

    monkeypatch.setattr(jobonnx, "Encoder", WithoutFp32)
    result = run(evaluate, german, "--json")
    assert list(json.loads(result.stdout)["variants"]) == ["int8"]
    assert "fp32, which the others are compared with, was skipped: no differences are shown" in result.stderr


def test_damaged_graph_fails_all_variants(german: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Damaged(StubEncoder):
        def __init__(self, bundle: str | None = None, variant: str | None = None, **options: Any) -> None:
            if variant == "int8":
                raise JobonnxError("int8.onnx does not load")
            super().__init__(bundle, variant, **options)

    monkeypatch.setattr(jobonnx, "Encoder", Damaged)
    with pytest.raises(JobonnxError, match=r"int8\.onnx does not load"):
        run(evaluate, german, "--variant", "all")


def test_machine_that_can_run_nothing(german: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobonnx.Bundle, "open", lambda *_, **__: SimpleNamespace(variants=("fp16",), default_variant="fp16"))
    with pytest.raises(JobonnxError, match="can run no variant"):
        run(evaluate, german, "--variant", "all")


def test_table_and_markdown(german: Path) -> None:
    table = run(evaluate, german, f"austrian={german}").stdout
    assert "cosine_ndcg@200" in table
    assert "austrian" in table
    markdown = run(evaluate, german, "--markdown").stdout
    assert markdown.startswith("#### fp32\n\n| Metric | german |\n")


def test_cross_lingual_set_as_a_path_list(german: Path) -> None:
    paths = os.pathsep.join(str(german / name) for name in ("queries", "corpus_elements", "qrels.tsv"))
    assert list(json.loads(run(evaluate, f"mix_de={paths}", "--json").stdout)["datasets"]) == ["mix_de"]
    assert list(json.loads(run(evaluate, paths, "--json").stdout)["datasets"]) == ["german-german"]


def test_path_that_exists_is_taken_as_it_stands(german: Path) -> None:
    odd = german.rename(german.with_name("a=b"))
    assert list(json.loads(run(evaluate, odd, "--json").stdout)["datasets"]) == ["a=b"]


def test_path_list_of_another_length(german: Path) -> None:
    with pytest.raises(JobonnxError, match="neither a folder nor three files"):
        run(evaluate, os.pathsep.join([str(german / "queries"), str(german / "qrels.tsv")]))


def test_two_datasets_of_one_name(german: Path) -> None:
    with pytest.raises(JobonnxError, match="two datasets are named 'german'"):
        run(evaluate, german, german)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "at least one dataset"),
        (("--run", "r"), "--run needs --qrels"),
        (("--compare", "a", "b"), "--compare needs --qrels"),
        (("--compare", "a", "b", "--run", "r", "--qrels", "q"), "exclude each other"),
        (("--compare", "a", "b", "--qrels", "q", "--query-prompt", "x"), "leave out datasets and the options of a model"),
        (("set", "--query-prompt", "x", "--query-prompt-name", "y"), "not both"),
        (("set", "--document-prompt", "caf\udce9"), "is not UTF-8"),
        (("set", "--cutoffs", "5,x"), "'5,x' is no list of ranks"),
        (("set", "--cutoffs", "0,5"), "'0,5' is no list of ranks"),
        (("set", "--cutoffs", "9" * 5000), "is no list of ranks"),
        (("set", "--ties", "random"), "'random' is not one of"),
        (("--qrels", "q"), "--qrels goes with --run"),
        (("set", "--run", "r", "--qrels", "q"), "leave out datasets"),
        (("--run", "r", "--qrels", "q", "--provider", "auto"), "leave out datasets and the options of a model"),
    ],
)
def test_misuse(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(evaluate, arguments)
    assert result.exit_code == click.UsageError.exit_code
    assert message in result.stderr


@pytest.mark.parametrize("header", ["--header", "--no-header"])
def test_ranked_run_scores_as_the_model_does(german: Path, tmp_path: Path, header: str) -> None:
    output = tmp_path / "run.trec"
    result = run(rank, german / "queries", german / "corpus_elements", "-o", output, "--variant", "fp32", header, "--tag", "a_b")
    assert "9 lines, 3 queries, variant fp32" in result.stderr
    lines = output.read_text().splitlines()
    assert (lines[0] == "q_id Q0 doc_id rank score tag") == (header == "--header")
    assert lines[-1].endswith(" a_b")

    scored = run(evaluate, "--run", output, "--qrels", german / "qrels.tsv", "--json")
    data = json.loads(scored.stdout)
    assert "queries of the run without a relevant document in the qrels, left out: 1" in scored.stderr
    assert data["counts"]["unjudged_run_queries"] == 1
    metrics = data["variants"]["run.trec"]["qrels.tsv"]["metrics"]
    direct = json.loads(run(evaluate, german, "--variant", "fp32", "--json").stdout)["variants"]["fp32"]["german"]["metrics"]
    assert {f"cosine_{name}": value for name, value in metrics.items()} == direct
    # Three documents: full depth is within every cutoff, and each query has one or two relevant ones.
    assert (metrics["map"], metrics["recip_rank"]) == (metrics["map@500"], metrics["mrr@200"])


def test_top_k_limits_a_run_and_says_what_that_costs(german: Path, tmp_path: Path) -> None:
    files = german / "queries", german / "corpus_elements"
    assert "leaves out" not in run(rank, *files, "-o", tmp_path / "run.trec", "--top-k", 3).stderr
    result = run(rank, *files, "-o", tmp_path / "run.trec", "--top-k", 1)
    assert "note: --top-k 1 leaves out 2 of 3 documents: MAP and nDCG without a cutoff" in result.stderr
    assert "--top-k 3 keeps all" in result.stderr
    assert len((tmp_path / "run.trec").read_text().splitlines()) == 3


def test_ranking_reports_what_it_repaired(german: Path, tmp_path: Path) -> None:
    (german / "queries").write_bytes("\ufeffq_id\tjobtitle\r\n1\tnurse\r\n".encode())
    result = run(rank, german / "queries", german / "corpus_elements", "-o", tmp_path / "run.trec")
    assert "byte-order marks dropped: 1" in result.stderr
    assert "first lines taken for headers: 1" in result.stderr


def test_a_run_is_never_written_over_its_inputs(german: Path) -> None:
    files = german / "queries", german / "corpus_elements"
    for output in files:
        with pytest.raises(JobonnxError, match="is the input"):
            run(rank, *files, "-o", output)
    assert [file.read_text() for file in files] == [QUERIES, CORPUS]
    assert asked == []


def test_metrics_per_query_are_never_written_over_an_input(german: Path) -> None:
    before = {file: sha256(file) for file in german.iterdir()}
    paths = os.pathsep.join(str(german / name) for name in ("queries", "corpus_elements", "qrels.tsv"))
    for file in before:
        for dataset in (german, f"x={german}", paths, f"x={paths}"):
            with pytest.raises(JobonnxError, match="is the input"):
                run(evaluate, dataset, "--per-query", file)
    assert {file: sha256(file) for file in before} == before
    assert asked == []


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs over the judgements of `german`: the second finds what the first puts second."""
    first, second = tmp_path / "a.trec", tmp_path / "b.trec"
    first.write_text("1 Q0 9 1 0.9 a\n1 Q0 7 2 0.8 a\n2 Q0 8 1 0.9 a\n")
    second.write_text("1 Q0 7 1 0.9 b\n1 Q0 9 2 0.8 b\n2 Q0 8 1 0.9 b\n")
    return first, second


def test_two_runs_are_compared(german: Path, runs: tuple[Path, Path]) -> None:
    data = json.loads(run(evaluate, "--compare", *runs, "--qrels", german / "qrels.tsv", "--json").stdout)
    assert data["reference"] == "a.trec"
    difference = data["variants"]["b.trec"]["qrels.tsv"]["difference"]["mrr@20"]
    assert difference["mean"] == 0.25
    assert difference["low"] <= 0.25 <= difference["high"]
    assert data["runs"] == [str(path) for path in runs]
    table = run(evaluate, "--compare", *runs, "--qrels", german / "qrels.tsv", "--markdown").stdout
    assert "| mrr@20 | 1.0000 +0.2500 [+0.0000 +0.5000] |" in table


def test_runs_of_one_name_are_told_apart_by_their_paths(german: Path, runs: tuple[Path, Path]) -> None:
    other = german / "a.trec"
    other.write_text(runs[1].read_text())
    data = json.loads(run(evaluate, "--compare", runs[0], other, "--qrels", german / "qrels.tsv", "--json").stdout)
    assert list(data["variants"]) == [str(runs[0]), str(other)]
    with pytest.raises(JobonnxError, match="given twice"):
        run(evaluate, "--compare", other, other, "--qrels", german / "qrels.tsv")


@pytest.mark.parametrize("name", ["q.tsv", "q.jsonl"])
def test_metrics_per_query_are_written(german: Path, runs: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    result = run(evaluate, "--compare", *runs, "--qrels", german / "qrels.tsv", "--per-query", tmp_path / name, "--cutoffs", "1, 2")
    assert f"{tmp_path / name}: 4 lines" in result.stderr
    lines = (tmp_path / name).read_text().splitlines()
    if name == "q.jsonl":
        entry = json.loads(lines[0])
        assert (entry["system"], entry["query"], entry["metrics"]["mrr@2"]) == ("a.trec", "1", 0.5)
    else:
        values = dict(zip(lines[0].split("\t"), lines[1].split("\t"), strict=True))
        assert (values["system"], values["query"], values["mrr@2"], len(lines)) == ("a.trec", "1", "0.5", 5)


def test_cutoffs(german: Path) -> None:
    metrics = json.loads(run(evaluate, german, "--cutoffs", "3,1", "--json").stdout)["variants"]["int8"]["german"]["metrics"]
    assert [name for name in metrics if "precision" in name] == ["cosine_precision@1", "cosine_precision@3"]
    official = json.loads(run(evaluate, german, "--json").stdout)["variants"]["int8"]["german"]["metrics"]
    assert list(official)[37:] == ["cosine_precision@5", "cosine_precision@10", "cosine_map", "cosine_recip_rank", "cosine_ndcg"]


@pytest.mark.parametrize("rule", ["trec", "sentence-transformers", "ranx"])
def test_ties_are_ordered_as_asked_and_their_range_is_shown(tmp_path: Path, rule: str) -> None:
    ids = [f"d{i}" for i in range(40)]
    (tmp_path / "run.trec").write_text("".join(f"q Q0 {i} 1 0.5 me\n" for i in ids))
    (tmp_path / "qrels").write_text("".join(f"q 0 {i} 1\n" for i in ids[::2]))
    arguments = ("--run", tmp_path / "run.trec", "--qrels", tmp_path / "qrels", "--ties", rule)
    data = json.loads(run(evaluate, *arguments, "--json").stdout)
    entry = data["variants"]["run.trec"]["qrels"]
    assert data["ties"]["rule"] == rule
    assert entry["ties"]["ranges"]["accuracy@1"] == [0, 1]
    assert entry["ties"]["queries_tied_at"] == {"1": 1, "20": 1, "50": 0, "100": 0, "150": 0, "200": 0}
    table = run(evaluate, *arguments).stdout
    assert "queries tied at 20" in table
    assert "0.0000 to 1.0000" in table
    assert f"Ties ({rule})" in run(evaluate, *arguments, "--markdown").stdout


def test_grades_are_counted(german: Path) -> None:
    (german / "qrels.tsv").write_text(QRELS.replace("7\t1", "7\t3"))
    assert "german, judgements above 1, which weigh more in nDCG alone" in run(evaluate, german).stderr


def test_prompts_reach_the_encoder(german: Path, tmp_path: Path) -> None:
    queries, titles = {"prompt": "title: ", "prompt_name": None}, {"prompt": "passage: ", "prompt_name": None}
    prompts = ("--query-prompt-name", "document", "--document-prompt", "passage: ")
    data = json.loads(run(evaluate, german, "--variant", "fp32", *prompts, "--json").stdout)
    assert prompted == [("nurse", queries), ("staff nurse", titles)]
    assert data["prompts"] == {"query": {"prompt_name": "document"}, "document": {"prompt": "passage: "}}
    prompted.clear()
    run(rank, german / "queries", german / "corpus_elements", "-o", tmp_path / "run.trec", *prompts)
    assert sorted(prompted) == [("baker", titles), ("nurse", queries)]
    prompted.clear()
    run(evaluate, german, "--variant", "fp32", "--query-prompt", "")
    assert [prompt["prompt"] for _, prompt in prompted] == ["", "title: "]


def test_queries_and_documents_have_their_own_prompts_by_default(german: Path, tmp_path: Path) -> None:
    """As by sentence-transformers' evaluator, which calls encode_query and encode_document: never the model's default prompt."""
    run(evaluate, german, "--variant", "fp32")
    run(rank, german / "queries", german / "corpus_elements", "-o", tmp_path / "run.trec")
    by_text = dict(prompted)
    plain = {text: prompt["prompt"] for text, prompt in by_text.items()}
    assert plain == {"nurse": "query: ", "staff nurse": "title: ", "baker": "title: "}


def test_help_says_what_rank_writes_and_where_its_header_is_wrong() -> None:
    assert "Write a TREC run" in CliRunner().invoke(main, ["--help"]).stdout
    text = " ".join(CliRunner().invoke(rank, ["--help"]).stdout.split())
    assert "submission page asks for it, and its scoring script fails on it" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("rank", "queries", "corpus_elements", "-o", "run.trec", "--tag", "caf\udce9"),
        ("rank", "queries", "corpus_elements", "-o", "queries"),
        ("rank", "caf\udce9", "corpus_elements", "-o", "run.trec"),
        ("evaluate", "caf\udce9"),
        ("evaluate", "--run", "caf\udce9", "--qrels", "qrels.tsv"),
        ("evaluate", "a\0b"),
        ("rank", "a\0b", "corpus_elements", "-o", "run.trec"),
        ("rank", "queries", "corpus_elements", "-o", "a\0b"),
        ("evaluate", ".", "--per-query", "a\0b"),
    ],
)
def test_hostile_arguments_end_in_one_sentence(german: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    monkeypatch.chdir(german)
    before = {file.name: sha256(file) for file in german.iterdir()}
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1, result.output
    message = result.stderr.splitlines()[-1]
    assert message.startswith("Error: ")
    assert "Traceback" not in result.stderr
    assert "codec" not in message
    assert {file.name: sha256(file) for file in german.iterdir()} == before


def test_a_folder_whose_name_is_not_utf8_is_scored(german: Path) -> None:
    odd = german.rename(german.with_name("caf\udce9"))
    for style in ((), ("--markdown",), ("--json",)):
        assert CliRunner().invoke(main, ["evaluate", str(odd), *style]).exit_code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing_beside_the_run(tmp_path: Path, number: int) -> None:
    (tmp_path / "queries").write_text("".join(f"q{i}\tnurse {i}\n" for i in range(2000)))
    (tmp_path / "corpus").write_text("".join(f"d{i}\tcook {i % 7}\n" for i in range(2000)))
    program = (
        "import numpy as np, jobonnx.cli, jobonnx.cli.evaluate as commands; from types import SimpleNamespace;"
        "model = SimpleNamespace(source='x', prompts={}, default_prompt_name=None);"
        "encode = lambda texts, **_: np.ones((len(texts), 8), np.float32) / np.float32(8) ** .5;"
        "encoder = SimpleNamespace(variant='x', prompts={}, bundle=SimpleNamespace(model=model), encode=encode);"
        "commands.load = lambda *_, **__: encoder; jobonnx.cli.main()"
    )
    arguments = ["rank", "queries", "corpus", "-o", "run.trec", "--top-k", "2000"]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(name.endswith(".partial") for name in os.listdir(tmp_path)) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    assert sorted(os.listdir(tmp_path)) == ["corpus", "queries"]
