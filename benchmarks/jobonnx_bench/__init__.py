"""Measure systems against each other, each in a process of its own, and report what came out.

- worker.py is the process; adapter.py is jobonnx in it; process.py starts it and talks to it; rounds.py takes turns among many.
- workload.py draws the titles, gemm.py finds what the machine can do, environment.py says what the machine is.
- bundle.py puts these together for one bundle: what `jobonnx bench` measures.
- report.py is the data that comes out (report.json), figures.py what is computed from it, recommend.py and compare.py what
  follows from that; render/ shows it to people.

Nothing is imported here: gemm.py is also used by benchmarks/limits.py in environments that have no jobonnx.
"""
