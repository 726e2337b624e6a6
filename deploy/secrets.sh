#!/usr/bin/env bash
# Make deploy/.env for deploy/compose.yaml, with random passwords: deploy/secrets.sh HOST
set -euo pipefail
umask 077
file=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/.env
[ $# = 1 ] || { echo "error: name the server's host: deploy/secrets.sh mlflow.example.org" >&2; exit 1; }
[ ! -e "$file" ] || { echo "error: $file exists; the data are locked with its passwords, so it is kept" >&2; exit 1; }
{
  echo "TEAM_HOST=$1"
  for name in POSTGRES_PASSWORD S3_PASSWORD ADMIN_PASSWORD SECRET_KEY; do
    echo "$name=$(head -c 24 /dev/urandom | base64 | tr '+/' '-_')"
  done
} > "$file"
echo "made $file; users log in to https://$1 as admin with its ADMIN_PASSWORD" >&2
