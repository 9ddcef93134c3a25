# SPDX-License-Identifier: Apache-2.0
"""weir injector: the admission webhook, with reviews that an API server has sent (reviews/), with such as other servers may send,
and with what nobody should send."""

import base64
import contextlib
import copy
import http.client
import json
import os
import pathlib
import re
import socket
import ssl
import subprocess

import pytest
import yaml

import kubernetes
from netns import listening, wait_until
from test_inject import containers, options

PORT = 8443
# With its user and capabilities the webhook runs here.
MANIFEST = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "container" / "injector.yaml"
UID = "705ab4f5-6393-11e8-b7cc-42010a800002"

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "shop-6f7c-", "labels": {"app": "shop"}, "annotations": {"weir.io/log-level": "debug"}},
    "spec": {
        "volumes": [{"name": "kube-api-access-x", "emptyDir": {}}],
        "initContainers": [{"name": "migrate", "image": "shop:1", "resources": {}}],
        "containers": [
            {
                "name": "app",
                "image": "shop:1",
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                "livenessProbe": {
                    "httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"},
                    "timeoutSeconds": 1,
                },
                "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 3},
                "startupProbe": {"grpc": {"port": 9000, "service": ""}},
                "lifecycle": {"preStop": {"httpGet": {"path": "/bye", "port": 8080, "scheme": "HTTPS"}}},
            }
        ],
        "serviceAccountName": "default",
        "terminationGracePeriodSeconds": 30,
    },
}  # fmt: skip


# What a real API server has sent, byte by byte: see reviews/README.md.
REVIEWS = pathlib.Path(__file__).parent / "reviews"
# The probes that the proxy takes over in each of the pods that get weir.
RECORDED = {
    "annotated": {"app/readiness": "tcp:80"},
    "applied": {"app/liveness": "http:80/?a=<b>"},
    "daemonset": {},
    "deployment": {"app/readiness": "http:8080/ready"},
    "dry": {},
    "full": {
        "app/startup": "http:8080/start?a=1&b=%20",
        "app/readiness": "tcp:8443",
        "app/liveness": "https:8443/healthz",
        "app/post-start": "http:8080/hello",
        "helper/pre-stop": "https:9000/bye",
        "second/liveness": "tcp:9001",
    },
    "job": {},
    "later": {"app/liveness": "tcp:80"},
    "plain": {},
    "serverside": {"app/liveness": "tcp:1"},
    "statefulset": {"app/liveness": "tcp:6379"},
}
# Those that stay as they are, and what is said to it.
RECORDED_SPARED = {
    "byfile": None,
    "declined": None,
    "host": "weir: this pod is left alone: it uses the host's network",
    "host-connect-exec": None,
    "host-create-binding": None,
    "host-delete": None,
    "host-update": None,
    "mirror": "weir: this pod is left alone: it is a copy of a static pod",
}


def recorded(name):
    """The bytes that were sent, and the request in them."""
    sent = (REVIEWS / f"{name}.http").read_bytes()
    return sent, json.loads(sent.partition(b"\r\n\r\n")[2])["request"]


def review(pod=POD, **changes):
    request = {
        "uid": UID,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "default",
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller", "groups": ["a"]},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        **changes,
    }
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}


def apply_patch(document, patch):
    """JSON Patch (RFC 6902), with the API server's strictness: what is replaced or removed must be there."""
    document = copy.deepcopy(document)
    for operation in patch:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        at = document
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at[part]
        if isinstance(at, list):
            assert operation["op"] == "add"
            at.insert(len(at) if last == "-" else int(last), operation["value"])
        else:
            assert operation["op"] == "add" or last in at, operation
            if operation["op"] == "remove":
                del at[last]
            else:
                at[last] = operation["value"]
    return document


def judged(uid, status, text):
    """The response in the answer to a review."""
    assert status == 200, text
    answer = json.loads(text)
    assert answer["apiVersion"] == "admission.k8s.io/v1" and answer["kind"] == "AdmissionReview"
    assert answer["response"]["uid"] == uid
    return answer["response"]


def patched(pod, response):
    assert response["allowed"] and response["patchType"] == "JSONPatch" and "status" not in response
    return apply_patch(pod, json.loads(base64.b64decode(response["patch"])))


