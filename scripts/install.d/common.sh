# SPDX-License-Identifier: Apache-2.0
# What install.sh, uninstall.sh, the DNS helper and the package's maintainer scripts share: one way to change the machine,
# and a record of every change. Sourced by bash, or copied into a maintainer script.
#
# Each change is noted in the record before it is made, so that what was interrupted can be repeated, or undone. A line is a
# kind and a value: file PATH, dir PATH (made by us), config SHA256 (a default that was put there), drop-in PATH, state PATH,
# user NAME, unit NAME, prefix PATH, dns MODE, zone NAME, pending restart, version VERSION (once an installation is complete).
# The record lies in a folder of root's own: the state folder of the proxy belongs to the proxy's user.
# shellcheck shell=bash

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # which the shell of `su` has not
root='' dry=0 quiet=0
record_dir=/var/lib/weir-install
record=$record_dir/record
record_line='^(prefix|file|dir|config|drop-in|state|user|unit|dns|zone|pending|version) .'
config=/etc/weir/weir.yaml
state=/var/lib/weir
drop_in=/etc/systemd/resolved.conf.d/weir.conf
units=(weir-proxy.service weir-intercept.service)
changed=0 # whether anything was
wrote=0   # whether place_file did

fail() {
	echo "${0##*/}: $*" >&2
	exit 1
}

say() {
	[ "$quiet" = 1 ] || echo "$*"
}

# The system below the folder $1 is meant, for / this machine.
set_root() {
	[ -d "$1" ] || fail "there is no folder $1"
	[ "${1:0:1}" = / ] || set -- "./$1"
	root=$(cd -- "$1" && pwd) || exit 1
	[[ ! $root =~ ^/+$ ]] || root=''
}

# Says what is changed, once; true if it is to be done.
declare -A told=()
change() {
	changed=1
	[ -n "${told[$*]:-}" ] || say "  $*"
	told[$*]=1
	[ "$dry" = 0 ]
}

# One script at a time. It is a folder that is locked, so that nothing has to be made for it; the lock ends with this script
# and what it has started.
alone() {
	local lock
	[ "$dry" = 0 ] || return 0
	exec {lock}<"$root$(dirname "$record_dir")"
	flock --nonblock "$lock" ||
		fail "another script of weir's is changing ${root:-this machine} at this moment; run this again when it has ended"
}

# --- the record ------------------------------------------------------------------------------------------------------
noted() {
	[ -e "$root$record" ] && grep -qxF -- "$*" "$root$record"
}

note() {
	[ "$dry" = 0 ] || return 0
	noted "$@" && return
	mkdir -p "$root$record_dir"
	printf '%s\n' "$*" >>"$root$record"
}

# The values of a kind, in the order in which they were noted.
values() {
	[ ! -e "$root$record" ] || sed -n "s/^$1 //p" "$root$record"
}

forget() {
	[ "$dry" = 0 ] && [ -e "$root$record" ] || return 0
	# 1: there are no other lines. A record that could not be written must not take the place of the whole one.
	grep -vxF -- "$*" "$root$record" >"$root$record.new" || [ $? = 1 ] || fail "cannot write $root$record.new"
	mv "$root$record.new" "$root$record"
}

# Of a kind with one value.
renote() {
	local old
	for old in $(values "$1"); do
		[ "$old" = "$2" ] || forget "$1" "$old"
	done
	note "$1" "$2"
}

# What is wrong with the record of install.sh, if anything. One of an installation that was interrupted ends early, but not in
# the midst of a line, and it names whatever was put on the machine.
record_fault() {
	local path prefix
	prefix=$(values prefix)
	[ -z "$(tail -c 1 "$root$record")" ] || { echo "its last line has no end" && return; }
	! grep -aqvE "$record_line" "$root$record" ||
		{ echo "it has lines that nobody wrote" && return; }
	for path in "${prefix:=/usr/local}"/bin/weir{,-proxy} "$prefix/lib/weir/uninstall.sh" "${units[@]/#//usr/local/lib/systemd/system/}"; do
		[ ! -e "$root$path" ] || noted file "$path" || { echo "it does not name $path" && return; }
	done
	! noted prefix "$prefix" || noted pending restart || [ -n "$(values version)" ] || [ "$(wc -l <"$root$record")" = 1 ] ||
		echo "its end is missing"
}

check_record() {
	local fault
	[ -e "$root$record" ] || return 0
	fault=$(record_fault)
	[ -z "$fault" ] || fail "$root$record, the record of what was installed, is damaged: $fault. Nothing was changed." \
		"Run install.sh of the same version with --repair (and the same --prefix), which makes the record anew"
}

