"""Metrics against sentence-transformers' evaluator, against trec_eval's known answers and against hand computation."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.evaluation import InformationRetrievalEvaluator
from sentence_transformers.util import cos_sim

from helpers.checkpoints import AVATURE, needs_avature
from jobonnx import Encoder
from jobonnx.errors import JobonnxError
from jobonnx.evaluation.formats import Counts, Dataset, Qrels, Run, read_folder, read_qrels, read_run, relevant_documents, write_run
from jobonnx.evaluation.metrics import (
    CUTOFFS,
    MAP_CUTOFFS,
    Evaluation,
    bootstrap_difference,
    compare,
    evaluate,
    evaluate_run,
    rank,
    ranking_metrics,
    trec_metrics,
)

NAMES = [f"{m}@{k}" for m in ("accuracy", "precision", "recall", "ndcg", "mrr") for k in CUTOFFS]
NAMES += [f"map@{k}" for k in MAP_CUTOFFS]


class Trigrams:
    """A deterministic encoder: hashed character trigrams, unit length."""

    def encode(self, texts):
        vectors = np.zeros((len(texts), 64), np.float32)
        for row, text in enumerate(texts):
            for i in range(len(text) + 1):
                gram = f" {text.lower()} "[i : i + 3]
                vectors[row, hashlib.md5(gram.encode()).digest()[0] % 64] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Lookup:
    """An encoder that knows the vector of each text."""

    def __init__(self, vectors):
        self.vectors = vectors

    def encode(self, texts):
        return np.array([self.vectors[text] for text in texts], np.float32)

    def encode_query(self, texts, **_):
        return torch.from_numpy(self.encode(texts))

    encode_document = encode_query


class InFloat64:
    """An encoder for sentence-transformers' evaluator, whose product of its vectors is then a float64 one."""

    def __init__(self, encoder):
        self.encoder = encoder

    def encode_query(self, texts, **_):
        return torch.from_numpy(self.encoder.encode(texts)).double()

    encode_document = encode_query


def dataset(queries, corpus, qrels):
    return Dataset("set", queries, corpus, qrels, Counts())


def reference(queries, corpus, relevant):
    """Sentence-transformers' evaluator with the model card's cutoffs."""
    cutoffs = list(CUTOFFS)
    return InformationRetrievalEvaluator(
        queries,
        corpus,
        relevant,
        mrr_at_k=cutoffs,
        ndcg_at_k=cutoffs,
        accuracy_at_k=cutoffs,
        precision_recall_at_k=cutoffs,
        map_at_k=list(MAP_CUTOFFS),
        score_functions={"cosine": cos_sim},
        write_csv=False,
    )


def flat(scores):
    return {metric.replace("@k", f"@{k}"): value for metric, by_k in scores.items() for k, value in by_k.items()}


