#!/bin/bash
# Requires that every mutant of cuda_mutants/table.txt is detected. Usage: mutation.sh <cmake> <build folder>
#
# Layer after layer: builds the test of each mutant that still lives, runs it, and buries those that are detected: a
# failed expectation, a Fault (which GoogleTest reports as a failure), or a sanitizer's report. A crash, a timeout or a
# program that does not compile detects nothing. Prints which layer detected what, and fails if a mutant is left. Defects
# in what nvcc alone compiles have one layer, ptx: the interpreter of PTX.
set -u
cmake=$1 build=$2
folder=$build/cuda_mutants
export NIBBLE_THREADS=1 TSAN_OPTIONS=halt_on_error=1:report_signal_unsafe=0 ASAN_OPTIONS=detect_stack_use_after_return=0
reports='\[  FAILED  \]|ERROR: AddressSanitizer|runtime error:|WARNING: ThreadSanitizer: data race'

declare -A filter defect program ptx
alive=()
while IFS='|' read -r number tests what runs texts; do
  alive+=("$number")
  filter[$number]=$tests
  defect[$number]=$what
  program[$number]=$runs
  ptx[$number]=$texts
done < "$folder/table.txt"
total=${#alive[@]}
[ "$total" -gt 0 ] || { echo "no mutants"; exit 1; }

# The program of one mutant until its first failure.
run() {
  local binary=${program[$1]:-$folder/cuda_mutant_$1_$2}
  NIBBLE_PTX=${ptx[$1]} timeout 300 "$binary" --gtest_fail_fast --gtest_filter="${filter[$1]}" > "$folder/$1_$2.log" 2>&1
  echo $? > "$folder/$1_$2.status"
}

for layer in ptx plain asan tsan; do
  mine=() others=()
  for n in "${alive[@]}"; do
    if [[ (-n ${program[$n]} && $layer == ptx) || (-z ${program[$n]} && $layer != ptx) ]]; then mine+=("$n")
    else others+=("$n")
    fi
  done
  [ ${#mine[@]} -gt 0 ] || continue
  targets=()
  for n in "${mine[@]}"; do targets+=("cuda_mutant_${n}_$layer"); done
  "$cmake" --build "$build" --parallel "$(nproc)" --target "${targets[@]}" > "$folder/build_$layer.log" 2>&1 ||
    { echo "the mutants do not compile:"; tail -40 "$folder/build_$layer.log"; exit 1; }
  for n in "${mine[@]}"; do
    [ "$(jobs -rp | wc -l)" -lt "$(nproc)" ] || wait -n
    run "$n" "$layer" &
  done
  wait
  left=()
  for n in "${mine[@]}"; do
    log=$folder/${n}_$layer.log
    if [ "$(cat "$folder/${n}_$layer.status")" -ne 0 ] && report=$(grep -m1 -oE "$reports" "$log"); then
      echo "mutant $n detected by $layer ($report): ${defect[$n]}"
    else
      left+=("$n")
    fi
    rm -f "$folder/cuda_mutant_${n}_$layer"
  done
  alive=("${others[@]}" "${left[@]}")
done

for n in "${alive[@]}"; do echo "mutant $n SURVIVES: ${defect[$n]} (logs: $folder/${n}_*.log)"; done
echo "$((total - ${#alive[@]})) of $total mutants detected"
[ ${#alive[@]} -eq 0 ]
