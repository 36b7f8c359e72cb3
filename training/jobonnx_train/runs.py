"""The two runs: the small model from job titles, and a base model by the card's recipe."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.losses import GISTEmbedLoss, MultipleNegativesRankingLoss
from transformers import set_seed

from jobonnx import Encoder
from jobonnx.data.titles import read_lexicon
from jobonnx.errors import JobonnxError
from jobonnx.evaluation.tfidf import Tfidf
from jobonnx.files import new_folder
from jobonnx.strict_json import write_json
from jobonnx_train.guide import GuidedLoss, GuideTable, Teacher, guide_vectors, load_guide
from jobonnx_train.model import build, carry_over, save_half, start_as_mean, train_unpadded
from jobonnx_train.pairs import talentclef_sets, training_sets
from jobonnx_train.readers import (
    LANGUAGES,
    LEXICON_LANGUAGES,
    WRITTEN_LANGUAGES,
    lexicon_groups,
    read_csco,
    read_esco,
    read_onet,
    read_written,
)
from jobonnx_train.recipe import Recipe
from jobonnx_train.split import Corpus, hold_out
from jobonnx_train.tasks import Retrieval, talentclef_tasks, validation_sets
from jobonnx_train.tokenizer import SENTENCEPIECE, balanced, subword_sampler, train_tokenizer
from jobonnx_train.trainer import RunOptions, TitleCollator, as_dataset, train
from jobonnx_train.validation import Validation, score

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """Where the job titles are; training/README.md says where to get them.

    Attributes:
        esco: folder of occupations_{en,de,es}.csv (ESCO 1.2).
        onet: folder of O*NET's title files.
        csco: csco22.csv.
        esco_more: folder of ESCO's labels in 18 more languages; None leaves these languages out.
    """

    esco: Path
    onet: Path
    csco: Path
    esco_more: Path | None = None

    def corpus(self, held_out: float) -> Corpus:
        """Read all titles, and hold out that share of the occupations."""
        esco = read_esco(self.esco, self.esco_more)
        groups = esco + read_onet(self.onet) + read_csco(self.csco) + lexicon_groups(read_lexicon()) + read_written()
        return hold_out(groups, held_out)


@dataclass(frozen=True)
class Checkpoints:
    """The trained models that a run uses; each may be missing.

    Attributes:
        start: the model that the run begins from, which is a teacher too. It has to be of the recipe's size, and trained on other
            occupations than those held out: the model in this repository holds out the same.
        e5: multilingual-e5-small, a checkpoint or a bundle. It teaches twice: by English titles, which stand for their
            occupations, and by every title as it is written.
    """

    start: Path | None = None
    e5: Path | None = None

    def teachers(self, weights: Mapping[str, float]) -> list[Teacher]:
        """List the teachers that the recipe gives a weight."""
        teachers = [Teacher("minilm", load_guide, ("en",), weights.get("minilm", 0.0))]
        if (start := self.start) is not None:
            teachers.append(Teacher("start", lambda: load_checkpoint(start), LEXICON_LANGUAGES, weights.get("start", 0.0)))
        if (e5 := self.e5) is not None:
            for key, languages in (("e5_en", ("en",)), ("e5", (*LANGUAGES, *WRITTEN_LANGUAGES))):
                teachers.append(Teacher("e5", lambda: _load(e5), languages, weights.get(key, 0.0), "query: ", centred=True))
        return [teacher for teacher in teachers if teacher.weight]


def load_checkpoint(path: Path) -> SentenceTransformer:
    """Load a checkpoint in fp32."""
    return SentenceTransformer(str(path), device="cpu").float()


def _load(path: Path) -> SentenceTransformer | Encoder:
    """Load a bundle, or else a checkpoint in fp32."""
    return Encoder(path) if (path / "manifest.json").exists() else load_checkpoint(path)


@dataclass(frozen=True)
class Material:
    """What a run from job titles needs besides a model.

    Attributes:
        sets: name -> pairs.
        tasks: name -> validation task.
        tokenizer: folder of the tokenizer, the SentencePiece model among its files.
        vectors: the guide's, see `guide.guide_vectors`.
        ids: title -> its row of `vectors`.
    """

    sets: dict[str, Dataset]
    tasks: dict[str, Retrieval]
    tokenizer: Path
    vectors: torch.Tensor
    ids: dict[str, int]

    def loss(self, model: SentenceTransformer, recipe: Recipe) -> GuidedLoss:
        """Make the recipe's loss for `model`, with the guide looked up."""
        guide = GuideTable(self.vectors, model.tokenizer, recipe.max_seq_length)
        return GuidedLoss(model, guide, **recipe.loss, distil=recipe.distil)

    def collator(self, recipe: Recipe) -> TitleCollator:
        """Make the collator that samples subwords as the recipe says."""
        seed = recipe.arguments["seed"]
        sampler = subword_sampler(self.tokenizer / SENTENCEPIECE, recipe.sampling, seed)
        return TitleCollator(sampler, self.ids, recipe.longest, recipe.rewritten, seed)