class Webhook:
    """One that serves in a pod, as the API server sees it."""

    def __init__(self, pod):
        self.pod = pod

    def connect(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with self.pod.enter():
            return context.wrap_socket(socket.create_connection(("127.0.0.1", PORT), timeout=30))

    def request(self, method, path, body=None, headers=None, **options):
        client = http.client.HTTPConnection("injector")
        client.sock = self.connect()
        client.request(method, path, body, headers or {"Content-Type": "application/json"}, **options)
        answer = client.getresponse()
        text = answer.read().decode()
        client.close()
        return answer.status, text

    def send(self, sent):
        """Bytes that are a whole request, as they are."""
        answer = http.client.HTTPResponse(sock := self.connect())
        sock.sendall(sent)
        answer.begin()
        return answer.status, answer.read().decode()

    def play(self, name):
        """A recorded review, and what is answered to it."""
        sent, request = recorded(name)
        return request, judged(request["uid"], *self.send(sent))

    def review(self, document):
        return judged(UID, *self.request("POST", "/inject?timeout=10s", json.dumps(document)))

    def patched(self, pod):
        return patched(pod, self.review(review(pod)))


class Injector(Webhook):
    def __init__(self, network, weir, *words):
        super().__init__(network.pod("injector"))
        self.folder = network.folder
        self.certificate, self.key = self.folder / "tls.crt", self.folder / "tls.key"
        self.issue("first")
        self.daemon = self.pod.start(
            [*kubernetes.confined(kubernetes.manifest(MANIFEST, "Deployment"))]
            + [weir, "injector", "--certificate", self.certificate, "--private-key", self.key, *words],
            ready=listening(PORT),
        )

    def issue(self, name):
        """Another self-signed certificate for that name, as a rotation does it."""
        made = [self.folder / f"{name}.key", self.folder / f"{name}.crt"]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
            + ["-subj", f"/CN={name}", "-days", "1", "-keyout", made[0], "-out", made[1]],
            check=True,
            capture_output=True,
        )
        made[0].chmod(0o644)
        for path, final in zip(made, (self.key, self.certificate)):
            os.rename(path, final)


@pytest.fixture
def injector(network, weir):
    return Injector(network, weir)


# --- reviews ---------------------------------------------------------------------------------------------------------


def check_by_file(weir, pod, made):
    """`weir inject` makes the same of the pod; the order of volumes says nothing."""
    text = yaml.safe_dump(pod, default_flow_style=False)
    done = subprocess.run([weir, "inject", "-f", "-"], input=text, capture_output=True, text=True, check=True)
    by_file, made = kubernetes.load(done.stdout)[0], copy.deepcopy(made)
    volumes = [sorted(p["spec"].pop("volumes"), key=lambda v: v["name"]) for p in (made, by_file)]
    assert volumes[0] == volumes[1]
    assert made == by_file


def test_pod_gets_what_the_manifest_would(injector, weir):
    """The webhook and `weir inject` make the same pod."""
    bare = {key: value for key, value in POD["spec"].items() if key not in ("volumes", "initContainers")}
    for pod in (POD, {**POD, "spec": bare}, {**POD, "spec": {**bare, "volumes": [], "initContainers": None}}):
        patched = injector.patched(pod)
        check_by_file(weir, pod, patched)
    assert list(containers(patched)) == ["weir-proxy", "weir-init", "app"]
    assert options(containers(patched)["weir-proxy"])["probe"] == {
        "app/startup": "grpc:9000/",
        "app/readiness": "tcp:8080",
        "app/liveness": "http:8080/healthz",
        "app/pre-stop": "https:8080/bye",
    }


HANDLERS = {"httpGet", "tcpSocket", "grpc"}


def with_its_probes(made, pod):
    """A part of a pod, with the handlers that ask weir in it replaced by those that were there."""
    if isinstance(made, list):
        return [with_its_probes(part, before) for part, before in zip(made, pod, strict=True)]
    if not isinstance(made, dict):
        return made
    if made.get("httpGet", {}).get("path", "").startswith("/weir/probe/"):
        made = {key: value for key, value in made.items() if key not in HANDLERS}
        return {**made, **{key: value for key, value in pod.items() if key in HANDLERS}}
    return {key: with_its_probes(value, pod.get(key)) for key, value in made.items()}


