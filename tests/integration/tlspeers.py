# SPDX-License-Identifier: Apache-2.0
"""Peers for tests of TLS: certificates good and bad, openssl's programs at a pipe, a client whose every byte the test
sees, and what is on the wire.

    authority = Authority(folder)                      # the one of scripts/mesh-ca in that folder
    files = authority.issue("web", ["spiffe://mesh/web"], begin=-7200, end=-60)   # seconds from now
    server = Openssl(pod, ["s_server", "-accept", "7000", *files.words()]).until("ACCEPT")
    peer = TlsPeer(connect(pod, address, port), files)  # .send .read .rest as mesh.Peer; .raw is the socket's Peer
    with Capture(network.hub) as wire: ...; assert b"secret" not in wire.bytes()
"""

import contextlib
import datetime
import os
import pathlib
import socket
import ssl
import struct
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
ETH_P_ALL, SOL_PACKET, PACKET_ADD_MEMBERSHIP, PROMISCUOUS = 3, 263, 1, 1


class Files:
    """The paths of a certificate, its key, and the trust bundle of whoever uses them."""

    def __init__(self, cert, key, ca):
        self.cert, self.key, self.ca = pathlib.Path(cert), pathlib.Path(key), pathlib.Path(ca)

    def words(self):
        return ["-cert", self.cert, "-key", self.key, "-CAfile", self.ca]

    def tls(self):
        return {"certificate": str(self.cert), "private_key": str(self.key), "trust": str(self.ca)}

    def serial(self):
        return _openssl("x509", "-in", self.cert, "-noout", "-serial").strip().partition("=")[2]


def _openssl(*words):
    return subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, text=True).stdout


def _date(seconds):
    when = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return when.strftime("%Y%m%d%H%M%SZ")


class Authority:
    """Issues what scripts/mesh-ca would not."""

    def __init__(self, folder, domain="mesh"):
        self.folder = pathlib.Path(folder)
        subprocess.run(
            [ROOT / "scripts" / "mesh-ca", folder, "init", "--domain", domain], check=True, capture_output=True
        )
        self.ca = self.folder / "ca.pem"
        (self.folder / "index.txt").touch()
        (self.folder / "ca.cnf").write_text(
            f"[ca]\ndefault_ca = it\n[it]\ndatabase = {self.folder}/index.txt\nnew_certs_dir = {self.folder}\n"
            "rand_serial = yes\ndefault_md = sha256\npolicy = any\nunique_subject = no\n[any]\ncommonName = supplied\n"
        )

    def issue(self, name, uris=(), begin=-3600, end=86400, names=()):
        """Certificate and key, with as many URI names and other ones ("DNS:x") as asked for."""
        base = self.folder / f"odd-{name}"
        extensions = base.with_suffix(".ext")
        alternatives = ",".join([f"URI:{uri}" for uri in uris] + list(names))
        extensions.write_text(
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
            "extendedKeyUsage=serverAuth,clientAuth\n" + (f"subjectAltName={alternatives}\n" if alternatives else "")
        )
        files = Files(base.with_suffix(".pem"), base.with_suffix(".key"), self.ca)
        request = ["-keyout", files.key, "-out", base.with_suffix(".csr"), "-subj", f"/CN={name}"]
        _openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *request)
        words = ["-batch", "-notext", "-config", self.folder / "ca.cnf", "-cert", self.ca, "-in", request[3]]
        words += ["-keyfile", self.folder / "ca.key", "-startdate", _date(begin), "-enddate", _date(end)]
        _openssl("ca", *words, "-extfile", extensions, "-out", files.cert)
        return files


class Openssl:
    """openssl s_client or s_server in a pod, at pipes: what it prints is collected, lines are typed as by a person."""

    def __init__(self, pod, words):
        self.process = subprocess.Popen(
            pod._argv(["openssl", *words], None, None),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.printed, self._seen = b"", 0
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while data := os.read(self.process.stdout.fileno(), 65536):
            with self._changed:
                self.printed += data
                self._changed.notify_all()
        with self._changed:
            self.printed += b"(ended)"
            self._changed.notify_all()

    def type(self, text):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(text.encode())
            self.process.stdin.flush()
        return self

    def until(self, text, timeout=20):
        """Waits for the text behind all that was waited for before."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while (at := self.printed.find(text.encode(), self._seen)) < 0:
                ended = self.printed.endswith(b"(ended)") or time.monotonic() > deadline
                assert not ended, f"no {text!r} in:\n{self.output()}"
                self._changed.wait(1)
            self._seen = at + len(text)
        return self

    def output(self):
        return self.printed.decode("latin-1")

    def end(self):
        """Waits for its own end; what it printed."""
        self.process.wait(30)
        self._reader.join(30)
        return self.output()

    def close(self):
        self.process.stdin.close()
        self.process.terminate()
        self.process.wait(30)
        self._reader.join(30)
        self.process.stdout.close()
        return self.output()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class TlsPeer:
    """A client of OpenSSL's whose ciphertext passes through the test: `outgoing` may be kept, cut or changed."""

    def __init__(self, raw, files=None, alpn=("weir/1",), sni=None, maximum=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if maximum:
            context.maximum_version = maximum
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if files:
            context.load_cert_chain(files.cert, files.key)
        self.raw, self.incoming, self._outgoing = raw, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self._outgoing, server_hostname=sni)
        self.buffer = b""

    def _run(self, action):
        """Does it with the socket's help."""
        while True:
            try:
                return action()
            except ssl.SSLWantReadError:
                self.flush()
                data = self.raw.sock.recv(65536)
                self.incoming.write(data) if data else self.incoming.write_eof()
            finally:
                self.flush()

    def outgoing(self):
        return self._outgoing.read()

    def flush(self):
        data = self.outgoing()
        if data:
            self.raw.send(data)

    def handshake(self):
        self._run(self.tls.do_handshake)
        return self

    def send(self, data):
        self.tls.write(data)
        self.flush()
        return self

    def read(self, count):
        while len(self.buffer) < count:
            data = self._run(lambda: self.tls.read(65536))
            assert data, f"the end after {self.buffer!r}"
            self.buffer += data
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def rest(self):
        """All up to close_notify."""
        while data := self._run(lambda: self.tls.read(65536)):
            self.buffer += data
        data, self.buffer = self.buffer, b""
        return data

    def failure(self):
        """Reads until it fails; the failure."""
        try:
            while self._run(lambda: self.tls.read(65536)):
                pass
        except (ssl.SSLError, OSError) as error:
            return error
        return None

    def close(self):
        self.raw.close()


class Capture:
    """All frames on a pod's interface, while it is entered."""

    def __init__(self, pod, interface="br0"):
        with pod.enter():
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self.sock.bind((interface, ETH_P_ALL))
            index = socket.if_nametoindex(interface)
            self.sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("IHH8s", index, PROMISCUOUS, 0, b""))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.sock.settimeout(0.1)
        self.frames, self.done = [], False
        self._thread = threading.Thread(target=self._read, daemon=True)

    def _read(self):
        while not self.done:
            with contextlib.suppress(TimeoutError):
                while True:
                    self.frames.append(self.sock.recv(65536))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.done = True
        self._thread.join()
        self.sock.close()

    def bytes(self):
        return b"\n".join(self.frames)
