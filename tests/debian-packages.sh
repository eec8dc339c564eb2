#!/usr/bin/env bash
# Installs the Debian packages that some tests need; without them, those tests are skipped and say why.
#   iproute2   `ip`: two machines on one, as network namespaces
#   gcc        with libc6-dev: the router of tests/netlab, a network with rates, delays and losses
#   systemd    `systemd-analyze`: is the unit file good?
#   tmux       `covenantctl top` on a real terminal
#   chromium   the status page in a real browser
#   zsh, fish  the completion scripts
#   prometheus a real server scrapes us; promtool checks metrics and alert rules
# COVENANTD_SKIP_APT=1 installs nothing.
set -euo pipefail

have_all() {
  for program in ip gcc systemd-analyze tmux chromium zsh fish promtool; do
    command -v "$program" >/dev/null || return 1
  done
  [ -e /usr/include/stdio.h ]
}

if have_all; then
  exit 0
elif [ -n "${COVENANTD_SKIP_APT:-}" ]; then
  echo "debian-packages: skipped by COVENANTD_SKIP_APT"
elif [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "debian-packages: not root on Debian, so nothing is installed; some tests will be skipped"
else
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  apt-get install -qy --no-install-recommends iproute2 gcc libc6-dev systemd tmux chromium zsh fish prometheus
fi
