"""The public face: job titles in, vectors out. A batch walks down text, engine, provider, and back up; start reading here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from jobonnx.arguments import Closing, as_texts, whole
from jobonnx.arrays import Floats, repeated, unit
from jobonnx.bundle.manifest import DEFAULT, TOKENIZER, Bundle
from jobonnx.compatibility import CallOptions, Options, Surface, also_takes
from jobonnx.outputs import SENTENCES, Output
from jobonnx.progress import bar
from jobonnx.prompts import Prompted, choose_prompt
from jobonnx.runtime.ahead import Rows, encode_in_blocks
from jobonnx.runtime.choose import choose
from jobonnx.runtime.engine import Engine
from jobonnx.runtime.token_ids import check_integers
from jobonnx.text.batching import deduplicate
from jobonnx.text.tokenizer import Tokenizer


class Encoder(Surface, Prompted, Closing):
    """Job titles to vectors, on one provider in one variant. Safe to share between threads; a context manager, or `close()` it."""

    @also_takes(Options, model_name_or_path="bundle")
    def __init__(
        self,
        bundle: str | os.PathLike[str] | None = None,
        *,
        variant: str | None = None,
        provider: str = "auto",
        threads: int | None = None,
        spin: bool | None = None,
        truncation: str = "right",
        truncate_dim: int | None = None,
        revision: str | None = None,
        verify: bool = False,
        force: bool = False,
        **others: Any,
    ) -> None:
        """Load a bundle.

        Args:
            bundle: folder, or Hub id of a repository that holds a bundle; None for the small model that comes with the package.
            variant: the precision, such as "fp32" or "int8"; None for the bundle's default. Never chosen by the machine.
            provider: "auto", or one by name, which is then used or an error.
            threads: threads within one run; None for what the machine's limits allow.
            spin: False lets idle threads sleep at once, which is kind to other processes; None for the default, or what was tuned.
            truncation: what happens to texts over the limit: "right" or "left" cuts that end, "error" raises.
            truncate_dim: keep the first components of every vector (Matryoshka) and bring them to unit length again.
            revision: Hub branch, tag or commit.
            verify: hash every file of the variant again, whatever is known of it.
            force: run fp16 on a CPU, where it is slower than fp32. Refused by default.
            others: what else `SentenceTransformer` takes, see `Options`.

        Raises:
            JobonnxError: the bundle is missing, altered or too new, has no such variant, or nothing here runs it.
        """
        options = Options(**others)
        self.bundle = Bundle.open(bundle, revision=revision, verify=verify, variant=variant or DEFAULT, hub=options.hub)
        self.truncate_dim = truncate_dim
        choice = choose(self.bundle, variant, provider, threads, force, spin)
        self.graph, self.settings, self.variant = choice.graph, choice.settings, choice.graph.variant
        self.tokenizer = Tokenizer(self.bundle.folder / TOKENIZER, self.bundle.model.max_tokens, truncation)
        self.engine = Engine(self.bundle.folder / self.graph.path, self.bundle.model, self.settings, self.variant)
        self._configure(options)

    @property
    def provider(self) -> str:
        """The provider really used."""
        return self.engine.session.provider

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides a vector; see `Bundle.fingerprint`."""
        return self.bundle.fingerprint(self.variant, self.tokenizer.truncation, self.dimension, self.max_seq_length)

    @also_takes(CallOptions, sentences="inputs")
    def encode(
        self,
        inputs: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: str | None = SENTENCES,
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: Any = None,
        chunk_size: int | None = None,
        *,
        token_budget: int | None = None,
        **others: Any,
    ) -> Floats:
        """Encode titles, as `SentenceTransformer.encode` does, whose other arguments (`others`) are taken or refused by name.

        Repeated texts are computed once, and batches hold texts of similar length; rows come back in the order asked for.

        Args:
            inputs: a text, or a sequence of texts: a list, an array, a column of a table.
            prompt_name: name of one of the model's prompts, put before every text.
            prompt: the prompt itself, in place of a name.
            batch_size: most rows in a batch; None leaves it to the token budget.
            show_progress_bar: True shows it, None for long work only; never where stderr is no terminal.
            output_value: "sentence_embedding", the only one there is.
            precision: "float32"; or "int8", "uint8", "binary", "ubinary" of the float32 vectors, see `quantize`.
            convert_to_numpy: False for a list of torch tensors.
            convert_to_tensor: True for one torch tensor.
            device: None, or where the provider runs anyway.
            normalize_embeddings: unit length, for a model that does not give it anyway.
            truncate_dim: as the constructor's, for this call.
            pool: None.
            chunk_size: of no effect without a pool.
            token_budget: most tokens in a batch, padding included; None for this provider's.
            others: see `CallOptions`.

        Returns:
            float32 [texts, dimension], or [dimension] for a single string; in another form where one is asked for.

        Raises:
            TypeError: an item is not a string.
            TooLongError: a text is over the limit and truncation is "error".
        """
        output = Output(output_value, precision, convert_to_numpy, convert_to_tensor)
        self._check_call(device, pool, others)
        model = self.bundle.model
        dimension = whole("truncate_dim", truncate_dim, model.dimension) or self.truncate_dim
        before = choose_prompt(self.prompts, self.default_prompt_name, prompt_name, prompt)
        unique, inverse = deduplicate([before + text for text in as_texts(inputs)])
        vectors = self._encode(unique, self.tokenizer.encode, batch_size, show_progress_bar, token_budget)[:, :dimension]
        if (dimension is not None and model.normalize) or (normalize_embeddings and not model.normalize):
            vectors = unit(vectors)
        return output.of(repeated(vectors, inverse), single=isinstance(inputs, str))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut to the limit; for callers with a schedule of their own."""
        return self.tokenizer.encode(texts)

    def encode_tokens(
        self,
        rows: Sequence[Sequence[int]],
        batch_size: int | None = None,
        show_progress_bar: bool | None = False,
        token_budget: int | None = None,
    ) -> Floats:
        """Token ids, as `tokenize` gives them, to the model's full vectors, float32 [rows, model dimension], in order."""
        check_integers(rows)
        return self._encode(rows, list, batch_size, show_progress_bar, token_budget)

    def encode_batch(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Run one batch of token ids exactly as it is given: one call of the session, float32 [rows, model dimension]."""
        check_integers(rows)
        return self.engine.run(rows)

    def close(self) -> None:
        """End the engine's threads and sessions; the encoder cannot encode any more."""
        self.engine.close()

    def _encode(self, items: Sequence[Any], rows: Rows, batch_size: int | None, show: bool | None, budget: int | None) -> Floats:
        batch_size, budget = whole("batch_size", batch_size), whole("token_budget", budget)
        block = 0 if self.tokenizer.truncation == "error" else self.engine.session.block  # that error counts all texts
        with bar(len(items), "titles", show) as advance:
            return encode_in_blocks(lambda part: self.engine.encode(rows(part), budget, batch_size, advance), items, block)
