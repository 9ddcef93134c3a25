# SPDX-License-Identifier: Apache-2.0
"""A web server on the port given that answers every request with the peer's address and the bytes it received."""

import socket
import socketserver
import sys


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        received = b""
        while chunk := self.request.recv(65536):
            received += chunk
            if received.endswith(b"\r\n\r\n"):
                peer = self.client_address[0].removeprefix("::ffff:")
                body = peer.encode() + b"\n" + received
                self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                received = b""


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True


Server(("::", int(sys.argv[1])), Echo).serve_forever()
