#!/usr/bin/env bash
# Exports the small model into the package: run it after training, and after a change that alters the int8 graph.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -rf src/jobonnx/data/small
jobonnx export training/checkpoint -o src/jobonnx/data/small --variant int8
