#!/bin/sh
# Makes the virtual environment and installs the locked packages. Called by make; safe to run again.
set -eu
venv=$1
torch_cpu_index=$2

need() {
  command -v "$1" >/dev/null 2>&1 || { echo "error: $1 is missing: $2" >&2; exit 1; }
}

python=""
for candidate in python3.13 python3.12 python3.11 python3; do
  if command -v "$candidate" >/dev/null 2>&1 &&
    "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
    python=$candidate
  fi
done
[ -n "$python" ] || { echo "error: Python 3.11, 3.12 or 3.13 is missing: install one (apt install python3 python3-venv, brew install python@3.13)" >&2; exit 1; }
need cmake "it builds llama.cpp: apt install cmake, brew install cmake, or pip install cmake"
command -v c++ >/dev/null 2>&1 || need g++ "it builds llama.cpp: apt install build-essential, or xcode-select --install"

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check"
$pip install -q --upgrade pip

torch=$(sed -n 's/^ *"\(torch==[0-9.]*\)".*/\1/p' pyproject.toml)
if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
  echo "installing $torch"
  if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1 &&
    "$venv/bin/python" -c "import urllib.request as u; u.urlopen('$torch_cpu_index/torch/', timeout=5)" 2>/dev/null; then
    $pip install -q "$torch" --extra-index-url "$torch_cpu_index"
  else
    $pip install -q "$torch"
  fi
fi

if ! "$venv/bin/python" -c 'import llama_cpp' 2>/dev/null; then
  echo "llama-cpp-python is built from source unless pip has it cached: about 14 minutes on 2 cores, once"
fi
echo "installing the packages of requirements.lock"
$pip install -q --no-deps -r requirements.lock
$pip install -q --no-deps -e .
