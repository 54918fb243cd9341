#!/usr/bin/env bash
# Builds and runs consumers against an installed copy, the same copy moved, pkg-config, and the source tree as a shared
# library; where the copy has nibble::models, nibble::engine and nibble::cuda, consumers of those, too. The headers alone
# and nibble::header_only must give the library's bits, by each compiler and with any flags.
# usage: check.sh SOURCE BUILD COMPILER
#
# NIBBLE_FLAGS_STEP=n takes every n-th pair of flags and compiler for nibble::header_only only, beginning at the place that
# the day of the year modulo n says: each pair takes a minute to compile.
set -euo pipefail
source=$1 build=$2 compiler=$3
work=$build/consumer
here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$work" && mkdir -p "$work"
fail() { echo "$*"; exit 1; }

configure() {  # NAME SOURCE CMAKE-ARGUMENTS…: at -O1, since the headers' units take a minute at -O3
  local name=$1 project=$2
  shift 2
  cmake -S "$project" -B "$work/$name" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_CXX_FLAGS_RELEASE=-O1 "$@" >"$work/$name.log" 2>&1
}

consume() {  # NAME SOURCE CMAKE-ARGUMENTS…
  local name=$1 program
  configure "$@" && cmake --build "$work/$name" >>"$work/$name.log" 2>&1 || { cat "$work/$name.log"; exit 1; }
  for program in consumer consumer_models consumer_engine consumer_cuda; do
    [ ! -e "$work/$name/$program" ] || echo "$name: $("$work/$name/$program")"
  done
}

refused() {  # NAME WORDS CMAKE-ARGUMENTS…: the package says so
  local name=$1 words=$2
  shift 2
  ! configure "$name" "$here" "$@" || fail "$name: was configured, and should have been refused"
  tr -s ' \n' ' ' <"$work/$name.log" | grep -q "$words" || { cat "$work/$name.log"; fail "$name: does not say '$words'"; }
  echo "$name: refused"
}

consume_package() {  # PACKAGE SOURCE: by pkg-config
  local -x PKG_CONFIG_PATH=$libs/pkgconfig
  # shellcheck disable=SC2046
  "$compiler" -std=c++20 -O1 "$here/$2" $(pkg-config --cflags --libs "$1") -o "$work/by-pkg-config"
  echo "pkg-config $1: $(LD_LIBRARY_PATH=$libs:$(pkg-config --variable=cudalibdir "$1") "$work/by-pkg-config")"
}

same_bits() {  # PROGRAM NAME: it prints what the library prints of the specs that it names
  "$1" >"$work/by-headers.txt" || { cat "$work/by-headers.txt"; fail "$2: the headers alone fail"; }
  # shellcheck disable=SC2046
  "$work/installed/consumer_headers_reference" $(cut -d' ' -f1 "$work/by-headers.txt") >"$work/by-library.txt"
  diff "$work/by-headers.txt" "$work/by-library.txt" || fail "$2: the headers alone give other bits than the library"
  echo "$2: the library's bits for $(wc -l <"$work/by-headers.txt") specs"
}

same_results() {  # PROGRAM NAME: it prints what a program prints that links the library
  "$1" >"$work/results.txt" || { tail -3 "$work/results.txt"; fail "$2: the program fails"; }
  diff "$work/results-of-library.txt" "$work/results.txt" || fail "$2: other bits than the library's"
  echo "$2: the library's bits in $(wc -l <"$work/results.txt") results"
}

links_nothing() {  # PROGRAM: no name of nibble's in it is the compiled library's, and none comes from outside
  local names
  names=$(nm "$1" | grep -E '6nibble4v0_1[0-9]|U _ZNK?6nibble' || true)
  [ -z "$names" ] || fail "$1 has names of the compiled library: $names"
}

by_headers() {  # COMPILER FLAGS…: two units that both have nibble by headers alone, and nothing of it to link
  local -a command=("$@" -std=c++20 -DNIBBLE_HEADER_ONLY -I "$work/elsewhere/include" -isystem "$eigen")
  local pids=() unit
  for unit in results solver_results; do
    "${command[@]}" -c "$here/$unit.cpp" -o "$work/$unit.o" & pids+=($!)
  done
  for unit in "${pids[@]}"; do wait "$unit" || fail "$*: does not compile"; done
  "$1" "$work/results.o" "$work/solver_results.o" -pthread -o "$work/by-headers-only"
  links_nothing "$work/by-headers-only"
  same_results "$work/by-headers-only" "$*"
}

