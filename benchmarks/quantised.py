"""What smaller vectors cost: recall@10 and nDCG@20 of float16, int8 and binary against float32, on O*NET's titles.

python benchmarks/quantised.py ONET OUTPUT

ONET is the folder of O*NET 27.0. Queries are titles that people reported, the corpus the other alternate titles of 400
occupations. A title is relevant if it belongs to the query's occupation. The corpus is kept as `jobonnx embed` writes it. Queries
stay float32; binary is measured with queries of signs too (Hamming distance). `jobonnx evaluate --run` scores every ranking twice:
by occupation, and with the ten nearest of float32 as the truth. OUTPUT is a folder for the files.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from jobonnx import Encoder

OCCUPATIONS, QUERIES, DEPTH = 400, 500, 100
JOBONNX = [sys.executable, "-c", "from jobonnx.cli import main; main()"]


def titles(folder: Path, name: str, column: str, codes: set[str]) -> list[tuple[str, str]]:
    with open(folder / name, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return list(dict.fromkeys((row[column], row["O*NET-SOC Code"]) for row in rows if row["O*NET-SOC Code"] in codes))


def embedded(corpus: Path, output: Path, dtype: str) -> Any:
    """Embed the corpus; return vectors to multiply queries with, float32 [titles, dimension]."""
    command = ["embed", str(corpus), "-o", str(output / dtype), "--column", "title", "--dtype", dtype]
    subprocess.run([*JOBONNX, *command], check=True, stdout=subprocess.DEVNULL)
    table = pq.read_table(output / dtype)
    vectors = np.array(table["vector"].to_pylist())
    if dtype == "binary":
        return np.unpackbits(vectors.astype(np.uint8), axis=1).astype(np.float32) * 2 - 1
    if dtype == "int8":
        return vectors.astype(np.float32) * np.array(table["scale"], np.float32)[:, None]
    return vectors.astype(np.float32)


def write_run(path: Path, queries: Any, vectors: Any) -> list[list[int]]:
    scores = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    with open(path, "w") as file:
        for query, row in enumerate(order):
            file.writelines(f"q{query} Q0 c{c} {rank} {scores[query, c]:.6f} x\n" for rank, c in enumerate(row, 1))
    found: list[list[int]] = order.tolist()
    return found


def scored(run: Path, qrels: Path) -> dict[str, float]:
    command = ["evaluate", "--run", str(run), "--qrels", str(qrels), "--cutoffs", "10,20", "--json"]
    done = subprocess.run([*JOBONNX, *command], check=True, capture_output=True, text=True)
    return dict(flat(json.loads(done.stdout)))


def flat(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from flat(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from flat(part, name)
    elif isinstance(value, int | float):
        yield name, float(value)


def main(onet: Path, output: Path) -> None:
    output.mkdir(parents=True)
    with open(onet / "Occupation Data.txt", encoding="utf-8", newline="") as file:
        codes = sorted(row["O*NET-SOC Code"] for row in csv.DictReader(file, delimiter="\t"))
    chances = np.random.default_rng(42)
    chosen = set(chances.choice(codes, OCCUPATIONS, replace=False).tolist())
    reported = titles(onet, "Sample of Reported Titles.txt", "Reported Job Title", chosen)
    queries = [reported[place] for place in sorted(chances.choice(len(reported), min(QUERIES, len(reported)), replace=False))]
    asked_for = {title for title, _ in queries}
    corpus = [pair for pair in titles(onet, "Alternate Titles.txt", "Alternate Title", chosen) if pair[0] not in asked_for]
    print(f"{len(corpus):,} titles of {OCCUPATIONS} occupations, {len(queries)} queries\n")
    (output / "corpus.jsonl").write_text("".join(json.dumps({"title": title}) + "\n" for title, _ in corpus), "utf-8")
    with open(output / "occupations.qrels", "w") as file:
        for query, (_, code) in enumerate(queries):
            file.writelines(f"q{query} 0 c{place} 1\n" for place, (_, other) in enumerate(corpus) if other == code)
    with Encoder() as encoder:
        asked = encoder.encode([title for title, _ in queries], normalize_embeddings=True)
    rows = []
    for name, dtype in (("float32",) * 2, ("float16",) * 2, ("int8",) * 2, ("binary",) * 2, ("binary, both sides", "binary")):
        vectors = embedded(output / "corpus.jsonl", output, dtype)
        run = output / f"{name.replace(', ', '-').replace(' ', '-')}.trec"
        order = write_run(run, np.sign(asked) if name.endswith("sides") else asked, vectors)
        if name == "float32":
            with open(output / "nearest.qrels", "w") as file:
                file.writelines(f"q{query} 0 c{place} 1\n" for query, row in enumerate(order) for place in row[:10])
        by_code, by_float32 = scored(run, output / "occupations.qrels"), scored(run, output / "nearest.qrels")
        rows.append((name, by_code["recall@10"], by_code["ndcg@20"], by_float32["recall@10"]))
    print("| vectors | recall@10 | nDCG@20 | of float32's ten nearest, found in ten |\n|---|---|---|---|")
    for name, recall, ndcg, kept in rows:
        print(f"| {name} | {recall:.4f} | {ndcg:.4f} | {kept:.4f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