def taken_out(made, pod):
    """A pod without what weir has put in, whose lists are absent where they were."""
    spec = dict(made["spec"])
    for name in ("volumes", "initContainers"):
        spec[name] = [part for part in spec[name] if not part["name"].startswith("weir-")]
        if name not in pod["spec"]:
            assert not spec.pop(name)
    return with_its_probes({**made, "spec": spec}, pod)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_pods(injector, weir, name):
    """What `weir inject` puts in goes in, nothing of the pod's is lost, and once is enough."""
    request, response = injector.play(name)
    pod = request["object"]
    made = patched(pod, response)
    check_by_file(weir, pod, made)
    assert taken_out(made, pod) == pod
    assert list(containers(made)) == ["weir-proxy", "weir-init", *containers(pod)]
    assert options(containers(made)["weir-proxy"]).get("probe", {}) == RECORDED[name]
    assert request["dryRun"] == (name == "dry")
    assert injector.review(review(made)) == {"uid": UID, "allowed": True}


@pytest.mark.parametrize("name, warning", RECORDED_SPARED.items())
def test_recorded_requests_that_change_nothing(injector, name, warning):
    request, response = injector.play(name)
    assert response == {"uid": request["uid"], "allowed": True, **({"warnings": [warning]} if warning else {})}


def test_recorded_refusal(injector):
    request, response = injector.play("wrong")
    assert response == {
        "uid": request["uid"],
        "allowed": False,
        "status": {
            "code": 400,
            "reason": "BadRequest",
            "message": "weir: there is no weir.io/imag, did you mean weir.io/image?",
        },
    }


def test_recorded_once_more(injector):
    """Another webhook has added a container to the pod that the answer made, and the API server asks again."""
    request, response = injector.play("later-again")
    pod = request["object"]
    made = patched(pod, response)
    assert options(containers(made)["weir-proxy"])["probe"] == {"app/liveness": "tcp:80", "later/readiness": "tcp:81"}
    assert containers(made)["later"]["readinessProbe"]["httpGet"] == {"path": "/weir/probe/later/readiness", "port": 15021}
    del containers(made)["weir-proxy"]["command"][-1]
    assert with_its_probes(made, pod) == pod
    first = recorded("later")[1]["object"]
    assert list(containers(pod)) == ["weir-proxy", "weir-init", *containers(first), "later"]


def test_every_recorded_review_is_played():
    assert {path.stem for path in REVIEWS.glob("*.http")} == {*RECORDED, *RECORDED_SPARED, "wrong", "later-again"}


def test_patched_pod_keeps_to_the_field_rules(injector):
    patched = injector.patched(POD)
    for container in patched["spec"]["initContainers"]:
        container.setdefault("image", "x")
    kubernetes.check(patched)
    assert injector.patched(POD)["spec"]["initContainers"][2] == POD["spec"]["initContainers"][0]


def test_probes_of_sidecars_are_counted_before_weirs(injector):
    """Paths of the patch count the init containers that were there."""
    sidecar = {"name": "log", "image": "l", "restartPolicy": "Always", "livenessProbe": {"tcpSocket": {"port": 1}}}
    pod = copy.deepcopy(POD)
    pod["spec"]["initContainers"].append(sidecar)
    made = containers(injector.patched(pod))
    assert made["log"]["livenessProbe"]["httpGet"]["path"] == "/weir/probe/log/liveness"
    assert list(made)[:4] == ["weir-proxy", "weir-init", "migrate", "log"]


