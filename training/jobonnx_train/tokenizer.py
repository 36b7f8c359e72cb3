"""XLM-RoBERTa's tokenizer, built again from titles: SentencePiece Unigram (nmt_nfkc) in the fairseq id layout."""

from __future__ import annotations

import io
import os
import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import sentencepiece as spm
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from transformers import XLMRobertaTokenizer, XLMRobertaTokenizerFast
from transformers.convert_slow_tokenizer import convert_slow_tokenizer, import_protobuf


def vary_case(text: str, rng: random.Random) -> str:
    """The title as it might be typed elsewhere: mostly unchanged, else lower case, Title Case or a capital first."""
    draw = rng.random()
    if draw < 0.6:
        return text
    if draw < 0.75:
        return text.lower()
    return text.title() if draw < 0.85 else text[:1].upper() + text[1:]


def train_tokenizer(texts: Iterable[str], folder: Path, pieces: int, seed: int, max_length: int) -> Path:
    """Train `pieces` ids in all on `texts` and write tokenizer.json and its kin to `folder`.

    Built as XLM-R's was: SentencePiece's own nmt_nfkc normaliser, Metaspace, `<s> $A </s>`, ids <s> 0, <pad> 1, </s> 2,
    <unk> 3, then the pieces in SentencePiece's order, and <mask> last. SentencePiece's normaliser has followed Unicode
    since XLM-R was made: 174 code points differ, none of them in the training titles.
    The folder appears whole or not at all: the files go to one beside it that is renamed at the end, as a resumed run takes
    the folder for complete. Returns the SentencePiece model's path.
    """
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)  # a killed run's
    beside.mkdir(parents=True)
    rng = random.Random(seed)
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        # Not files, whose names would stay in the model.
        sentence_iterator=iter([vary_case(text, rng) for text in texts]),
        model_writer=model,
        model_type="unigram",
        vocab_size=pieces - 2,  # <pad> and <mask> are added below
        character_coverage=0.9999,
        normalization_rule_name="nmt_nfkc",
        input_sentence_size=0,
        max_sentencepiece_length=16,
        num_threads=2,
        minloglevel=2,
    )
    (beside / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    slow = XLMRobertaTokenizer(vocab_file=str(beside / "sentencepiece.bpe.model"))
    fast = XLMRobertaTokenizerFast(tokenizer_object=_convert(slow), model_max_length=max_length)
    fast.save_pretrained(beside)
    os.replace(beside, folder)
    return folder / "sentencepiece.bpe.model"


def _convert(slow: XLMRobertaTokenizer) -> Tokenizer:
    tokenizer = convert_slow_tokenizer(slow)
    # As in the published tokenizer.json; the converter's normaliser and pre-tokenizer have changed since.
    charsmap = slow_charsmap(slow)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def slow_charsmap(slow: XLMRobertaTokenizer) -> bytes:
    """The compiled normalisation rules inside a SentencePiece model."""
    proto = import_protobuf().ModelProto()
    proto.ParseFromString(Path(slow.vocab_file).read_bytes())
    return proto.normalizer_spec.precompiled_charsmap


def subword_sampler(model: Path, alpha: float, seed: int) -> Callable[[str], list[int]]:
    """A function from text to token ids, special ones included, that draws one segmentation by Unigram sampling.

    Subword regularisation (Kudo 2018): `alpha` smooths the distribution, 0 being uniform. Ids are XLM-R's, which are
    SentencePiece's plus one.
    """
    spm.set_random_generator_seed(seed)
    processor = spm.SentencePieceProcessor(model_file=str(model))

    def encode(text: str) -> list[int]:
        ids = processor.encode(text, enable_sampling=True, alpha=alpha, nbest_size=-1)
        return [0, *(index + 1 if index else 3 for index in ids), 2]

    return encode
