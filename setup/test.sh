#!/usr/bin/env bash
# Runs every test of a built tree: ctest, the sanitizer builds, a short run of each fuzz target.
# All parts run even if one fails; the closing lines of each are repeated at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly kJobs="${JOBS:-$(nproc)}" kFuzzSeconds="${FUZZ_SECONDS:-20}"
readonly kLogs=build/test-logs

usage() {
  cat <<'TEXT'
usage: setup/test.sh [PART...]

Runs the parts release, asan (address and undefined behaviour), tsan, aarch64 (NEON in an emulator),
python and fuzz; all of these by default. 'release' needs a configured build/ (make build); the
others configure their own build folder. The part vllm (tests inside vLLM, whose environment takes
3 GB) runs only if it is named.
  JOBS=N           how many compilers run at once (default: all CPUs)
  FUZZ_SECONDS=N   how long each fuzz target runs (default: 20)
TEXT
}

part_release() { ctest --test-dir build -j "$kJobs" --no-tests=error --output-on-failure; }
# Without what runs programs that are not sanitized: an installed tree, set-up scripts, a browser.
part_asan() { sanitizer asan '.*' -E '^(install\.|setup_test|report_page)'; }
# What runs on several threads; the oracle's own tests would take half an hour here.
part_tsan() { sanitizer tsan 'Threads|Executor|BadMemory|Ranks|c_api|example|Mask[.,]'; }

# sanitizer PRESET REGEX [CTEST_OPTION...]: builds what the tests of that name need, and runs them.
sanitizer() {
  local preset="$1" tests="$2"
  shift 2
  cmake --preset "$preset" -DTOKENSIEVE_TEST_FILTER="$tests" &&
    cmake --build "build-$preset" -j "$kJobs" &&
    ctest --test-dir "build-$preset" -j "$kJobs" --no-tests=error --output-on-failure \
      -R "$tests" "$@"
}

# Every stage against the oracle on NEON. Chosen so that build and emulation take 4 CPU minutes
# together: all of attend and of dense calls, and of each kind of sparse call (zero fill, local
# fill, chunk) one for each type, width, layout and rounding.
part_aarch64() {
  local programs=(cpu_{attend,score,select,compact,scatter,backend,isa}_test)
  local sparse='[a-z]+_(kv|f16|d80_bf16|suffix|paged|softcap_scale|reference_rounding|odd_length)'
  local tests="^(ForcedIsa|Isas|CpuAttend|CpuBackendCancel)\\.|Cpu.*Oracle.*/(dense.*|$sparse)\$"
  if [[ "$(uname -m)" == aarch64 ]]; then
    echo "aarch64: nothing to do, part release runs these tests on this machine itself"
  elif ! command -v aarch64-linux-gnu-g++ > /dev/null ||
    ! { command -v qemu-aarch64 || command -v qemu-aarch64-static; } > /dev/null; then
    echo "aarch64: skipped, its compiler or qemu-user is missing (setup/packages.sh --aarch64)"
    [[ -z "${CI:-}" ]]
  else
    cmake --preset aarch64 &&
      cmake --build build-aarch64 -j "$kJobs" --target "${programs[@]}" &&
      ctest --test-dir build-aarch64 -j "$kJobs" --no-tests=error --output-on-failure -R "$tests"
  fi
}

# The package in its own environment (setup/python.sh), with a shared library built for it.
part_python() {
  local python
  python="$(JOBS="$kJobs" setup/python.sh)" || return 1
  "$python" -m pytest -q -p no:cacheprovider adapters/python/tests
}

# The adapter inside vLLM, in an environment with vLLM for the CPU.
part_vllm() {
  local python
  python="$(JOBS="$kJobs" setup/python.sh vllm)" || return 1
  "$python" -c 'import vllm' && # else the tests would be skipped
    "$python" -m pytest -q -p no:cacheprovider adapters/python/tests/serving
}

part_fuzz() {
  cmake --preset fuzz && cmake --build build-fuzz -j "$kJobs" --target fuzz_targets || return 1
  local targets
  mapfile -t targets < <(find build-fuzz -type f -executable -name 'fuzz_*' | sort)
  [[ ${#targets[@]} -gt 0 ]] || { echo "no fuzz target (fuzz_*) in build-fuzz"; return 1; }
  export -f fuzz_target
  export kFuzzSeconds
  printf '%s\n' "${targets[@]}" | xargs -P "$kJobs" -I{} bash -c 'fuzz_target {}'
}

fuzz_target() {
  local target="$1" name corpora
  name="$(basename "$target")"
  # New inputs go to the first folder, the repository's seeds are only read.
  corpora=("build-fuzz/corpus/$name")
  mkdir -p "${corpora[0]}"
  [[ ! -d "tests/fuzz/corpus/$name" ]] || corpora+=("tests/fuzz/corpus/$name")
  # Several run at a time: each shows its output in one piece.
  if "$target" -max_total_time="$kFuzzSeconds" -artifact_prefix="build-fuzz/$name-" \
    "${corpora[@]}" > "build-fuzz/$name.log" 2>&1; then
    echo "fuzz: $name: no crash in $kFuzzSeconds s" >> "build-fuzz/$name.log"
    cat "build-fuzz/$name.log"
  else
    echo "fuzz: $name: FAILED, input kept as build-fuzz/$name-*" >> "build-fuzz/$name.log"
    cat "build-fuzz/$name.log"
    return 1
  fi
}

closing_lines() {
  local ctest='[0-9]+% tests passed|Total Test time|The following tests|\s+[0-9]+ - |No tests'
  grep -E "^($ctest|fuzz: |no fuzz target|aarch64: )" "$1" || tail -n 5 "$1"
}

main() {
  local part parts=("$@") failed=()
  [[ ${#parts[@]} -gt 0 ]] || parts=(release asan tsan aarch64 python fuzz)
  for part in "${parts[@]}"; do
    case "$part" in
      release | asan | tsan | aarch64 | python | fuzz | vllm) ;;
      -h | --help) usage; exit 0 ;;
      *) echo "test: unknown part '$part'" >&2; usage >&2; exit 2 ;;
    esac
  done
  mkdir -p "$kLogs"
  for part in "${parts[@]}"; do
    echo "== $part"
    # 'set -e' is off inside a condition, so each part chains its steps by && or return.
    "part_$part" 2>&1 | tee "$kLogs/$part.log" || failed+=("$part")
  done
  for part in "${parts[@]}"; do
    echo "== $part, in short"
    closing_lines "$kLogs/$part.log"
  done
  if [[ ${#failed[@]} -gt 0 ]]; then
    echo "FAILED: ${failed[*]} (logs in $kLogs)"
    exit 1
  fi
  echo "all passed: ${parts[*]}"
}

main "$@"
