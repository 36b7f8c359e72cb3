"""The facade: a bundle, loaded; titles in, vectors out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np

from jobonnx.bundle.manifest import TOKENIZER, Bundle, Graph
from jobonnx.errors import JobonnxError, ProviderUnavailableError
from jobonnx.runtime.session import PROVIDERS, Session, available_threads, open_session, side_by_side, why_not
from jobonnx.runtime.tuning import Tuning, find, untuned
from jobonnx.text.batching import Integers, pad, unique
from jobonnx.text.tokenizer import Tokenizer

Floats = np.ndarray[Any, np.dtype[np.float32]]

_AUTO = ("cuda", "cpu", "openvino")


class Encoder:
    """Job titles to vectors, on one provider in one variant. Safe to share between threads."""

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
            variant: the numerics, such as "fp32" or "int8"; None for the bundle's default. Never chosen by the machine.
            provider: "auto", or one by name, which is then used or an error. "auto" without `threads` runs as `jobonnx tune` found
                best on this machine, if it was asked.
            threads: threads within one run; None for what quota, affinity and physical cores allow.
            truncation: what happens to texts over the limit: "right" or "left" cuts that end, "error" raises.
            truncate_dim: keep the first so many components of every vector (Matryoshka) and bring the rest to unit length again.
            revision: Hub branch, tag or commit.
            verify: hash every file again, whatever is known of it.
            force: allow what is known to be a bad idea: fp16 on a CPU.

        Raises:
            JobonnxError: the bundle is missing, altered or too new; it has no such variant; or the provider is not to be had.
        """
        if threads is not None and _whole("threads", threads) < 1:
            raise ValueError(f"threads={threads} has to be at least 1; leave it out for as many as quota and cores allow")
        self.bundle = Bundle.open(bundle, revision=revision, verify=verify)
        self.variant = variant or self.bundle.default_variant
        if self.variant not in self.bundle.variants:
            raise JobonnxError(
                f"{self.bundle.folder} has no variant {self.variant!r} (it has {', '.join(self.bundle.variants)}); "
                f"export it: jobonnx export SOURCE -o BUNDLE --variant {self.variant}"
            )
        self.truncate_dim = _checked_dimension(truncate_dim, self.bundle.model.dimension)
        tuning = _tuning(self.bundle, self.variant) if provider == "auto" and threads is None else None
        name, self.graph = _choose(self.bundle, self.variant, tuning.provider if tuning else provider, force)
        #: How it runs: as `jobonnx tune` measured, or as asked for. It never changes what is computed.
        self.tuning = tuning or untuned(name, threads or available_threads())
        self.tokenizer = Tokenizer(self.bundle.folder / TOKENIZER, self.bundle.model.max_tokens, truncation)
        path, streams = self.bundle.folder / self.graph.path, self.tuning.streams
        how: dict[str, Any] = {"spin": self.tuning.spin, "cuda_graph": self.tuning.cuda_graph, "model": self.bundle.model}
        self.session: Session = open_session(path, name, self.tuning.threads, **how)
        self._bulk = self.session
        if streams > 1:  # batches side by side, each on its share of the threads
            self._bulk = open_session(path, name, self.tuning.threads // streams, **how)
        self._largest_id = self.tokenizer.largest_id if PROVIDERS[name].device else None

    @property
    def provider(self) -> str:
        """The provider really used."""
        return self.session.provider

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
        sentences: str | Sequence[str],
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
            show_progress_bar: True shows it, None for long work only; nothing is ever shown where stderr is no terminal.
            normalize_embeddings: unit length, for a model that does not give it anyway.
            truncate_dim: as the constructor's, for this call.
            convert_to_numpy: True; here for calls written for sentence-transformers. There are no torch tensors to be had.
            convert_to_tensor: False; as above.
            token_budget: most tokens in a batch, padding included; None for the one tuned here, or 2,048 (16,384 on a GPU).

        Returns:
            float32 [texts, dimension], or [dimension] for a single string.

        Raises:
            TypeError: an item is not a string.
            TooLongError: a text is over the limit and truncation is "error".
        """
        single = isinstance(sentences, str)
        texts = [sentences] if isinstance(sentences, str) else list(sentences)
        if convert_to_tensor or not convert_to_numpy:
            asked = "convert_to_tensor=True" if convert_to_tensor else "convert_to_numpy=False"
            raise ValueError(f"{asked} asks for torch tensors; take the array and use torch.from_numpy")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size} has to be at least 1")
        dimension = _checked_dimension(truncate_dim, self.bundle.model.dimension) or self.truncate_dim
        before = self._prompt(prompt_name, prompt)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"text {i} is {type(text).__name__}, not str")
        distinct, places = unique([before + text for text in texts] if before else texts)
        vectors = self.encode_tokens(
            self.tokenizer.encode(distinct), batch_size=batch_size, show_progress_bar=show_progress_bar, token_budget=token_budget
        )
        normalize = normalize_embeddings and not self.bundle.model.normalize
        if dimension is not None:
            vectors = vectors[:, :dimension]
            normalize = normalize or self.bundle.model.normalize
        vectors = (_unit(vectors) if normalize else vectors)[places]
        return vectors[0] if single else vectors

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut to the limit; for callers with a schedule of their own."""
        if isinstance(texts, str):
            raise TypeError("tokenize takes a list of texts, not a single str; pass [text]")
        return self.tokenizer.encode(texts)

    def encode_tokens(
        self,
        rows: Sequence[Sequence[int]],
        batch_size: int | None = None,
        show_progress_bar: bool | None = False,
        token_budget: int | None = None,
    ) -> Floats:
        """Token ids, as `tokenize` gives them, to the model's whole vectors, float32 [rows, model dimension], in order."""
        lengths = [len(row) for row in rows]
        vectors = np.empty((len(rows), self.bundle.model.dimension), dtype=np.float32)
        budget = self.tuning.token_budget if token_budget is None else token_budget
        batches = PROVIDERS[self.provider].plan(lengths, budget, batch_size)
        done = side_by_side(lambda batch: self._run(self._bulk, [rows[i] for i in batch]), batches, self.tuning.streams)
        with _progress(len(rows), show_progress_bar) as advance:
            for batch, found in zip(batches, done, strict=True):
                vectors[batch] = found
                advance(len(batch))
        return vectors

    def encode_batch(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Run one batch of token ids exactly as it is given: one call of the session, float32 [rows, model dimension].

        Raises:
            ValueError: a row is empty, longer than the model takes, or holds an id that the model does not have.
        """
        return self._run(self.session, rows)

    def _run(self, session: Session, rows: Sequence[Sequence[int]]) -> Floats:
        for i, row in enumerate(rows):
            if not 0 < len(row) <= self.max_seq_length:
                raise ValueError(f"row {i} has {len(row)} token ids; it has to be 1 to {self.max_seq_length}")
        if len(rows) == 0:
            return np.empty((0, self.bundle.model.dimension), dtype=np.float32)
        try:
            ids, mask = pad(rows, self.bundle.model.pad_id)
        except OverflowError:
            i, token = next((i, token) for i, row in enumerate(rows) for token in row if not -(2**63) <= token < 2**63)
            raise _unknown_id(i, token) from None
        # The graph would count a negative id from the table's end.
        if ids.min() < 0:
            raise _unknown_id(*_at(ids, ids.argmin()))
        # A GPU would give a row of zeros in place of an error.
        if self._largest_id is not None and ids.max() > self._largest_id:
            raise _unknown_id(*_at(ids, ids.argmax()))
        try:
            return session.run(ids, mask)
        except Exception as error:  # onnxruntime's own exception types are not public
            if "out of data bounds" not in str(error):
                raise
            raise _unknown_id(*_at(ids, ids.argmax())) from None

    def similarity(self, a: Floats, b: Floats) -> Floats:
        """Cosine similarity of every vector of `a` with every one of `b`: float32 [len(a), len(b)]."""
        a, b = (_unit(np.atleast_2d(np.asarray(x, dtype=np.float32))) for x in (a, b))
        return a @ b.T

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        model = self.bundle.model
        if prompt is not None:
            return prompt
        name = model.default_prompt_name if name is None else name
        if name is None:
            return ""
        if name not in model.prompts:
            raise ValueError(f"prompt_name={name!r} is unknown; this model has {sorted(model.prompts) or 'none'}")
        return model.prompts[name]


def _tuning(bundle: Bundle, variant: str) -> Tuning | None:
    tuning, ignored = find(bundle, variant)
    if ignored:
        warnings.warn(ignored, stacklevel=3)
    return tuning


def _choose(bundle: Bundle, variant: str, provider: str, force: bool) -> tuple[str, Graph]:
    """The provider to use, by name, and the graph for it."""
    reasons = []
    for name in _AUTO if provider == "auto" else (provider,):
        reason = why_not(name, variant)
        graph = bundle.graph(variant, PROVIDERS[name].target)
        if graph is not None and reason is None:
            return name, graph
        if name == "cpu" and force and variant == "fp16":
            return name, next(g for g in bundle.graphs if g.variant == variant)
        if reason is not None and (graph is not None or provider != "auto"):  # before what the bundle lacks: that is mended first
            reasons.append(reason)
    if variant == "fp16" and provider in ("auto", "cpu"):
        raise ProviderUnavailableError("variant 'fp16' is slower than fp32 on a CPU; use int8 or fp32, or force=True (--force)")
    targets = [g.target for g in bundle.graphs if g.variant == variant]
    lacking = (
        f"{bundle.folder} has no {variant} graph for provider {provider!r} (it has one for {', '.join(targets)}); "
        "pick a variant that was exported for it, or another provider"
    )
    raise ProviderUnavailableError(reasons[0] if reasons else lacking)


def _at(ids: Integers, place: np.intp) -> tuple[int, int]:
    """Row and token id of a place in a flattened batch."""
    row = int(place) // ids.shape[1]
    return row, int(ids.flat[place])


def _unknown_id(row: int, token: int) -> ValueError:
    return ValueError(f"row {row} holds token id {token}, which the model does not have; take ids from its tokenize")


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r} is {type(value).__name__}, not int")
    return value


def _checked_dimension(wanted: int | None, full: int) -> int | None:
    if wanted is not None and not 1 <= _whole("truncate_dim", wanted) <= full:
        raise ValueError(f"truncate_dim={wanted} has to be between 1 and {full}")
    return wanted


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    unit: Floats = vectors / np.maximum(lengths, np.float32(1e-12))
    return unit


class _progress:
    """A progress bar on stderr, on a terminal only: where asked for, or when there is enough work to wait for."""

    def __init__(self, total: int, show: bool | None) -> None:
        import sys

        self._bar: Any = None
        if (show or (show is None and total >= 1000)) and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

            columns = ("titles", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Any:
        if self._bar is None:
            return lambda rows: None
        self._bar.start()
        return lambda rows: self._bar.advance(self._task, rows)

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
