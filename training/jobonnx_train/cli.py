"""Train the small model from job titles, or fine-tune a base model by the card's recipe.

The small model, from the public files that training/README.md names:

    python -m jobonnx_train --esco DIR --esco-more DIR --onet DIR --csco FILE --start CHECKPOINT --e5 CHECKPOINT --minutes 100 \
        --output DIR

A larger one on the same data, for a GPU: `--size base`, without `--start`.

The card's run, from TalentCLEF's training files:

    python -m jobonnx_train --base BAAI/bge-m3 --data TALENTCLEF_FOLDER --output DIR

Both write DIR/checkpoint, a sentence-transformers folder, and DIR/validation.jsonl, the table of scores. `--resume` goes on from
the last complete state in DIR/steps, or starts afresh if there is none. `--dry-run` prints the card's configuration, what our own
models change in it, and what they cost.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from jobonnx.errors import JobonnxError
from jobonnx_train.recipe import RECIPES, adjusted, card, card_recipe, changed, cost


def add_sources(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add the options that name the files of job titles."""
    parser.add_argument("--esco", type=Path, required=required, help="folder of occupations_{en,de,es}.csv (ESCO 1.2)")
    parser.add_argument("--esco-more", type=Path, help="folder of ESCO's labels in 18 more languages, {bg,cs,...}.tsv")
    parser.add_argument("--onet", type=Path, required=required, help="folder of O*NET's title files (tab-separated text)")
    parser.add_argument("--csco", type=Path, required=required, help="csco22.csv")


def add_recipe_changes(parser: argparse.ArgumentParser) -> None:
    """Add the option that changes the recipe."""
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=JSON", help="change the recipe")


def show_log() -> None:
    """Send the package's log to stdout, line by line."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("jobonnx_train").setLevel(logging.INFO)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jobonnx_train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="print the configurations and their cost as JSON and stop")
    parser.add_argument("--output", type=Path, help="folder for everything that the run writes")
    add_sources(parser, required=False)
    parser.add_argument("--baseline", action="store_true", help="score the TF-IDF baseline on the validation sets too")
    parser.add_argument("--size", choices=tuple(RECIPES), default="small", help="which of our own models (default: small)")
    parser.add_argument("--start", type=Path, help="a checkpoint of the same size to begin from; it is a teacher too")
    parser.add_argument("--e5", type=Path, help="a checkpoint of multilingual-e5-small, a teacher")
    parser.add_argument("--minutes", type=float, help="end the training after so many minutes, over all sittings")
    parser.add_argument("--base", help="fine-tune this sentence-transformers model by the card's recipe instead")
    parser.add_argument("--data", type=Path, help="TalentCLEF Task A folder, with --base")
    parser.add_argument("--resume", action="store_true", help="go on from the last state saved in the output folder, if any")
    parser.add_argument("--save-minutes", type=float, default=10, help="minutes between two saved states")
    add_recipe_changes(parser)
    options = parser.parse_args(arguments)
    if options.dry_run:
        ours = {name: {**changed(make()), "cost": cost(make())} for name, make in RECIPES.items()}
        print(json.dumps({"card": card(), **ours}, indent=2, ensure_ascii=False))  # noqa: T201 # what was asked for
        return
    try:
        recipe = adjusted(card_recipe() if options.base else RECIPES[options.size](), options.set)
    except ValueError as error:
        parser.error(str(error))
    needed = ("data", "output") if options.base else ("esco", "onet", "csco", "output")
    if missing := [name for name in needed if getattr(options, name) is None]:
        parser.error(f"give --{' and --'.join(missing)}; training/README.md says where the files come from")
    # Here, as torch takes seconds to import and neither --help nor --dry-run needs it.
    from jobonnx_train.runs import Checkpoints, Sources, train_base, train_small
    from jobonnx_train.trainer import RunOptions

    show_log()
    run = RunOptions(options.output, options.save_minutes, options.resume, options.minutes)
    try:
        run.output.mkdir(parents=True, exist_ok=True)
        if options.base:
            train_base(options.base, options.data, recipe, run)
        else:
            sources = Sources(options.esco, options.onet, options.csco, options.esco_more)
            train_small(sources, recipe, run, checkpoints=Checkpoints(options.start, options.e5), baseline=options.baseline)
    except (JobonnxError, OSError) as error:
        sys.exit(str(error))