def test_containers_that_come_later(injector):
    """Another webhook adds some, and the API server asks once more: the proxy that is there takes their probes over."""
    pod = injector.patched(POD)
    assert injector.review(review(pod)) == {"uid": UID, "allowed": True}
    later = {"name": "later", "image": "l", "readinessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 3}}
    first = {"name": "first", "image": "f", "restartPolicy": "Always", "livenessProbe": {"httpGet": {"port": 2, "path": "/a"}}}
    pod["spec"]["containers"].insert(0, later)
    pod["spec"]["initContainers"].insert(0, first)
    again = injector.patched(pod)
    before, made = containers(pod), containers(again)
    known = options(before["weir-proxy"])["probe"]
    assert options(made["weir-proxy"])["probe"] == {**known, "later/readiness": "tcp:1", "first/liveness": "http:2/a"}
    assert made["later"]["readinessProbe"] == {"httpGet": {"path": "/weir/probe/later/readiness", "port": 15021}, "periodSeconds": 3}
    assert made["first"]["livenessProbe"] == {"httpGet": {"path": "/weir/probe/first/liveness", "port": 15021}}
    assert made["app"] == before["app"] and made["weir-init"] == before["weir-init"]
    assert injector.review(review(again)) == {"uid": UID, "allowed": True}
    # A proxy that answers probes elsewhere is another's.
    pod["metadata"]["annotations"]["weir.io/probe-port"] = "16000"
    assert injector.review(review(pod)) == {"uid": UID, "allowed": True}


def change(**spec):
    pod = copy.deepcopy(POD)
    pod["spec"].update(spec)
    return pod


def annotated(**annotations):
    pod = copy.deepcopy(POD)
    pod["metadata"]["annotations"] = {f"weir.io/{name}": value for name, value in annotations.items()}
    return pod


@pytest.mark.parametrize(
    "pod, warning",
    [
        (annotated(inject="false"), None),
        (change(initContainers=[{"name": "weir-proxy", "image": "x"}]), None),
        (change(hostNetwork=True), "weir: this pod is left alone: it uses the host's network"),
        (change(os={"name": "windows"}), "weir: this pod is left alone: it is a pod for Windows"),
    ],
)
def test_pods_left_alone(injector, pod, warning):
    assert injector.review(review(pod)) == {
        "uid": UID, "allowed": True, **({"warnings": [warning]} if warning else {}),
    }  # fmt: skip


@pytest.mark.parametrize(
    "pod, message",
    [
        (annotated(imag="x"), "weir: there is no weir.io/imag, did you mean weir.io/image?"),
        (annotated(vips="x"), "weir: vips: 'x' is no network (10.0.0.0/8, fd00::/8)"),
        (change(securityContext={"runAsUser": 1771}), "weir: the pod runs as user 1771, as the proxy does: choose another"
         " with weir.io/proxy-user"),
        (change(containers=7), "weir: containers is no list"),
        (change(volumes=[{"name": "a"}, {"name": "weir-config"}]), "weir: the pod has a volume 'weir-config', as weir calls one"
         " of its own: name it otherwise"),
        (annotated(**{"probe-port": "15006"}), "weir: probe-port: 15006 is a port that the proxy captures to"),
        (annotated(image="a\n\x1b"), r"weir: image: 'a\n\x1b' is no IMAGE"),
    ],
)  # fmt: skip
def test_refusals_in_the_form_of_the_api(injector, pod, message):
    assert injector.review(review(pod)) == {
        "uid": UID,
        "allowed": False,
        "status": {"code": 400, "reason": "BadRequest", "message": message},
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"operation": "UPDATE"},
        {"operation": "DELETE", "object": None},
        {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}},
    ],
)
def test_other_requests_pass(injector, changes):
    assert injector.review(review(**changes)) == {"uid": UID, "allowed": True}


def test_defaults_come_from_options(network, weir):
    injector = Injector(network, weir, "--image=mesh/weir:7", "--log-level=warn", "--exclude-outbound-ports=25")
    made = containers(injector.patched(POD))
    assert made["weir-init"]["image"] == "mesh/weir:7" and options(made["weir-init"])["exclude-outbound-ports"] == "25"
    assert options(made["weir-proxy"])["set"]["log.level"] == "debug"


def test_texts_come_through(injector, weir_proxy):
    pod = copy.deepcopy(POD)
    pod["spec"]["containers"][0]["name"] = "app"
    pod["spec"]["containers"][0]["livenessProbe"]["httpGet"]["path"] = '/ä"\\<>&\u2028\t ?$(A)#here'
    pod["metadata"]["annotations"]["note"] = "x" * 300000 + "\U0001f600"
    command = containers(injector.patched(pod))["weir-proxy"]["command"]
    [probe] = [word for word in command if word.startswith("--probe=app/liveness")]
    assert probe == '--probe=app/liveness=http:8080/%C3%A4"\\<>&%E2%80%A8%09%20?$$(A)'
    # The proxy would not start with a probe that it does not understand.
    done = subprocess.run([weir_proxy, "--config=/none", probe.replace("$$", "$")], capture_output=True, text=True)
    assert "/none" in done.stderr and "probe" not in done.stderr


# --- what nobody should send -----------------------------------------------------------------------------------------
DEEP = "[" * 100000
BROKEN = [
    ("", "not valid JSON"),
    ("null", "this is no AdmissionReview"),
    ("[]", "this is no AdmissionReview"),
    ("{", "not valid JSON"),
    (DEEP, "nested too deeply"),
    ('{"a":' * 5000, "nested too deeply"),
    ("[" + "0," * 300000 + "0]", "nested too deeply, or too many values"),
    (json.dumps(review())[:-20], "not valid JSON"),
    (json.dumps(review()) + "{}", "not valid JSON"),
    ("kind: AdmissionReview", "not valid JSON"),
    ("{\"a\": \"\u0000\"}", "1:8: this byte is no UTF-8 text"),
    (b"\xff\xfe{}", "1:1: this byte is no UTF-8 text"),
    (json.dumps({**review(), "apiVersion": "admission.k8s.io/v1beta1"}), "only reviews of admission.k8s.io/v1"),
    (json.dumps(review(uid="")), "the request has no uid"),
    (json.dumps(review(object=None)), "the request has no object"),
    (json.dumps(review(object=[1])), "the request has no object"),
    ('{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": 7}', "the request has no uid"),
]


