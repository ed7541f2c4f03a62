#!/bin/sh
# Installs a build into a fresh prefix and uses it as strangers would.
#   install_test.sh BUILD_DIR WORK_DIR static|shared
set -eu
build=$1 work=$2 kind=$3
here=$(cd "$(dirname "$0")" && pwd)
prefix=$work/prefix
rm -rf "$work"
mkdir -p "$work"

cmake --install "$build" --prefix "$work/staged" >"$work/install.log"
mv "$work/staged" "$prefix" # the tree must be relocatable

cmake -S "$here/consumer" -B "$work/consumer" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" \
  -DCMAKE_BUILD_TYPE=Debug >"$work/configure.log"
cmake --build "$work/consumer" >"$work/build.log" || { cat "$work/build.log"; exit 1; }
"$work/consumer/consumer"

PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name tokensieve.pc)")
export PKG_CONFIG_PATH
[ "$kind" = static ] && how=--static || how=
# shellcheck disable=SC2046
${CC:-cc} -std=c99 -Wall -Werror "$here/consumer/consumer.c" -o "$work/consumer_c" \
  $(pkg-config $how --cflags --libs tokensieve)
LD_LIBRARY_PATH=$(pkg-config --variable=libdir tokensieve) "$work/consumer_c"

# The installed program finds the installed data.
if [ -x "$prefix/bin/tokensieve" ]; then
  (cd / && "$prefix/bin/tokensieve" info) >"$work/info.log"
  if ! grep -q "$prefix/share/tokensieve" "$work/info.log"; then
    echo "the installed CLI does not use $prefix/share/tokensieve:"
    cat "$work/info.log"
    exit 1
  fi
fi

# Only marked symbols leave the shared library.
if [ "$kind" = shared ]; then
  exported=$(nm -DC --defined-only "$(find "$prefix" -name 'libtokensieve.so.*.*.*')")
  for hidden in backend_ops validate_run ref:: drop_count; do
    if echo "$exported" | grep -q " T .*$hidden"; then
      echo "libtokensieve.so exports the internal $hidden"
      exit 1
    fi
  done
fi
