# SPDX-License-Identifier: Apache-2.0
"""What the tests of HTTP share: a client with a proxy in front of a scripted server."""

from mesh import Origin, cluster, connect, service

PORT = 8080


class Web:
    """A client pod with a proxy, and a server pod without one: web.mesh:80 is the server's port 8080."""

    def __init__(self, mesh, **config):
        self.server = mesh.network.pod("server")
        config.setdefault("services", [service("web.mesh", 80, "web")])
        config.setdefault("clusters", [cluster("web", [f"{self.server.ipv4}:{PORT}"])])
        self.client = mesh.sidecar("client", **config)
        self.vip = next(row["vip4"] for row in self.client.show("vhost", "show")["virtual_hosts"])

    def origin(self, handler):
        return Origin(self.server, PORT, handler)

    def connect(self):
        return connect(self.client.pod, self.vip, 80)


def reply(body="ok", headers=""):
    body = body.encode() if isinstance(body, str) else body
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def serve(answer=None, seen=None):
    """A handler that answers every request on a connection and records the heads."""

    def handler(peer):
        peer.sock.settimeout(None)  # pooled connections wait for as long as the test runs
        while True:
            while b"\r\n\r\n" not in peer.buffer:
                try:
                    if not peer._more():
                        return
                except TimeoutError:  # a pooled connection that nobody needed for long
                    return
            head = peer.head()
            if seen is not None:
                seen.append(head)
            peer.send(answer if answer is not None else reply())

    return handler


def ignore_reset(handler, peer):
    try:
        handler(peer)
    except ConnectionResetError:
        pass
