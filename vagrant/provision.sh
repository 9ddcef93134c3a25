#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes this machine a member of the mesh of the Vagrantfile: installs weir, with the mesh's configuration and this member's
# certificate; on web-1 and web-2 also a small HTTP server, which knows nothing of all that. Can be run again.
set -euo pipefail

usage() {
	cat <<'TEXT'
usage: provision.sh NAME SOURCE PKI WEB-1 WEB-2

  NAME          web-1, web-2 or client
  SOURCE        a release (weir-*.tar.gz), or a checkout
  PKI           the folder with cert.pem, key.pem and ca.pem of this machine
  WEB-1, WEB-2  the addresses of those two
TEXT
}

install_weir() {
	local folder=$1
	if [ -f "$folder" ]; then
		folder=/opt/weir
		rm -rf "$folder"
		mkdir -p "$folder"
		tar -xzf "$1" -C "$folder" --strip-components 1
		"$folder/install.sh" --with-deps
	else
		"$folder/scripts/install.sh" --with-deps
	fi
}

# Of root; its group, the proxy's, may read it.
put_certificate() {
	install -o root -g weir -m 644 "$1/cert.pem" "$1/ca.pem" /etc/weir/
	install -o root -g weir -m 640 "$1/key.pem" /etc/weir/
}

# The same on every machine: who calls reviews.mesh is answered by both machines in turn, over mutual TLS and nothing else.
write_config() {
	cat >/etc/weir/weir.yaml <<TEXT
node: {id: $1}
dns: {zone: mesh}
tls: {mode: strict, certificate: /etc/weir/cert.pem, private_key: /etc/weir/key.pem, trust: /etc/weir/ca.pem}
services:
  - {name: reviews.mesh, ports: [{port: 80}], cluster: reviews}
clusters:
  - {name: reviews, tls: mesh, endpoints: [{address: "$2:9080"}, {address: "$3:9080"}]}
TEXT
	weir config check /etc/weir/weir.yaml >/dev/null
}

# An HTTP server that every Debian can run: systemd takes the connections, a shell answers.
serve_reviews() {
	cat >/usr/local/bin/reviews <<'TEXT'
#!/bin/sh
while read -r line && [ "$line" != "$(printf '\r')" ]; do :; done
body="reviews from $(hostname)"
printf 'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n' $((${#body} + 1)) "$body"
TEXT
	chmod 755 /usr/local/bin/reviews
	cat >/etc/systemd/system/reviews.socket <<'TEXT'
[Socket]
ListenStream=9080
Accept=yes
[Install]
WantedBy=sockets.target
TEXT
	cat >/etc/systemd/system/reviews@.service <<'TEXT'
[Unit]
CollectMode=inactive-or-failed
[Service]
ExecStart=-/usr/local/bin/reviews
StandardInput=socket
DynamicUser=yes
TEXT
	systemctl daemon-reload
	systemctl --quiet enable reviews.socket
	systemctl restart reviews.socket
}

main() {
	install_weir "$2"
	put_certificate "$3"
	write_config "$1" "$4" "$5"
	if [ "$1" != client ]; then
		serve_reviews
	elif ! command -v curl >/dev/null; then
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq curl </dev/null
	fi
	# A name of a node is read at the start only.
	systemctl restart weir-proxy
	echo "$1 is a member of the mesh"
}

[ $# = 5 ] || { usage >&2 && exit 2; }
main "$@"
