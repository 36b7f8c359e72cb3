"""Which prompt is put before texts, as sentence-transformers chooses it; and the two methods that choose one for a kind of text."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache
from typing import Any, Protocol

from jobonnx.arrays import Floats
from jobonnx.bundle.manifest import Bundle, Model

QUERY, DOCUMENT = "query", "document"
_log = logging.getLogger(__name__)
_OF_DOCUMENTS = (DOCUMENT, "passage", "corpus")


class _Encodes(Protocol):
    bundle: Bundle

    def encode(self, *arguments: Any, **options: Any) -> Floats:
        """Encode titles."""


class Prompted:
    """Add `encode_query` and `encode_document` to a class that has `encode`."""

    def encode_query(
        self: _Encodes,
        sentences: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        **options: Any,
    ) -> Floats:
        """Encode queries, as `SentenceTransformer.encode_query` does.

        Args:
            sentences: a text, or several.
            prompt_name: name of one of the model's prompts; None for the one named "query", no prompt if there is none.
            prompt: the prompt itself, in place of a name.
            batch_size: as `encode` takes it.
            show_progress_bar: as `encode` takes it.
            options: all else that `encode` takes.

        Returns:
            What `encode` returns.
        """
        prompt = _of_task(self.bundle.model, QUERY, prompt_name, prompt)
        return self.encode(sentences, prompt_name, prompt, batch_size, show_progress_bar, **options)

    def encode_document(
        self: _Encodes,
        sentences: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        **options: Any,
    ) -> Floats:
        """Encode documents (the titles of a corpus), as `SentenceTransformer.encode_document` does.

        Args:
            sentences: a text, or several.
            prompt_name: name of one of the model's prompts; None for the one named "document", no prompt if there is none. A prompt
                named "passage" or "corpus" has to be asked for. sentence-transformers 5 and 6 do not take it by themselves either,
                although they say so: their models always have a prompt "document", an empty one if the model came without.
            prompt: the prompt itself, in place of a name.
            batch_size: as `encode` takes it.
            show_progress_bar: as `encode` takes it.
            options: all else that `encode` takes.

        Returns:
            What `encode` returns.
        """
        prompt = _of_task(self.bundle.model, DOCUMENT, prompt_name, prompt)
        return self.encode(sentences, prompt_name, prompt, batch_size, show_progress_bar, **options)


def choose_prompt(model: Model, name: str | None, prompt: str | None) -> str:
    """Return what `encode` puts before texts: the prompt, else the one of that name, else the model's default.

    Raises:
        ValueError: the model has no prompt of that name.
    """
    name = name or model.default_prompt_name
    if prompt is not None or name is None:
        return prompt or ""
    if name not in model.prompts:
        raise ValueError(f"prompt_name={name!r} is unknown; this model has {sorted(model.prompts) or 'none'}")
    return model.prompts[name]


def prompt_of(model: Model, task: str, name: str | None = None, prompt: str | None = None) -> str:
    """Return what `encode_query` (task "query") or `encode_document` (task "document") puts before texts.

    Raises:
        ValueError: the model has no prompt of that name.
    """
    return choose_prompt(model, name, _of_task(model, task, name, prompt))


def _of_task(model: Model, task: str, name: str | None, prompt: str | None) -> str | None:
    """Return the prompt of a kind of text where none was asked for; never the model's default prompt."""
    if name is not None or prompt is not None:
        return prompt
    if task == DOCUMENT and task not in model.prompts:
        for other in _OF_DOCUMENTS:
            if model.prompts.get(other):
                _warn(model.source, other)
                break
    return model.prompts.get(task, "")


@cache
def _warn(source: str, name: str) -> None:
    """Say once that a prompt is there, but not taken."""
    _log.warning(
        "%s has a prompt %r but none named %r, so encode_document puts nothing before the texts, as sentence-transformers does; "
        "pass prompt_name=%r if the model wants it",
        source,
        name,
        DOCUMENT,
        name,
    )
