"""Draw the page of a report that was measured where matplotlib is missing.

    python benchmarks/page.py FOLDER

FOLDER holds report.json; report.html is written beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jobonnx_bench.render.folder import HTML, JSON, write_page
from jobonnx_bench.report import read_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder: Path = parser.parse_args().folder
    write_page(read_report(folder / JSON), folder)
    print(folder / HTML)


if __name__ == "__main__":
    main()
