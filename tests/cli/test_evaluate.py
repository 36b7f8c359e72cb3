"""`jobonnx evaluate` and `jobonnx rank`, with a stub in the encoder's place."""

import hashlib
import json
import os
from types import SimpleNamespace

import click
import numpy as np
import pytest
from click.testing import CliRunner

import jobonnx
from jobonnx.cli.evaluate import evaluate, rank
from jobonnx.errors import JobonnxError, ProviderUnavailableError

QUERIES, CORPUS = "1\tnurse\n2\tcook\n3\tpilot\n", "7\tstaff nurse\n8\tline cook\n9\tbaker\n"
QRELS = "1\t0\t7\t1\n2\t0\t8\t1\n2\t0\t9\t1\n"

asked = []  # what encoders were made with


class StubEncoder:
    """Hashed words; int8 is fp32 with another hash."""

    note = ""

    def __init__(self, bundle=None, variant=None, **options):
        asked.append({"bundle": bundle, "variant": variant, **options})
        if variant == "fp16" and not options["force"]:
            raise ProviderUnavailableError("fp16 needs a GPU.")
        self.variant = variant or "int8"
        self.bundle = SimpleNamespace(model=SimpleNamespace(note=self.note))
        self.graph = SimpleNamespace(degraded=self.variant == "fp16")
        self.fingerprint = f"print-{self.variant}"

    def encode(self, texts, show_progress_bar=False):
        vectors = np.full((len(texts), 16), 0.01, np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                vectors[row, hashlib.md5(f"{word}{self.variant}".encode()).digest()[0] % 16] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def stub(monkeypatch):
    asked.clear()
    opened = SimpleNamespace(variants=("fp32", "fp16", "int8"), default_variant="int8")
    monkeypatch.setattr(jobonnx, "Encoder", StubEncoder)
    monkeypatch.setattr(jobonnx.Bundle, "open", lambda *_, **__: opened)


@pytest.fixture
def german(tmp_path):
    folder = tmp_path / "german"
    folder.mkdir()
    for name, text in {"queries": QUERIES, "corpus_elements": CORPUS, "qrels.tsv": QRELS}.items():
        (folder / name).write_text(text)
    return folder


def run(command, *arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_json_of_all_variants(german):
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
    assert len(data["variants"]["fp32"]["german"]["metrics"]) == 37
    assert data["variants"]["int8"]["german"]["difference"].keys() == data["variants"]["int8"]["german"]["metrics"].keys()
    assert "german, queries without a relevant document, left out of the averages: 1" in result.stderr


def test_chosen_variant_is_set_against_the_reference(german):
    assert list(json.loads(run(evaluate, german, "--json").stdout)["variants"]) == ["fp32", "int8"]
    assert list(json.loads(run(evaluate, german, "--variant", "fp32", "--json").stdout)["variants"]) == ["fp32"]


OPTIONS = ("--model", "b", "--revision", "r", "--provider", "cpu", "--threads", 2, "--force")
MEANT = {"bundle": "b", "revision": "r", "provider": "cpu", "threads": 2, "force": True}


def test_options_of_an_encoder_reach_it(german, tmp_path, monkeypatch):
    opened = []
    bundle = jobonnx.Bundle.open()
    monkeypatch.setattr(jobonnx.Bundle, "open", lambda *source, **rest: opened.append((*source, rest)) or bundle)
    run(evaluate, german, *OPTIONS)
    assert opened == [("b", {"revision": "r"})]
    run(rank, german / "queries", german / "corpus_elements", "-o", tmp_path / "run.trec", *OPTIONS, "--variant", "int8")
    assert asked == [MEANT | {"variant": variant} for variant in ("fp32", "int8", "int8")]


def test_all_variants_with_force_include_fp16(german):
    result = run(evaluate, german, "--variant", "all", "--force", "--json")
    assert list(json.loads(result.stdout)["variants"]) == ["fp32", "fp16", "int8"]
    assert "note: fp16 missed its parity tolerance" in result.stderr


def test_note_of_a_bundle_is_said_once(german, tmp_path, monkeypatch):
    monkeypatch.setattr(StubEncoder, "note", "trained on too little")
    said = "note: trained on too little\n"
    assert run(evaluate, german, "--variant", "all", "--json").stderr.count(said) == 1
    files = german / "queries", german / "corpus_elements"
    assert run(rank, *files, "-o", tmp_path / "run.trec").stderr.count(said) == 1


def test_bundle_without_the_reference_says_that_it_shows_no_differences(german, monkeypatch):
    monkeypatch.setattr(jobonnx.Bundle, "open", lambda *_, **__: SimpleNamespace(variants=("int8",), default_variant="int8"))
    result = run(evaluate, german, "--json")
    data = json.loads(result.stdout)
    assert data["reference"] is None
    assert "difference" not in data["variants"]["int8"]["german"]
    assert result.stderr.count("fp32, which the others are compared with, is not in the bundle: no differences are shown\n") == 1


def test_bundle_with_the_reference_names_it(german):
    result = run(evaluate, german, "--json")
    assert json.loads(result.stdout)["reference"] == "fp32"
    assert "no differences" not in result.stderr


def test_variant_that_the_bundle_lacks(german):
    for others in ((), ("--variant", "all")):
        with pytest.raises(JobonnxError, match="no variant 'int2'; choose among fp32, fp16, int8 or all"):
            run(evaluate, german, *others, "--variant", "int2")


def test_variant_that_the_machine_cannot_run_is_refused_when_named(german):
    for others in ((), ("--variant", "all")):
        with pytest.raises(JobonnxError, match="fp16 needs a GPU"):
            run(evaluate, german, *others, "--variant", "fp16")


def test_reference_that_the_machine_cannot_run_is_skipped(german, monkeypatch):
    class WithoutFp32(StubEncoder):
        def __init__(self, bundle=None, variant=None, **options):
            if variant == "fp32":
                raise ProviderUnavailableError("no fp32 graph for provider 'coreml'")
            super().__init__(bundle, variant, **options)

    monkeypatch.setattr(jobonnx, "Encoder", WithoutFp32)
    result = run(evaluate, german, "--json")
    assert list(json.loads(result.stdout)["variants"]) == ["int8"]
    assert "fp32, which the others are compared with, was skipped: no differences are shown" in result.stderr


def test_damaged_graph_fails_all_variants(german, monkeypatch):
    class Damaged(StubEncoder):
        def __init__(self, bundle=None, variant=None, **options):
            if variant == "int8":
                raise JobonnxError("int8.onnx does not load")
            super().__init__(bundle, variant, **options)

    monkeypatch.setattr(jobonnx, "Encoder", Damaged)
    with pytest.raises(JobonnxError, match=r"int8\.onnx does not load"):
        run(evaluate, german, "--variant", "all")


def test_machine_that_can_run_nothing(german, monkeypatch):
    monkeypatch.setattr(jobonnx.Bundle, "open", lambda *_, **__: SimpleNamespace(variants=("fp16",), default_variant="fp16"))
    with pytest.raises(JobonnxError, match="can run no variant"):
        run(evaluate, german, "--variant", "all")


def test_table_and_markdown(german):
    table = run(evaluate, german, f"austrian={german}").stdout
    assert "cosine_ndcg@200" in table
    assert "austrian" in table
    markdown = run(evaluate, german, "--markdown").stdout
    assert markdown.startswith("#### fp32\n\n| Metric | german |\n")


def test_cross_lingual_set_as_a_path_list(german):
    paths = os.pathsep.join(str(german / name) for name in ("queries", "corpus_elements", "qrels.tsv"))
    assert list(json.loads(run(evaluate, f"mix_de={paths}", "--json").stdout)["datasets"]) == ["mix_de"]
    assert list(json.loads(run(evaluate, paths, "--json").stdout)["datasets"]) == ["german-german"]


def test_path_that_exists_is_taken_as_it_stands(german):
    odd = german.rename(german.with_name("a=b"))
    assert list(json.loads(run(evaluate, odd, "--json").stdout)["datasets"]) == ["a=b"]


def test_path_list_of_another_length(german):
    with pytest.raises(JobonnxError, match="neither a folder nor three files"):
        run(evaluate, os.pathsep.join([str(german / "queries"), str(german / "qrels.tsv")]))


def test_two_datasets_of_one_name(german):
    with pytest.raises(JobonnxError, match="two datasets are named 'german'"):
        run(evaluate, german, german)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "at least one dataset"),
        (("--run", "r"), "--run needs --qrels"),
        (("--qrels", "q"), "--qrels goes with --run"),
        (("set", "--run", "r", "--qrels", "q"), "leave out datasets"),
        (("--run", "r", "--qrels", "q", "--provider", "auto"), "leave out datasets and the options of a model"),
    ],
)
def test_misuse(arguments, message):
    result = CliRunner().invoke(evaluate, arguments)
    assert result.exit_code == click.UsageError.exit_code
    assert message in result.stderr


@pytest.mark.parametrize("header", ["--header", "--no-header"])
def test_ranked_run_scores_as_the_model_does(german, tmp_path, header):
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
    assert {f"cosine_{name}": value for name, value in metrics.items() if "@" in name} == direct
    # Three documents: full depth is within every cutoff, and each query has one or two relevant ones.
    assert (metrics["map"], metrics["recip_rank"]) == (metrics["map@500"], metrics["mrr@200"])


def test_depth(german, tmp_path):
    run(rank, german / "queries", german / "corpus_elements", "-o", tmp_path / "run.trec", "-k", 1)
    assert len((tmp_path / "run.trec").read_text().splitlines()) == 3


def test_ranking_reports_what_it_repaired(german, tmp_path):
    (german / "queries").write_bytes("\ufeffq_id\tjobtitle\r\n1\tnurse\r\n".encode())
    result = run(rank, german / "queries", german / "corpus_elements", "-o", tmp_path / "run.trec")
    assert "byte-order marks dropped: 1" in result.stderr
    assert "first lines taken for headers: 1" in result.stderr
