#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs weir on this machine, or a newer one in place of an older: from an unpacked release, or from a checkout.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=scripts/install.d/common.sh
. "$here/install.d/common.sh"

usage() {
	cat <<'TEXT'
usage: install.sh [OPTION ...]

  Puts the programs, the user weir, a configuration that passes everything through, and two services on this machine:
  weir-proxy, and weir-intercept, whose rules are there as long as the proxy serves. Run again, it upgrades: the
  configuration stays, nothing is asked. In a checkout it builds first.

  --prefix DIR    where the programs go (default: /usr/local)
  --dns MODE      how programs find the names of the mesh: capture (default; queries to port 53 are redirected),
                  resolved (systemd-resolved asks the proxy) or none
  --dns-zone ZONE the zone that systemd-resolved asks the proxy for (default: mesh)
  --with-deps     libraries that are missing are installed by apt-get (and stay when weir is uninstalled)
  --no-start      services are enabled but not started
  --root DIR      installs into the system below DIR, an image for example; starts nothing
  --build DIR     in a checkout: take this build and do not build
  --repair        files of weir that the record of the installation does not name are taken for ours: for a damaged record
  --dry-run       prints what would be changed

Undone by uninstall.sh, which is installed as PREFIX/lib/weir/uninstall.sh.
TEXT
}

bad_usage() {
	echo "install.sh: $*" >&2
	usage >&2
	exit 2
}

# --- whether it can be done ------------------------------------------------------------------------------------------
check_system() {
	local ID='' VERSION_ID='' PRETTY_NAME='an unknown system' least
	# shellcheck disable=SC1091 # the machine's
	[ ! -r "$root/etc/os-release" ] || . "$root/etc/os-release"
	case $ID in
	debian) least=12 ;;
	ubuntu) least=24 ;;
	*) fail "this is $PRETTY_NAME; weir is installed by this script on Debian 12, Ubuntu 24.04 and later" ;;
	esac
	# Debian's testing has no number.
	[ "${VERSION_ID%%.*}" -ge "$least" ] 2>/dev/null || [ -z "$VERSION_ID" ] ||
		fail "this is $PRETTY_NAME, which is too old: Debian 12, Ubuntu 24.04 and later are what weir is made for"
	[ -d "$root/lib/systemd/system" ] || fail "there is no systemd in ${root:-/}: the services need it"
	! grep -qs '^Package: weir$' "$root/var/lib/dpkg/status" || [ ! -e "$root/usr/bin/weir-proxy" ] ||
		fail "weir is installed as a Debian package: upgrade that with apt, or remove it first (apt purge weir)"
}

# The Debian package that has a library; the second name is Ubuntu's since 24.04.
package_of() {
	case $1 in
	libcares.so.2) echo libc-ares2 libcares2 ;;
	libfyaml.so.0) echo libfyaml0 ;;
	libmnl.so.0) echo libmnl0 ;;
	libnftnl.so.11) echo libnftnl11 ;;
	libpcre2-8.so.0) echo libpcre2-8-0 ;;
	libssl.so.3 | libcrypto.so.3) echo libssl3 libssl3t64 ;;
	libxxhash.so.0) echo libxxhash0 ;;
	libz.so.1) echo zlib1g ;;
	libbpf.so.1) echo libbpf1 ;;
	libelf.so.1) echo libelf1 libelf1t64 ;;
	libzstd.so.1) echo libzstd1 ;;
	esac
}

has_library() {
	compgen -G "$root/lib/*-linux-gnu/$1" >/dev/null || compgen -G "$root/usr/lib/*-linux-gnu/$1" >/dev/null ||
		compgen -G "$root/lib64/$1" >/dev/null
}

missing_libraries() {
	local library
	for library in $(ldd "$@" | sed -n 's/^\t\(lib[^ ]*\) =>.*/\1/p' | sort -u); do
		has_library "$library" || echo "$library"
	done
}

# Of the names of a package the one that this system knows.
known_package() {
	local name
	for name in "$@"; do
		[ -z "$(apt-cache madison "$name" 2>/dev/null)" ] || { echo "$name" && return; }
	done
	echo "${1:-}"
}