says_one_line() {  # WORDS FLAGS…: including nibble.h is one error that says so
  local words=$1
  shift
  ! "$compiler" "$@" -fsyntax-only -I "$source/include" -x c++ - <<<'#include <nibble/nibble.h>' >"$work/said" 2>&1 ||
    fail "$*: compiles, and should be refused"
  [ "$(grep -c 'error:' "$work/said")" = 1 ] && grep -q "$words" "$work/said" ||
    { cat "$work/said"; fail "$*: is not one error that says '$words'"; }
  echo "$*: refused"
}

cmake --install "$build" --prefix "$work/prefix" >"$work/install.log"
consume installed "$here" -DCMAKE_PREFIX_PATH="$work/prefix"
mv "$work/prefix" "$work/elsewhere"
consume moved "$here" -DCMAKE_PREFIX_PATH="$work/elsewhere"
[ ! -e "$work/elsewhere/bin/nibble" ] || echo "the tool: $("$work/elsewhere/bin/nibble" --version)"
for text in LICENSE THIRD_PARTY_NOTICES.md; do
  [ -s "$work/elsewhere/share/licenses/nibble/$text" ] || fail "$text is not installed"
done

libs=$(dirname "$(find "$work/elsewhere" -name 'libnibble.*' -print -quit)")

same_bits "$work/moved/consumer_headers" "nibble::headers"
consume headers-alone "$here" -DCMAKE_PREFIX_PATH="$work/elsewhere" -DNIBBLE_WANTED='COMPONENTS;headers' \
  -DCMAKE_DISABLE_FIND_PACKAGE_Threads=ON
same_bits "$work/headers-alone/consumer_headers" "COMPONENTS headers"
compilers=() programs=()  # each once: "$compiler" mostly is one of the two
for any in "$compiler" g++ clang++; do
  program=$(readlink -f "$(command -v "$any")") || continue
  [[ " ${programs[*]} " == *" $program "* ]] || compilers+=("$any")
  programs+=("$program")
done
for any in "${compilers[@]}"; do
  for flags in "-O0" "-O2 -fno-exceptions -fno-rtti" "-O3 -march=native -ffp-contract=fast -Wall -Wextra -Wconversion -Werror"; do
    # shellcheck disable=SC2086
    "$any" -std=c++20 $flags -I "$work/elsewhere/include" "$here/headers.cpp" -o "$work/headers-by-flags"
    same_bits "$work/headers-by-flags" "$any $flags"
  done
done
says_one_line 'C++20' -std=c++17
says_one_line 'would change results' -std=c++20 -ffast-math
says_one_line 'would change results' -std=c++20 -ffinite-math-only

consume results "$here" -DCMAKE_PREFIX_PATH="$work/elsewhere" -DNIBBLE_RESULTS=ON
"$work/results/consumer_library" >"$work/results-of-library.txt"
if [ ! -e "$work/results/consumer_header_only" ]; then
  echo "nibble::header_only: not looked at, since no package of Eigen is installed"
