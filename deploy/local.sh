#!/usr/bin/env bash
# A team server on this machine alone: PostgreSQL, an S3 stand-in and MLflow with passwords. docs/server.md says how to use it.
#   eval "$(deploy/local.sh up)"   starts what does not run yet, and points this shell at it
#   deploy/local.sh down           stops all; the data stay in .server/
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../.venv/bin/python" "$here/local.py" "$@"
