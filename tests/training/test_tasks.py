"""Validation tasks: they ask for held-out occupations, and a document counts where it should."""

from __future__ import annotations

from jobonnx_train.split import Corpus
from jobonnx_train.tasks import TASKS, make_retrieval, validation_sets


def test_validation_tasks_ask_for_the_held_out_titles(corpus: Corpus) -> None:
    tasks = validation_sets(corpus, seed=1, size=300)
    assert {"full_en", "full_de", "full_es", "full_zh", "family_en", "mix_de", "mix_es", "mix_zh"} <= set(tasks)
    labels = {group.labels["en"][0]: set(group.labels["en"]) for group in corpus.held if group.source == "esco"}
    task = tasks["full_en"]
    assert set(task.queries.values()) == set(labels)
    for query, text in task.queries.items():
        assert {task.corpus[document] for document in task.relevant[query]} == labels[text] - {text}
    assert not set(task.queries.values()) & set(task.corpus.values())
    assert any("\u4e00" <= character <= "\u9fff" for text in tasks["mix_zh"].corpus.values() for character in text)


def test_every_task_is_of_one_language_and_filled_up(corpus: Corpus) -> None:
    tasks = validation_sets(corpus, seed=1, size=100)
    assert list(tasks) == [task.name for task in TASKS]
    for name in ("full_de", "family_de", "mix_de"):
        assert len(tasks[name].corpus) == 100
        titles = {text for group in corpus.train + corpus.held for text in group.labels.get("de", ())}
        assert set(tasks[name].corpus.values()) <= titles
    families = {group.key: group.family for group in corpus.held if group.source == "esco"}
    assert families
    for query, found in tasks["full_de"].relevant.items():  # the family is at least as many
        same = [other for other, text in tasks["family_de"].queries.items() if text == tasks["full_de"].queries[query]]
        assert len(tasks["family_de"].relevant[same[0]]) >= len(found)


def test_a_document_counts_where_its_key_is_the_querys_and_its_text_is_not() -> None:
    queries = [("a", "cook"), ("b", "baker"), ("c", "king")]
    documents = [("a", "chef"), ("a", "cook"), ("b", "chef"), ("b", "pastry cook")]
    task = make_retrieval(queries, documents, [("b", "confectioner"), ("a", "pastry cook"), ("c", "queen")], size=4)
    assert list(task.corpus.values()) == ["chef", "cook", "pastry cook", "confectioner"]
    found = {task.queries[query]: {task.corpus[document] for document in ids} for query, ids in task.relevant.items()}
    assert found == {"cook": {"chef", "pastry cook"}, "baker": {"chef", "pastry cook", "confectioner"}}
    assert "king" not in task.queries.values()  # nothing is relevant to it
