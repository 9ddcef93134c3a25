# SPDX-License-Identifier: Apache-2.0
"""The programs of the demo. None of them knows of a mesh."""

import pathlib
import subprocess
import sys

from pods import Problem, accepts

REVIEWS_PORT = 9080
BOLT_PORT, GRPC_PORT = 12200, 50051
NODE_PROGRAMS = pathlib.Path(__file__).resolve().parents[2] / "tests" / "integration" / "node"
OUTSIDE_PORT, UNCAPTURED_PORT = 8080, 8081
OUTSIDE_NAME = "outside.example"
PASSWORD = "correct-horse"


def start_reviews(pod, version):
    """nginx that says which version it is."""
    config = pod.folder / "nginx.conf"
    config.write_text(
        f"""
daemon off; user root; worker_processes 1; pid {pod.folder}/nginx.pid; error_log stderr error;
events {{}}
http {{
  access_log off;
  client_body_temp_path {pod.folder}; proxy_temp_path {pod.folder}; fastcgi_temp_path {pod.folder};
  uwsgi_temp_path {pod.folder}; scgi_temp_path {pod.folder};
  server {{
    listen {REVIEWS_PORT}; listen [::]:{REVIEWS_PORT};
    location / {{ default_type text/plain; return 200 "reviews {version}\\n"; }}
  }}
}}
"""
    )
    words = ["nginx", "-e", "stderr", "-p", pod.folder, "-c", config]
    pod.start(words, ready=accepts(pod, pod.ipv4, REVIEWS_PORT))


def node(program, *words):
    """A program for sofa-rpc-node or grpc-js, one of those that the tests use. It finds its packages by NODE_PATH."""
    return ["node", NODE_PROGRAMS / program, *words]


def start_rpc(pod, version):
    """A Bolt server and a gRPC server that say which version they are."""
    for port, words in (
        (BOLT_PORT, node("rpc_server.js", "bolt", BOLT_PORT, version)),
        (GRPC_PORT, node("grpc_server.js", GRPC_PORT, version)),
    ):
        pod.start(words, ready=accepts(pod, pod.ipv4, port), log=f"node-{port}")


def start_redis(pod):
    words = ["redis-server", "--port", "6379", "--bind", "0.0.0.0", "::", "--protected-mode", "no", "--save", ""]
    pod.start([*words, "--dir", pod.folder], ready=accepts(pod, pod.ipv4, 6379))


def prepare_mariadb(pod):
    """Makes the tables of an empty server, which takes some seconds: a process to wait for. In the pod, as all else,
    so that cleaning up finds it."""
    data = pod.folder / "mariadb"
    data.mkdir()
    with open(pod.folder / "mariadb-install.log", "wb") as log:
        return subprocess.Popen(
            pod.argv(
                [
                    "mariadb-install-db",
                    "--no-defaults",
                    "--user=root",
                    f"--datadir={data}",
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                    "--force",  # the name of the machine need not resolve
                    "--innodb-log-file-size=8M",
                    "--innodb-flush-method=nosync",
                ]
            ),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def start_mariadb(pod, preparation):
    if preparation.wait(timeout=120) != 0:
        raise Problem((pod.folder / "mariadb-install.log").read_text())
    init = pod.folder / "mariadb-init.sql"
    init.write_text(
        "CREATE DATABASE IF NOT EXISTS shop;\n"
        "CREATE TABLE IF NOT EXISTS shop.books (title VARCHAR(80));\n"
        "INSERT INTO shop.books VALUES ('The Comedy of Errors');\n"
        f"CREATE USER IF NOT EXISTS demo@'%' IDENTIFIED BY '{PASSWORD}';\n"
        "GRANT ALL ON shop.* TO demo@'%';\n"
    )
    pod.start(
        [
            "mariadbd",
            "--no-defaults",
            "--user=root",
            f"--datadir={pod.folder}/mariadb",
            f"--socket={pod.folder}/mariadb.sock",
            f"--pid-file={pod.folder}/mariadb.pid",
            f"--init-file={init}",
            "--port=3306",
            "--bind-address=*",
            "--skip-name-resolve",
            "--innodb-log-file-size=8M",
            "--innodb-buffer-pool-size=16M",
        ],
        ready=accepts(pod, pod.ipv4, 3306),
    )


def start_outside(hub):
    """What is not in the mesh: a name server, and a web server that answers with the very bytes it received."""
    config = hub.folder / "unbound.conf"
    config.write_text(
        f"""
server:
  interface: {hub.ipv4}
  access-control: 10.88.0.0/24 allow
  do-daemonize: no
  use-syslog: no
  username: ""
  chroot: ""
  pidfile: ""
  directory: "{hub.folder}"
  module-config: "iterator"
  local-zone: "example." static
  local-data: "{OUTSIDE_NAME}. 60 IN A {hub.ipv4}"
  local-data: "{OUTSIDE_NAME}. 60 IN AAAA {hub.ipv6}"
"""
    )
    hub.start(["unbound", "-d", "-c", config], ready=accepts(hub, hub.ipv4, 53))
    script = pathlib.Path(__file__).with_name("echo.py")
    for port in (OUTSIDE_PORT, UNCAPTURED_PORT):
        hub.start([sys.executable, script, port], ready=accepts(hub, hub.ipv4, port), log=f"echo-{port}")
