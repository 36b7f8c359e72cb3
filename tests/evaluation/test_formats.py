"""Retrieval sets on disk: every layout, every rule for imperfect input, every refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.checkpoints import AVATURE, needs_avature
from jobonnx.errors import JobonnxError
from jobonnx.evaluation.formats import read_files, read_folder, read_titles, relevant_documents
from jobonnx.evaluation.lines import Counts, phrases
from jobonnx.evaluation.trec import read_qrels, read_run

QUERIES, CORPUS = "1\tnurse\n2\tcook\n", "7\tstaff nurse\n8\tchef\n9\tbaker\n"
QRELS = "1\t0\t7\t1\n2\t0\t8\t1\n2\t0\t9\t0\n"


def folder(path: Path, **files: str | bytes) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        file(path / name.replace("__", "."), text)
    return path


def file(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(reader: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(JobonnxError) as caught:
        reader(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert not message.endswith(".")
    assert len(message) < 1000
    return message


# Layouts


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("ending", ["", ".tsv"])
@pytest.mark.parametrize("corpus", ["corpus_elements", "corpus_element"])
@pytest.mark.parametrize("qrels", ["qrels.tsv", "qrels", "q_rels", "q_rels.tsv"])
def test_talentclef_folder(tmp_path: Path, corpus: str, ending: str, header: bool, qrels: str) -> None:
    german = folder(tmp_path / "german")
    file(german / qrels, QRELS)
    file(german / f"queries{ending}", "q_id\tjobtitle\n" * header + QUERIES)
    file(german / f"{corpus}{ending}", "c_id\tjobtitle\n" * header + CORPUS)
    data = read_folder(german)
    assert data.name == "german"
    assert data.queries == {"1": "nurse", "2": "cook"}
    assert data.corpus == {"7": "staff nurse", "8": "chef", "9": "baker"}
    assert data.qrels == {"1": {"7": 1}, "2": {"8": 1, "9": 0}}
    assert data.counts == Counts(headers=2 * header)


@pytest.mark.parametrize("corpus", ["corpus_documents__tsv", "corpus_elements__tsv"])
def test_avature_and_melo_folders(tmp_path: Path, corpus: str) -> None:
    data = read_folder(folder(tmp_path / "en", queries__tsv=QUERIES, annotations__tsv=QRELS, **{corpus: CORPUS}))
    assert (data.name, len(data.queries), len(data.corpus), data.counts) == ("en", 2, 3, Counts())


def test_beir_folder(tmp_path: Path) -> None:
    lines = [{"_id": "8", "title": "chef", "text": "de partie"}, {"_id": "7", "title": "", "text": "staff nurse"}]
    beir = folder(
        tmp_path / "beir",
        queries__jsonl='{"_id": "1", "text": "nurse", "metadata": {}}\n',
        corpus__jsonl="\n".join(map(json.dumps, lines)),
    )
    folder(beir / "qrels", test__tsv="query-id\tcorpus-id\tscore\n1\t7\t2\n")
    data = read_folder(beir, "mine")
    assert data.name == "mine"
    assert data.corpus == {"8": "chef de partie", "7": "staff nurse"}
    assert data.qrels == {"1": {"7": 2}}
    assert data.counts == Counts(headers=1, graded_judgements=1)


def test_cross_lingual_files_take_both_folders_names(tmp_path: Path) -> None:
    english = folder(tmp_path / "english", queries="1\tnurse\n")
    spanish = folder(tmp_path / "spanish", corpus_elements="7\tenfermera\n", qrels="1 0 7 1\n")
    data = read_files(english / "queries", spanish / "corpus_elements", spanish / "qrels")
    assert (data.name, data.corpus, data.qrels) == ("english-spanish", {"7": "enfermera"}, {"1": {"7": 1}})


def test_folder_of_no_known_layout_says_which_three_files_to_pass(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", Path("a\0b")):
        message = refused(read_folder, path)
        assert "corpus_elements or" in message
        assert "pass the three files themselves, as QUERIES:CORPUS:QRELS" in message


@pytest.mark.parametrize(
    ("missing", "named"), [("queries", "queries or queries.tsv"), ("qrels.tsv", "qrels.tsv or qrels or q_rels")]
)
def test_folder_with_a_file_missing(tmp_path: Path, missing: str, named: str) -> None:
    folder(tmp_path, queries=QUERIES, corpus_elements=CORPUS, qrels__tsv=QRELS)
    (tmp_path / missing).unlink()
    message = refused(read_folder, tmp_path)
    assert f"has no {named}" in message
    assert "QUERIES:CORPUS:QRELS" in message


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("corpus_elements", "corpus_element"),
        ("queries", "queries.tsv"),
        ("qrels.tsv", "qrels"),
        ("qrels.tsv", "annotations.tsv"),
        ("corpus_elements", "corpus_documents.tsv"),
    ],
)
def test_folder_with_one_file_under_two_names(tmp_path: Path, one: str, other: str) -> None:
    folder(tmp_path, queries=QUERIES, corpus_elements=CORPUS, qrels__tsv=QRELS)
    (tmp_path / other).write_bytes((tmp_path / one).read_bytes())
    assert f"has both {one} and {other}" in refused(read_folder, tmp_path)


@needs_avature
@pytest.mark.parametrize("language", ["de", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "zh"])
def test_avature_as_distributed_needs_no_rule(language: str) -> None:
    data = read_folder(AVATURE / language)
    assert data.counts == Counts()
    assert len(data.queries) in (103, 104, 105)
    assert len(relevant_documents(data.qrels)) == len(data.queries)


# Rules for imperfect input


def test_byte_order_mark_windows_line_ends_and_blank_lines(tmp_path: Path) -> None:
    titles = read_titles(file(tmp_path / "queries", "\ufeffq_id\tjobtitle\r\n1\tnurse\r\n\r\n2\tcook\r\n"))
    assert titles.texts == {"1": "nurse", "2": "cook"}
    assert titles.counts == Counts(byte_order_marks=1, windows_line_ends=1, blank_lines=1, headers=1)


@pytest.mark.parametrize(
    "name", ["q_id", "query", "did", "docid", "doc_id", "Document_ID", "number\tjobtitle", "#\tTitle", "no\ttext"]
)
def test_headers_are_no_titles(tmp_path: Path, name: str) -> None:
    header = name if "\t" in name else f"{name}\tname"
    titles = read_titles(file(tmp_path / "queries", f"{header}\n1\tnurse\n2\ttext\n"))
    assert (titles.texts, titles.counts) == ({"1": "nurse", "2": "text"}, Counts(headers=1))


def test_byte_order_mark_in_json_lines(tmp_path: Path) -> None:
    assert read_titles(file(tmp_path / "q.jsonl", '\ufeff{"_id": "1", "text": "cook"}\r\n')).texts == {"1": "cook"}


def test_titles_are_taken_as_they_stand(tmp_path: Path) -> None:
    text = '1\t "head" of\u2028kitchen \n 2 \t\n'
    titles = read_titles(file(tmp_path / "queries", text))
    assert titles.texts == {"1": ' "head" of\u2028kitchen ', "2": ""}
    assert titles.counts == Counts(empty_titles=1)


def test_repeated_lines_are_merged_and_counted(tmp_path: Path) -> None:
    titles = read_titles(file(tmp_path / "queries", "1\tnurse\n1\tnurse\n"))
    assert (titles.texts, titles.counts) == ({"1": "nurse"}, Counts(repeated_titles=1))


def test_unknown_ids_and_unjudged_queries_are_counted(tmp_path: Path) -> None:
    qrels = "1\t0\t7\t1\n1\t0\tgone\t1\nnobody\t0\t7\t1\nnobody\t0\t8\t1\n"
    data = read_folder(folder(tmp_path / "set", queries=QUERIES, corpus_elements=CORPUS, qrels__tsv=qrels))
    assert data.qrels == {"1": {"7": 1, "gone": 1}}
    assert data.counts == Counts(unknown_queries=2, unknown_documents=1, queries_without_relevant=1)
    assert dict(data.counts) == {"unknown_queries": 2, "unknown_documents": 1, "queries_without_relevant": 1}
    assert phrases(data.counts)[0] == "judgements of unknown queries, dropped: 2"


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    set_ = folder(tmp_path / "set", queries=QUERIES, corpus_elements=CORPUS, qrels__tsv="1 0 nowhere 1\n2 0 8 0\n")
    assert "belong together" in refused(read_folder, set_)


def test_relevance_is_above_zero(tmp_path: Path) -> None:
    qrels = read_qrels(file(tmp_path / "qrels", "q_id iter doc_id rel\n1 0 7 2\n1 0 8 0\n1 0 9 -1\n2 0 7 0\n"))
    assert relevant_documents(qrels.relevance) == {"1": {"7"}}


# Refusals, with file, line and value


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("holds no titles",)),
        ("q_id\tjobtitle\n", ("holds no titles",)),
        ("1\tnurse\n2 cook\n", ("line 2", "1 column", "'2 cook'")),
        ("1\tnurse\n2\tcook\textra\n", ("line 2", "3 columns")),
        ("1\tnurse\n\tcook\n", ("line 2", "id is empty")),
        ("1\tnurse\n\n1\tcook\n", ("line 3", "'1'", "'cook'", "'nurse'")),
        (f"1\tnurse\n1\t{'x' * 100_000}\n", ("line 2", "'nurse'")),
        (b"1\tnurse\n2\tcaf\xe9\n", ("line 2", "UTF-8")),
        ("1\tnurse\n".encode("utf-16"), ("line 1", "UTF-8")),
    ],
)
def test_bad_titles(tmp_path: Path, text: str | bytes, parts: tuple[str, ...]) -> None:
    message = refused(read_titles, file(tmp_path / "queries", text))
    assert all(part in message for part in (str(tmp_path / "queries"), *parts)), message


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("nurse", "JSON"),
        ('["1", "nurse"]', "array"),
        ('{"_id": 1, "text": "nurse"}', "_id"),
        ('{"_id": "1"}', "text"),
        ('{"_id": "1", "text": null}', "text"),
        ('{"_id": "1", "text": "cook", "title": ["a", 1]}', "title"),
        ('{"_id": "1", "text": "cook", "title": 5}', "title"),
        ('{"_id": "1", "text": "cook", "title": null}', "title"),
        ('{"_id": "\\ud800", "text": "cook"}', "surrogate"),
        ('{"_id": "1", "text": "\\ud800"}', "surrogate"),
        ('{"_id": "1", "_id": "2", "text": "cook"}', "twice"),
        pytest.param('{"_id": "1", "text": "cook", "n": ' + "1" * 5000 + "}", "5000 digits", id="digits"),
        pytest.param("[" * 100_000, "too deeply", id="depth"),
        pytest.param(
            '{"_id": "1", "text": "cook", "n": ' + "[" * 100_000 + "]" * 100_000 + "}", "too deeply", id="depth in a field"
        ),
    ],
)
def test_bad_json_lines(tmp_path: Path, line: str, named: str) -> None:
    message = refused(read_titles, file(tmp_path / "q.jsonl", '{"_id": "0", "text": "cook"}\n' + line))
    assert "q.jsonl, line 2" in message
    assert named in message


@pytest.mark.parametrize("reader", [read_titles, read_qrels, read_run])
@pytest.mark.parametrize("name", ["absent", "a\0b", "."])
def test_file_that_cannot_be_read(tmp_path: Path, reader: Callable[[Path], Any], name: str) -> None:
    message = refused(reader, tmp_path / name)
    assert "cannot be read" in message
    assert "\0" not in message
