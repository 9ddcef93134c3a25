# SPDX-License-Identifier: Apache-2.0
"""The image and the manifests of scripts/container: an injected pod is run by podman as its manifest says: users,
capabilities, read-only roots, mounts, order. The kubelet's part is played by the test, which asks the probes from the network's
hub.

With the release build the image is that of the Containerfile, compiled in a Debian (debian.py); with any other build the last
stage alone is made, from the programs of that build."""

import base64
import contextlib
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess

import pytest

import debian
import kubernetes
from mesh import UNPRIVILEGED, Mesh, Origin, acceleration, check_acceleration, connect
from netns import output, wait_until
from test_inject import containers, pod_spec
from test_injector import POD, Webhook
from web import reply, serve

ROOT = pathlib.Path(__file__).resolve().parents[2]
RELEASE = ROOT / "build" / "release"
FOLDER = ROOT / "scripts" / "container"
MANIFESTS = sorted(path for path in FOLDER.glob("*.yaml"))


# --- manifests -------------------------------------------------------------------------------------------------------


def workload(name, kind):
    [found] = [document for document in kubernetes.load((FOLDER / name).read_text()) if document["kind"] == kind]
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_keep_to_the_field_rules(path):
    documents = kubernetes.load(path.read_text())
    known = {*kubernetes.KINDS, *kubernetes.FLAT}
    assert documents and all(document["kind"] in known for document in documents)
    for document in documents:
        kubernetes.check(document)


def test_injected_example_is_current(weir):
    made = subprocess.run([weir, "inject", "-f", FOLDER / "app.yaml"], capture_output=True, text=True, check=True).stdout
    assert made == (FOLDER / "app-injected.yaml").read_text(), "run: weir inject -f app.yaml -o app-injected.yaml"


