#!/bin/sh
# Usage: restore.sh MACHINE YYYY-MM-DD    e.g. restore.sh rookery 2026-02-19
# Puts everything below /srv/returned; it never overwrites /srv itself.
set -eu
machine=$1 day=$2
target="/srv/returned/$machine-$day"
[ "$(df --output=avail -BG /srv | tail -1 | tr -dc 0-9)" -ge 900 ] || { echo "needs 900 GB free"; exit 3; }
mkdir -p "$target"
nestbox fetch --from "$machine" --day "$day" --into "$target" --verify
echo "Compare the counts (runbook, step 5) before you move anything."
