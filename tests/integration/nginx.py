# SPDX-License-Identifier: Apache-2.0
"""nginx in a pod, as an application.

    start_nginx(pod, answers({8081: "a", 8082: "b"}))        # each port answers with its text
    start_nginx(pod, "server { listen 8443 ssl; ... }")      # blocks of one's own
"""

from netns import wait_until


def answers(texts):
    """Server blocks: one a port, which says its text and a newline to whatever is asked."""
    return "".join(
        f'server {{ listen {port}; listen [::]:{port}; default_type text/plain; location / {{ return 200 "{text}\\n"; }} }}\n'
        for port, text in texts.items()
    )


def start_nginx(pod, servers, ready=None):
    folder = pod.network.folder / f"nginx-{pod.name}-{pod._started}"
    folder.mkdir()
    temporary = "".join(f"  {kind}_temp_path {folder};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; user root; worker_processes 1; pid {folder}/pid; error_log stderr error;\n"
        f"events {{}}\nhttp {{\n  access_log {folder}/access.log;\n  keepalive_requests 100000;\n{temporary}{servers}}}\n"
    )
    daemon = pod.start(["nginx", "-e", "stderr", "-p", folder, "-c", config])
    # The file is written when all listeners are there.
    wait_until((folder / "pid").exists, what=f"nginx: {daemon.output()}")
    daemon.access_log = folder / "access.log"
    return daemon
