#!/usr/bin/env bash
# Builds llama.cpp once for this machine's CPU and prints the build folder (the last stdout line).
set -euo pipefail

readonly kTargets=(llama ggml-cpu llama-bench llama-completion llama-perplexity)

usage() {
  cat <<'TEXT'
usage: setup/llama.sh [--print-flags]

Builds llama.cpp from the source that setup/fetch.py got, unmodified, into
<cache>/llama.cpp-0.5.0/build-<key> and prints that folder as its last stdout line. The key stands
for compiler, CPU features and flags; a second run is instant, an interrupted build goes on.
  --print-flags   only show the CMake flags chosen for this CPU
  JOBS=N          how many compilers run at once (default: all CPUs)
TEXT
}

say() { echo "llama: $*" >&2; }
die() { say "error: $*"; exit 1; }

cpu_flags() { grep -m1 '^flags' "${TOKENSIEVE_CPUINFO:-/proc/cpuinfo}" | cut -d: -f2; }

# on_off FEATURE... : ON when the CPU lists every feature.
on_off() {
  local feature
  for feature in "$@"; do
    [[ " $features " == *" $feature "* ]] || { echo OFF; return; }
  done
  echo ON
}

# GGML_NATIVE cannot be used with loadable backends, and without it ggml stops at AVX2. So the
# features are named one by one: the yardstick must run llama.cpp's best kernels for this CPU.
x86_options() {
  local features
  features="$(cpu_flags)"
  echo "-DGGML_SSE42=$(on_off sse4_2)"
  echo "-DGGML_AVX=$(on_off avx)"
  echo "-DGGML_AVX2=$(on_off avx2)"
  echo "-DGGML_BMI2=$(on_off bmi2)"
  echo "-DGGML_FMA=$(on_off fma)"
  echo "-DGGML_F16C=$(on_off f16c)"
  echo "-DGGML_AVX_VNNI=$(on_off avx_vnni)"
  echo "-DGGML_AVX512=$(on_off avx512f avx512cd avx512vl avx512dq avx512bw)"
  echo "-DGGML_AVX512_VBMI=$(on_off avx512f avx512vbmi)"
  echo "-DGGML_AVX512_VNNI=$(on_off avx512f avx512_vnni)"
  echo "-DGGML_AVX512_BF16=$(on_off avx512f avx512_bf16)"
}

options() {
  printf '%s\n' -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_BACKEND_DL=ON \
    -DGGML_NATIVE=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
    -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
  case "$(uname -m)" in
    x86_64) x86_options ;;
    *) ;;  # elsewhere ggml's defaults apply
  esac
}

build() {
  local source="$1" folder="$2" tools="$3" jobs="${JOBS:-$(nproc)}"
  shift 3
  say "building llama.cpp into $folder with $jobs jobs (minutes, only once)"
  cmake -S "$source" -B "$folder" -G Ninja "$@" -DCMAKE_PROJECT_INCLUDE="$tools" \
    > "$folder.log" 2>&1 || fail "$folder"
  cmake --build "$folder" -j "$jobs" --target "${kTargets[@]}" >> "$folder.log" 2>&1 ||
    fail "$folder"
}

fail() {
  tail -n 20 "$1.log" >&2
  die "the build failed, see $1.log. Fix the cause and run this again: it goes on where it stopped."
}

require_tools() {
  local tool
  for tool in "$@"; do
    command -v "$tool" > /dev/null || die "$tool is missing: run setup/packages.sh"
  done
}

main() {
  case "${1:-}" in
    '') ;;
    --print-flags) options; exit 0 ;;
    -h | --help) usage; exit 0 ;;
    *) say "unknown argument '$1'"; usage >&2; exit 2 ;;
  esac
  local here source folder tools key flags
  here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
  require_tools cmake ninja c++
  source="$("$here/fetch.py" llama-source)"
  mapfile -t flags < <(options)
  tools="$here/llama_tools.cmake"
  key="$(printf '%s\n' "${flags[@]}" "$(c++ --version | head -n 1)" "$(uname -m)" |
    cat - "$tools" | sha256sum | cut -c1-12)"
  folder="$(dirname "$source")/build-$key"
  if [[ ! -f "$folder/.complete" || ! -x "$folder/bin/llama-completion" ]]; then
    exec 9> "$folder.lock"
    flock 9
    build "$source" "$folder" "$tools" "${flags[@]}"
    touch "$folder/.complete"
    say "built, log in $folder.log"
  fi
  echo "$folder"
}

main "$@"
