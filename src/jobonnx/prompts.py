"""Which prompt is put before texts, as sentence-transformers chooses it; and the two methods that choose one for a kind of text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Protocol

from jobonnx.arrays import Floats
from jobonnx.bundle.manifest import Bundle
from jobonnx.compatibility import CallOptions, also_takes

QUERY, DOCUMENT = "query", "document"
_log = logging.getLogger(__name__)
_OF_DOCUMENTS = (DOCUMENT, "passage", "corpus")


class _Encodes(Protocol):
    bundle: Bundle

    @property
    def prompts(self) -> Mapping[str, str]:
        """Prompts by name."""

    def encode(self, *arguments: Any, **options: Any) -> Floats:
        """Encode titles."""


class Prompted:
    """Add `encode_query` and `encode_document` to a class that has `encode`."""

    @also_takes(CallOptions, sentences="inputs")
    def encode_query(
        self: _Encodes,
        inputs: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        *arguments: Any,
        **options: Any,
    ) -> Floats:
        """Encode queries, as `SentenceTransformer.encode_query` does.

        Args:
            inputs: a text, or several.
            prompt_name: name of one of the model's prompts; None for the one named "query", no prompt if there is none.
            prompt: the prompt itself, in place of a name.
            arguments: all else that `encode` takes, in its order.
            options: the same by name.

        Returns:
            What `encode` returns.
        """
        prompt = _of_task(self, QUERY, prompt_name, prompt)
        return self.encode(inputs, prompt_name, prompt, *arguments, **options)

    @also_takes(CallOptions, sentences="inputs")
    def encode_document(
        self: _Encodes,
        inputs: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        *arguments: Any,
        **options: Any,
    ) -> Floats:
        """Encode documents (the titles of a corpus), as `SentenceTransformer.encode_document` does.

        Args:
            inputs: a text, or several.
            prompt_name: name of one of the model's prompts; None for the one named "document", no prompt if there is none. A prompt
                named "passage" or "corpus" has to be asked for. sentence-transformers 5 and 6 do not take it by themselves either,
                although they say so: their models always have a prompt "document", an empty one if the model came without.
            prompt: the prompt itself, in place of a name.
            arguments: all else that `encode` takes, in its order.
            options: the same by name.

        Returns:
            What `encode` returns.
        """
        prompt = _of_task(self, DOCUMENT, prompt_name, prompt)
        return self.encode(inputs, prompt_name, prompt, *arguments, **options)


def choose_prompt(prompts: Mapping[str, str], default: str | None, name: str | None, prompt: str | None) -> str:
    """Return what `encode` puts before texts: the prompt, else the one of that name, else the default.

    Args:
        prompts: prompts by name.
        default: the name of the one that is taken where none is asked for.
        name: the name asked for.
        prompt: the prompt asked for.

    Raises:
        ValueError: there is no prompt of that name.
    """
    name = name or default
    if prompt is not None or name is None:
        return prompt or ""
    if name not in prompts:
        raise ValueError(f"prompt_name={name!r} is unknown; this model has {sorted(prompts)}")
    return prompts[name]


def prompt_of(encoder: _Encodes, task: str, name: str | None = None, prompt: str | None = None) -> str:
    """Return what `encode_query` (task "query") or `encode_document` (task "document") puts before texts.

    Raises:
        ValueError: there is no prompt of that name.
    """
    return choose_prompt(encoder.prompts, None, name, _of_task(encoder, task, name, prompt))


def _of_task(encoder: _Encodes, task: str, name: str | None, prompt: str | None) -> str | None:
    """Return the prompt of a kind of text where none was asked for; never the default prompt."""
    if name is not None or prompt is not None:
        return prompt
    found = encoder.prompts.get(task, "")
    if task == DOCUMENT and not found and task not in encoder.bundle.model.prompts:
        for other in _OF_DOCUMENTS:
            if encoder.prompts.get(other):
                _warn(encoder.bundle.model.source, other)
                break
    return found


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
