"""Readers and the run writer: every layout, every rule for imperfect input, every refusal."""

import json
import os

import numpy as np
import pytest

from helpers.checkpoints import AVATURE, needs_avature
from jobonnx.errors import JobonnxError
from jobonnx.evaluation.formats import (
    Counts,
    Ranking,
    read_files,
    read_folder,
    read_qrels,
    read_run,
    read_titles,
    relevant_documents,
    write_run,
)

QUERIES, CORPUS = "1\tnurse\n2\tcook\n", "7\tstaff nurse\n8\tchef\n9\tbaker\n"
QRELS = "1\t0\t7\t1\n2\t0\t8\t1\n2\t0\t9\t0\n"


def folder(path, **files):
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name.replace("__", ".")).write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def file(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(reader, *arguments):
    with pytest.raises(JobonnxError) as caught:
        reader(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# Layouts


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("ending", ["", ".tsv"])
@pytest.mark.parametrize("corpus", ["corpus_elements", "corpus_element"])
def test_talentclef_folder(tmp_path, corpus, ending, header):
    german = folder(tmp_path / "german", qrels__tsv=QRELS)
    file(german / f"queries{ending}", "q_id\tjobtitle\n" * header + QUERIES)
    file(german / f"{corpus}{ending}", "c_id\tjobtitle\n" * header + CORPUS)
    data = read_folder(german)
    assert data.name == "german"
    assert data.queries == {"1": "nurse", "2": "cook"}
    assert data.corpus == {"7": "staff nurse", "8": "chef", "9": "baker"}
    assert data.qrels == {"1": {"7": 1}, "2": {"8": 1, "9": 0}}
    assert data.counts == Counts(headers=2 * header)


def test_avature_folder(tmp_path):
    data = read_folder(folder(tmp_path / "en", queries__tsv=QUERIES, corpus_documents__tsv=CORPUS, annotations__tsv=QRELS))
    assert (data.name, len(data.queries), len(data.corpus), data.counts) == ("en", 2, 3, Counts())


def test_beir_folder(tmp_path):
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
    assert data.counts == Counts(headers=1)


def test_cross_lingual_files_take_both_folders_names(tmp_path):
    english = folder(tmp_path / "english", queries="1\tnurse\n")
    spanish = folder(tmp_path / "spanish", corpus_elements="7\tenfermera\n", qrels="1 0 7 1\n")
    data = read_files(english / "queries", spanish / "corpus_elements", spanish / "qrels")
    assert (data.name, data.corpus, data.qrels) == ("english-spanish", {"7": "enfermera"}, {"1": {"7": 1}})


def test_folder_of_no_known_layout(tmp_path):
    assert "corpus_elements or" in refused(read_folder, tmp_path)
    assert "no folder" in refused(read_folder, tmp_path / "absent")


@pytest.mark.parametrize(("missing", "named"), [("queries", "queries or queries.tsv"), ("qrels.tsv", "qrels.tsv or qrels")])
def test_folder_with_a_file_missing(tmp_path, missing, named):
    folder(tmp_path, queries=QUERIES, corpus_elements=CORPUS, qrels__tsv=QRELS)
    (tmp_path / missing).unlink()
    assert f"has no {named} beside it" in refused(read_folder, tmp_path)


@pytest.mark.parametrize(
    ("one", "other"), [("corpus_elements", "corpus_element"), ("queries", "queries.tsv"), ("qrels.tsv", "qrels")]
)
def test_folder_with_one_file_under_two_names(tmp_path, one, other):
    folder(tmp_path, queries=QUERIES, corpus_elements=CORPUS, qrels__tsv=QRELS)
    (tmp_path / other).write_bytes((tmp_path / one).read_bytes())
    assert f"has both {one} and {other}" in refused(read_folder, tmp_path)


@needs_avature
@pytest.mark.parametrize("language", ["de", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "zh"])
def test_avature_as_distributed_needs_no_rule(language):
    data = read_folder(AVATURE / language)
    assert data.counts == Counts()
    assert len(data.queries) in (103, 104, 105)
    assert len(relevant_documents(data.qrels)) == len(data.queries)


# Rules for imperfect input


def test_byte_order_mark_windows_line_ends_and_blank_lines(tmp_path):
    titles = read_titles(file(tmp_path / "queries", "\ufeffq_id\tjobtitle\r\n1\tnurse\r\n\r\n2\tcook\r\n"))
    assert titles.texts == {"1": "nurse", "2": "cook"}
    assert titles.counts == Counts(byte_order_marks=1, windows_line_ends=1, blank_lines=1, headers=1)


@pytest.mark.parametrize(
    "name", ["q_id", "query", "did", "docid", "doc_id", "Document_ID", "number\tjobtitle", "#\tTitle", "no\ttext"]
)
def test_headers_are_no_titles(tmp_path, name):
    header = name if "\t" in name else f"{name}\tname"
    titles = read_titles(file(tmp_path / "queries", f"{header}\n1\tnurse\n2\ttext\n"))
    assert (titles.texts, titles.counts) == ({"1": "nurse", "2": "text"}, Counts(headers=1))


def test_first_judgement_of_a_document_named_text_is_no_header(tmp_path):
    assert read_qrels(file(tmp_path / "qrels", "1 text 1\n")).relevance == {"1": {"text": 1}}


def test_byte_order_mark_in_json_lines(tmp_path):
    assert read_titles(file(tmp_path / "q.jsonl", '\ufeff{"_id": "1", "text": "cook"}\r\n')).texts == {"1": "cook"}


def test_titles_are_taken_as_they_stand(tmp_path):
    text = '1\t "head" of\u2028kitchen \n 2 \t\n'
    titles = read_titles(file(tmp_path / "queries", text))
    assert titles.texts == {"1": ' "head" of\u2028kitchen ', "2": ""}
    assert titles.counts == Counts(empty_titles=1)


def test_repeated_lines_are_merged_and_counted(tmp_path):
    titles = read_titles(file(tmp_path / "queries", "1\tnurse\n1\tnurse\n"))
    assert (titles.texts, titles.counts) == ({"1": "nurse"}, Counts(repeated_titles=1))
    qrels = read_qrels(file(tmp_path / "qrels", "1 0 7 1\n1 0 7 1\n"))
    assert (qrels.relevance, qrels.counts) == ({"1": {"7": 1}}, Counts(repeated_judgements=1))


def test_unknown_ids_and_unjudged_queries_are_counted(tmp_path):
    qrels = "1\t0\t7\t1\n1\t0\tgone\t1\nnobody\t0\t7\t1\nnobody\t0\t8\t1\n"
    data = read_folder(folder(tmp_path / "set", queries=QUERIES, corpus_elements=CORPUS, qrels__tsv=qrels))
    assert data.qrels == {"1": {"7": 1, "gone": 1}}
    assert data.counts == Counts(unknown_queries=2, unknown_documents=1, queries_without_relevant=1)
    assert data.counts.as_dict() == {"unknown_queries": 2, "unknown_documents": 1, "queries_without_relevant": 1}
    assert data.counts.phrases()[0] == "judgements of unknown queries, dropped: 2"


def test_files_that_do_not_belong_together(tmp_path):
    set_ = folder(tmp_path / "set", queries=QUERIES, corpus_elements=CORPUS, qrels__tsv="1 0 nowhere 1\n2 0 8 0\n")
    assert "belong together" in refused(read_folder, set_)


def test_relevance_is_above_zero(tmp_path):
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
        (b"1\tnurse\n2\tcaf\xe9\n", ("line 2", "0xe9", "save the file as UTF-8")),
        ("1\tnurse\n".encode("utf-16"), ("line 1", "0xff", "UTF-8")),
    ],
)
def test_bad_titles(tmp_path, text, parts):
    message = refused(read_titles, file(tmp_path / "queries", text))
    assert all(part in message for part in (str(tmp_path / "queries"), *parts)), message