# --- files -----------------------------------------------------------------------------------------------------------
make_dirs() {
	[ -d "$root$1" ] && return
	make_dirs "$(dirname "$1")"
	note dir "$1"
	! change "folder $1" || install -d -m 755 "$root$1"
}

# From $1 to $2 with mode $3, by a rename: a program that runs is not disturbed, and nobody sees half a file.
place_file() {
	wrote=0
	make_dirs "$(dirname "$2")"
	! cmp -s "$1" "$root$2" || [ "$(stat -c %a "$root$2")" != "$3" ] || return 0
	change "file $2" || return 0
	wrote=1
	install -m "$3" "$1" "$root$2.weir-new"
	mv -f "$root$2.weir-new" "$root$2"
}

put_file() {
	note file "$2"
	place_file "$@"
}

# A text on standard input.
place_text() {
	local from
	from=$(mktemp)
	cat >"$from"
	place_file "$from" "$1" 644
	rm -f "$from"
}

drop_file() {
	[ "$dry" = 1 ] || rm -f "$root$1.weir-new" # of an installation that was interrupted
	[ -e "$root$1" ] || [ -L "$root$1" ] || return 0
	! change "remove $1" || rm -f "$root$1"
}

sum_of() {
	sha256sum <"$root$1" | cut -d' ' -f1
}

# --- the user --------------------------------------------------------------------------------------------------------
has_user() {
	grep -q '^weir:' "$root/etc/passwd"
}

has_group() {
	grep -q '^weir:' "$root/etc/group"
}

# The services want both; useradd makes both, and userdel takes both.
check_user() {
	! has_user || has_group || fail "there is a user weir already, but no group of that name: groupadd --system weir"
	! has_group || has_user || fail "there is a group weir already, but no user of that name: make one (useradd --system --gid weir weir)," \
		"or remove the group"
}

make_user() {
	has_user && return
	note user weir
	change "user weir" || return 0
	useradd ${root:+--prefix "$root"} --system --user-group --no-create-home --home-dir "$state" \
		--shell /usr/sbin/nologin --comment "weir proxy" weir
}

remove_user() {
	noted user weir || return 0
	! has_user || ! change "remove the user weir" || userdel ${root:+--prefix "$root"} weir
}

# --- the configuration -----------------------------------------------------------------------------------------------
# A link is the user's, wherever it leads.
has_config() {
	[ -e "$root$config" ] || [ -L "$root$config" ]
}

unchanged_config() {
	[ -e "$root$config" ] && [ ! -L "$root$config" ] && noted config "$(sum_of "$config")"
}

# The default $1 for the DNS mode $2.
default_config() {
	sed "s/^    dns: true /    dns: $(captures_dns "$2") /" "$1"
}

# The default $1, for the DNS mode $2, becomes the configuration if there is none, or takes the place of a default that nobody
# has changed.
put_config() {
	local text
	wrote=0
	if has_config && ! unchanged_config; then
		say "  kept: $config"
		return
	fi
	text=$(default_config "$1" "$2")
	note config "$(sha256sum <<<"$text" | cut -d' ' -f1)"
	place_text "$config" <<<"$text"
}

# What the user has made stays: the configuration if it was changed, and whatever else lies beside it. `all` takes that, too.
remove_config() {
	if [ "${1:-}" = all ]; then
		[ ! -e "$root/etc/weir" ] || ! change "remove /etc/weir with all that is in it" || rm -rf "$root/etc/weir"
	elif unchanged_config; then
		drop_file "$config"
	elif has_config; then
		say "  kept, since it was changed: $config"
	fi
}

# --- names -----------------------------------------------------------------------------------------------------------
is_zone() {
	[[ $1 =~ ^[A-Za-z0-9_][A-Za-z0-9._-]*$ ]]
}

has_resolved() {
	[ -e "$root/lib/systemd/system/systemd-resolved.service" ] || [ -e "$root/etc/systemd/system/systemd-resolved.service" ]
}

restart_resolved() {
	! running || ! systemctl is-active --quiet systemd-resolved.service || [ "$dry" = 1 ] ||
		systemctl restart systemd-resolved.service
}

made_drop_in() {
	grep -qsx '# Made by weir: .*' "$root$drop_in"
}

