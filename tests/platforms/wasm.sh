#!/bin/bash
# wasm.sh SOURCE ARGUMENT...: run tests/platforms/scenario.py of the checkout in SOURCE on a 32-bit WebAssembly machine.
# CPython and NumPy come from two npm packages, msgpack from PyPI; then it runs under node, without a network.
set -euo pipefail
here=$(dirname "$(realpath "$0")") place=$WORK/wasm
if [ ! -e "$place/.made" ]; then
  rm -rf "$place"
  mkdir -p "$place/pyodide" "$place/numpy" "$place/site/msgpack"
  cd "$place"
  npm pack --silent pyodide@0.25.1 @emscripten-forge/numpy@2.1.1-py311hc8e14bb-0 > /dev/null
  tar xzf pyodide-0.25.1.tgz -C pyodide --strip-components=1
  tar xzf emscripten-forge-numpy-*.tgz -C numpy
  tar xzf numpy/package/pkg/*.tar.gz -C numpy
  cp -r numpy/lib/python3.11/site-packages/numpy site/
  "$PYTHON" -m pip -q --disable-pip-version-check download --no-deps --only-binary=:all: -d . 'msgpack>=1.0.3,<2' 2> /dev/null
  "$PYTHON" -m zipfile -e msgpack-*.whl wheel # of which the pure Python runs anywhere
  cp wheel/msgpack/*.py site/msgpack/
  touch .made
  cd - > /dev/null
fi
exec unshare --user --map-root-user --net node "$here/wasm.mjs" "$place/pyodide" "$place/site" "$@"