def checkpoint_folder(path: Path) -> Path:
    """Return the folder for the finished model, which has to be new: better said before the training than after it.

    Raises:
        JobonnxError: it exists.
    """
    if path.exists():
        raise JobonnxError(f"{path} exists already; remove it, or name another folder for the output")
    return path


def prepare(sources: Sources, recipe: Recipe, output: Path, checkpoints: Checkpoints) -> Material:
    """Read the titles, make the tokenizer and the guide's vectors unless `output` has them, and draw the pairs.

    Args:
        sources: the job titles.
        recipe: what to make of them.
        output: folder of the run.
        checkpoints: the teachers.
    """
    corpus = sources.corpus(recipe.held_out)
    seed = recipe.arguments["seed"]
    tokenizer = output / "tokenizer"
    if not tokenizer.exists():
        train_tokenizer(balanced(corpus.by_language()), tokenizer, recipe.vocabulary_size, recipe.max_seq_length)
    vectors, ids = guide_vectors(corpus, checkpoints.teachers(recipe.teachers), output)
    pairs = training_sets(corpus, recipe.pairs, recipe.shares, recipe.sources, seed)
    sets = {name: as_dataset(rows) for name, rows in pairs.items()}
    tasks = {name: task for name, task in validation_sets(corpus, seed).items() if task.queries}
    return Material(sets, tasks, tokenizer, vectors, ids)


def train_small(sources: Sources, recipe: Recipe, options: RunOptions, *, checkpoints: Checkpoints, baseline: bool = False) -> None:
    """Make a model from job titles: tokenizer, guide vectors, pairs, model, training, checkpoint.

    Args:
        sources: the job titles.
        recipe: of the model.
        options: of the run; everything goes to `options.output`, the model to its folder `checkpoint`.
        checkpoints: what the run begins from, and its teachers.
        baseline: score TF-IDF on the validation tasks first, and write `baseline.json`.

    Raises:
        JobonnxError: the folder `checkpoint` exists or cannot be written, or the start is of another size.
    """
    checkpoint = checkpoint_folder(options.output / "checkpoint")
    set_seed(recipe.arguments["seed"])
    material = prepare(sources, recipe, options.output, checkpoints)
    if baseline:
        scores = {name: score(Tfidf(task.corpus.values()), name, task) for name, task in material.tasks.items()}
        log.info("TF-IDF baseline: %s", " ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        write_json(options.output / "baseline.json", scores)
    model = build(options.output / "fresh", material.tokenizer, recipe.size, recipe.max_seq_length)
    if checkpoints.start is None:
        start_as_mean(model)
    else:
        carry_over(model, load_checkpoint(checkpoints.start))
    train_unpadded(model)
    if torch.cuda.is_available():
        model.to("cuda")
    log.info("parameters: %s", f"{sum(parameter.numel() for parameter in model.parameters()):,}")
    evaluator = Validation(material.tasks, options.output / "validation.jsonl")
    train(options, recipe, model, material.loss(model, recipe), material.sets, evaluator, material.collator(recipe))
    save_half(model, checkpoint)


def train_base(base: str, data: Path, recipe: Recipe, options: RunOptions) -> None:
    """Fine-tune a base model by the card's recipe: with the guide itself, and the trainer's own collator.

    Args:
        base: a sentence-transformers model, BAAI/bge-m3 in the card.
        data: folder of TalentCLEF 2025 Task A.
        recipe: the card's.
        options: of the run; the model goes to the folder `checkpoint` of `options.output`.

    Raises:
        JobonnxError: the folder `checkpoint` exists or cannot be written.
    """
    checkpoint = checkpoint_folder(options.output / "checkpoint")
    set_seed(recipe.arguments["seed"])
    pairs = talentclef_sets(data)
    model = SentenceTransformer(base)
    model.max_seq_length = min(recipe.max_seq_length, model.max_seq_length or recipe.max_seq_length)
    guide = load_guide()
    loss = (
        GISTEmbedLoss(model, guide, **recipe.loss)
        if guide is not None
        else MultipleNegativesRankingLoss(model, scale=1 / recipe.loss["temperature"])
    )
    sets = {name: as_dataset(rows).remove_columns("group") for name, rows in pairs.items()}
    train(options, recipe, model, loss, sets, Validation(talentclef_tasks(data), options.output / "validation.jsonl"))
    with new_folder(checkpoint) as making:
        model.save_pretrained(str(making), create_model_card=False)
