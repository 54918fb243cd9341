#!/bin/bash
# Requires that every mutant of cuda_mutants/table.txt is detected. Usage: mutation.sh <cmake> <build folder>
#
# Layer after layer: builds the test of each mutant that still lives, runs it, and buries those that are detected: a
# failed expectation, a Fault (which GoogleTest reports as a failure), or a sanitizer's report. A crash, a timeout or a
# program that does not compile detects nothing. Prints which layer detected what, and fails if a mutant is left. Defects
# in what nvcc alone compiles have one layer, ptx: the interpreter of PTX.
#
# NIBBLE_MUTANT_STEP=n takes every n-th mutant of the table only, and begins at the place that the day of the year modulo
# n says: a run takes about an nth of the time, and those of n days in a row see all mutants.
set -u
cmake=$1 build=$2
folder=$build/cuda_mutants
export NIBBLE_THREADS=1 TSAN_OPTIONS=halt_on_error=1:report_signal_unsafe=0 ASAN_OPTIONS=detect_stack_use_after_return=0
reports='\[  FAILED  \]|ERROR: AddressSanitizer|runtime error:|WARNING: ThreadSanitizer: data race'

step=${NIBBLE_MUTANT_STEP:-1}
[[ $step =~ ^[1-9][0-9]*$ ]] || { echo "NIBBLE_MUTANT_STEP is '$step', which is no number from 1 on"; exit 1; }
first=$((10#$(date -u +%j) % step))  # %j has leading zeros, which would make the number octal

declare -A filter defect program ptx
alive=() place=0
while IFS='|' read -r number tests what runs texts; do
  (( place++ % step == first )) || continue
  alive+=("$number")
  filter[$number]=$tests
  defect[$number]=$what
  program[$number]=$runs
  ptx[$number]=$texts
done < "$folder/table.txt"
total=${#alive[@]}
[ "$total" -gt 0 ] || { echo "no mutants"; exit 1; }
[ "$step" -eq 1 ] || echo "$total of $place mutants: every $step places, today from place $first on: ${alive[*]}"

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
