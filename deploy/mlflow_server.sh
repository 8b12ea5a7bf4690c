#!/usr/bin/env bash
# An MLflow server for a team, or for a search with many trials at once: runs in PostgreSQL, artifacts in a folder.
#   deploy/mlflow_server.sh FOLDER [PORT] [OPTIONS of `mlflow server`]
# The first call creates FOLDER/database and FOLDER/artifacts. Ctrl-C stops MLflow and PostgreSQL; the same call starts them again.
# Needs PostgreSQL (Debian: `apt install postgresql`; macOS: `brew install postgresql`) and the extra `postgres`, which `make setup` installs.
set -euo pipefail

if [ $# -lt 1 ]; then
  echo "error: no folder for the database and the artifacts; use: $0 FOLDER [PORT] [OPTIONS of mlflow server]" >&2
  exit 2
fi
folder=$(mkdir -p "$1" && cd "$1" && pwd)
port=${2:-5000}
shift $(($# < 2 ? $# : 2))

bin=$(dirname "$(command -v initdb || ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -1 || true)")
if [ ! -x "$bin/initdb" ]; then
  echo "error: PostgreSQL's initdb was not found; install PostgreSQL, or add its folder to PATH" >&2
  exit 2
fi
if ! python -c 'import psycopg' 2>/dev/null; then
  echo "error: Python's driver of PostgreSQL is missing; run \`make setup\` and \`source .venv/bin/activate\`" >&2
  exit 2
fi

as_user=() # PostgreSQL refuses to run as root
mkdir -p "$folder/database" "$folder/artifacts"
if [ "$(id -u)" = 0 ]; then
  as_user=(setpriv --reuid=postgres --regid=postgres --clear-groups)
  chown postgres "$folder/database"
fi
# the path of a socket may have 107 bytes only, so that it does not lie in FOLDER
socket=$(mktemp -d /tmp/mlflow-XXXXXX)
[ "$(id -u)" != 0 ] || chown postgres "$socket"
database() { (cd / && ${as_user[@]+"${as_user[@]}"} "$bin/$1" "${@:2}"); }

stop() {
  trap - EXIT INT TERM
  if [ -n "${mlflow:-}" ]; then
    kill "$mlflow" 2>/dev/null || true
    wait "$mlflow" || true
  fi
  database pg_ctl stop --silent --wait --mode=fast -D "$folder/database" || true
  rm -rf "$socket"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ ! -f "$folder/database/PG_VERSION" ]; then
  database initdb --auth=trust --encoding=UTF8 --username=mlflow -D "$folder/database" >/dev/null
fi
# no port: only this machine's users who may enter the socket's folder, which are this user and root, can connect
database pg_ctl start --silent --wait -D "$folder/database" -l "$folder/database/log.txt" \
  -o "-c listen_addresses='' -k $socket -c max_connections=200" || {
  echo "error: PostgreSQL did not start; $folder/database/log.txt says why" >&2
  exit 2
}

echo "export MLFLOW_TRACKING_URI=http://127.0.0.1:$port   # in each shell that runs the pipeline"
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true # no processes of a feature that is not used here
mlflow server --host 127.0.0.1 --port "$port" --backend-store-uri "postgresql://mlflow@/postgres?host=$socket" \
  --artifacts-destination "$folder/artifacts" "$@" &
mlflow=$!
wait "$mlflow"
