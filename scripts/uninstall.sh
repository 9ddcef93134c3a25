#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Takes away what install.sh has put on this machine, by its record.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# As installed it lies beside the rest, in a checkout and a release above it.
[ ! -d "$here/install.d" ] || here=$here/install.d
# shellcheck source=scripts/install.d/common.sh
. "$here/common.sh"

usage() {
	cat <<'TEXT'
usage: uninstall.sh [--purge] [--root DIR] [--dry-run]

  Stops the services, and takes away every file, the user and the rules. What you have made stays: a configuration that
  was changed, other files in /etc/weir. Can be run again if it was interrupted.

  --purge     removes /etc/weir with all that is in it, too
  --root DIR  of the system below DIR
  --dry-run   prints what would be changed
TEXT
}

bad_usage() {
	echo "uninstall.sh: $*" >&2
	usage >&2
	exit 2
}

remove_rules() {
	local weir
	weir=$(values prefix)/bin/weir
	running && [ -x "$weir" ] || return 0
	! change "remove the interception" || "$weir" intercept remove >/dev/null
}

main() {
	alone
	check_record
	[ -n "$(values prefix)" ] || fail "weir was not installed here by install.sh: $root$record does not say so"
	say "uninstalling weir $(values version)${root:+ from $root}"
	stop_units
	remove_rules
	resolved_off
	remove_all "$purge"
	! running || [ "$dry" = 1 ] || systemctl daemon-reload
	[ "$dry" = 0 ] || { say "nothing was changed: --dry-run" && return; }
	say "done"
}

purge=''
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage && exit 0 ;;
	--purge) purge=all ;;
	--dry-run) dry=1 ;;
	--root)
		[ -n "${2:-}" ] || bad_usage "$1 wants a value"
		set_root "$2"
		shift
		;;
	*) bad_usage "unknown option '$1'" ;;
	esac
	shift
done
[ "$(id -u)" = 0 ] || [ "$dry" = 1 ] || fail "changes the machine, so it wants root"
main
