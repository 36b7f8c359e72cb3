"""`jobonnx export`, `info`, `verify` and `tune`: bundles made, shown, measured again and run fastest."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobonnx.cli.options import FILE, MODEL, json_option, load, print_table, run_options
from jobonnx.errors import JobonnxError
from jobonnx.progress import steps

if TYPE_CHECKING:
    from jobonnx.bundle.manifest import Bundle, Parity
    from jobonnx.runtime.tuning import Trial

_bundle_argument = click.argument("bundle", required=False, type=MODEL)
_FIGURES = {
    "mean centred": "mean_centred",
    "5th percentile": "p5_centred",
    "top-10 kept": "top10_overlap",
    "nDCG@20": "ndcg20",
    "texts": "texts",
    "min cosine": "min_cosine",
    "max |d|": "max_abs",
}
_FORMS = {"max_abs": ".1e", "top10_overlap": ".3f", "ndcg20": ".4f", "texts": "d"}


@click.command()
@click.argument("source", default="pj-mathematician/JobBGE-m3")
@click.option("-o", "--output", type=FILE, required=True, metavar="BUNDLE", help="Folder to make.")
@click.option("--variant", "variants", multiple=True, metavar="NAME", help="fp32, bf16, fp16, int8, int8-static; all by default.")
@click.option("--revision", metavar="REV", help="Hub branch, tag or commit.")
@click.option("--pooling", type=click.Choice(["cls", "mean"]), help="For a folder that does not say; mean if left out.")
@click.option(
    "--allow-degraded",
    is_flag=True,
    help="Keep variants that miss their tolerance, marked; no layer of int8 stays in float for it.",
)
@json_option
def export(
    source: str,
    output: Path,
    variants: tuple[str, ...],
    revision: str | None,
    pooling: str | None,
    allow_degraded: bool,
    as_json: bool,
) -> None:
    """Export a checkpoint (SOURCE: a folder or a Hub id) to a bundle, and measure every graph against PyTorch.

    A variant that misses its tolerance is left out, with a warning. Exits with status 1 if it was asked for by name.
    """
    try:
        from jobonnx_export.pipeline import VARIANTS
        from jobonnx_export.pipeline import export as run

        with steps() as progress:
            bundle = run(
                source,
                output,
                tuple(dict.fromkeys(variants)) or VARIANTS,
                revision=revision,
                pooling=pooling,
                allow_degraded=allow_degraded,
                progress=progress,
            )
    except ModuleNotFoundError as error:  # at any step: most are imported where they are used
        fix = 'run: pip install "jobonnx[cpu,export]" (any build of torch will do)'
        raise JobonnxError(f"exporting needs {error.name}; {fix}") from None
    if as_json:
        click.echo((output / "manifest.json").read_text(encoding="utf-8"))
    else:
        _print_bundle(bundle)
    for name in dict.fromkeys(graph.variant for graph in bundle.rejected):
        targets = ", ".join(graph.target for graph in bundle.rejected if graph.variant == name)
        click.echo(f"warning: {name} ({targets}) missed its tolerance and was left out", err=True)
    if any(graph.variant in variants for graph in bundle.rejected):
        sys.exit(1)


@click.command()
@_bundle_argument
@run_options
@json_option
def info(bundle: str | None, as_json: bool, **options: Any) -> None:
    """Show what a BUNDLE holds, and what it runs on here."""
    from jobonnx.bundle.manifest import DEFAULT, Bundle
    from jobonnx.runtime.machine import available_threads
    from jobonnx.runtime.providers import PROVIDERS, available

    opened = Bundle.open(bundle, revision=options["revision"], variant=options["variant"] or DEFAULT)
    variant = options["variant"] or opened.default_variant
    here: dict[str, Any] = {"available_threads": available_threads(), "available_providers": available()}
    here |= {"untested_providers": [name for name in available() if PROVIDERS[name].untested], "variant": variant}
    try:
        encoder = load(bundle, **options)
    except JobonnxError as error:
        if options["variant"] or options["provider"] != "auto":
            raise
        here["error"] = str(error)  # a bundle for another machine can be looked at all the same
        running = f"{variant} does not run: {error}"
    else:
        nodes, settings = encoder.engine.session.nodes, encoder.settings
        here |= {
            "fingerprint": encoder.fingerprint,
            "provider": encoder.provider,
            "nodes": nodes,
            "threads": encoder.engine.session.threads,
            "settings": asdict(settings),
        }
        running = (
            f"{variant} on {encoder.provider}, {settings.threads} threads, streams: {settings.streams}, "
            f"{settings.token_budget} tokens per batch{', captured' if settings.capture else ''}; "
            f"nodes: {', '.join(f'{count} {name}' for name, count in nodes.items())}\nfingerprint {encoder.fingerprint}"
        )
    if as_json:
        click.echo(json.dumps(_facts(opened) | here, indent=1, ensure_ascii=False))
        return
    _print_bundle(opened)
    marked = (f"{name} (untested)" if name in here["untested_providers"] else name for name in here["available_providers"])
    click.echo(f"\nproviders here: {', '.join(marked)}\nhere: {running}")


@click.command()
@_bundle_argument
@json_option
def verify(bundle: str | None, as_json: bool) -> None:
    """Hash every file of a BUNDLE and measure every graph again on this machine, without torch.

    Exits with status 1 if a graph misses its tolerance here.
    """
    from jobonnx.bundle.manifest import Bundle
    from jobonnx.parity.verify import verify as run

    results = run(Bundle.open(bundle, verify=True))
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], indent=1))
    else:
        _print_parity([(r.variant, r.target, f"on {r.provider}", r.parity, r.missed) for r in results])
    if any(r.missed for r in results):
        sys.exit(1)


@click.command()
@_bundle_argument
@click.option("--variant", "variants", multiple=True, metavar="NAME", help="All that run here if left out. May be repeated.")
@json_option
def tune(bundle: str | None, variants: tuple[str, ...], as_json: bool) -> None:
    """Measure how a BUNDLE runs fastest on this machine (about two minutes per variant), and keep it in your cache.

    Provider, token budget, streams, spinning, captured batches; provider "auto" uses what was found. It changes no vector.
    """
    import random

    from jobonnx.bundle.manifest import TOKENIZER, Bundle
    from jobonnx.data.titles import read_titles
    from jobonnx.runtime.choose import runners
    from jobonnx.runtime.providers import PROVIDERS
    from jobonnx.runtime.tuning import tune as run
    from jobonnx.runtime.tuning_cache import path_of
    from jobonnx.text.tokenizer import Tokenizer

    opened = Bundle.open(bundle)
    here = [variant for variant in opened.variants if runners(opened, variant, tuple(PROVIDERS))]
    titles = read_titles()
    random.Random(0).shuffle(titles)
    rows = Tokenizer(opened.folder / TOKENIZER, opened.model.max_tokens).encode(titles)
    with steps() as progress:
        found = {variant: run(opened, variant, rows, progress) for variant in variants or here}
    if as_json:
        shown = {v: {"settings": asdict(best), "trials": [asdict(t) for t in trials]} for v, (best, trials) in found.items()}
        click.echo(json.dumps(shown, indent=1))
        return
    _print_tuning([(variant, trial, trial.settings == best) for variant, (best, trials) in found.items() for trial in trials])
    for variant in found:
        click.echo(f"{variant}: kept in {path_of(opened, variant)}", err=True)


def _facts(bundle: Bundle) -> dict[str, Any]:
    return {
        "bundle": str(bundle.folder),
        "model": asdict(bundle.model),
        "default_variant": bundle.default_variant,
        "graphs": [asdict(graph) for graph in bundle.graphs],
        "rejected": [asdict(graph) for graph in bundle.rejected],
        "tools": bundle.tools,
        "bytes": sum(entry.size for entry in bundle.files.values()),
    }


def _print_bundle(bundle: Bundle) -> None:
    m = bundle.model
    revision = f" at {m.revision}" if m.revision else ""
    click.secho(f"{bundle.folder}", bold=True)
    click.echo(f"{m.source}{revision}: {m.dimension} dimensions, {m.pooling} pooling, at most {m.max_tokens} tokens")
    click.echo(f"default variant: {bundle.default_variant}")
    rows: list[tuple[str, str, str, Parity, Sequence[str]]]
    rows = [(g.variant, g.target, "degraded" if g.degraded else "", g.parity, ()) for g in bundle.graphs]
    rows += [(r.variant, r.target, "left out", r.parity, r.missed) for r in bundle.rejected]
    _print_parity(rows)
    for graph in bundle.graphs:
        layers = graph.recipe.partition(" float=")[2]
        if layers not in ("", "none"):
            click.echo(f"{graph.variant} for {graph.target}, layers in float: {layers.replace(',', ', ')}")


def _print_parity(rows: list[tuple[str, str, str, Parity, Sequence[str]]]) -> None:
    from rich.table import Table

    table = Table("variant", "target", "", *_FIGURES, "missed", box=None)
    for variant, target, remark, parity, missed in rows:
        figures = []
        for field in _FIGURES.values():
            value = getattr(parity, field)
            figures.append("NaN" if value is None else format(value, _FORMS.get(field, ".6f")))
        table.add_row(variant, target, remark, *figures, "; ".join(missed))
    print_table(table)


def _print_tuning(rows: list[tuple[str, Trial, bool]]) -> None:
    from rich.table import Table

    names = list(asdict(rows[0][1].settings))
    table = Table("variant", "by the time of", *(name.replace("_", " ") for name in names), "over the best so far", "", box=None)
    for variant, trial, chosen in rows:
        cells = (str(value) for value in asdict(trial.settings).values())
        table.add_row(variant, trial.what, *cells, f"{trial.ratio:.2f}", "kept" if chosen else "")
    print_table(table)