def test_manifests_name_programs_and_options_that_are_there(weir, weir_proxy):
    """Every command of a manifest parses: with --help behind it, it explains itself."""
    programs = {"/usr/bin/weir": weir, "/usr/bin/weir-proxy": weir_proxy}
    version = subprocess.run([weir, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    seen = 0
    for path in MANIFESTS:
        for document in kubernetes.load(path.read_text()):
            if document["kind"] not in ("Deployment", "DaemonSet"):
                continue
            for container in containers(document).values():
                assert container["image"] in (f"weir:{version}", "shop:1")
                program, *words = container.get("command", ["shop"]) + container.get("args", [])
                commands = [[program, *words]]
                commands += [v["exec"]["command"] for v in container.get("lifecycle", {}).values()]
                for program, *words in commands:
                    if program in programs:
                        done = subprocess.run([programs[program], *words, "--help"], capture_output=True, text=True)
                        assert done.returncode == 0, done.stderr
                        seen += 1
    assert seen >= 4


def test_no_profile_of_the_node_holds_its_agent():
    """AppArmor's for containers forbids to write below /sys/fs/bpf, and SELinux's also to look at other containers."""
    agent = workload("node-agent.yaml", "DaemonSet")
    annotations = agent["spec"]["template"]["metadata"]["annotations"]
    for name, container in containers(agent).items():
        assert annotations[f"container.apparmor.security.beta.kubernetes.io/{name}"] == "unconfined"
        assert container["securityContext"]["seLinuxOptions"] == {"type": "spc_t"}


def test_no_pod_is_made_past_the_webhook():
    """One that should have weir is refused while nobody answers; what other webhooks add is looked at, too."""
    [hook] = workload("injector.yaml", "MutatingWebhookConfiguration")["webhooks"]
    assert (hook["failurePolicy"], hook["reinvocationPolicy"]) == ("Fail", "IfNeeded")
    [rule] = hook["rules"]
    assert (rule["operations"], rule["resources"]) == (["CREATE"], ["pods"])
    deployment = workload("injector.yaml", "Deployment")["spec"]
    disruption = workload("injector.yaml", "PodDisruptionBudget")["spec"]
    assert deployment["replicas"] > disruption["minAvailable"] > 0
    [spread] = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname" and spread["labelSelector"] == deployment["selector"]


def test_the_agent_is_on_every_node_and_sees_what_it_is_for():
    pod = pod_spec(workload("node-agent.yaml", "DaemonSet"))
    assert pod["hostPID"] and pod["tolerations"] == [{"operator": "Exists"}] and pod["priorityClassName"] == "system-node-critical"
    folders = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"]}
    [container] = pod["containers"]
    mounted = {mount["mountPath"]: folders[mount["name"]] for mount in container["volumeMounts"]}
    assert mounted == {path: path for path in ("/sys/fs/bpf", "/sys/fs/cgroup")}
    assert not any(mount.get("readOnly") for mount in container["volumeMounts"])


@pytest.mark.parametrize("name, kind", [("injector.yaml", "Deployment"), ("node-agent.yaml", "DaemonSet")])
def test_nobody_of_weirs_may_ask_the_api_server(name, kind):
    account, pod = workload(name, "ServiceAccount"), pod_spec(workload(name, kind))
    assert account["metadata"]["name"] == pod["serviceAccountName"]
    assert account["automountServiceAccountToken"] is pod["automountServiceAccountToken"] is False


def test_a_manifest_deleted_takes_no_other_along():
    """What is deleted with a namespace is gone, too: only its own file has it, and all else lives in it, or in none."""
    found = {path.name: kubernetes.load(path.read_text()) for path in MANIFESTS if not path.name.startswith("app")}
    [namespace] = found.pop("namespace.yaml")
    name = namespace["metadata"]["name"]
    for document in [document for documents in found.values() for document in documents]:
        nowhere = document["kind"] == "MutatingWebhookConfiguration"
        assert document["kind"] != "Namespace" and document["metadata"].get("namespace") == (None if nowhere else name), document["kind"]


def commands(text, heading):
    """The indented lines of a section."""
    return [line for line in text.partition(f"\n{heading}")[2].partition("\n## ")[0].splitlines() if line.startswith("    ")]


def test_the_order_that_is_told():
    """In the docs, what wants the namespace comes after it; and nothing of the webhook is deleted before its configuration, without
    which pods could not be made."""
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    for heading, last in (("## By webhook", "injector.yaml"), ("## Without privileges", "node-agent.yaml")):
        applied = [name for line in commands(text, heading) for name in re.findall(r"scripts/container/([\w-]+\.yaml)", line)]
        assert applied == ["namespace.yaml", last]
    deleted = [line.split("kubectl delete ")[1] for line in commands(text, "## Uninstalling") if "kubectl delete" in line]
    assert deleted[0].startswith("mutatingwebhookconfiguration weir-injector ") and deleted[-1] == "namespace weir-system"


# In place of kubectl: it reads the files that it is given, and keeps what is applied.
KUBECTL = """#!/bin/bash
set -e
echo "$*" >>"$KEPT/calls"
for word; do
	case $word in
	--from-file=* | --cert=* | --key=*) cat "${word#*=}" >/dev/null ;;
	-) cat >"$KEPT/$(wc -l <"$KEPT/calls").yaml" ;;
	*.yaml) cat "$word" >"$KEPT/$(wc -l <"$KEPT/calls").yaml" ;;
	esac
done
"""


def test_the_page_can_be_followed(weir, tmp_path):
    """Its commands as they stand there, from the top of a checkout, and in its order; a cluster is all that is missing."""
    here, kept, programs = tmp_path / "checkout", tmp_path / "kept", tmp_path / "bin"
    for folder in (here, kept, programs):
        folder.mkdir()
    (here / "scripts").symlink_to(ROOT / "scripts")
    shutil.copy(FOLDER / "app.yaml", here)
    (programs / "weir").symlink_to(weir)
    (programs / "kubectl").write_text(KUBECTL)
    (programs / "kubectl").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "KEPT": str(kept)}
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    for heading in ("Configuration", "By file", "By webhook", "Without privileges", "Upgrading", "Uninstalling"):
        text = "\n".join(line[4:] for line in commands(page, f"## {heading}"))
        words = ["bash", "-e", "-o", "pipefail", "-c", text]
        done = subprocess.run(words, cwd=here, env=environment, capture_output=True, text=True, timeout=60)
        assert text and done.returncode == 0, f"{heading}: {done.stdout}{done.stderr}"
        if heading == "Configuration":
            assert "configuration: valid\n" in done.stdout
    applied = [document for path in kept.glob("*.yaml") for document in kubernetes.load(path.read_text())]
    for document in applied:
        kubernetes.check(document)
    assert {"Namespace", "DaemonSet", "MutatingWebhookConfiguration"} <= {document["kind"] for document in applied}
    [shop, *_] = [document for document in applied if document["metadata"]["name"] == "shop"]
    assert list(containers(shop)) == ["weir-proxy", "weir-init", "shop"]
    # The API server asks the webhook's Service by its name, and trusts that bundle.
    [hook, *_] = [document for document in applied if document["kind"] == "MutatingWebhookConfiguration"]
    client = hook["webhooks"][0]["clientConfig"]
    (here / "bundle.pem").write_bytes(base64.b64decode(client["caBundle"]))
    name = f"{client['service']['name']}.{client['service']['namespace']}.svc"
    words = ["openssl", "verify", "-CAfile", "bundle.pem", "-purpose", "sslserver", "-verify_hostname", name, "tls.crt"]
    done = subprocess.run(words, cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_webhook_parts_fit_together():
    files = [FOLDER / name for name in ("namespace.yaml", "injector.yaml")]
    found = {(d["kind"], d["metadata"]["name"]): d for path in files for d in kubernetes.load(path.read_text())}
    deployment, service = found["Deployment", "weir-injector"], found["Service", "weir-injector"]
    hook = found["MutatingWebhookConfiguration", "weir-injector"]["webhooks"][0]
    template = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    client = hook["clientConfig"]["service"]
    assert (client["name"], client["namespace"]) == (service["metadata"]["name"], service["metadata"]["namespace"])
    assert client["port"] == service["spec"]["ports"][0]["port"] and client["path"] == "/inject"
    container = template["spec"]["containers"][0]
    assert service["spec"]["ports"][0]["targetPort"] in [port["name"] for port in container["ports"]]
    # The webhook's own pods do not wait for the webhook.
    assert hook["namespaceSelector"]["matchLabels"].items().isdisjoint(
        found["Namespace", "weir-system"]["metadata"].get("labels", {}).items()
    )


# --- the image -------------------------------------------------------------------------------------------------------


def last_stage(build_dir, folder):
    """The last stage of the Containerfile, over the programs of a build."""
    subprocess.run([FOLDER / "root", build_dir, folder / "image"], check=True)
    text = "FROM scratch" + (FOLDER / "Containerfile").read_text().partition("FROM scratch")[2]
    (folder / "Containerfile").write_text(text.replace("COPY --from=build /image /", "COPY image /"))
    store = ["--root", folder / "store", "--runroot", folder / "run", "--storage-driver", "vfs"]
    for words in (["build", "-q", "-t", "weir:test", folder], ["push", "-q", "weir:test", f"oci-archive:{folder}/image.tar:weir:test"]):
        subprocess.run(list(map(str, ["buildah", *store, *words])), check=True, capture_output=True, timeout=120)
    return folder / "image.tar"


@pytest.fixture(scope="module")
def image(build_dir, tmp_path_factory):
    """An archive with the image weir:test."""
    if build_dir == RELEASE:
        yield debian.image()
    else:
        folder = tmp_path_factory.mktemp("image")
        yield last_stage(build_dir, folder)
        shutil.rmtree(folder)


# crun runs nothing where both versions of control groups have controllers.
ONE_VERSION = ["unshare", "--mount", "sh", "-c", 'umount -q /sys/fs/cgroup/unified; exec "$@"', "sh"]


class Engine:
    """podman with a store of its own. It runs in the network's hub, so that it and the monitors that it leaves behind end with
    the network, however the tests end."""

    def __init__(self, network, runtime):
        folder, self.runtime = network.folder, runtime
        self.inside = ["nsenter", f"--net=/run/netns/{network.hub.netns}", *ONE_VERSION]
        self.store = ["--root", folder / "store", "--runroot", folder / "run", "--storage-driver", "vfs"]

    def _run(self, *words, check=True):
        argv = [str(word) for word in (*self.inside, *words)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 or not check, done.stderr
        return done

    def argv(self, *words):
        return ["podman", *self.store, "--cgroup-manager", "cgroupfs", "--runtime", self.runtime, *words]

    def podman(self, *words, check=True):
        return self._run(*self.argv(*words), check=check)

    def start(self, log, *words):
        with open(log, "wb") as file:
            argv = [str(word) for word in (*self.inside, *self.argv(*words))]
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    @staticmethod
    def within():
        """What podman may do here, and what a sanitized program may."""
        files = min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        words = ["--ipc", "none", "--ulimit", f"nofile={files}:{files}", "--ulimit", "nproc=1024:1024"]
        return [*words, "--env", "ASAN_OPTIONS=detect_leaks=0"]

    def words(self, pod, container, volumes, name):
        """`podman run` with what a manifest says of a container."""
        security, capabilities = container["securityContext"], container["securityContext"]["capabilities"]
        assert security["readOnlyRootFilesystem"] and not security["privileged"]
        words = ["run", "--rm", *self.within(), "--name", name, "--network", f"ns:/run/netns/{pod.netns}"]
        words += ["--user", f"{security['runAsUser']}:{security['runAsGroup']}", "--read-only", "--read-only-tmpfs=false"]
        words += [] if security["allowPrivilegeEscalation"] else ["--security-opt", "no-new-privileges"]
        words += [f"--cap-drop={cap}" for cap in capabilities["drop"]] + [f"--cap-add={cap}" for cap in capabilities.get("add", [])]
        for variable in container.get("env", []):
            words += ["--env", f"{variable['name']}={variable.get('value', 'shop-1')}"]
        for mount in container.get("volumeMounts", []):
            words += ["-v", f"{volumes[mount['name']]}:{mount['mountPath']}:{'ro' if mount.get('readOnly') else 'rw'}"]
        command = [word.replace("$(WEIR_POD)", "shop-1") for word in container["command"]]
        return [*words, "--entrypoint", json.dumps(command), "weir:test"]


CAPABILITIES = {"NET_ADMIN": 12, "NET_RAW": 13}


def check_privileges(engine, name, container):
    """What the kernel says of a container's process is what its manifest says."""
    process = pathlib.Path("/proc", engine.podman("inspect", "--format", "{{.State.Pid}}", name).stdout.strip())
    status = dict(line.split(":\t") for line in (process / "status").read_text().splitlines())
    security = container["securityContext"]
    added = sum(1 << CAPABILITIES[name] for name in security["capabilities"].get("add", []))
    user, group = str(security["runAsUser"]), str(security["runAsGroup"])
    assert (status["Uid"].split(), status["Gid"].split()) == ([user] * 4, [group] * 4)
    assert (int(status["CapBnd"], 16), int(status["CapPrm"], 16) | added, int(status["CapAmb"], 16)) == (added, added, 0)
    assert status["NoNewPrivs"] == "1" or security["allowPrivilegeEscalation"]
    [options] = [words[5] for words in map(str.split, (process / "mountinfo").read_text().splitlines()) if words[4] == "/"]
    assert "ro" in options.split(",")


@pytest.fixture
def engine(network, image, request):
    engine = Engine(network, getattr(request, "param", "crun"))
    engine.podman("load", "-q", "-i", image)
    return engine


def test_image_holds_the_programs_and_nothing_else(engine, build_dir):
    shown = engine.podman("image", "inspect", "weir:test").stdout
    [shown] = json.loads(shown)
    assert shown["Config"]["User"] == "1771:1771" and shown["Config"]["Entrypoint"] == ["/usr/bin/weir-proxy"]
    root = pathlib.Path(engine.podman("image", "mount", "weir:test").stdout.split()[-1])
    files = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    programs = [path for path in files if "lib" not in str(path)]
    assert sorted(map(str, programs)) == ["usr/bin/weir", "usr/bin/weir-proxy"]
    assert all(re.search(r"\.so(\.\d+)*$", path.name) for path in files if path not in programs)
    loader = next(path for path in files if path.name.startswith("ld-linux"))
    for program in programs:
        words = ["chroot", root, f"/{loader}", "--list", f"/{program}"]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0 and "not found" not in done.stdout, done.stdout + done.stderr
    if build_dir == RELEASE:
        [told] = re.findall(r"(\d+) MB, no shell", (ROOT / "docs" / "kubernetes.md").read_text())
        size = sum((root / path).stat().st_size for path in files if not (root / path).is_symlink())
        assert abs(size / 1e6 - int(told)) < 2


def test_image_has_the_command_line(engine):
    """By the words of the page."""
    [words] = re.findall(r"`podman (run .*?weir:[\d.]+) (inject -f -) <app.yaml`", (ROOT / "docs" / "kubernetes.md").read_text())
    options, arguments = words[0].split()[1:-1], words[1].split()
    argv = engine.argv("run", *options, *engine.within(), "--network", "host", "weir:test", *arguments)
    with open(FOLDER / "app.yaml") as file:
        done = subprocess.run([*map(str, (*engine.inside, *argv))], stdin=file, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ((FOLDER / "app-injected.yaml").read_text(), 0), done.stderr


def test_webhook_runs_as_its_manifest_says(network, engine):
    container = containers(workload("injector.yaml", "Deployment"))["injector"]
    webhook, folder, log = Webhook(network.pod("webhook")), network.folder / "tls", network.folder / "injector.log"
    folder.mkdir()
    words = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=weir -keyout tls.key -out tls.crt".split()
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    (folder / "tls.key").chmod(0o644)  # as files of a Secret are
    daemon = engine.start(log, *engine.words(webhook.pod, container, {"tls": folder}, "injector"))

    def healthy(probe):
        with contextlib.suppress(ConnectionRefusedError):
            return webhook.request("GET", container[probe]["httpGet"]["path"])[0] == 200

    wait_until(lambda: healthy("readinessProbe"), timeout=20)
    check_privileges(engine, "injector", container)
    assert healthy("livenessProbe") and containers(webhook.patched(POD))["weir-proxy"]["image"] == "weir:0.1.0"
    engine.podman("kill", "--signal", "TERM", "injector")
    assert daemon.wait(30) == 0, log.read_text()


# --- a pod -----------------------------------------------------------------------------------------------------------
APP = """\
apiVersion: v1
kind: Pod
metadata:
  name: shop
  annotations:
    weir.io/tls-mode: strict
    weir.io/image: weir:test
spec:
  containers:
    - name: app
      image: app:1
      livenessProbe:
        httpGet: {path: /alive, port: 8080}
      readinessProbe:
        tcpSocket: {port: 8080}
"""


class Kubelet:
    """Runs an injected pod's own containers, asks probes."""

    def __init__(self, mesh, engine, weir, text, config):
        self.engine, self.hub = engine, mesh.network.hub
        made = subprocess.run([weir, "inject", "-f", "-"], input=text, capture_output=True, text=True, check=True).stdout
        self.document = kubernetes.load(made)[0]
        kubernetes.check(self.document)
        self.containers = containers(self.document)
        self.pod = mesh.network.pod("shop")
        self.volumes = {volume["name"]: mesh.network.folder / volume["name"] for volume in pod_spec(self.document)["volumes"]}
        for path in self.volumes.values():
            path.mkdir(mode=0o777)
            path.chmod(0o777)
        for key, path in mesh.certificate("shop").items():
            target = self.volumes["weir-tls"] / f"{key}.pem"
            shutil.copy(path, target)
            target.chmod(0o644)  # as files of a Secret are
        (self.volumes["weir-config"] / "weir.yaml").write_text(json.dumps({**acceleration(), **config}))
        self.log = mesh.network.folder / "weir-proxy.log"
        if acceleration():
            mesh.network.at_end.append(self._check_acceleration)

    def _check_acceleration(self):
        """The manifests do not give the privileges for it."""
        if self.log.exists():
            check_acceleration(self.log.read_text(), UNPRIVILEGED)

    def run(self, name):
        """An init container, to its end."""
        words = self.engine.words(self.pod, self.containers[name], self.volumes, name)
        return self.engine.podman(*words, check=False)

    def start(self, network, name):
        words = self.engine.words(self.pod, self.containers[name], self.volumes, name)
        return self.engine.start(network.folder / f"{name}.log", *words)

    def ask(self, probe):
        """The status of an httpGet probe; None if nobody answers."""
        get = probe["httpGet"]
        try:
            peer = connect(self.hub, self.pod.ipv4, get["port"])
        except ConnectionRefusedError:
            return None
        return peer.send(f"GET {get['path']} HTTP/1.1\r\nHost: {self.pod.ipv4}\r\n\r\n").response()[0]


@pytest.mark.parametrize("engine", ["crun", "runc"], indirect=True)
def test_pod_runs_as_its_manifest_says(network, weir, weir_proxy, engine):
    mesh = Mesh(network, weir, weir_proxy)
    folder = "/etc/weir-tls"
    server = network.pod("server")
    kubelet = Kubelet(mesh, engine, weir, APP, {
        "workers": 1,
        "tls": {"mode": "permissive", **{key: f"{folder}/{key}.pem" for key in ("certificate", "private_key", "trust")}},
        "services": [
            {"name": "web.mesh", "ports": [{"port": 80}], "cluster": "web"},
            {"name": "self.mesh", "ports": [{"port": 80}], "cluster": "self"},
        ],
        "clusters": [
            {"name": "web", "endpoints": [{"address": f"{server.ipv4}:80"}]},
            {"name": "self", "tls": "mesh", "endpoints": [{"address": "10.77.0.3:8080"}]},
        ],
    })  # fmt: skip
    assert kubelet.pod.ipv4 == "10.77.0.3"
    app, proxy = kubelet.containers["app"], kubelet.containers["weir-proxy"]

    # The sidecar is first. While it starts nothing is captured; when its startup probe passes the rules are laid.
    daemon = kubelet.start(network, "weir-proxy")
    wait_until(lambda: kubelet.ask(proxy["startupProbe"]) == 200, timeout=20)
    done = kubelet.run("weir-init")
    assert done.returncode == 0 and "installed" in done.stdout, done.stderr
    check_privileges(engine, "weir-proxy", proxy)

    # Then the application's own init containers, which have the network, by way of the proxy.
    with Origin(server, 80, serve(reply("hello"))):
        kubelet.pod.resolv_conf("nameserver 10.77.0.1\n")
        assert kubelet.pod.run(["curl", "-s", "--max-time", "30", "http://web.mesh/"]).stdout == "hello"
        assert kubelet.pod.run(["curl", "-s", "--max-time", "30", f"http://{server.ipv4}/"]).stdout == "hello"

    # Then the application, whose probes tell the truth in strict mutual TLS, which nobody else gets around.
    assert kubelet.ask(app["livenessProbe"]) == kubelet.ask(app["readinessProbe"]) == 503
    seen = []
    with Origin(kubelet.pod, 8080, serve(seen=seen)):
        assert kubelet.ask(app["livenessProbe"]) == kubelet.ask(app["readinessProbe"]) == 200
        with pytest.raises((ConnectionResetError, AssertionError)):
            connect(kubelet.hub, kubelet.pod.ipv4, 8080).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response()
        assert [head.split()[1] for head in seen] == ["/alive"]
        # A service of which the pod itself is an endpoint, over mutual TLS.
        kubelet.pod.run(["curl", "-sf", "--max-time", "30", "http://self.mesh/self"])
        assert seen[-1].split()[1] == "/self"
        assert kubelet.ask(proxy["readinessProbe"]) == kubelet.ask(proxy["livenessProbe"]) == 200
        # The end: preStop of the sidecar, the application's end, and then the sidecar's.
        stop = proxy["lifecycle"]["preStop"]["exec"]["command"]
        assert "draining: yes" in engine.podman("exec", "weir-proxy", *stop).stdout
        assert kubelet.ask(proxy["readinessProbe"]) == 503 and kubelet.ask(app["livenessProbe"]) == 200
        assert kubelet.ask(proxy["livenessProbe"]) == 200  # else the kubelet would end it with its connections
    engine.podman("kill", "--signal", "TERM", "weir-proxy")
    assert daemon.wait(30) == 0, (network.folder / "weir-proxy.log").read_text()


JOB = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: shop
spec:
  template:
    metadata:
      annotations:
        weir.io/image: weir:test
    spec:
      restartPolicy: Never
      containers:
        - name: app
          image: app:1
"""
GRACE = 30  # seconds: the kubelet's, where a pod says nothing else


@pytest.mark.parametrize("left", ["nothing", "a connection that is kept", "half a request"])
def test_a_job_ends_when_its_application_does(network, weir, weir_proxy, engine, left):
    """The kubelet sees the application's end, and ends the sidecar: preStop, SIGTERM, and SIGKILL if that was of no use. What
    clients left open does not keep it."""
    mesh = Mesh(network, weir, weir_proxy)
    server, client = network.pod("server"), network.pod("client")
    kubelet = Kubelet(mesh, engine, weir, JOB, {
        "workers": 1,
        "timeouts": {"drain": "1s" if left == "half a request" else "1h"},  # the first waits for that, the others do not
        "services": [{"name": "web.mesh", "ports": [{"port": 80}], "cluster": "web"}],
        "clusters": [{"name": "web", "endpoints": [{"address": f"{server.ipv4}:80"}]}],
    })  # fmt: skip
    proxy = kubelet.containers["weir-proxy"]
    assert proxy["restartPolicy"] == "Always" and "terminationGracePeriodSeconds" not in pod_spec(kubelet.document)
    daemon = kubelet.start(network, "weir-proxy")
    wait_until(lambda: kubelet.ask(proxy["startupProbe"]) == 200, timeout=20)
    assert kubelet.run("weir-init").returncode == 0
    with Origin(server, 80, serve(reply("hello"))), Origin(kubelet.pod, 8080, serve()):
        kubelet.pod.resolv_conf("nameserver 10.77.0.1\n")
        assert kubelet.pod.run(["curl", "-s", "--max-time", "30", "http://web.mesh/"]).stdout == "hello"
        if left != "nothing":
            peer = connect(client, kubelet.pod.ipv4, 8080).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert peer.response()[0] == 200
        if left == "half a request":
            peer.send("GET / HTTP/1.1\r\n")
    assert daemon.poll() is None
    assert "draining: yes" in engine.podman("exec", "weir-proxy", *proxy["lifecycle"]["preStop"]["exec"]["command"]).stdout
    engine.podman("stop", "--time", GRACE, "weir-proxy")
    assert daemon.wait(30) == 0, (network.folder / "weir-proxy.log").read_text()
    if left != "nothing":
        peer.rest()  # it has ended


def test_init_container_without_its_capability_says_so(network, weir, weir_proxy, engine):
    """And what it may not do otherwise: the manifest's sets are no more than is needed."""
    mesh = Mesh(network, weir, weir_proxy)
    kubelet = Kubelet(mesh, engine, weir, APP, {})
    kubelet.containers["weir-init"]["securityContext"]["capabilities"].pop("add")
    done = kubelet.run("weir-init")
    assert done.returncode == 1 and "CAP_NET_ADMIN" in done.stderr


@pytest.fixture
def node(network, weir, agents_turn):
    """Starts the node's agent."""
    yield lambda: network.hub.start([weir, "intercept", "attend"], ready=output("looking for proxies"))
    for daemon in network.daemons:
        daemon.kill()


AGENT_APP = APP.replace("    weir.io/tls-mode", "    weir.io/interception: agent\n    weir.io/tls-mode")


def test_agent_captures_pods_without_privileges(network, weir, weir_proxy, engine, node):
    """The agent on the node lays the interception; the pod's own init container only waits for it."""
    mesh = Mesh(network, weir, weir_proxy)
    server = network.pod("server")
    kubelet = Kubelet(mesh, engine, weir, AGENT_APP, {
        "workers": 1,
        "tls": {"mode": "permissive", **{key: f"/etc/weir-tls/{key}.pem" for key in ("certificate", "private_key", "trust")}},
        "services": [{"name": "web.mesh", "ports": [{"port": 80}], "cluster": "web"}],
        "clusters": [{"name": "web", "endpoints": [{"address": f"{server.ipv4}:80"}]}],
    })  # fmt: skip
    proxy, init = kubelet.containers["weir-proxy"], kubelet.containers["weir-init"]
    for container in (proxy, init):
        security = container["securityContext"]
        assert security["runAsNonRoot"] and "add" not in security["capabilities"] and security["runAsUser"] == 1771
    # What the pod puts where the agent writes does not lead it astray.
    victim, mark = network.folder / "victim", kubelet.volumes["weir-run"] / "captured"
    victim.write_text("untouched")
    mark.symlink_to(victim)
    agent = node()
    daemon = kubelet.start(network, "weir-proxy")
    wait_until(lambda: kubelet.ask(proxy["startupProbe"]) == 200, timeout=20)
    wait_until(lambda: "cannot be written" in agent.output())
    assert victim.read_text() == "untouched"
    mark.unlink()
    done = kubelet.run("weir-init")
    assert done.returncode == 0 and "installed" in done.stdout, done.stderr
    with Origin(server, 80, serve(reply("hello"))):
        kubelet.pod.resolv_conf("nameserver 10.77.0.1\n")
        assert kubelet.pod.run(["curl", "-s", "--max-time", "30", "http://web.mesh/"]).stdout == "hello"
    with Origin(kubelet.pod, 8080, serve()):
        assert kubelet.ask(kubelet.containers["app"]["livenessProbe"]) == 200
        with pytest.raises((ConnectionResetError, AssertionError)):
            connect(kubelet.hub, kubelet.pod.ipv4, 8080).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response()
    # The agent goes, what it installed stays.
    assert agent.stop() == 0
    kubelet.pod.run([weir, "intercept", "check"])
    # A mark from another network, as after the pod's network was made anew, does not count.
    mark.write_text("1\n")
    init["command"].append("--timeout=1")
    done = kubelet.run("weir-init")
    assert done.returncode == 1 and "does weir's node agent run" in done.stderr
    engine.podman("kill", "--signal", "TERM", "weir-proxy")
    assert daemon.wait(30) == 0


def test_agent_lets_applications_see_their_clients(network, weir, weir_proxy, engine, node):
    mesh = Mesh(network, weir, weir_proxy)
    text = AGENT_APP.replace("tls-mode: strict", "inbound-source: client")
    kubelet = Kubelet(mesh, engine, weir, text, {"workers": 1})
    agent, daemon = node(), kubelet.start(network, "weir-proxy")
    assert kubelet.run("weir-init").returncode == 0, agent.output()
    client = network.pod("client")
    with Origin(kubelet.pod, 8080, lambda peer: peer.send(peer.sock.getpeername()[0] + "\n").rest()):
        peer = connect(client, kubelet.pod.ipv4, 8080)
        assert peer.until("\n") == f"{client.ipv4}\n".encode()
        shown = engine.podman("exec", "weir-proxy", "/usr/bin/weir", "conn", "show", "-j").stdout
        assert [row["direction"] for row in json.loads(shown)["connections"]] == ["inbound"]
        assert peer.end().rest() == b""
    assert agent.stop() == 0
    engine.podman("kill", "--signal", "TERM", "weir-proxy")
    assert daemon.wait(20) == 0


@pytest.mark.parametrize(
    "capture, reason",
    [
        ("--vips=x", "vips: 'x' is no network"),
        ("--nothing", "there is no option --nothing"),
        ("x", "'x' is no option"),
        ("--proxy-user=7 --inbound-port=0", "inbound-port: '0' is no port"),
    ],
)
def test_agent_says_what_is_wrong_with_a_pod(network, weir, weir_proxy, node, capture, reason):
    sidecar = Mesh(network, weir, weir_proxy).sidecar("app", start=False)
    agent = node()
    sidecar.start(env={"WEIR_CAPTURE": capture})
    pid = next(int(pid) for pid in sidecar.pod.run(["ip", "netns", "pids", sidecar.pod.netns]).stdout.split())
    wait_until(lambda: re.search(rf'could not be captured" pid={pid} .*{re.escape(reason)}', agent.output()))
    assert "weir" not in sidecar.pod.run(["nft", "list", "ruleset"]).stdout
