#!/usr/bin/env bash
# Makes a virtual environment with the Python package of this checkout and what its tests need, and
# prints its python (the last stdout line).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# torch comes from pip's configured places; on Linux PyPI's own wheel brings CUDA along.
readonly kPackages=(torch==2.13.0 transformers==5.23.0 pytest==9.2.0 numpy==2.4.6)
readonly kBuild=(scikit-build-core==1.1.2)

usage() {
  cat <<'TEXT'
usage: setup/python.sh

Makes <cache>/python-<key> once (key: the Python and the versions of torch, transformers, ...),
installs this checkout's package into it, and prints the path of its python. The package is built
without CUDA unless TOKENSIEVE_CUDA=AUTO or ON.
  PYTHON=FILE   the Python to make it with (default: python3), 3.10 or newer
  JOBS=N        how many compilers run at once (default: all CPUs)
TEXT
}

say() { echo "python: $*" >&2; }

make_environment() {
  local folder="$1"
  say "making $folder with ${kPackages[*]}"
  rm -rf "$folder"
  "${PYTHON:-python3}" -m venv "$folder" >&2
  "$folder/bin/python" -m pip install --quiet "${kPackages[@]}" "${kBuild[@]}" >&2
  touch "$folder/complete"
}

main() {
  case "${1:-}" in
    '') ;;
    -h | --help) usage; exit 0 ;;
    *) say "unknown argument '$1'"; usage >&2; exit 2 ;;
  esac
  local cache version key folder
  cache="${TOKENSIEVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tokensieve}"
  version="$("${PYTHON:-python3}" -c 'import platform; print(platform.python_version())')"
  key="$(echo "$version ${kPackages[*]} ${kBuild[*]}" | sha256sum | cut -c1-12)"
  folder="$cache/python-$key"
  [[ -e "$folder/complete" ]] || make_environment "$folder"
  # Without isolation the build folder is kept, so that only what changed is compiled.
  TOKENSIEVE_CUDA="${TOKENSIEVE_CUDA:-OFF}" CMAKE_BUILD_PARALLEL_LEVEL="${JOBS:-$(nproc)}" \
    "$folder/bin/python" -m pip install --quiet --no-build-isolation --no-deps --force-reinstall \
    . >&2
  echo "$folder/bin/python"
}

main "$@"
