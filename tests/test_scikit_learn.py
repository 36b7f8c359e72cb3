"""The transformer in what scikit-learn does to transformers: clones, pipelines, searches, other processes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from jobonnx import Encoder, JobonnxError
from jobonnx.scikit_learn import TitleVectors

pytestmark = pytest.mark.medium
TITLES = [
    "nurse",
    "Krankenschwester",
    "enfermera",
    "head nurse",
    "software developer",
    "programador",
    "Programmierer",
    "web developer",
]
KINDS = [0, 0, 0, 0, 1, 1, 1, 1]


def test_vectors_are_the_encoders() -> None:
    made = TitleVectors(provider="cpu", truncate_dim=32)
    expected = Encoder(provider="cpu", truncate_dim=32).encode(TITLES)
    np.testing.assert_array_equal(made.fit_transform(TITLES), expected)
    assert made.get_feature_names_out()[[0, 31]].tolist() == ["title0", "title31"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(made)).transform(TITLES), expected)
    assert clone(made).get_params() == made.get_params()
    made.set_params(truncate_dim=16)
    assert made.transform(TITLES).shape == (8, 16)


@pytest.mark.parametrize("jobs", [1, 2])
def test_cross_validation_learns_what_is_easy(jobs: int) -> None:
    pipeline = make_pipeline(TitleVectors(provider="cpu", threads=1), LogisticRegression())
    assert cross_val_score(pipeline, TITLES, KINDS, cv=2, n_jobs=jobs).mean() >= 0.75


def test_a_search_over_its_parameters() -> None:
    pipeline = make_pipeline(TitleVectors(), LogisticRegression())
    search = GridSearchCV(pipeline, {"titlevectors__truncate_dim": [2, 256]}, cv=2).fit(TITLES, KINDS)
    assert search.best_params_ == {"titlevectors__truncate_dim": 256} or search.best_score_ == 1


def test_an_encoder_goes_through_a_transformer_of_functions() -> None:
    """`clone` copies an Encoder that is a parameter, and cross-validation pickles the copy."""
    encoder = Encoder(provider="cpu", threads=1)
    pipeline = make_pipeline(FunctionTransformer(encoder.encode), LogisticRegression())
    np.testing.assert_array_equal(clone(pipeline)[0].transform(TITLES), encoder.encode(TITLES))
    assert cross_val_score(pipeline, TITLES, KINDS, cv=2, n_jobs=2).mean() >= 0.75
    copied = clone(encoder, safe=False)
    assert copied is not encoder
    assert copied.fingerprint == encoder.fingerprint


def test_a_wrong_bundle_is_an_error_of_fit() -> None:
    with pytest.raises(JobonnxError, match="no such bundle folder"):
        TitleVectors("no/such/folder/at/all").fit(TITLES)
