#!/bin/sh
# Measure jobonnx on a kind of CPU that has no report yet, beside its peers at full size, and leave the reports to commit.
#
#     benchmarks/cpu.sh CHECKPOINT TITLES.txt [WORK]
#
# CHECKPOINT: a folder with a checkpoint's config, tokenizer and settings; without weights a stand-in of its size is made.
# TITLES.txt: one title per line. WORK: a folder for all that is built (./cpu-work). About 15 GB of disk, 16 GB of memory.
#
# Broken off, it goes on with the step it was at. It takes about an hour and a half; MINUTES (default 150) is when it begins no more.
# AGAIN=1 measures a kind that has a report. PYTHON names the Python, 3.11 or later (python3).
set -eu

[ $# -ge 2 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
checkpoint=$1 titles=$2 work=${3:-cpu-work}
mkdir -p "$work"
began=$(date +%s)
say() { echo "== $(date -u +%H:%M:%S) $*" >&2; }
left() { echo $((${MINUTES:-150} - ($(date +%s) - began) / 60)); }

# A step's stamp is written when it has succeeded, so a step that was broken off runs again.
step() {
    stamp=$work/$1.done
    [ ! -e "$stamp" ] || { say "$1: done before"; return 0; }
    say "$1"
    shift
    "$@"
    date -u > "$stamp"
}

install() {
    "${PYTHON:-python3}" -m venv "$work/env"
    "$work/env/bin/pip" install --quiet --constraint "$root/constraints.txt" -e "$root[cpu,export,bench]"
}
step install install
python=$work/env/bin/python
PYTHONPATH=$root/benchmarks; export PYTHONPATH

found=$("$python" "$root/benchmarks/kinds.py")
kind=${found%% *}
# A run that was broken off may have left a report of its own there already.
if [ "$found" != "$kind" ] && [ -z "${AGAIN:-}" ] && [ ! -e "$work/day" ]; then
    say "this kind of CPU, $kind, has reports: ${found#* }. AGAIN=1 measures it all the same"
    exit 0
fi
[ -e "$work/day" ] || date -u +%Y-%m-%d > "$work/day"
name=$(cat "$work/day")-$kind
say "measuring $name"

# OpenVINO's plug-in takes Intel's CPUs alone; others get the wheel that has OpenVINO in it, in an environment of its own.
openvino=
case $kind in
*vnni* | *bf16* | *amx*)
    if grep -q GenuineIntel /proc/cpuinfo; then
        step openvino "$work/env/bin/pip" install --quiet onnxruntime-ep-openvino
    else
        apart() {
            "${PYTHON:-python3}" -m venv "$work/openvino"
            "$work/openvino/bin/pip" install --quiet -e "$root" onnxruntime-openvino==1.24.1
        }
        step openvino apart
        openvino="--environment jobonnx-openvino=$work/openvino/bin/python"
    fi
    ;;
esac

# compare.py makes the stand-in, the bundle and the peers' files, each once. Then every system takes turns, round by round.
compare() {
    rm -rf "$root/benchmarks/results/compare-$name"
    # shellcheck disable=SC2086 - one option and its value, or nothing
    "$python" "$root/benchmarks/compare.py" "$work" "$checkpoint" --titles "$titles" --minutes 20 $openvino \
        -o "$root/benchmarks/results/compare-$name"
}
step compare compare

bench() { # FOLDER [--quick]
    folder=$1; shift
    rm -rf "$root/benchmarks/results/$folder"
    "$work/env/bin/jobonnx" bench -m "$work/bundle" --workload "$titles" "$@" -o "$root/benchmarks/results/$folder"
}
step quick bench "report-quick-$name" --quick
if [ "$(left)" -ge 45 ]; then
    step full bench "report-$name"
else
    say "full: left out, $(left) minutes are left and it takes 45; run this again for it"
fi
say "commit benchmarks/results/*$name and a line for each in benchmarks/results/README.md and docs/hardware.md"