else
  same_results "$work/results/consumer_header_only" "nibble::header_only"
  consume header-only "$here" -DCMAKE_PREFIX_PATH="$work/elsewhere" -DNIBBLE_RESULTS=ON \
    -DNIBBLE_WANTED='COMPONENTS;header_only' -DCMAKE_CXX_FLAGS_RELEASE=-O0
  links_nothing "$work/header-only/consumer_header_only"
  [ ! -e "$work/header-only/consumer" ] || fail "COMPONENTS header_only gave nibble::nibble, too"
  eigen=$(cat "$work/header-only/eigen.txt")
  # -mfma without F16C: the scalar kernels, and compilers that may fuse.
  flags=("-O3 -march=native -ffp-contract=fast -Wall -Wextra -Wconversion -Werror" -O2 "-O1 -mavx2 -mfma" "-O1 -mavx2 -mfma -mf16c")
  grep -qw avx2 /proc/cpuinfo || flags=("${flags[@]:0:2}")
  step=${NIBBLE_FLAGS_STEP:-1}
  for ((i = 10#$(date -u +%j) % step; i < 2 * ${#flags[@]}; i += step)); do
    any=$( ((i % 2)) && echo clang++ || echo g++)
    # shellcheck disable=SC2086
    ! command -v "$any" >/dev/null || by_headers "$any" ${flags[i / 2]}
  done
  [ -e "$work/solver_results.o" ] || by_headers "$compiler" -O1
  "$compiler" -std=c++20 -O1 -I "$work/elsewhere/include" "$here/results.cpp" "$work/solver_results.o" \
    -L "$libs" -Wl,-rpath,"$libs" -lnibble -pthread -o "$work/both"
  same_results "$work/both" "one unit by headers alone beside the compiled library"
fi
says_one_line 'would change results' -std=c++20 -ffast-math -DNIBBLE_HEADER_ONLY

for part in models engine cuda; do
  [ -z "$(find "$libs" -name "libnibble_$part.*" -print -quit)" ] || [ -e "$work/moved/consumer_$part" ] ||
    fail "the package has nibble_$part, but gave no nibble::$part"
done
# Who wants the kernels alone needs nothing that the engine is built on; another minor version is another interface.
consume without-icu "$here" -DCMAKE_PREFIX_PATH="$work/elsewhere" -DCMAKE_DISABLE_FIND_PACKAGE_ICU=ON
[ ! -e "$work/without-icu/consumer_engine" ] || fail "nibble::engine was given without ICU"
refused component 'nibble::engine: it needs ICU\|nibble::engine: this nibble was built without it' \
  -DCMAKE_PREFIX_PATH="$work/elsewhere" -DCMAKE_DISABLE_FIND_PACKAGE_ICU=ON -DNIBBLE_WANTED='COMPONENTS;engine'
refused no-eigen 'nibble::header_only: it needs Eigen' -DCMAKE_PREFIX_PATH="$work/elsewhere" \
  -DCMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON -DNIBBLE_WANTED='COMPONENTS;header_only'
refused older 'is considered to be compatible\|is compatible with requested version\|not acceptable\|requested version' \
  -DCMAKE_PREFIX_PATH="$work/elsewhere" -DNIBBLE_WANTED=0.0

if command -v pkg-config >/dev/null; then
  consume_package nibble main.cpp
  consume_package nibble-headers headers.cpp | sed -n '1p'
  consume_package nibble-header-only main.cpp
  [ -z "$(find "$libs" -name 'libnibble_cuda.*' -print -quit)" ] || consume_package nibble-cuda cuda.cpp
  if [ -n "$(find "$libs" -name 'libnibble_engine.*' -print -quit)" ] && pkg-config --exists icu-i18n; then
    consume_package nibble-models models.cpp
    consume_package nibble-engine reference_engine.cpp
  fi
fi

# As a subdirectory, shared; the library on it is static and hands nibble on to its own users.
consume subdirectory "$here" -DNIBBLE_SOURCE="$source" -DBUILD_SHARED_LIBS=ON
shared=$(find "$work/subdirectory" -name 'libnibble.so.*' -type f -print -quit)
symbols=$(nm -D --defined-only "$shared" | awk '{print $3}')
strangers=$(grep -vE '^(_ZN|_ZNK|_ZT[A-Z]N|_ZT[hvc].*_N|_ZGVZ?N|_ZZN)6nibble|^NIBBLE_' <<<"$symbols" || true)
[ -z "$strangers" ] || fail "$shared exports more than nibble's own names: $strangers"
grep '6nibble4v0_1.*@@NIBBLE_0\.1' <<<"$symbols" >/dev/null || fail "$shared: its names carry no version"
unversioned=$(grep -E '_ZNK?6nibble[0-9]' <<<"$symbols" | grep -v '6nibble4v0_1' || true)
[ -z "$unversioned" ] || fail "$shared has names outside the versioned namespace: $unversioned"
cmake --install "$work/subdirectory" --prefix "$work/engine" >>"$work/install.log"
consume engine-user "$here/engine_user" -DCMAKE_PREFIX_PATH="$work/engine"