@pytest.mark.parametrize("body, reason", BROKEN, ids=range(len(BROKEN)))
def test_no_review(injector, body, reason):
    status, text = injector.request("POST", "/inject", body)
    assert status == 400 and re.match(reason, text)
    assert injector.review(review())["allowed"]  # and the next one is answered


def test_http(injector):
    assert injector.request("GET", "/healthz") == (200, "ok\n")
    assert injector.request("GET", "/readyz") == (200, "ok\n")
    assert injector.request("GET", "/inject")[0] == 405 and injector.request("POST", "/healthz")[0] == 405
    assert injector.request("POST", "/", "{}")[0] == 404
    assert injector.request("POST", "/inject", "{}", {"Content-Type": "text/plain"})[0] == 415
    assert injector.request("POST", "/inject", "{}", {"A": "b"})[0] == 415
    sock, text = injector.connect(), json.dumps(review()).encode()
    sock.sendall(b"POST /inject HTTP/1.0\r\nContent-Type: Application/JSON; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
    assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
    sock = injector.connect()
    sock.sendall(b"POST /inject HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
    assert sock.recv(100).startswith(b"HTTP/1.1 400 ")


def test_length_is_required(injector):
    """API servers say how long a review is; chunks would have to be joined."""
    headers = {"Content-Type": "application/json"}
    assert injector.request("POST", "/inject", iter([b"{}"]), headers, encode_chunked=True)[0] == 411


def test_sizes_are_bounded(injector):
    """Reviews up to the limit are answered, a longer one is refused before it is sent."""
    pod = copy.deepcopy(POD)
    pod["metadata"]["annotations"]["big"] = "x" * (3 << 20)
    assert containers(injector.patched(pod))["weir-proxy"]
    sock = injector.connect()
    sock.sendall(b"POST /inject HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 8388609\r\n\r\n")
    assert sock.recv(100).startswith(b"HTTP/1.1 413 ")
    assert injector.review(review())["allowed"]


def test_silent_clients_do_not_keep_the_api_server_out(injector):
    silent = []
    with injector.pod.enter():
        for _ in range(100):
            silent.append(socket.create_connection(("127.0.0.1", PORT)))
    assert injector.review(review())["allowed"]
    plain = silent.pop()
    plain.settimeout(30)
    with contextlib.suppress(ConnectionError):
        plain.sendall(b"POST /inject HTTP/1.1\r\nHost: a\r\n\r\n")  # no TLS
        assert b"HTTP" not in plain.recv(100)


# --- life ------------------------------------------------------------------------------------------------------------


def subject(injector):
    """The name in the certificate that a client gets."""
    der = injector.connect().getpeercert(binary_form=True)
    done = subprocess.run(["openssl", "x509", "-inform", "DER", "-noout", "-subject"], input=der, capture_output=True)
    return done.stdout.decode().strip()


def test_certificate_is_replaced(injector):
    assert subject(injector) == "subject=CN = first"
    injector.issue("second")
    wait_until(lambda: subject(injector) == "subject=CN = second", timeout=20)
    injector.certificate.write_text("no certificate")
    wait_until(lambda: "the old one stays" in injector.daemon.output(), timeout=20)
    assert subject(injector) == "subject=CN = second" and injector.review(review())["allowed"]


def test_start_and_end(injector, weir, tmp_path):
    assert injector.daemon.stop() == 0

    def run(*words):
        return subprocess.run([weir, "injector", *words], capture_output=True, text=True, timeout=60)

    assert run().returncode == 2
    done = run("--certificate", tmp_path / "no", "--private-key", injector.key)
    assert done.returncode == 1 and str(tmp_path / "no") in done.stderr
    done = run("--certificate", injector.certificate, "--private-key", injector.certificate)
    assert done.returncode == 1 and "tls.crt" in done.stderr
    files = ["--certificate", injector.certificate, "--private-key", injector.key]
    assert run(*files, "--port=0").returncode == 2 and run(*files, "--log-level=x").returncode == 2