@pytest.mark.parametrize("line", ["nurse", '["1", "nurse"]', '{"_id": 1, "text": "nurse"}', '{"_id": "1"}'])
def test_bad_json_lines(tmp_path, line):
    message = refused(read_titles, file(tmp_path / "q.jsonl", '{"_id": "0", "text": "cook"}\n' + line))
    assert "q.jsonl, line 2" in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("holds no judgements",)),
        ("1 0 7 1\n1 7\n", ("line 2", "2 columns", "['1', '7']")),
        ("1\t0\t7\t1\t0\n", ("line 1", "5 columns")),
        ("1\t0\t\t1\n", ("line 1", "empty cell")),
        ("1 0 7 high\n", ("line 1", "'high'", "whole number")),
        ("1 0 7 1.0\n", ("line 1", "'1.0'")),
        ("1 0 7 1\n1 0 7 0\n", ("line 2", "0 here and 1", "'7'", "'1'")),
    ],
)
def test_bad_qrels(tmp_path, text, parts):
    message = refused(read_qrels, file(tmp_path / "qrels.tsv", text))
    assert all(part in message for part in (str(tmp_path / "qrels.tsv"), *parts)), message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("holds no rankings",)),
        ("q_id Q0 doc_id rank score tag\n", ("holds no rankings",)),
        ("1 Q0 7 1 0.5\n", ("line 1", "5 columns")),
        ("1 Q0 7 1 best me\n", ("line 1", "'best'", "finite")),
        *(
            (f"1 Q0 7 1 {score} me\n", ("line 1", f"'{score}'", "finite"))
            for score in ("nan", "inf", "1e999", "1_0", "٣", "0x1", ".")
        ),
        ("1 Q0 7 1 0.5 me\n1 Q0 7 2 0.4 me\n", ("line 2", "'7'", "twice", "'1'")),
    ],
)
def test_bad_runs(tmp_path, text, parts):
    message = refused(read_run, file(tmp_path / "run.trec", text))
    assert all(part in message for part in (str(tmp_path / "run.trec"), *parts)), message


