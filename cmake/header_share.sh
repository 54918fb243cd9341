#!/usr/bin/env bash
# How much of the library proper a consumer can include: lines of headers in include/, and of what is only compiled, of
# the rooms core to solver with their CPU kernels (formats, models, text, engine, tool and CUDA apart). Fails unless
# more than half is in headers.
# usage: header_share.sh [TREE]
set -euo pipefail
cd "${1:-$(dirname "$0")/..}"
shopt -s nullglob
lines() { cat /dev/null "$@" | wc -l; }
printf '%-10s %8s %9s\n' room headers compiled
headers=0 compiled=0
for room in core scheme matrix backend quantize solver; do
  mapfile -t public < <(find "include/nibble/$room" -name '*.h')
  private=(src/"$room"/*.h src/"$room"/*.cpp)
  [ "$room" != backend ] || mapfile -t -O ${#private[@]} private < <(find kernels/cpu -type f)
  printf '%-10s %8d %9d\n' "$room" "$(lines "${public[@]}")" "$(lines "${private[@]}")"
  headers=$((headers + $(lines "${public[@]}"))) compiled=$((compiled + $(lines "${private[@]}")))
done
share=$((100 * headers / (headers + compiled)))
printf '%-10s %8d %9d   %d %% of the lines are headers\n' all $headers $compiled $share
[ $((2 * headers)) -gt $((headers + compiled)) ]
