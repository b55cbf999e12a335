#!/usr/bin/env bash
# Make .venv from nothing: locked dependencies and this project, editable.
#
# The stamps in .venv hold the digests of what was installed and are written last: nothing changed means nothing is
# done; an interrupted or outdated .venv is made anew.
#
#   W2S_BUILD   cpu or cuda; default: cuda where an NVIDIA GPU is found
#   W2S_PYTHON  interpreter of the new .venv; default: python3.11, or a python3 that is 3.11
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
digest() { sha256sum "$@" | sha256sum | cut -c1-16; }
holds() { [ -x "$VENV/bin/python" ] && [ "$(cat "$VENV/$1" 2>/dev/null)" = "$2" ]; }

case "${W2S_BUILD:-}" in
  cpu | cuda) build=$W2S_BUILD ;;
  "") if [ -e /dev/nvidia0 ] || nvidia-smi -L >/dev/null 2>&1; then build=cuda; else build=cpu; fi ;;
  *) die "W2S_BUILD is '$W2S_BUILD'; allowed: cpu, cuda" ;;
esac
lock=requirements/$build.lock
dependencies="$build $(digest "$lock")"
project=$(digest pyproject.toml)

find_python() {
  local candidate
  for candidate in ${W2S_PYTHON:-python3.11 python3}; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  die "needs Python 3.11 with venv; tried: ${W2S_PYTHON:-python3.11, python3 ($(python3 --version 2>&1))}." \
    "Install it (Debian: python3.11-venv), or name it: W2S_PYTHON=/path/to/python3.11 make setup"
}

pip_install() { "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps "$@"; }

install_dependencies() {
  local python work log failed=0 half pids=()
  python=$(find_python)
  say "making $VENV from $lock with $python (a few minutes, once)"
  "$python" -m venv --clear "$VENV"
  work=$VENV/setup
  mkdir -p "$work"
  # Two pips at a time: unpacking keeps one core busy, and there is a second one. The halves share no package.
  grep '^torch=' "$lock" >"$work/torch.txt"
  grep -Ev '^(#|torch=|$)' "$lock" >"$work/rest.txt"
  awk 'NR % 2 == 0' "$work/rest.txt" >"$work/even.txt"
  awk 'NR % 2 == 1' "$work/rest.txt" >"$work/odd.txt"
  (pip_install -r "$work/torch.txt" 2>"$work/torch.log" ||
    { [ "$build" = cpu ] && pip_install --index-url "$TORCH_CPU_INDEX" -r "$work/torch.txt" 2>>"$work/torch.log"; }) &&
    pip_install -r "$work/odd.txt" 2>"$work/odd.log" &
  pids+=($!)
  pip_install -r "$work/even.txt" 2>"$work/even.log" &
  pids+=($!)
  trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT
  for half in "${pids[@]}"; do wait "$half" || failed=1; done
  trap - EXIT
  if [ "$failed" = 1 ]; then
    for log in torch odd even; do
      { grep -v '^WARNING' "$work/$log.log" 2>/dev/null || true; } | tail -n 5 >&2
    done
    die "pip could not install $lock (above); put it right and run make setup again"
  fi
  # Compiled here, by all cores, and not at every start of a process that may not write byte code. A few files of
  # the packages are no valid source for this Python, which is no concern of ours.
  "$VENV/bin/python" -m compileall -q -j 0 "$VENV/lib" >"$work/compile.log" 2>&1 || true
  rm -rf "$work"
  echo "$dependencies" >"$VENV/dependencies.stamp"
}

install_project() {
  say "installing the project (editable)"
  pip_install --no-build-isolation --editable . || die "pip could not install the project (above)"
  echo "$project" >"$VENV/project.stamp"
}

holds dependencies.stamp "$dependencies" || install_dependencies
holds project.stamp "$project" || install_project
