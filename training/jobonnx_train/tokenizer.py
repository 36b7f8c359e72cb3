"""XLM-RoBERTa's tokenizer, trained on job titles: SentencePiece Unigram in the fairseq id layout, blind to capitals."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import sentencepiece as spm
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from transformers import XLMRobertaTokenizer, XLMRobertaTokenizerFast
from transformers.convert_slow_tokenizer import convert_slow_tokenizer, import_protobuf

from jobonnx.files import new_folder

SENTENCEPIECE = "sentencepiece.bpe.model"  # the name that XLM-R's tokenizers look for


def balanced(titles: Mapping[str, Sequence[str]], power: float = 0.5) -> list[str]:
    """Repeat the titles of small languages, so that the tokenizer has pieces for them too.

    A language with a part `p` of the largest one's titles appears `p ** power` times as often as that one, as near as whole
    repetitions come. XLM-R did the same with its languages (Conneau et al. 2020, arXiv:1911.02116; there the power is .3).

    Args:
        titles: language -> distinct titles.
        power: 1 repeats nothing, 0 makes all languages equal.
    """
    largest = max(map(len, titles.values()))
    return [
        text for texts in titles.values() if texts for _ in range(round((len(texts) / largest) ** (power - 1))) for text in texts
    ]


def without_sharp_s(text: str) -> str:
    """Write ß and its capital as ss: what capitals make of it, and what SentencePiece's rules do not undo."""
    return text.replace("ß", "ss").replace("ẞ", "ss")


def train_tokenizer(texts: Iterable[str], folder: Path, vocabulary_size: int, max_length: int) -> None:
    """Train a tokenizer and write its files, tokenizer.json and the SentencePiece model among them, to a new folder.

    It is built as XLM-R's was: SentencePiece's own normaliser, Metaspace, `<s> $A </s>`, ids <s> 0, <pad> 1, </s> 2, <unk> 3, then
    the subwords in SentencePiece's order, and <mask> last. One thing differs. The rules are nmt_nfkc_cf, XLM-R's nmt_nfkc followed
    by Unicode's simple case folding, and ß becomes ss, which simple folding leaves. So capitals never reach the model:
    *DATA ENGINEER*, *STRASSENBAUER* and full-width letters have the ids of *data engineer*, *straßenbauer* and ASCII.
    tokenizer.json lowers capitals once more after the rules, for transformers.js, which puts plain NFKC in their place.
    SentencePiece's rules have followed Unicode since XLM-R was made; 174 code points differ, none of them in the training titles.

    Args:
        texts: the training titles, with repetitions where a language shall count for more.
        folder: appears when it is complete or not at all, as a resumed run takes an existing one for complete.
        vocabulary_size: ids in all.
        max_length: tokens per title that the tokenizer's settings name.
    """
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        # Not files, whose names would stay in the model.
        sentence_iterator=map(without_sharp_s, texts),
        model_writer=model,
        model_type="unigram",
        vocab_size=vocabulary_size - 2,  # <pad> and <mask> are added below
        character_coverage=0.9999,
        normalization_rule_name="nmt_nfkc_cf",
        input_sentence_size=0,
        max_sentencepiece_length=16,
        num_threads=2,
        minloglevel=2,
    )
    with new_folder(folder) as making:
        (making / SENTENCEPIECE).write_bytes(model.getvalue())
        slow = XLMRobertaTokenizer(vocab_file=str(making / SENTENCEPIECE))
        fast = XLMRobertaTokenizerFast(tokenizer_object=_convert(slow), model_max_length=max_length)
        fast.save_pretrained(making)


def _convert(slow: XLMRobertaTokenizer) -> Tokenizer:
    tokenizer = convert_slow_tokenizer(slow)
    # As in the published tokenizer.json; the converter's normaliser and pre-tokenizer have changed since.
    rules = normalizers.Precompiled(_normalisation_rules(slow))
    lowercase = normalizers.Lowercase()  # says again what the rules do: JavaScript's tokenizers do not read them
    sharp_s = normalizers.Replace("ß", "ss")  # after the rules, which make ß of its capital
    tokenizer.normalizer = normalizers.Sequence([rules, lowercase, sharp_s, normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _normalisation_rules(slow: XLMRobertaTokenizer) -> bytes:
    """Read the compiled normalisation rules out of a SentencePiece model."""
    proto = import_protobuf().ModelProto()
    proto.ParseFromString(Path(slow.vocab_file).read_bytes())
    rules: bytes = proto.normalizer_spec.precompiled_charsmap
    return rules


def subword_sampler(model: Path, alpha: float, seed: int) -> Callable[[str], list[int]]:
    """Make a function from text to token ids, special ones included, that draws one segmentation by Unigram sampling.

    Subword regularisation: Kudo 2018, https://arxiv.org/abs/1804.10959. Ids are XLM-R's, which are SentencePiece's plus one.

    Args:
        model: the SentencePiece model.
        alpha: smooths the distribution over segmentations; 0 makes it uniform.
        seed: of the draws. SentencePiece has one generator per process.
    """
    spm.set_random_generator_seed(seed)
    processor = spm.SentencePieceProcessor(model_file=str(model))

    def encode(text: str) -> list[int]:
        ids = processor.encode(without_sharp_s(text), enable_sampling=True, alpha=alpha, nbest_size=-1)
        return [0, *(index + 1 if index else 3 for index in ids), 2]

    return encode
