"""The options that put prompts before queries and documents, and the encoders that they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from jobonnx import Encoder
    from jobonnx.evaluation.ranking import Prompted

Command = TypeVar("Command", bound=Callable[..., Any])
_TEXTS = {"query": "query", "document": "title of the corpus"}


def _utf8(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{value!r} is not UTF-8; write it in UTF-8") from None
    return value


def prompt_options(*sides: str) -> Callable[[Command], Command]:
    """Return a decorator that adds the options of these sides, "query" and "document"; `take_prompts` takes what they give."""

    def decorate(command: Command) -> Command:
        for side in reversed(sides):
            text = f"Text to put before every {_TEXTS[side]}; in place of a name."
            name = f"Name of the model's prompt for every {_TEXTS[side]}; {side!r} if left out, and none if the model has none."
            command = click.option(f"--{side}-prompt", metavar="TEXT", callback=_utf8, help=text)(command)
            command = click.option(f"--{side}-prompt-name", metavar="NAME", callback=_utf8, help=name)(command)
        return command

    return decorate


def take_prompts(options: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Take the prompts out of a command's options: `query` and `document` -> what `encode` is given, where anything is."""
    prompts = {}
    for side in _TEXTS:
        given = {name: options.pop(f"{side}_{name}", None) for name in ("prompt", "prompt_name")}
        given = {name: text for name, text in given.items() if text is not None}
        if len(given) == 2:
            raise click.UsageError(f"give --{side}-prompt or --{side}-prompt-name, not both.")
        if given:
            prompts[side] = given
    return prompts


def prompt_for(encoder: Encoder, side: str, prompts: dict[str, dict[str, str]]) -> str:
    """Return what stands before the texts of a side: what was asked for, else what `encode_query` or `encode_document` puts."""
    from jobonnx.prompts import prompt_of

    given = prompts.get(side, {})
    return prompt_of(encoder, side, given.get("prompt_name"), given.get("prompt"))


def with_prompt(encoder: Encoder, side: str, prompts: dict[str, dict[str, str]]) -> Prompted:
    """Return the encoder of a side, with the prompt that `prompt_for` finds."""
    from jobonnx.evaluation.ranking import Prompted

    return Prompted(encoder, prompt=prompt_for(encoder, side, prompts))