# Refuses a mode that cannot be, before anything is changed. Servers in resolved's own configuration (those of a link are
# others) would share the names of the mesh with ours, since it takes them all for equal.
check_dns() {
	local other
	[ "$1" = resolved ] || return 0
	[ ! -e "$root$drop_in" ] || noted drop-in "$drop_in" || made_drop_in || fail "$drop_in: there already, and not by this script; remove that"
	has_resolved ||
		fail "systemd-resolved is not installed here (apt-get install systemd-resolved); --dns capture does without"
	other=$(grep -ls '^[[:space:]]*DNS=[^[:space:]]' "$root"/etc/systemd/resolved.conf \
		"$root"/{etc,run,usr/local/lib,usr/lib}/systemd/resolved.conf.d/*.conf | grep -vxF "$root$drop_in" || true)
	[ -z "$other" ] || fail "$other names DNS servers for all of systemd-resolved, which would be asked for names of" \
		"the mesh, too: say them for the network link instead, or give --dns capture"
}

# What intercept.capture.dns is to be in the mode $1.
captures_dns() {
	[ "$1" = capture ] && echo true || echo false
}

# What the user has to do in a configuration that was changed, for the mode $1.
advise_dns() {
	! has_config || unchanged_config ||
		say "set intercept.capture.dns: $(captures_dns "$1") in $config, if it is not; then: systemctl reload ${units[0]}"
}

# systemd-resolved asks the proxy for the names of the zone $1, and its other servers for all others.
resolved_on() {
	note drop-in "$drop_in"
	place_text "$drop_in" <<TEXT
# Made by weir: the names of the mesh come from its proxy.
[Resolve]
DNS=127.0.0.1:15053
Domains=~$1
TEXT
	[ "$wrote" = 0 ] || restart_resolved
}

resolved_off() {
	noted drop-in "$drop_in" || return 0
	drop_file "$drop_in"
	restart_resolved
	forget drop-in "$drop_in"
}

# The mode $1 (capture, resolved, none), for the zone $2 or else the one that it was for.
set_dns() {
	local zone=${2:-$(values zone)}
	renote zone "${zone:=mesh}"
	if [ "$1" = resolved ]; then
		resolved_on "$zone"
	else
		resolved_off
	fi
	renote dns "$1"
}

# --- units -----------------------------------------------------------------------------------------------------------
# Whether systemd runs here and is meant.
running() {
	[ -z "$root" ] && [ -d /run/systemd/system ]
}

# systemctl for the machine that is meant, running or not.
control() {
	if running; then
		systemctl --quiet "$@"
	else
		systemctl --quiet --root="${root:-/}" "$@"
	fi
}

# At the first installation only: what an administrator disabled since stays disabled.
enable_units() {
	local unit
	! running || [ "$dry" = 1 ] || systemctl daemon-reload
	[ -z "$(values version)" ] || return 0
	for unit in "${units[@]}"; do
		note unit "$unit"
		! change "enable $unit" || control enable "$unit"
	done
}

# Those that are enabled, or are to be, and do not run.
idle_units() {
	local unit
	for unit in "${units[@]}"; do
		systemctl is-enabled --quiet "$unit" 2>/dev/null || { [ "$dry" = 1 ] && [ -z "$(values version)" ]; } || continue
		systemctl is-active --quiet "$unit" || echo "$unit"
	done
}

# $1: a systemctl, or one that may refuse; then units, as they were idle before any was started: the proxy's brings the other along.
start_units() {
	local unit manager=$1
	shift
	for unit in "$@"; do
		! change "start $unit" || "$manager" start "$unit" ||
			fail "$unit did not start; see: journalctl -u $unit"
	done
}

# The other unit comes back with the proxy's, but after it: only then all is done.
restart_units() {
	local manager=${1:-systemctl} other=''
	! systemctl is-active --quiet "${units[1]}" || other=${units[1]}
	change "restart ${units[0]}" || return 0
	"$manager" restart "${units[0]}" || fail "${units[0]} did not start; see: journalctl -u ${units[0]}"
	[ -z "$other" ] || "$manager" start "$other" || fail "$other did not start; see: journalctl -u $other"
}

stop_units() {
	local unit
	for unit in "${units[@]}"; do
		! noted unit "$unit" || ! change "disable $unit" || control disable "$unit" 2>/dev/null || true
	done
	running || return 0
	! change "stop ${units[*]}" || systemctl stop "${units[@]}" 2>/dev/null || true
}

# --- taking away -----------------------------------------------------------------------------------------------------
remove_state() {
	local path
	for path in $(values state); do
		[ ! -e "$root$path" ] || ! change "remove $path" || rm -rf "$root${path:?}"
	done
}

# In reverse, so that what is needed to run this again goes last.
remove_files() {
	local path
	for path in $(values file | tac); do
		drop_file "$path"
	done
}

remove_dirs() {
	local path
	for path in $(values dir | tac); do
		[ ! -d "$root$path" ] || ! change "remove $path" || rmdir "$root$path" 2>/dev/null ||
			say "  kept, since there are other files in it: $path"
	done
}

# All that was noted, once the services are stopped; of the configuration as remove_config says.
remove_all() {
	remove_config "${1:-}"
	remove_state
	remove_user
	remove_files
	remove_dirs
	[ "$dry" = 1 ] || rm -rf "$root${record_dir:?}"
}
