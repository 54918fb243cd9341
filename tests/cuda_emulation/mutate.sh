#!/bin/bash
# Seeds the defects of mutants.txt in copies of the sources. Usage: mutate.sh <project> <folder> [<number>]
#
# <folder>/<number>/<file> becomes the file that a mutant's line names, as mutants/<number>.patch changes it; without a
# number, that of every mutant. Fails, and says which patch is to be renewed and how, if one applies no longer (its
# context must be the file's own text, wherever in the file that lies now), changes nothing or another file, or if a line
# has no patch or a patch no line.
set -u
project=$1 folder=$2 only=${3:-}
place=tests/cuda_emulation/mutants
declare -A file
failures=0 made=0

complain() { echo "mutant $1 ($place/$1.patch): $2" >&2; (( failures++ )); }

# The copy takes its final name when it is whole, so that no build finds half a file; one that would not change keeps its
# time, so that nothing is compiled anew.
seed() {
  [ -n "${file[$1]:-}" ] || { complain "$1" "has no line in mutants.txt"; return; }
  local patch=$project/$place/$1.patch sound=$project/${file[$1]} copy=$folder/$1/${file[$1]} said
  [ -f "$patch" ] || { complain "$1" "there is no such file"; return; }
  [ -f "$sound" ] || { complain "$1" "${file[$1]}, which mutants.txt names, is not there"; return; }
  [ "$(grep '^+++ ' "$patch" | cut -f1)" = "+++ b/${file[$1]}" ] ||
    { complain "$1" "changes not ${file[$1]} alone, which mutants.txt names"; return; }
  mkdir -p "$(dirname "$copy")"
  find "$folder/$1" -type f ! -path "$copy" -delete  # of another file that the mutant once changed
  if ! said=$(patch --force --forward --fuzz=0 --reject-file=- --output="$copy.new" "$sound" "$patch" 2>&1); then
    complain "$1" "does not apply to ${file[$1]}, so renew it: commit that file, make the change in it, and then
  git diff ${file[$1]} >$place/$1.patch && git checkout ${file[$1]}
$said"
  elif cmp -s "$sound" "$copy.new"; then
    complain "$1" "leaves ${file[$1]} as it is"
  else
    cmp -s "$copy.new" "$copy" && rm "$copy.new" || mv "$copy.new" "$copy"
    (( made++ ))
    return
  fi
  rm -f "$copy.new" "$copy"
}

while IFS='|' read -r number name _; do
  [[ $number =~ ^([0-9]+)\ *$ ]] || continue
  number=${BASH_REMATCH[1]}
  [ -z "${file[$number]:-}" ] || complain "$number" "has two lines in mutants.txt"
  file[$number]=${name// /}
done <"$project/tests/cuda_emulation/mutants.txt"

if [ -n "$only" ]; then
  seed "$only"
else
  for number in "${!file[@]}"; do seed "$number"; done
  for patch in "$project/$place"/*; do
    number=$(basename "$patch" .patch)
    [ -n "${file[$number]:-}" ] || complain "$number" "has no line in mutants.txt"
  done
  echo "$made of ${#file[@]} mutants made"
fi
[ "$failures" -eq 0 ]
