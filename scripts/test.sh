#!/usr/bin/env bash
# Sets up .venv, then runs style, types, import directions and tests.
# Arguments go to pytest alone, for example: scripts/test.sh tests/memory -k reset
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
bin=$PWD/.venv/bin
if [ $# -gt 0 ]; then
    exec "$bin/python" -m pytest "$@"
fi
step() { printf '\n== %s\n' "$1"; shift; "$@"; }
step "ruff check" "$bin/ruff" check .
step "ruff format" "$bin/ruff" format --check .
step "mypy" "$bin/mypy"
step "import directions" "$bin/lint-imports"
# One thread a process, and as many processes as there are cores, at most four.
cores=$(getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
step "pytest" "$bin/python" -m pytest -n "$((cores < 4 ? cores : 4))"
