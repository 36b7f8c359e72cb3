"""`jobonnx serve`: the service."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click

from jobonnx.cli.options import FILE, encoder_options, load
from jobonnx.errors import JobonnxError

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-zA-Z0-9.:\[\]-]+")


def _from_environment(command: click.Command) -> click.Command:
    """Let every option also be set as JOBONNX_<ITS NAME>."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            parameter.envvar = f"JOBONNX_{parameter.opts[-1].lstrip('-').replace('-', '_').upper()}"
            parameter.show_envvar = True
    return command


def _origins(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse what no browser sends as an origin: the reply's header would hold it as it is."""
    for value in values:
        if value != "*" and not _ORIGIN.fullmatch(value):
            raise click.BadParameter(
                f"{value!r} is no origin; write it as https://example.org or http://localhost:3000, or * for all"
            )
    return values


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port; 0 takes a free one.")
@click.option("--uds", type=FILE, help="Listen on this Unix socket instead, for this user and group.")
@click.option(
    "--api-key-file", type=FILE, help="File that holds the key which clients have to send; or the key itself in JOBONNX_API_KEY."
)
@click.option(
    "--index", type=FILE, metavar="INDEX", help="Index for /match, made by `jobonnx index`; the built-in titles if left out."
)
@click.option(
    "--max-queue-tokens",
    type=click.IntRange(min=4096),
    default=131_072,
    show_default=True,
    metavar="N",
    help="Tokens that may wait or run; beyond that clients get 429.",
)
@click.option(
    "--deadline-ms",
    type=click.IntRange(0, 3_600_000),
    default=30_000,
    show_default=True,
    metavar="MS",
    help="A request that is not done by then gets 503; 0 for no deadline.",
)
@click.option(
    "--cache-mb", type=click.IntRange(0, 1 << 20), default=64, show_default=True, metavar="MB", help="Vectors kept; 0 for none."
)
@click.option("--accept-token-ids", is_flag=True, help="Take token ids in place of texts; they have to be this model's.")
@click.option("--shared-cores", is_flag=True, help="Other processes keep the cores busy: threads sleep while they wait.")
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    callback=_origins,
    help="Let pages of this origin call the service.",
)
@encoder_options
def serve(
    host: str,
    port: int,
    uds: Path | None,
    api_key_file: Path | None,
    index: Path | None,
    max_queue_tokens: int,
    deadline_ms: int,
    cache_mb: int,
    accept_token_ids: bool,
    shared_cores: bool,
    cors_origins: tuple[str, ...],
    model: str | None,
    **options: Any,
) -> None:
    """Serve embeddings and matches over HTTP: OpenAI's and text-embeddings-inference's routes, /match, and a page at /.

    Every option can also be set in the environment: --max-queue-tokens as JOBONNX_MAX_QUEUE_TOKENS.
    """
    try:
        from jobonnx import Encoder
        from jobonnx.serve import profile, server
        from jobonnx.serve.settings import ServeSettings
    except ImportError as error:
        raise JobonnxError(f'the service needs {error.name}; install it: pip install "jobonnx[cpu,serve]"') from None

    settings = ServeSettings(
        host=host,
        port=port,
        uds=uds,
        api_key=_api_key(api_key_file),
        index=index,
        max_queue_tokens=max_queue_tokens,
        deadline_ms=deadline_ms,
        cache_mb=cache_mb,
        accept_token_ids=accept_token_ids,
        cors_origins=cors_origins,
    )
    opened = server.bind(settings)  # what cannot be had is known before the model is loaded
    if shared_cores:
        options["spin"] = False
    with opened:
        encoder = load(model, **options)
        if options["threads"] is None and (fewer := profile.leave_a_core(encoder)):
            encoder.close()
            encoder = Encoder(model, **options | {"provider": encoder.provider, "threads": fewer})
        with encoder:
            server.run(encoder, settings, opened)


def _api_key(path: Path | None) -> str | None:
    """Read the key from its file, else from the environment.

    Raises:
        JobonnxError: the file cannot be read, or holds no key.
    """
    from jobonnx.files import read_lines

    given = os.environ.get("JOBONNX_API_KEY")
    if path is None:
        if given is not None and not given.strip():
            raise JobonnxError("JOBONNX_API_KEY is empty; set it to the key, or unset it to let everybody in")
        return given.strip() if given is not None else None
    lines = read_lines(path)
    if not lines or not lines[0].strip() or not lines[0].strip().isascii():
        raise JobonnxError(f"{path} holds no key; put one of ASCII letters on its first line")
    return lines[0].strip()


_from_environment(serve)