@st.composite
def judged_runs(draw):
    """Runs without ties, with judged documents that were never ranked and queries of every size."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    documents = [f"d{i}" for i in range(draw(st.integers(1, 700)))]
    run, qrels = {}, {}
    for query in (f"q{i}" for i in range(draw(st.integers(1, 5)))):
        depth = rng.integers(1, len(documents) + 1)
        scores = rng.permutation(10_000)[:depth] / 10_000
        run[query] = dict(zip(rng.permutation(documents)[:depth].tolist(), scores.tolist(), strict=True))
        judged = rng.permutation(documents)[: rng.integers(1, len(documents) + 1)].tolist()
        qrels[query] = {document: int(rng.random() < 0.8) for document in judged} | {"nowhere": 1}
    return run, qrels


@settings(max_examples=60, deadline=None)
@given(judged_runs())
def test_runs_agree_with_sentence_transformers(case):
    run, qrels = case
    relevant = {query: {d for d, rel in judged.items() if rel} for query, judged in qrels.items()}
    evaluator = reference({query: query for query in run}, {"nowhere": ""}, relevant)
    hits = [[{"corpus_id": d, "score": s} for d, s in ranking.items()] for ranking in run.values()]
    expected = flat(evaluator.compute_metrics(hits))

    means = evaluate_run(Run(run, Counts()), Qrels(qrels, Counts())).means

    assert list(means) == [*NAMES, "map", "recip_rank"]
    assert {name: means[name] for name in NAMES} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_vectors_agree_with_sentence_transformers(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 900))
    queries = {f"q{i}": f"query {i}" for i in range(int(rng.integers(1, 30)))}
    corpus = {f"d{i}": f"title {i}" for i in range(size)}
    qrels = {q: {f"d{i}": 1 for i in rng.permutation(size)[: rng.integers(1, 80)]} for q in queries}
    queries["unjudged"] = "nobody knows"
    vectors = rng.normal(size=(len(queries) + size, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    encoder = Lookup(dict(zip([*queries.values(), *corpus.values()], vectors, strict=True)))
    evaluator = reference(queries, corpus, {q: set(judged) for q, judged in qrels.items()})
    expected = {f"cosine_{name}": v for name, v in flat(evaluator.compute_all_metrics(encoder)["cosine"]).items()}

    evaluation = evaluate(encoder, dataset(queries, corpus, qrels))

    assert list(evaluation.means) == [f"cosine_{name}" for name in NAMES]
    assert evaluation.means == pytest.approx(expected, abs=1e-9)
    assert "unjudged" not in evaluation.query_ids


def test_metrics_by_hand():
    # Ranked: relevant, not, relevant. A fourth document is relevant and was not ranked.
    metrics = ranking_metrics(np.array([[True, False, True]]), np.array([3]), cutoffs=(1, 2, 3, 10), map_cutoffs=(1, 2, 10))
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    assert {name: values[0] for name, values in metrics.items()} == pytest.approx(
        {
            "accuracy@1": 1,
            "accuracy@2": 1,
            "accuracy@3": 1,
            "accuracy@10": 1,
            "precision@1": 1,
            "precision@2": 1 / 2,
            "precision@3": 2 / 3,
            "precision@10": 2 / 10,
            "recall@1": 1 / 3,
            "recall@2": 1 / 3,
            "recall@3": 2 / 3,
            "recall@10": 2 / 3,
            "ndcg@1": 1,
            "ndcg@2": 1 / (1 + 1 / np.log2(3)),
            "ndcg@3": 1.5 / ideal,
            "ndcg@10": 1.5 / ideal,
            "mrr@1": 1,
            "mrr@2": 1,
            "mrr@3": 1,
            "mrr@10": 1,
            "map@1": 1,
            "map@2": 1 / 2,
            "map@10": (1 + 2 / 3) / 3,
        }
    )


def test_reciprocal_rank_stops_at_the_cutoff():
    metrics = ranking_metrics(np.array([[False, True], [False, False]]), np.array([1, 1]), cutoffs=(1, 2), map_cutoffs=(1,))
    assert metrics["mrr@1"].tolist() == [0, 0]
    assert metrics["mrr@2"].tolist() == [0.5, 0]


def test_trec_metrics_by_hand():
    # Full depth, all four relevant documents in the denominator: (1/2 + 2/3) / 4.
    metrics = trec_metrics(np.array([[False, True, True, False], [False] * 4]), np.array([4, 1]))
    assert metrics["map"].tolist() == pytest.approx([(1 / 2 + 2 / 3) / 4, 0])
    assert metrics["recip_rank"].tolist() == [0.5, 0]


def test_ties_go_to_the_higher_document_id():
    # trec_eval's rule; pytrec_eval-terrier 0.5.11 gives map 0.25 and recip_rank 0.5 for this run.
    run = Run({"q": {"a": 1.0, "b": 1.0}}, Counts())
    means = evaluate_run(run, Qrels({"q": {"a": 1, "b": 0, "x": 1}}, Counts())).means
    assert (means["map"], means["recip_rank"]) == (0.25, 0.5)


def test_ties_are_by_code_point_not_by_number_or_case():
    corpus = {"9": "same", "10": "same", "B": "same", "a": "same", "É": "same", "職": "same"}
    (ranking,) = rank(Trigrams(), {"q": "same"}, corpus, 10)
    assert ranking.document_ids == ["職", "É", "a", "B", "9", "10"]
    assert len(set(ranking.scores.tolist())) == 1


def test_ties_are_the_same_for_vectors_and_for_the_run_they_write(tmp_path):
    corpus = {f"d{i}": f"title {i % 7}" for i in range(400)}
    queries = {f"q{i}": f"title {i}" for i in range(9)}
    qrels = {query: {f"d{i}": 1 for i in range(n, 400, 13)} for n, query in enumerate(queries)}
    direct = evaluate(Trigrams(), dataset(queries, corpus, qrels)).means
    write_run(tmp_path / "run.trec", rank(Trigrams(), queries, corpus, 1000))
    through_file = evaluate_run(read_run(tmp_path / "run.trec"), Qrels(qrels, Counts())).means
    assert {f"cosine_{name}": through_file[name] for name in NAMES} == direct


def test_order_of_the_corpus_does_not_matter():
    corpus = {f"d{i}": f"title {i % 5}" for i in range(60)}
    backwards = dict(reversed(corpus.items()))
    qrels = {"q": {"d3": 1, "d8": 1, "d59": 1}}
    one, other = (evaluate(Trigrams(), dataset({"q": "title 3"}, c, qrels)).means for c in (corpus, backwards))
    assert one == other


def test_more_queries_than_a_block():
    corpus = {f"d{i}": f"title {i}" for i in range(30)}
    queries = {f"q{i}": f"title {i % 30}" for i in range(2100)}
    qrels = {f"q{i}": {f"d{i % 30}": 1} for i in range(2100)}
    evaluation = evaluate(Trigrams(), dataset(queries, corpus, qrels))
    once = evaluate(Trigrams(), dataset(dict(list(queries.items())[:30]), corpus, qrels))
    assert len(evaluation.query_ids) == 2100
    assert evaluation.means == pytest.approx(once.means)


def test_documents_missing_from_the_corpus_count_against_recall():
    evaluation = evaluate(Trigrams(), dataset({"q": "nurse"}, {"d": "nurse"}, {"q": {"d": 1, "gone": 1}}))
    assert evaluation.means["cosine_recall@200"] == 0.5


def test_judged_queries_missing_from_the_run_score_zero():
    run = Run({"q1": {"d": 1.0}, "stray": {"d": 1.0}}, Counts())
    qrels = Qrels({"q1": {"d": 1}, "q2": {"d": 1}, "q3": {"d": 0}}, Counts())
    evaluation = evaluate_run(run, qrels)
    assert evaluation.means["map"] == 0.5
    assert evaluation.counts == Counts(queries_missing_from_run=1, unjudged_run_queries=1, queries_without_relevant=1)


def test_run_without_a_judged_query_is_refused():
    with pytest.raises(JobonnxError, match="no query of the run"):
        evaluate_run(Run({"q": {"d": 1.0}}, Counts()), Qrels({"other": {"d": 1}}, Counts()))


def test_set_without_a_relevant_document_is_refused():
    with pytest.raises(JobonnxError, match="no query of set has a relevant document"):
        evaluate(Trigrams(), dataset({"q": "nurse"}, {"d": "nurse"}, {"q": {"d": 0}}))


@pytest.mark.parametrize("vector", [[np.nan, 1.0], [np.inf, 1.0], [0.0, 0.0]])
def test_vector_without_a_direction_is_refused(vector):
    encoder = Lookup({"nurse": [1.0, 0.0], "cook": vector})
    with pytest.raises(JobonnxError, match="the vector of 'cook' is zero or not finite"):
        evaluate(encoder, dataset({"q": "nurse"}, {"d": "nurse", "e": "cook"}, {"q": {"d": 1}}))


def test_vectors_of_any_length_are_compared_by_cosine():
    encoder = Lookup({"nurse": [3.0, 0.0], "matron": [0.2, 0.1], "cook": [4.0, 9.0]})
    (ranking,) = rank(encoder, {"q": "nurse"}, {"d": "cook", "e": "matron"}, 2)
    assert ranking.document_ids == ["e", "d"]
    assert ranking.scores.tolist() == pytest.approx([2 / 5**0.5, 4 / 97**0.5], abs=1e-6)


def test_depth_limits_a_ranking():
    rankings = list(rank(Trigrams(), {"q": "nurse", "r": "cook"}, {"d": "nurse", "e": "cook", "f": "baker"}, 2))
    assert [(r.query_id, r.document_ids[0], len(r.document_ids), len(r.scores)) for r in rankings] == [
        ("q", "d", 2, 2),
        ("r", "e", 2, 2),
    ]


def test_bootstrap_of_a_constant_difference_has_no_width():
    mean, low, high = bootstrap_difference(np.full(20, 0.75), np.full(20, 0.5))
    assert (mean, low, high) == pytest.approx((0.25, 0.25, 0.25))


def test_bootstrap_is_paired_seeded_and_the_same_for_every_column():
    rng = np.random.default_rng(1)
    reference_values = rng.random((50, 3))
    candidate = reference_values + rng.normal(0.1, 0.05, (50, 1))
    mean, low, high = bootstrap_difference(candidate, reference_values, resamples=500)
    again = bootstrap_difference(candidate, reference_values, resamples=500)
    alone = bootstrap_difference(candidate[:, 1], reference_values[:, 1], resamples=500)
    assert np.array_equal(low, again[1])
    assert np.array_equal(high, again[2])
    # The columns differ by the same amount for each query: pairing leaves them one interval.
    assert low == pytest.approx(np.full(3, alone[1]))
    assert (low < mean).all()
    assert (mean < high).all()


def test_bootstrap_width_is_that_of_the_normal_approximation():
    differences = np.random.default_rng(2).normal(0.02, 0.1, 400)
    _, low, high = bootstrap_difference(differences, np.zeros(400))
    assert (high - low) == pytest.approx(2 * 1.96 * differences.std() / np.sqrt(400), rel=0.05)


@pytest.mark.parametrize(("ours", "theirs"), [((3,), (4,)), ((0,), (0,))])
def test_bootstrap_refuses_values_that_are_not_paired(ours, theirs):
    with pytest.raises(ValueError, match="paired values"):
        bootstrap_difference(np.zeros(ours), np.zeros(theirs))


def test_compare_names_every_metric_and_refuses_other_queries():
    one = Evaluation("set", ("q", "r"), {"map": np.array([0.5, 1.0])}, Counts())
    other = Evaluation("set", ("q", "r"), {"map": np.array([0.0, 1.0])}, Counts())
    difference = compare(one, other)["map"]
    assert (difference.mean, difference.low, difference.high) == (0.25, 0.0, 0.5)
    with pytest.raises(ValueError, match="same queries"):
        compare(one, Evaluation("set", ("q", "s"), other.per_query, Counts()))


@needs_avature
def test_avature_agrees_with_sentence_transformers(tmp_path):
    data = read_folder(AVATURE / "de")
    encoder = Trigrams()
    documents = sorted(data.corpus, reverse=True)
    scores = {r.query_id: r for r in rank(encoder, data.queries, data.corpus, len(documents))}
    # Hashed trigrams tie; ranks stand in for scores so that both sides see one order.
    hits = [[{"corpus_id": d, "score": -i} for i, d in enumerate(scores[q].document_ids)] for q in data.queries]
    evaluator = reference(data.queries, data.corpus, {q: set(judged) for q, judged in data.qrels.items()})
    expected = {f"cosine_{name}": value for name, value in flat(evaluator.compute_metrics(hits)).items()}
    assert evaluate(encoder, data).means == pytest.approx(expected, abs=1e-9)

    write_run(tmp_path / "run.trec", scores.values(), header=True)
    from_file = evaluate_run(read_run(tmp_path / "run.trec"), read_qrels(AVATURE / "de" / "annotations.tsv")).means
    assert {f"cosine_{name}": from_file[name] for name in NAMES} == pytest.approx(expected, abs=1e-9)


@needs_avature
@pytest.mark.parametrize("language", ["en", "es", "de", "zh"])
def test_the_small_model_on_avature_scores_as_by_sentence_transformers(language):
    data = read_folder(AVATURE / language)
    encoder = Encoder()
    evaluator = reference(data.queries, data.corpus, relevant_documents(data.qrels))
    scores = evaluator.compute_all_metrics(InFloat64(encoder))["cosine"]
    expected = {f"cosine_{name}": value for name, value in flat(scores).items()}
    means = evaluate(encoder, data).means
    assert len(means) == 37
    assert means == pytest.approx(expected, abs=1e-9)