check_libraries() {
	local missing library packages=()
	mapfile -t missing < <(missing_libraries "$stage/bin/weir" "$stage/bin/weir-proxy")
	[ ${#missing[@]} -gt 0 ] || return 0
	for library in "${missing[@]}"; do
		# shellcheck disable=SC2046 # a list of words
		packages+=("$(known_package $(package_of "$library"))")
	done
	mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
	[ "$with_deps" = 1 ] ||
		fail "libraries are missing: ${missing[*]}; install them (apt-get install ${packages[*]}), or give --with-deps"
	[ -z "$root" ] || fail "libraries are missing in $root: ${missing[*]} (packages: ${packages[*]})"
	change "packages ${packages[*]}" || return 0
	get_packages "${packages[@]}" 2>/dev/null ||
		{ apt-get update -qq </dev/null >/dev/null && get_packages "${packages[@]}"; } || fail "apt-get could not install: ${packages[*]}"
}

get_packages() {
	DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
		apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$@" </dev/null >/dev/null
}

check_programs() {
	[ -x "$stage/bin/weir" ] && [ -x "$stage/bin/weir-proxy" ] || fail "the programs are not in $stage/bin"
	version=$("$stage/bin/weir-proxy" --version 2>&1) || [ "$dry" = 1 ] ||
		fail "the programs do not run on this machine: $version"
	version=${version#weir-proxy }
}

# What is there already and not ours is left alone.
check_targets() {
	local target foreign=()
	for target in "${targets[@]}"; do
		{ [ -e "$root$target" ] || [ -L "$root$target" ]; } && [ "$repair" = 0 ] && ! noted file "$target" && foreign+=("$target")
	done
	[ ${#foreign[@]} = 0 ] ||
		fail "${foreign[*]}: there already, and not by this script; remove that, or choose another --prefix"
	check_units
	for target in "${targets[@]}" "$config" "$record"; do
		check_writable "$target"
	done
}

# Units of the same names, where systemd would take them before ours or would take ours for them. What an administrator puts
# there after the installation is theirs.
check_units() {
	local unit folder
	for unit in "${units[@]}"; do
		for folder in /etc /run /usr/lib /lib; do
			[ ! -e "$root$folder/systemd/system/$unit" ] || noted unit "$unit" || [ "$repair" = 1 ] ||
				fail "$folder/systemd/system/$unit: there already, and not by this script; remove that"
		done
	done
}

check_writable() {
	local folder
	folder=$(dirname "$1")
	while [ ! -e "$root$folder" ] && [ "$folder" != / ]; do
		folder=$(dirname "$folder")
	done
	[ -d "$root$folder" ] && [ -w "$root$folder" ] || [ "$(id -u)" != 0 ] ||
		fail "$folder is not a folder that can be written to, and $1 would go there"
}

# A configuration that stays must be one for the new programs, too: otherwise the old ones go on.
check_config() {
	local why
	[ -z "$root" ] && has_config && ! unchanged_config || return 0
	[ -e "$config" ] || fail "$config is a link to $(readlink "$config"), which is not there: make that, or remove the link"
	why=$("$stage/bin/weir" config check "$config" 2>&1) ||
		fail "weir $version does not take the configuration that is there, so nothing was changed: $why"
}

# --- from where ------------------------------------------------------------------------------------------------------
# What building takes is packages of this machine: a rehearsal ends there, since the files are known when they are built.
get_tools() {
	local packages
	packages=$("$here/deps" --list build | paste -s -d ' ') || exit 1
	[ -n "$packages" ] || return 0
	change "packages $packages" || { say "nothing was changed: --dry-run; the rest is known when it is built" && exit 0; }
	"$here/deps" build >/dev/null || fail "cannot install what building takes"
}

build() {
	local build=$here/../build/release
	(cd "$here/.." && cmake --preset release &&
		cmake --build --preset release --target weir weir-proxy weir_manual weir_completion) >"$work/log" 2>&1 ||
		{ tail -n 30 "$work/log" >&2 && fail "cannot build"; }
	echo "$build"
}

# Makes the folder $stage have what is under the prefix.
find_programs() {
	stage=$work/stage
	if [ -e "$here/../CMakeLists.txt" ]; then
		if [ -z "$build_dir" ]; then
			say "building"
			get_tools
			build_dir=$(build)
		fi
		cmake --install "$build_dir" --prefix "$stage" --strip >"$work/log" 2>&1 ||
			{ cat "$work/log" >&2 && fail "no build in $build_dir"; }
	elif [ -x "$here/bin/weir-proxy" ]; then
		stage=$here
	else
		fail "there are no programs beside this script: it is run in an unpacked release, or in a checkout"
	fi
}

# Into the arrays $sources and $targets: every file that is installed; first, since removed last, what uninstalls it.
list_files() {
	local path unit
	for path in uninstall.sh install.d/common.sh install.d/dns install.d/weir.yaml mesh-ca; do
		sources+=("$here/$path") targets+=("$prefix/lib/weir/${path##*/}")
	done
	while read -r path; do
		sources+=("$stage/$path") targets+=("$prefix/$path")
	done < <(cd "$stage" && find bin share include -type f | sort)
	for unit in "${units[@]}"; do
		sed "s|@BIN@|$prefix/bin|g" "$here/install.d/$unit" >"$work/$unit"
		sources+=("$work/$unit") targets+=("/usr/local/lib/systemd/system/$unit")
	done
}

# --- doing it --------------------------------------------------------------------------------------------------------
put_files() {
	local i mode
	for i in "${!sources[@]}"; do
		mode=644
		[ ! -x "${sources[i]}" ] || mode=755
		put_file "${sources[i]}" "${targets[i]}" "$mode"
	done
}

# Files of the version before that this one does not have.
drop_old_files() {
	local path
	local -A wanted=()
	for path in "${targets[@]}"; do
		wanted[$path]=1
	done
	while read -r path; do
		[ -z "${wanted[$path]:-}" ] || continue
		drop_file "$path"
		forget file "$path"
	done < <(values file)
}

# What runs is brought to what was installed.
settle() {
	local idle
	[ "$start" = 1 ] && running || return 0
	mapfile -t idle < <(idle_units)
	if ! systemctl is-active --quiet "${units[0]}"; then
		true
	elif [ "$replaced" = 1 ]; then
		restart_units
	elif [ "$configured" = 1 ] && change "reload ${units[0]}"; then
		systemctl try-reload-or-restart "${units[@]}"
	fi
	start_units systemctl "${idle[@]}"
}

# Of a damaged record the lines that are whole stay; what of weir is there and not in it, and only this script makes, is noted.
# Files, units and rules follow as at every installation.
mend_record() {
	local path mode
	[ "$dry" = 0 ] || return 0
	if [ -e "$root$record" ]; then
		head -n "$(wc -l <"$root$record")" "$root$record" | grep -aE "$record_line" >"$root$record.new" || true
		mv "$root$record.new" "$root$record"
	fi
	note prefix "$prefix"
	note pending restart
	for path in "$prefix/lib/weir" "${config%/*}"; do
		[ ! -d "$root$path" ] || note dir "$path"
	done
	[ ! -d "$root$state" ] || note state "$state"
	! grep -q '^weir:.*:weir proxy:' "$root/etc/passwd" || note user weir
	! made_drop_in || note drop-in "$drop_in"
	for mode in capture none; do
		note config "$(default_config "$here/install.d/weir.yaml" "$mode" | sha256sum | cut -d' ' -f1)"
	done
	for path in "${units[@]}"; do
		note unit "$path"
	done
}

install_all() {
	local replaced=0 configured
	[ "$repair" = 0 ] || mend_record
	note prefix "$prefix"
	# Also what an interrupted installation has replaced already.
	! noted pending restart || replaced=1
	note pending restart
	[ -e "$root$state" ] || note state "$state"
	make_user
	put_files
	drop_old_files
	[ "$changed" = 0 ] || replaced=1
	put_config "$here/install.d/weir.yaml" "$dns"
	configured=$wrote
	set_dns "$dns" "$zone"
	enable_units
	settle
	renote version "$version"
	forget pending restart
}

main() {
	[ "$(id -u)" = 0 ] || [ "$dry" = 1 ] || fail "changes the machine, so it wants root"
	check_system
	alone
	[ "$repair" = 1 ] || check_record
	[ -z "$(values prefix)" ] || [ "$(values prefix)" = "$prefix" ] ||
		fail "weir is installed under $(values prefix) already; uninstall that first, or give --prefix $(values prefix)"
	local asked=$dns
	dns=${dns:-$(values dns)}
	dns=${dns:-capture}
	[ "$dns" = "$(values dns)" ] || asked=$dns
	check_user
	check_dns "$dns"
	find_programs
	check_libraries
	check_programs
	list_files
	check_targets
	check_config
	local before
	before=$(values version)
	say "installing weir $version${before:+ over $before}${root:+ in $root}"
	install_all
	[ "$changed" = 1 ] || say "  nothing to change"
	[ -z "$asked" ] || advise_dns "$dns"
	[ "$dry" = 0 ] || { say "nothing was changed: --dry-run" && return; }
	say "done: systemctl status ${units[*]}; configuration: $config"
}

prefix=/usr/local dns='' zone='' start=1 with_deps=0 repair=0 build_dir='' version='' sources=() targets=()
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage && exit 0 ;;
	--prefix | --root | --dns | --dns-zone | --build) [ -n "${2:-}" ] || bad_usage "$1 wants a value" ;;&
	--prefix) prefix=${2%/} && shift ;;
	--root) set_root "$2" && shift ;;
	--dns) dns=$2 && shift ;;
	--dns-zone) zone=$2 && shift ;;
	--build) build_dir=$(realpath -m -- "$2") && shift ;;
	--with-deps) with_deps=1 ;;
	--no-start) start=0 ;;
	--repair) repair=1 ;;
	--dry-run) dry=1 ;;
	*) bad_usage "unknown option '$1'" ;;
	esac
	shift
done
[[ $prefix =~ ^/[A-Za-z0-9._/-]+$ ]] || bad_usage "--prefix wants an absolute path without special characters"
[[ $dns =~ ^(|capture|resolved|none)$ ]] || bad_usage "--dns is capture, resolved or none"
[ -z "$zone" ] || is_zone "$zone" || bad_usage "--dns-zone wants the name of a zone"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
main
