#!/usr/bin/env bash
# From a fresh clone to a robot arm that remembers: sets up .venv, then runs `embodied demo`.
# Arguments go to it, for example: scripts/demo.sh --pretrained
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$here/scripts/setup.sh"
exec "$here/.venv/bin/embodied" demo "$@"
