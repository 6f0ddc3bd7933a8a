#!/usr/bin/env bash
# What a card can tell of the kernels and programs of bridge/device, in at most 10 minutes after the build: correctness, memory, speed.
#
#   scripts/gpu_check.sh            on card $RTO_CARD (0), with Pythia-2.8B's shapes
#   scripts/gpu_check.sh --small    under the emulator, at small shapes: needs a C++ compiler only
#
# Every check stands by itself, with a limit in seconds; what it found is in $OUT (target/gpu_check) at once: NAME.log, and a line of
# results.jsonl. Exits with 1 if one of them failed.
set -uo pipefail
cd "$(dirname "$0")/.."
small=
case ${1:-} in
'') ;;
--small) small=--small ;;
*)
    echo "gpu_check.sh: found $1, expected --small or nothing" >&2
    exit 2
    ;;
esac
OUT=${OUT:-target/gpu_check}
mkdir -p "$OUT"
results=$OUT/results.jsonl
: >"$results"
failed=0

# check NAME LIMIT COMMAND...: runs it, and writes what came of it.
check() {
    local name=$1 limit=$2 begun code seconds
    shift 2
    begun=$(date +%s.%N)
    timeout "$limit" "$@" >"$OUT/$name.log" 2>&1
    code=$?
    seconds=$(awk -v a="$begun" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
    # The lines of JSON that the check printed, and its own.
    grep '^{' "$OUT/$name.log" | sed "s/^{/{\"part\":\"$name\",/" >>"$results"
    echo "{\"part\":\"$name\",\"code\":$code,\"wall_seconds\":$seconds,\"limit_seconds\":$limit}" >>"$results"
    case $code in
    0) printf '%-10s ok       %6s s\n' "$name" "$seconds" ;;
    124) printf '%-10s TOO LONG %6s s\n' "$name" "$seconds" ;;
    *) printf '%-10s FAILED   %6s s: %s\n' "$name" "$seconds" "$(grep -v '^$' "$OUT/$name.log" | tail -1)" ;;
    esac
    [ "$code" = 0 ] || failed=1
}

# skip NAME WHY
skip() {
    printf '%-10s skipped: %s\n' "$1" "$2"
    echo "{\"part\":\"$1\",\"skipped\":\"$2\"}" >>"$results"
}

if [ -n "$small" ]; then
    unset RTO_CARD
    features=()
    if ! command -v "${CXX:-g++}" >/dev/null && ! command -v c++ >/dev/null; then
        skip everything "no C++ compiler for the emulator"
        exit 0
    fi
else
    export RTO_CARD=${RTO_CARD:-0}
    features=(--features cuda)
fi
# The build is not a check: it needs a toolkit for a card, and minutes.
cargo build --quiet --package rto-device "${features[@]}" --example card || exit 1
card=${CARGO_TARGET_DIR:-target}/debug/examples/card

if [ -z "$small" ]; then
    check driver 10 nvidia-smi --query-gpu=name,driver_version,memory.free,memory.total --format=csv
fi
check open 60 "$card" open $small
if [ -z "$small" ]; then
    check kernels 120 cargo test --package rto-device "${features[@]}" --test kernels
    check fixtures 240 cargo test --package rto-bridge "${features[@]}" --test device_program
else
    skip kernels "cargo test --package rto-device runs them under the emulator"
    skip fixtures "cargo test --package rto-bridge --test device_program runs them under the emulator"
fi
check ceilings 60 "$card" ceilings $small
check sft 120 "$card" sft $small
check dpo 120 "$card" dpo $small
check write 90 "$card" write $small
check rto 180 "$card" rto $small
# A whole run of a small network, where its binary is built already: cargo build --features rto-llm/cuda --bin rto_llm.
binary=${RTO_LLM:-${CARGO_TARGET_DIR:-target}/debug/rto_llm}
if [ -z "$small" ] && [ -x "$binary" ]; then
    check run 120 "$binary" --smoke --quiet --methods rto --device "kernels:cuda:$RTO_CARD" --out "$OUT/run-$(date +%s)"
elif [ -z "$small" ]; then
    skip run "needs rto_llm built for cards: $binary, or RTO_LLM"
else
    skip run "cargo test --package rto-llm --test cli_rto_llm kernels runs it under the emulator"
fi
python=${PYTHON:-$(command -v python3 || true)}
if [ -z "$small" ] && [ -n "$python" ] && "$python" -c 'import torch, transformers' 2>/dev/null; then
    check torch 180 "$python" scripts/gpu_torch.py $small
else
    skip torch "needs a card, and python3 with torch and transformers"
fi
if [ -z "$small" ] && command -v compute-sanitizer >/dev/null; then
    check memcheck 60 compute-sanitizer --tool memcheck --error-exitcode 1 "$card" sft --small
    check racecheck 60 compute-sanitizer --tool racecheck --error-exitcode 1 "$card" sft --small
else
    skip sanitizer "compute-sanitizer needs a card and CUDA's toolkit"
fi
echo "written to $OUT"
exit $failed
