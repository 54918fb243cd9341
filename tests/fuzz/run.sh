#!/usr/bin/env bash
# Runs every fuzz target from seeds made of the fixtures, two at a time; fails on the first crash, leak, hang of 10 s or
# use of 2 GiB. What a run finds interesting stays in BUILD/fuzz/TARGET and is where the next one begins.
# usage: run.sh BUILD SECONDS [TARGET…]
set -euo pipefail
build=$(realpath "$1") seconds=$2
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tests=$here/..

seeds() {  # TARGET: files to begin with
  case $1 in
    fuzz_safetensors_header) ls "$tests"/interop/fixtures/*/model.safetensors ;;
    fuzz_gguf_header | fuzz_gguf_model) ls "$tests"/format/gguf/*.gguf ;;
    fuzz_quantization_config) ls "$tests"/interop/fixtures/*/*.json ;;
    fuzz_model_config) ls "$tests"/golden/*/config.json "$tests"/../examples/data/*/config.json ;;
    fuzz_tokenizer_json) ls "$tests"/golden/*/tokenizer.json ;;
    fuzz_sentencepiece) ls "$tests"/golden/*/tokenizer.model ;;
    *) ls "$here"/seeds/"$1"/* 2>/dev/null || true ;;
  esac
}

run_one() {  # TARGET
  local corpus=$build/fuzz/$1
  mkdir -p "$corpus"
  seeds "$1" | cat -n | while read -r n file; do cp "$file" "$corpus/seed-$n"; done
  if ! "$build/tests/fuzz/$1" -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$build/fuzz/$1-" "$corpus" >"$build/fuzz/$1.log" 2>&1; then
    echo "$1 FAILED"
    tail -n 40 "$build/fuzz/$1.log"
    return 1
  fi
  awk -v name="$1" '/number_of_executed_units/ { runs = $2 } /new_units_added/ { units = $2 }
    /peak_rss_mb/ { rss = $2 } END { printf "%-26s %10d runs, %6d new inputs, %5d MB\n", name, runs, units, rss }' "$build/fuzz/$1.log"
}

mkdir -p "$build/fuzz"
targets=("$@")
[ ${#targets[@]} -gt 0 ] || for file in "$here"/fuzz_*.cpp; do targets+=("$(basename "$file" .cpp)"); done
export build seconds here tests
export -f run_one seeds
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I '{}' bash -euo pipefail -c 'run_one {}'
