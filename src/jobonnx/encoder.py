"""The public face: job titles in, vectors out. A batch walks down text, engine, provider, and back up; start reading here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np

from jobonnx.arguments import Closing, as_texts, refuse_tensors, whole
from jobonnx.arrays import Floats, unit
from jobonnx.bundle.manifest import DEFAULT, TOKENIZER, Bundle
from jobonnx.progress import bar
from jobonnx.prompts import Prompted, choose_prompt
from jobonnx.runtime.choose import choose
from jobonnx.runtime.engine import Engine
from jobonnx.runtime.token_ids import check_integers
from jobonnx.text.batching import deduplicate
from jobonnx.text.tokenizer import Tokenizer


class Encoder(Prompted, Closing):
    """Job titles to vectors, on one provider in one variant. Safe to share between threads; a context manager, or `close()` it."""

    def __init__(
        self,
        bundle: str | os.PathLike[str] | None = None,
        *,
        variant: str | None = None,
        provider: str = "auto",
        threads: int | None = None,
        truncation: str = "right",
        truncate_dim: int | None = None,
        revision: str | None = None,
        verify: bool = False,
        force: bool = False,
    ) -> None:
        """Load a bundle.

        Args:
            bundle: folder, or Hub id of a repository that holds a bundle; None for the small model that comes with the package.
            variant: the precision, such as "fp32" or "int8"; None for the bundle's default. Never chosen by the machine.
            provider: "auto", or one by name, which is then used or an error.
            threads: threads within one run; None for what the machine's limits allow.
            truncation: what happens to texts over the limit: "right" or "left" cuts that end, "error" raises.
            truncate_dim: keep the first components of every vector (Matryoshka) and bring them to unit length again.
            revision: Hub branch, tag or commit.
            verify: hash every file of the variant again, whatever is known of it.
            force: run fp16 on a CPU, where it is slower than fp32. Refused by default.

        Raises:
            JobonnxError: the bundle is missing, altered or too new, has no such variant, or nothing here runs it.
        """
        self.bundle = Bundle.open(bundle, revision=revision, verify=verify, variant=variant or DEFAULT)
        self.truncate_dim = whole("truncate_dim", truncate_dim, self.bundle.model.dimension)
        choice = choose(self.bundle, variant, provider, threads, force)
        self.graph, self.settings, self.variant = choice.graph, choice.settings, choice.graph.variant
        self.tokenizer = Tokenizer(self.bundle.folder / TOKENIZER, self.bundle.model.max_tokens, truncation)
        self.engine = Engine(self.bundle.folder / self.graph.path, self.bundle.model, self.settings)

    @property
    def provider(self) -> str:
        """The provider really used."""
        return self.engine.session.provider

    @property
    def dimension(self) -> int:
        """Length of the vectors that `encode` gives."""
        return self.truncate_dim or self.bundle.model.dimension

    @property
    def max_seq_length(self) -> int:
        """Longest text in tokens, special tokens included."""
        return self.bundle.model.max_tokens

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides a vector; see `Bundle.fingerprint`."""
        return self.bundle.fingerprint(self.variant, self.tokenizer.truncation, self.dimension)

    def encode(
        self,
        sentences: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        *,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        token_budget: int | None = None,
    ) -> Floats:
        """Encode titles, as `SentenceTransformer.encode` does.

        Repeated texts are computed once, and batches hold texts of similar length; rows come back in the order asked for.

        Args:
            sentences: a text, or a sequence of texts.
            prompt_name: name of one of the model's prompts, put before every text.
            prompt: the prompt itself, in place of a name.
            batch_size: most rows in a batch; None leaves it to the token budget.
            show_progress_bar: True shows it, None for long work only; never where stderr is no terminal.
            normalize_embeddings: unit length, for a model that does not give it anyway.
            truncate_dim: as the constructor's, for this call.
            convert_to_numpy: True; there are no torch tensors here.
            convert_to_tensor: False.
            token_budget: most tokens in a batch, padding included; None for this provider's.

        Returns:
            float32 [texts, dimension], or [dimension] for a single string.

        Raises:
            TypeError: an item is not a string.
            TooLongError: a text is over the limit and truncation is "error".
        """
        refuse_tensors(convert_to_numpy, convert_to_tensor)
        model = self.bundle.model
        dimension = whole("truncate_dim", truncate_dim, model.dimension) or self.truncate_dim
        before = choose_prompt(model, prompt_name, prompt)
        texts = as_texts(sentences)
        unique, inverse = deduplicate([before + text for text in texts] if before else texts)
        vectors = self._encode(self.tokenizer.encode(unique), batch_size, show_progress_bar, token_budget)
        vectors = vectors[:, :dimension]
        if (dimension is not None and model.normalize) or (normalize_embeddings and not model.normalize):
            vectors = unit(vectors)
        return vectors[inverse[0]] if isinstance(sentences, str) else vectors[inverse]

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
        return self._encode(rows, batch_size, show_progress_bar, token_budget)

    def encode_batch(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Run one batch of token ids exactly as it is given: one call of the session, float32 [rows, model dimension]."""
        check_integers(rows)
        return self.engine.run(rows)

    def similarity(self, a: Floats, b: Floats) -> Floats:
        """Cosine similarity of every vector of `a` with every one of `b`: float32 [len(a), len(b)]."""
        a, b = (unit(np.atleast_2d(np.asarray(x, dtype=np.float32))) for x in (a, b))
        return a @ b.T

    def close(self) -> None:
        """End the engine's threads and sessions; the encoder cannot encode any more."""
        self.engine.close()

    def _encode(self, rows: Sequence[Sequence[int]], batch_size: int | None, show: bool | None, budget: int | None) -> Floats:
        batch_size, budget = whole("batch_size", batch_size), whole("token_budget", budget)
        with bar(len(rows), "titles", show) as advance:
            return self.engine.encode(rows, budget, batch_size, advance)