@pytest.mark.parametrize("reader", [read_titles, read_qrels, read_run])
def test_file_that_is_not_there(tmp_path, reader):
    assert "cannot be read" in refused(reader, tmp_path / "absent")


# Runs


@pytest.mark.parametrize("header", [True, False])
def test_run_round_trip(tmp_path, header):
    scores = np.array([0.6910377144813538, 0.1, -0.0, -0.25, 1e-9], np.float32)
    scores[::-1].sort()
    rankings = [Ranking("q1", ["ce1", "ce4", "職", "d", "e"], scores), Ranking("q2", ["ce1"], scores[:1])]
    path = tmp_path / "run.trec"
    assert write_run(path, iter(rankings), tag="team_system", header=header) == 6
    lines = path.read_bytes().decode().split("\n")
    assert lines[0] == ("q_id Q0 doc_id rank score tag" if header else "q1 Q0 ce1 1 0.6910377 team_system")
    assert lines[-1] == ""
    assert all(len(line.split(" ")) == 6 for line in lines[:-1])
    run = read_run(path)
    assert run.counts == Counts(headers=int(header))
    assert [np.float32(score) for score in run.scores["q1"].values()] == scores.tolist()
    assert list(run.scores["q1"]) == ["ce1", "ce4", "職", "d", "e"]


def test_scores_of_every_form_are_read(tmp_path):
    texts = ["1", "-1", "+.5", "2.", "0.25", "1e-9", "-1.5E+3"]
    lines = "".join(f"q Q0 d{i} 1 {text} me\n" for i, text in enumerate(texts))
    assert list(read_run(file(tmp_path / "run.trec", lines)).scores["q"].values()) == [1, -1, 0.5, 2, 0.25, 1e-9, -1500]


def test_run_with_tabs_and_windows_line_ends(tmp_path):
    run = read_run(file(tmp_path / "run.trec", "q 1\tQ0\td 1\t1\t0.5\tme\r\n"))
    assert (run.scores, run.counts) == ({"q 1": {"d 1": 0.5}}, Counts(windows_line_ends=1))


@pytest.mark.parametrize(
    ("ranking", "tag", "named"),
    [
        (Ranking("q 1", ["d"], np.ones(1)), "me", "query id 'q 1'"),
        (Ranking("q", ["d\u00a01"], np.ones(1)), "me", "document id"),
        (Ranking("q", [""], np.ones(1)), "me", "document id ''"),
        (Ranking("q", ["d"], np.ones(1)), "team A", "tag 'team A'"),
    ],
)
def test_ids_that_a_run_cannot_hold(tmp_path, ranking, tag, named):
    path = file(tmp_path / "run.trec", "before")
    with pytest.raises(JobonnxError, match="white space") as caught:
        write_run(path, [ranking], tag=tag)
    assert named in str(caught.value)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["run.trec"]


def test_interrupted_run_leaves_nothing_behind(tmp_path):
    def rankings():
        yield Ranking("q", ["d"], np.ones(1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_run(tmp_path / "run.trec", rankings())
    assert os.listdir(tmp_path) == []


def test_run_that_cannot_be_written(tmp_path):
    assert "could not be written (No such file" in refused(write_run, tmp_path / "absent" / "run.trec", [])


def test_run_at_a_folder_is_refused_before_the_first_ranking(tmp_path):
    def rankings():
        raise AssertionError("the work has begun")
        yield

    assert f"{tmp_path} could not be written (it is a folder)" in refused(write_run, tmp_path, rankings())


@pytest.mark.parametrize("there", [True, False])
def test_run_at_a_symbolic_link_goes_to_its_target(tmp_path, there):
    target, link = tmp_path / "elsewhere" / "run.trec", tmp_path / "link.trec"
    target.parent.mkdir()
    if there:
        target.write_text("before")
    link.symlink_to(target)
    write_run(link, [Ranking("q", ["d"], np.ones(1))])
    assert link.is_symlink()
    assert target.read_text() == "q Q0 d 1 1.0 jobonnx\n"
    assert os.listdir(target.parent) == ["run.trec"]


def test_run_into_a_fifo_is_read_at_its_other_end(tmp_path):
    fifo = tmp_path / "run.trec"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    write_run(fifo, [Ranking("q", ["d"], np.ones(1))])
    assert os.read(reader, 1000) == b"q Q0 d 1 1.0 jobonnx\n"
    os.close(reader)
    assert fifo.is_fifo()
