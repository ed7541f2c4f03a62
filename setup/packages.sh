#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that tokensieve's build and tests need, missing ones only.
set -euo pipefail

readonly kMinCmake=3.25

# "package" must be installed, "package:command" is also satisfied by a command from elsewhere.
readonly kPackages=(
  g++:c++ cmake:cmake ninja-build:ninja make:make ccache:ccache pkg-config:pkg-config
  python3:python3 clang:clang++
  libhwy-dev libcli11-dev nlohmann-json3-dev libfmt-dev libgtest-dev libgmock-dev libbenchmark-dev
)

# Names of a browser that tests/report can drive.
readonly kBrowsers=(chromium chromium-browser google-chrome google-chrome-stable)

# What setup/test.sh's part aarch64 needs.
readonly kAarch64=(g++-aarch64-linux-gnu qemu-user)

usage() {
  cat <<'TEXT'
usage: setup/packages.sh [--list | --browser | --aarch64]

Installs the missing apt packages for building and testing tokensieve (Debian 12, Ubuntu 24.04).
Needs root or sudo only when something is missing; uses no network when nothing is.
  --list      only print the missing packages, one a line
  --browser   only install Chromium, in which the report's page is tested; where that is not
              possible, say so and go on (the test is skipped then, except in CI)
  --aarch64   only install a compiler for AArch64 and an emulator to run its programs, likewise
TEXT
}

say() { echo "packages: $*" >&2; }
die() { say "error: $*"; exit 1; }

installed() {
  dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2> /dev/null | grep -q '^ii'
}

# The sanitizer and fuzzer runtimes are a package of their own, named after clang's version.
clang_runtime() {
  local major
  if command -v clang++ > /dev/null; then
    major="$(clang++ -dumpversion | cut -d. -f1)"
  else
    major="$(apt-cache depends clang 2> /dev/null |
      sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p' | head -n 1)"
  fi
  [[ -n "$major" ]] && echo "libclang-rt-$major-dev"
}

has_clang_runtime() {
  local package
  command -v clang++ > /dev/null || return 1
  local runtimes
  runtimes="$(find "$(clang++ -print-resource-dir)" -name 'libclang_rt.fuzzer*')"
  [[ -n "$runtimes" ]] && return 0
  package="$(clang_runtime)" && installed "$package"
}

missing() {
  local entry package
  for entry in "${kPackages[@]}"; do
    package="${entry%%:*}"
    installed "$package" && continue
    [[ "$entry" == *:* ]] && command -v "${entry##*:}" > /dev/null && continue
    echo "$package"
  done
  python3 -m pip --version > /dev/null 2>&1 || echo python3-pip
  python3 -c 'import ensurepip, venv' > /dev/null 2>&1 || echo python3-venv
  # Unknown until apt's lists are there (install() looks again after the update).
  has_clang_runtime || clang_runtime || true
}

# Runs a command as root: directly, or by sudo (without a question when nobody can answer it).
as_root() {
  if [[ "$(id -u)" == 0 ]]; then
    "$@"
  elif command -v sudo > /dev/null; then
    if [[ -t 0 ]]; then sudo "$@"; else sudo -n "$@"; fi
  else
    return 1
  fi
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "$@" >&2
}

install() {
  local packages
  mapfile -t packages < <(missing)
  command -v apt-get > /dev/null ||
    die "this is not Debian or Ubuntu; install what these packages hold: ${packages[*]}"
  as_root true 2> /dev/null ||
    die "not root and no usable sudo. Missing: ${packages[*]}
Run as root: apt-get update && apt-get install -y --no-install-recommends ${packages[*]}"
  say "installing ${packages[*]}"
  as_root apt-get update -q >&2 || die "apt-get update failed (network? see above)"
  mapfile -t packages < <(missing)
  apt_install "${packages[@]}" || die "apt-get could not install ${packages[*]} (see above)"
}

install_browser() {
  local name
  for name in "${kBrowsers[@]}"; do
    if command -v "$name" > /dev/null; then return; fi
  done
  say "installing chromium"
  # Ubuntu's package of that name is only a pointer to a snap, which containers cannot run.
  if as_root apt-get update -q >&2 && ! apt-cache show chromium 2> /dev/null | grep -qi snap &&
    apt_install chromium; then
    return
  fi
  say "no Chromium could be installed: the report's page will not be tested in a browser"
}

has_aarch64() {
  command -v aarch64-linux-gnu-g++ > /dev/null &&
    { command -v qemu-aarch64 || command -v qemu-aarch64-static; } > /dev/null
}

install_aarch64() {
  if [[ "$(uname -m)" == aarch64 ]] || has_aarch64; then return; fi
  say "installing ${kAarch64[*]}"
  if as_root apt-get update -q >&2 && apt_install "${kAarch64[@]}"; then return; fi
  say "no compiler and emulator for AArch64 could be installed: NEON will not be tested"
}

check_cmake() {
  local version
  version="$(cmake --version | sed -n '1s/cmake version //p')"
  [[ "$(printf '%s\n' "$kMinCmake" "$version" | sort -V | head -n 1)" == "$kMinCmake" ]] ||
    die "$(command -v cmake) is version $version, at least $kMinCmake is needed;
remove it and run this again (Debian 12 and Ubuntu 24.04 bring a new enough one)"
}

main() {
  case "${1:-}" in
    '') ;;
    --list) missing; exit 0 ;;
    --browser) install_browser; exit 0 ;;
    --aarch64) install_aarch64; exit 0 ;;
    -h | --help) usage; exit 0 ;;
    *) say "unknown argument '$1'"; usage >&2; exit 2 ;;
  esac
  local left
  left="$(missing)"
  if [[ -n "$left" ]]; then
    install
    left="$(missing)"
    [[ -z "$left" ]] || die "still missing after the installation: ${left//$'\n'/ }"
  fi
  check_cmake
}

main "$@"
