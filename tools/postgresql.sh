#!/usr/bin/env bash
# PostgreSQL for the test of a tracking server on it, where it can simply be had: as root, with apt-get. Without it
# that test is skipped. No database is made and no server is started here; the test has its own.
set -uo pipefail

if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  printf 'setup: installing Debian'"'"'s postgresql for one of the tests\n' >&2
  settings=/etc/postgresql-common/createcluster.conf
  [ -e "$settings" ] || { mkdir -p "${settings%/*}" && echo 'create_main_cluster = false' >"$settings"; }
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update && apt-get install -y --no-install-recommends postgresql; } >/dev/null 2>&1 ||
    printf 'setup: it cannot be installed; the test will be skipped\n' >&2
fi
exit 0
