#!/usr/bin/env bash
# Exports the small model into the package: run it after training, and after a change that alters the int8 graph.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r training/checkpoint "$work/jobonnx-small" # the folder's name is the model's name
cp LICENSE NOTICE "$work/jobonnx-small"
printf -- '---\nlicense: apache-2.0\nlanguage: [bg, cs, da, de, en, es, et, fr, hr, hu, it, lt, lv, nl, "no", pl, pt, ro, sk, sl, sv, zh]\n---\n' > "$work/jobonnx-small/README.md" # for the bundle's
jobonnx export "$work/jobonnx-small" -o "$work/small" --variant int8
rm -rf src/jobonnx/data/small
mv "$work/small" src/jobonnx/data/small
