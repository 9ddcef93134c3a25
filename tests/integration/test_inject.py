# SPDX-License-Identifier: Apache-2.0
"""weir inject: manifests with weir put in, everything else byte by byte as it was, and taken out again."""

import contextlib
import difflib
import os
import pathlib
import re
import subprocess

import jsonschema
import pytest

import kubernetes

ROOT = pathlib.Path(__file__).resolve().parents[2]
MARK = "# >>> weir inject"

POD = """\
spec:
  containers:
    - name: app
      image: app:1
"""

DEPLOYMENT = """\
# The shop.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop   # with a comment
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata:
      labels: {app: shop}
      annotations:
        weir.io/log-level: debug
        weir.io/exclude-outbound-ports: "25,9000-9010"

    spec:
      # first of all
      initContainers:
      # migrates
      - name: migrate
        image: "shop:1"
        command: [migrate]
      -
        name: warm
        image: shop:1
        args:
        - |
          # >>> weir inject: added
          this is no mark
          # <<< weir inject
      containers:
        - name: "app"
          image: shop:1
          ports: [{name: http, containerPort: 8080}]
          livenessProbe: {httpGet: {path: "/x?a=$b", port: http}, periodSeconds: 7}   # flow
          readinessProbe:
            # inside
            tcpSocket:
              port: 8080   # why

            periodSeconds: 3
          startupProbe:
            grpc: {port: 9000, service: a.B}
          lifecycle:
            preStop:
              httpGet:
                path: stop
                port: 8080
                httpHeaders:
                - name: X-Y
                  value: "1"
        - livenessProbe:
            exec: {command: ["true"]}
          name: other
          image: shop:1
          readinessProbe:
            httpGet: {path: /elsewhere, port: 1, host: 192.0.2.1}
      volumes: []
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {ports: [{port: 80}]}
"""


def weir_inject(weir, text, *words, check=True):
    done = subprocess.run([weir, "inject", "-f", "-", *words], input=text, capture_output=True, text=True, timeout=60)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def inject(weir, text, *words):
    """The text with weir in it: valid, idempotent, reversible, and nothing but whole lines have been put in."""
    changed = weir_inject(weir, text, *words).stdout
    assert weir_inject(weir, changed, *words).stdout == changed
    assert weir_inject(weir, changed, "--uninject").stdout == text
    kept = [line for line in changed.splitlines() if not line.startswith("#| ")]
    for line in difflib.ndiff(text.splitlines(), kept):
        assert not line.startswith("- ") or f"#| {line[2:]}" in changed.splitlines()
    for document in kubernetes.load(changed):
        kubernetes.check(document)
    return changed


def pod_spec(document):
    spec = document.get("spec", document)
    while "template" in spec or "jobTemplate" in spec:
        spec = (spec.get("jobTemplate") or spec.get("template"))["spec"]
    return spec


def containers(document):
    spec = pod_spec(document)
    return {container["name"]: container for container in spec.get("initContainers", []) + spec["containers"]}


def options(container):
    """The arguments of a container as a dict from option to value; --set and --probe to dicts."""
    found = {}
    for word in container["command"]:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            continue
        if name in ("set", "probe"):
            key, _, value = value.partition("=")
            found.setdefault(name, {})[key] = value
        else:
            found[name] = value if equals else True
    return found


# --- what goes in ----------------------------------------------------------------------------------------------------


def test_deployment(weir):
    changed = inject(weir, DEPLOYMENT)
    shop, service = kubernetes.load(changed)
    assert service == kubernetes.load(DEPLOYMENT)[1]
    spec = pod_spec(shop)
    assert [c["name"] for c in spec["initContainers"]] == ["weir-proxy", "weir-init", "migrate", "warm"]
    proxy, init = spec["initContainers"][:2]
    assert proxy["restartPolicy"] == "Always" and "restartPolicy" not in init
    assert options(proxy)["set"] == {"node.id": "$(WEIR_POD)", "log.level": "debug"}
    assert init["command"][:3] == ["/usr/bin/weir", "intercept", "apply"]
    assert options(init) == {
        "proxy-user": "1771",
        "vips": "240.240.0.0/16,fd77:65:6972::/112",
        "exclude-outbound-ports": "25,9000-9010",
        "exclude-inbound-ports": "15021",
    }
    assert {v["name"] for v in spec["volumes"]} == {"weir-config", "weir-tls", "weir-run", "weir-state"}


def test_privileges(weir):
    made = containers(kubernetes.load(inject(weir, "kind: Pod\n" + POD))[0])
    proxy, init = made["weir-proxy"]["securityContext"], made["weir-init"]["securityContext"]
    for context in (proxy, init):
        assert context["readOnlyRootFilesystem"] and not context["privileged"]
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    # The program's file lets another user than root have NET_RAW, which Kubernetes calls an escalation.
    assert proxy["capabilities"]["add"] == ["NET_RAW"] and proxy["allowPrivilegeEscalation"]
    assert proxy["runAsNonRoot"] and proxy["runAsUser"] == proxy["runAsGroup"] == 1771
    assert not init["allowPrivilegeEscalation"]
    assert init["capabilities"]["add"] == ["NET_ADMIN", "NET_RAW"] and init["runAsUser"] == 0


def test_probes_are_handed_to_the_proxy(weir):
    made = containers(kubernetes.load(inject(weir, DEPLOYMENT))[0])
    assert options(made["weir-proxy"])["probe"] == {
        "app/startup": "grpc:9000/a.B",
        "app/readiness": "tcp:8080",
        "app/liveness": "http:8080/x?a=$$b",  # Kubernetes makes $ of $$
        "app/pre-stop": "http:8080/stop",
    }
    app, other = made["app"], made["other"]

    def handler(name):
        return {"path": f"/weir/probe/app/{name}", "port": 15021}

    assert app["livenessProbe"] == {"httpGet": handler("liveness"), "periodSeconds": 7}
    assert app["readinessProbe"] == {"httpGet": handler("readiness"), "periodSeconds": 3}
    assert app["startupProbe"] == {"httpGet": handler("startup")}
    headers = [{"name": "X-Y", "value": "1"}]
    assert app["lifecycle"]["preStop"]["httpGet"] == {**handler("pre-stop"), "httpHeaders": headers}
    # What asks no port of the pod stays.
    assert other["livenessProbe"] == {"exec": {"command": ["true"]}}
    assert other["readinessProbe"]["httpGet"]["host"] == "192.0.2.1"


@pytest.mark.parametrize("annotation", ["weir.io/rewrite-probes", "weir.io/inbound"])
def test_probes_stay_if_asked_to_or_not_captured(weir, annotation):
    text = DEPLOYMENT.replace("weir.io/log-level: debug", f'{annotation}: "false"')
    made = containers(kubernetes.load(inject(weir, text))[0])
    assert "probe" not in options(made["weir-proxy"])
    assert made["app"]["startupProbe"] == {"grpc": {"port": 9000, "service": "a.B"}}


@pytest.mark.parametrize("off", ["outbound", "dns"])
def test_what_is_not_captured_is_not_described(weir, off):
    """The command would be refused: of a range of virtual IPs without outbound capture, and of DNS servers without DNS."""
    text = DEPLOYMENT.replace("weir.io/log-level: debug", f'weir.io/{off}: "false"')
    command = containers(kubernetes.load(inject(weir, text, "--dns-servers=10.0.0.53"))[0])["weir-init"]["command"]
    told = {name for name in ("vips", "dns-servers") if any(word.startswith(f"--{name}=") for word in command)}
    assert told == {"outbound": {"dns-servers"}, "dns": {"vips"}}[off] and f"--no-{off}" in command
    subprocess.run([weir, "intercept", "plan", "--backend=nft", *command[3:]], check=True, capture_output=True)


KINDS = {
    "Pod": "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n" + POD,
    **{
        kind: f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\nspec:\n  selector: {{matchLabels: {{a: b}}}}\n"
        f"{extra}  template:\n    metadata: {{labels: {{a: b}}}}\n" + re.sub("^", "    ", POD, flags=re.MULTILINE).rstrip(" ")
        for kind, version, extra in (
            ("Deployment", "apps/v1", ""),
            ("StatefulSet", "apps/v1", "  serviceName: x\n"),
            ("DaemonSet", "apps/v1", ""),
            ("ReplicaSet", "apps/v1", ""),
        )
    },
    "ReplicationController": "apiVersion: v1\nkind: ReplicationController\nmetadata: {name: x}\nspec:\n  selector: {a: b}\n  template:\n"
    "    metadata: {labels: {a: b}}\n" + re.sub("^", "    ", POD, flags=re.MULTILINE).rstrip(" "),
    "PodTemplate": "apiVersion: v1\nkind: PodTemplate\nmetadata: {name: x}\ntemplate:\n"
    + re.sub("^", "  ", POD, flags=re.MULTILINE).rstrip(" "),
    "Job": "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\nspec:\n  template:\n"
    + re.sub("^", "    ", POD, flags=re.MULTILINE).rstrip(" ")
    + "      restartPolicy: Never\n",
    "CronJob": "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: x}\nspec:\n  schedule: '* * * * *'\n  jobTemplate:\n"
    "    spec:\n      template:\n" + re.sub("^", "        ", POD, flags=re.MULTILINE).rstrip(" ") + "          restartPolicy: Never\n",
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(weir, kind):
    made = containers(kubernetes.load(inject(weir, KINDS[kind]))[0])
    # A sidecar that restarts is no reason for a Job to go on: native sidecars end with the application.
    assert list(made) == ["weir-proxy", "weir-init", "app"] and made["weir-proxy"]["restartPolicy"] == "Always"


def test_list_and_many_documents(weir):
    items = "".join(re.sub("^", "    ", KINDS[kind], flags=re.MULTILINE).replace("    ", "  - ", 1).rstrip(" ") for kind in KINDS)
    text = f"apiVersion: v1\nkind: List\nitems:\n{items}---\n{KINDS['Job']}...\n---\n# nothing here\n---\n{KINDS['Pod']}"
    changed = inject(weir, text)
    found = kubernetes.load(changed)
    for document in [*found[0]["items"], found[1], found[3]]:
        assert list(containers(document))[:2] == ["weir-proxy", "weir-init"]


def item(text):
    """As the item of a list in block style, without indentation."""
    return re.sub("^", "  ", text, flags=re.MULTILINE).replace("  ", "- ", 1).rstrip(" ")


def test_lists_in_lists(weir):
    """kubectl looks into these, too."""
    inner = f"apiVersion: v1\nkind: List\nitems:\n{item(KINDS['Pod'])}{item(KINDS['Job'])}"
    [found] = kubernetes.load(inject(weir, f"apiVersion: v1\nkind: List\nitems:\n{item(inner)}{item(KINDS['Deployment'])}"))
    [lists, deployment] = found["items"]
    for document in [*lists["items"], deployment]:
        assert list(containers(document)) == ["weir-proxy", "weir-init", "app"]


@pytest.mark.parametrize("kind", KINDS)
def test_lists_of_one_kind(weir, kind):
    """Its items need not say it, as an API server's do not."""
    version, _, bare = KINDS[kind].partition(f"\nkind: {kind}\n")
    text = f"{version}\nkind: {kind}List\nitems:\n{item(bare)}{item(KINDS[kind])}"
    [found] = kubernetes.load(inject(weir, text))
    for document in found["items"]:
        assert list(containers(document)) == ["weir-proxy", "weir-init", "app"]
    foreign = text.replace(version, "apiVersion: example.org/v1")
    assert weir_inject(weir, foreign).stdout == foreign


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n",
        "kind: ConfigMap\ndata:\n  a.yaml: |\n    kind: Pod\n    spec:\n      containers: []\n",
        '{"kind": "Service", "spec": {}}',
        "- kind: Pod\n",
        "just text",
        "kind: PodTemplateList\nitems: {}\n",
        "kind: List\nitems:\n- spec:\n    containers: []\n",
        "kind: AllowList\nitems:\n- spec:\n    containers: []\n",
    ],
)
def test_without_pods_nothing_changes(weir, text):
    assert inject(weir, text) == text


def test_kinds_by_the_same_name_are_left_alone(weir):
    text = KINDS["Job"].replace("batch/v1", "batch.volcano.sh/v1alpha1")
    assert weir_inject(weir, text).stdout == text
    assert weir_inject(weir, text.replace("batch.volcano.sh/v1alpha1", "batch/v2")).stdout != text


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("kind: Pod\n", "kind: Pod  # ä€😀\n"),
        lambda text: "\n\n" + text + "\n\n# end",
        lambda text: text.replace("    - name: app", "  - # dash\n    name: app").replace("      image", "    image"),
        lambda text: text + "  initContainers:\n  volumes: ~",
        lambda text: re.sub(r"(\w+):(?=\s)", r'"\1":', text) + '      "livenessProbe":\n        \'grpc\':\n          "port": 1\n',
        lambda text: text + "  initContainers: []\n  volumes:\n  - {name: a, emptyDir: {}}",
        lambda text: text + "      livenessProbe: {tcpSocket: {port: 1}}",
        lambda text: text + "      livenessProbe:\n        httpGet: {\n          path: '/a b',\n            port: 80 }\n",
        lambda text: text + '      readinessProbe: {"httpGet": {"port": 80}, failureThreshold: "3"}\n',
        lambda text: text + "      readinessProbe:\n        httpGet:\n          port: 80\n          httpHeaders:\n"
        "          - name: A\n            value: |\n              long\n      tty: true\n",
    ],
)
def test_odd_layouts(weir, change):
    """With other line ends, without one at the end, lists where they are not expected, values over several lines."""
    text = change(KINDS["Pod"])
    done = subprocess.run([weir, "inject", "-f", "-"], input=text.encode(), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    made = containers(kubernetes.load(done.stdout)[0])
    assert list(made) == ["weir-proxy", "weir-init", "app"]
    again = subprocess.run([weir, "inject", "-f", "-"], input=done.stdout, capture_output=True, timeout=60)
    assert again.stdout == done.stdout
    back = subprocess.run([weir, "inject", "-f", "-", "--uninject"], input=done.stdout, capture_output=True, timeout=60)
    assert back.stdout == text.encode()
    if "\r" in text:
        assert done.stdout.count(b"\r\n") == done.stdout.count(b"\n")


@pytest.mark.parametrize("style", ["|", "|-", "|+", ">-", "|2-", "| # why"])
@pytest.mark.parametrize("more", ["", "\n", "\n\n", "  # less\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_follows_a_block_of_text_is_not_part_of_it(weir, style, more, end):
    """Neither the key behind a handler that ends with one, nor the marks of a change right behind one."""
    text = (
        KINDS["Pod"]
        + f"      readinessProbe:\n        grpc:\n          port: 1\n          service: {style}\n            abc\n{more}"
        + "        periodSeconds: 3\n      tty: true\n"
        + f"      command:\n      - {style}\n        abc\n{more}  initContainers: []"
    ).replace("\n", end)
    done = subprocess.run([weir, "inject", "-f", "-"], input=text.encode(), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    app = containers(kubernetes.load(done.stdout)[0])["app"]
    assert app["readinessProbe"] == {"httpGet": {"path": "/weir/probe/app/readiness", "port": 15021}, "periodSeconds": 3}
    assert app["tty"] is True and app["command"][0].strip() == "abc"
    back = subprocess.run([weir, "inject", "-f", "-", "--uninject"], input=done.stdout, capture_output=True, timeout=60)
    assert back.stdout == text.encode()


# --- settings --------------------------------------------------------------------------------------------------------


def test_options_and_annotations(weir):
    """Annotations come before options, options before the defaults."""
    text = KINDS["Pod"].replace(
        "metadata: {name: x}",
        "metadata:\n  name: x\n  annotations: {weir.io/image: 'mesh/weir:2', weir.io/tls-secret: none, weir.io/dns: 'false',"
        " weir.io/cpu-limit: 500m, weir.io/exclude-inbound-ports: '22,15090'}",
    )
    words = ["--image=weir:9", "--tls-mode", "strict", "--proxy-user=2000", "--probe-port=16000", "--memory-limit=1Gi"]
    document = kubernetes.load(inject(weir, text, *words))[0]
    proxy, init = pod_spec(document)["initContainers"]
    assert proxy["image"] == init["image"] == "mesh/weir:2"
    assert options(proxy)["set"]["tls.mode"] == "strict" and options(proxy)["probe-port"] == "16000"
    assert proxy["securityContext"]["runAsUser"] == 2000 and options(init)["proxy-user"] == "2000"
    assert options(init)["exclude-inbound-ports"] == "16000,22,15090" and options(init)["no-dns"] is True
    assert proxy["resources"]["limits"] == {"cpu": "500m", "memory": "1Gi"}
    assert not any(v["name"] == "weir-tls" for v in pod_spec(document)["volumes"] + proxy["volumeMounts"])


def test_what_is_captured_can_be_tuned(weir):
    """Whatever of it an annotation says comes to the command that lays it, which takes it."""
    lists = {
        "include-outbound-ports": "80,8000-8010", "exclude-outbound-ports": "25", "include-outbound-cidrs": "10.0.0.0/8,fd00::/8",
        "exclude-outbound-cidrs": "10.1.0.0/16", "exclude-outbound-interfaces": "net1,docker*", "include-inbound-ports": "1-9000",
        "exclude-inbound-ports": "22", "include-inbound-cidrs": "10.0.0.0/8", "exclude-inbound-cidrs": "10.9.0.1",
        "exclude-inbound-interfaces": "net1", "dns-servers": "10.0.0.53",
    }  # fmt: skip
    rows = re.findall(r"`weir.io/((?:in|ex)clude-[\w-]+|dns-servers)`", (ROOT / "docs" / "kubernetes.md").read_text())
    assert {*rows} == {*lists}
    annotations = ", ".join(f"weir.io/{name}: '{value}'" for name, value in lists.items())
    command = containers(kubernetes.load(inject(weir, pod(annotations=annotations)))[0])["weir-init"]["command"]
    said = options({"command": command})
    assert {name: said[name] for name in lists} == {**lists, "exclude-inbound-ports": "15021,22"}
    subprocess.run([weir, "intercept", "plan", "--backend=nft", *command[3:]], check=True, capture_output=True)


def test_amounts_and_ports_that_may_be(weir):
    annotations = (
        "weir.io/cpu-request: 100m, weir.io/cpu-limit: '0.1', weir.io/memory-request: 1.5Gi, weir.io/memory-limit: 1536Mi,"
        " weir.io/image: 'registry.example:5000/a-b/c_d:_v1.2@sha256:0af', weir.io/tls-secret: none"
    )
    more = "      ports: [{containerPort: 15021, protocol: UDP}, {containerPort: 15001, protocol: UDP}, {containerPort: 80}]\n  volumes:\n  - name: weir-tls\n    emptyDir: {}\n"
    proxy = containers(kubernetes.load(inject(weir, pod(more, annotations)))[0])["weir-proxy"]
    assert proxy["resources"] == {"requests": {"cpu": "100m", "memory": "1.5Gi"}, "limits": {"cpu": "0.1", "memory": "1536Mi"}}


@pytest.mark.parametrize("interception", ["init", "agent"])
def test_applications_may_see_their_clients(weir, interception):
    """Rules and proxy know of it, and the proxy has what it takes."""
    annotations = f"weir.io/inbound-source: client, weir.io/interception: {interception}, weir.io/fail: hold, weir.io/hold-timeout: 5s"
    made = containers(kubernetes.load(inject(weir, pod(annotations=annotations)))[0])
    proxy, init = made["weir-proxy"], made["weir-init"]
    assert options(proxy)["set"]["intercept.capture.inbound_source"] == "client"
    assert proxy["securityContext"]["capabilities"]["add"] == ["NET_RAW"]
    said = options(init)
    if interception == "agent":
        [capture] = [each["value"] for each in proxy["env"] if each["name"] == "WEIR_CAPTURE"]
        said = options({"command": capture.split()})
        assert "add" not in init["securityContext"]["capabilities"]
    assert (said["inbound-source"], said["fail"], said["hold-timeout"]) == ("client", "hold", "5s")


def test_a_time_to_wait_says_nothing_where_nothing_waits(weir):
    """`weir intercept apply` would refuse it, and the pod would never start."""
    made = inject(weir, pod(annotations="weir.io/hold-timeout: 5s"))
    assert "--hold-timeout" not in made


def test_fail_open_by_the_agent(weir):
    made = containers(kubernetes.load(inject(weir, pod(annotations="weir.io/fail: open, weir.io/interception: agent")))[0])
    [capture] = [each["value"] for each in made["weir-proxy"]["env"] if each["name"] == "WEIR_CAPTURE"]
    assert "--fail=open" in capture.split()
    assert "add" not in made["weir-proxy"]["securityContext"]["capabilities"]


def test_every_annotation_is_documented(weir):
    """The table in the page is the one in the program."""
    table = subprocess.run([weir, "inject", "--annotations"], capture_output=True, text=True, check=True).stdout
    assert table in (ROOT / "docs" / "kubernetes.md").read_text(), "run: weir inject --annotations"


def test_a_newer_weir_brings_the_lines_up_to_date(weir):
    old = inject(weir, DEPLOYMENT, "--image=weir:1")
    assert weir_inject(weir, old, "--image=weir:2").stdout == inject(weir, DEPLOYMENT, "--image=weir:2")


ALIASES = """\
kind: Pod
metadata: {name: x, labels: &labels {a: b}, annotations: &other {c: d}}
spec: &spec
  nodeSelector: *labels
  containers: &containers
  - &app
    name: &name app
    image: app:1
    env: &env [{name: A, value: *name}]
    resources: {requests: &amounts {cpu: 1, memory: 1Gi}, limits: {<<: *amounts, cpu: 2}}
    securityContext: &sec {runAsUser: 7}
    livenessProbe: {tcpSocket: {port: 1}}
  volumes: &volumes
  - {name: *name, emptyDir: {}}
---
kind: Widget
app: &app {a: b}
spec: &volumes {a: *app, <<: *app}
volumes: [*volumes]
"""


def test_aliases_where_weir_does_not_look_stay(weir):
    injected = inject(weir, ALIASES)
    left = [line for line in ALIASES.splitlines() if "livenessProbe" not in line]
    assert [line for line in injected.splitlines() if line in left] == left
    assert "--probe=app/liveness=tcp:1" in injected
    assert weir_inject(weir, injected, "--uninject").stdout == ALIASES


@pytest.mark.parametrize(
    "spec, reason",
    [
        ("  hostNetwork: true\n", "it uses the host's network"),
        ("  hostNetwork: True\n", "it uses the host's network"),
        ("  hostNetwork: yes\n", "it uses the host's network"),
        ("  os: {name: windows}\n", "it is a pod for Windows"),
        ("  initContainers: [{name: weir-proxy}]\n", "it has weir already"),
        ("", "weir.io/inject says no"),
    ],
)
def test_pods_left_alone(weir, spec, reason):
    text = KINDS["Pod"] + spec
    if not spec:
        text = text.replace("{name: x}", '{name: x, annotations: {weir.io/inject: "false"}}')
    done = weir_inject(weir, text)
    assert done.stdout == text
    assert re.fullmatch(rf"standard input:5:3: this pod is left alone: {re.escape(reason)}\n", done.stderr)


# --- refusals --------------------------------------------------------------------------------------------------------


def pod(more="", annotations=""):
    metadata = f"metadata: {{annotations: {{{annotations}}}}}\n" if annotations else ""
    return f"kind: Pod\n{metadata}{POD}{more}"


REFUSED = {
    "a: [": r"\d+:\d+: .+",
    "kind: Pod\nspec: {containers: []}\n": "2:7: this pod is written in JSON or {...}",
    '{"kind": "Pod", "spec": {"containers": [{"name": "a"}]}}': "1:25: this pod is written in JSON or {...}",
    "kind: Pod\n": "1:1: the pod's spec is missing",
    "kind: Pod\nspec: 7\n": "2:7: the pod's spec is no mapping",
    "kind: Pod\nspec:\n  tty: 1\n": "3:3: the pod has no containers",
    "kind: Pod\nspec:\n  containers: 7\n": "3:15: containers is no list",
    "a: &a {b: c}\nkind: Pod\nspec: *a\n": "3:7: the pod's spec is an alias",
    "a: &a {b: c}\nkind: Pod\nspec:\n  <<: *a\n  containers: []\n": "4:3: the pod's spec has a merge key",
    # Behind an alias or a merge key there may be pods; of two keys the cluster takes the other one.
    "a: &a {b: c}\nkind: Deployment\nspec: *a\n": "3:7: spec is an alias: write it out",
    "a: &a {b: c}\nkind: Job\nspec:\n  <<: *a\n": "4:3: spec has a merge key",
    "a: &a {b: c}\nkind: Job\nspec:\n  template: *a\n": "4:13: template is an alias",
    "a: &a {b: c}\nkind: Job\n<<: *a\n": "3:1: this object has a merge key",
    # What weir looks at must stand there.
    "a: &a Pod\nkind: *a\nspec: {}\n": "2:7: kind is an alias",
    "a: &a v1\napiVersion: *a\nkind: Pod\nspec: {}\n": "2:13: apiVersion is an alias",
    "a: &a {kind: Pod}\n<<: *a\n": "2:1: this object has a merge key",
    "a: &a []\nkind: List\nitems: *a\n": "3:8: items is an alias",
    "a: &a {b: c}\nkind: List\n<<: *a\n": "3:1: this object has a merge key",
    "a: &a {kind: Pod}\nkind: List\nitems:\n- *a\n": "4:3: this object is an alias",
    "a: &a {b: c}\nkind: Pod\n<<: *a\nspec: {}\n": "3:1: this pod has a merge key",
    "a: &a {b: c}\nkind: Job\nspec:\n  template:\n    <<: *a\n    spec: {}\n": "5:5: this pod has a merge key",
    "a: &a {b: c}\nkind: Pod\nmetadata: *a\nspec: {}\n": "3:11: the pod's metadata is an alias",
    "a: &a {b: c}\nkind: Pod\nmetadata: {annotations: *a}\nspec: {}\n": "3:25: this list of annotations is an alias",
    pod(annotations="a: &a 'false', weir.io/inject: *a"): "2:57: this annotation is an alias",
    **{
        f"a: &a {{b: c}}\nkind: Pod\nspec:\n{lines}": f"{where}"
        for lines, where in {
            "  hostNetwork: *a\n": "4:16: hostNetwork is an alias",
            "  os: *a\n": "4:7: os is an alias",
            "  os: {name: *a}\n": "4:14: name is an alias",
            "  securityContext: *a\n": "4:20: securityContext is an alias",
            "  securityContext: {<<: *a}\n": "4:21: securityContext has a merge key",
            "  securityContext: {runAsUser: *a}\n": "4:32: runAsUser is an alias",
            "  volumes: *a\n": "4:12: volumes is an alias",
            "  initContainers: *a\n": "4:19: initContainers is an alias",
            "  containers: *a\n": "4:15: containers is an alias",
            "  containers:\n  - *a\n": "5:5: this container is an alias",
            "  containers:\n  - <<: *a\n": "5:5: this container has a merge key",
            "  containers:\n  - name: *a\n": "5:11: name is an alias",
        }.items()
        for lines in [lines if "  containers" in lines else lines + "  containers: []\n"]
    },
    **{
        f"a: &a {{b: c}}\n{pod(lines)}": where
        for lines, where in {
            "      securityContext: *a\n": "7:24: securityContext is an alias",
            "      securityContext: {<<: *a}\n": "7:25: securityContext has a merge key",
            "      securityContext: {runAsUser: *a}\n": "7:36: runAsUser is an alias",
            "      lifecycle: *a\n": "7:18: lifecycle is an alias",
            "      lifecycle: {<<: *a}\n": "7:19: lifecycle has a merge key",
            "      lifecycle: {preStop: *a}\n": "7:28: preStop is an alias",
            "      livenessProbe: *a\n": "7:22: livenessProbe is an alias",
            "      livenessProbe: {<<: *a}\n": "7:23: livenessProbe has a merge key",
            "      livenessProbe: {httpGet: *a}\n": "7:32: the probe is an alias",
            "      livenessProbe: {httpGet: {<<: *a, port: 1}}\n": "7:33: the probe has a merge key",
            "      livenessProbe: {httpGet: {host: *a, port: 1}}\n": "7:39: host is an alias",
            "      livenessProbe: {httpGet: {port: *a}}\n": "7:39: port is an alias",
            "      livenessProbe: {httpGet: {port: 1, path: *a}}\n": "7:48: path is an alias",
            "      livenessProbe: {httpGet: {port: 1, httpHeaders: [*a]}}\n": "7:56: this is an alias",
            "      livenessProbe: {httpGet: {port: 1, httpHeaders: [{<<: {name: a}}]}}\n": "7:57: this has a merge key",
            "      ports: *a\n      livenessProbe: {tcpSocket: {port: b}}\n": "7:14: ports is an alias",
            "      ports: [*a]\n      livenessProbe: {tcpSocket: {port: b}}\n": "7:15: this is an alias",
            "      ports: [{<<: *a}]\n      livenessProbe: {tcpSocket: {port: b}}\n": "7:16: this has a merge key",
            "      ports: [{name: b, containerPort: *a}]\n      livenessProbe: {tcpSocket: {port: b}}\n":
                "7:40: containerPort is an alias",
            "      livenessProbe: {tcpSocket: {port: 1}, periodSeconds: *a}\n": "7:7: this has an anchor or alias",
        }.items()
    },
    # What weir changes must not stand elsewhere, too.
    "kind: Pod\nspec: &a\n  containers: []\nb: *a\n": "4:4: this is an alias of what weir has to change",
    "kind: Pod\nspec:\n  containers: []\n  volumes: &a\n  - b: c\nb: [*a]\n": "6:5: this is an alias of what weir",
    "kind: List\nitems:\n- &a\n  kind: Pod\n  spec:\n    containers: []\n- {kind: B, c: *a}\n": "7:16: this is an alias of",
    "kind: Pod\nspec:\n  containers:\n  - &a\n    name: b\n    livenessProbe:\n      tcpSocket: {port: 1}\n"
    "c: *a\n": "8:4: this is an alias of what weir",
    pod("kind: Job\n"): "6:1: this object has this key twice: 'kind'",
    pod("spec:\n  containers: []\n"): "6:1: this object has this key twice: 'spec'",
    pod("  containers: []\n"): "6:3: the pod's spec has this key twice: 'containers'",
    pod("      name: b\n"): "6:7: this container has this key twice: 'name'",
    pod("      livenessProbe: {grpc: {port: 1}, grpc: {port: 2}}\n"): "6:40: livenessProbe has this key twice: 'grpc'",
    pod("      livenessProbe: {grpc: {port: 1, port: 2}}\n"): "6:39: the probe has this key twice: 'port'",
    pod(annotations="weir.io/dns: 'true', a: b, 'weir.io/dns': 'false'"): "this list of annotations has this key twice: 'weir.io/dns'",
    pod("  initContainers: [{name: a}]\n"): "6:19: this list is written in [...] or JSON",
    pod("  volumes: [{name: a}]\n"): "6:12: this list is written in [...] or JSON",
    pod("  securityContext: {runAsUser: 1771}\n"): "3:3: the pod runs as user 1771",
    pod("      securityContext: {runAsUser: 1771}\n"): "4:7: this container runs as user 1771",
    **{
        pod(f"  securityContext: {{runAsUser: {number}}}\n"): "3:3: the pod runs as user 1771"
        for number in ("0x6eb", "0X6EB", "0o3353", "03353", "0b11011101011", "1_771", "+1771", "1771.0", "1.771e+3",
                       "0x_6eb", "!!int 1771", "!!int '1771'", "!!int 0x6eb", "! 1771", "!!float 1771")
    },
    pod("      livenessProbe: {tcpSocket: {port: no}}\n"): "6:41: 'no' is neither a port nor the name",
    pod("      livenessProbe: {tcpSocket: {}}\n"): "6:34: the port of this probe is missing",
    pod("      livenessProbe: {tcpSocket: {port: 70000}}\n"): "6:41: '70000' is neither",
    pod("      livenessProbe: &p {tcpSocket: {port: 1}}\n"): "6:7: this has an anchor or alias",
    pod("      livenessProbe: {tcpSocket: {&p port: 1}}\n"): "6:7: this has an anchor or alias",
    pod("      livenessProbe: {httpGet: {port: 1}, exec: {a: b}}\n"): "6:49: weir does not know this part",
    pod('      livenessProbe: {httpGet: {port: 1, path: "a\u2028b"}}\n'): "6:7: this has a line separator of Unicode",
    pod('      livenessProbe: {httpGet: {port: 1, path: "a\u0085b"}}\n'): "6:7: this has a line separator of Unicode",
    pod("    - {name: b, livenessProbe: {tcpSocket: {port: 1}}}\n"): "6:17: this stands in {...} or JSON",
    pod(annotations="weir.io/imag: x"): "2:40: there is no weir.io/imag, did you mean weir.io/image?",
    pod(annotations="weir.io/log-level: loud"): "2:45: log-level: 'loud' is no debug|info|warn|error",
    pod(annotations="weir.io/probe-port: '0'"): "2:46: probe-port: '0' is no PORT",
    pod(annotations="weir.io/vips: 10/8"): "2:40: vips: '10/8'",
    pod(annotations="weir.io/config-map: A_b"): "2:46: config-map: 'A_b' is no NAME",
    pod(annotations="weir.io/cpu-limit: much"): "2:45: cpu-limit: 'much' is no QUANTITY",
    pod(annotations="weir.io/image: 'a b'"): "2:41: image: 'a b' is no IMAGE",
    pod(annotations="weir.io/cpu-limit: 1.2.3"): "2:45: cpu-limit: '1.2.3' is no QUANTITY",
    **{
        pod(annotations=f"weir.io/image: '{image}'"): f"2:41: image: '{image}' is no IMAGE"
        for image in (":", "-", "a:", "a//b", "/a", "a@", "a:-b")
    },
    pod(annotations="weir.io/image: '@'", more="").replace("'@'", '"\\e[31m\\nx"'): r"2:41: image: '\x1b[31m\nx' is no IMAGE",
    pod(annotations='"weir.io/\\e]0;x\\a\\u009by\\n": a'): r"there is no weir.io/\x1b]0;x\x07\x9by\n",
    pod(annotations="weir.io/cpu-request: '2', weir.io/cpu-limit: 1999m"): "2:25: cpu-request '2' is more than cpu-limit '1999m'",
    pod(annotations="weir.io/memory-request: 0.3Gi"): "2:25: memory-request '0.3Gi' is more than memory-limit '256Mi'",
    **{
        pod(annotations=f"weir.io/probe-port: '{port}'"): f"2:25: probe-port: {port} is a port that the proxy captures to"
        for port in (15001, 15006, 15053)
    },
    pod("      ports: [{containerPort: 15021}]\n"): "6:15: the proxy answers probes on port 15021, which is this container's",
    **{
        pod(f"      ports: [{{containerPort: {port}}}]\n"): f"6:15: port {port.split(',')[0]} is one of the proxy's own"
        for port in ("15001", "15006", "15053", "15053, protocol: UDP")
    },
    pod("      ports: [{containerPort: 0x3e80, protocol: TCP}]\n", "weir.io/probe-port: '16000'"):
        "7:15: the proxy answers probes on port 16000",
    **{
        pod(f"  volumes:\n  - name: a\n  - name: {name}\n"): f"8:5: the pod has a volume '{name}', as weir calls one of its own"
        for name in ("weir-config", "weir-tls", "weir-run", "weir-state")
    },
    pod(annotations="weir.io/inbound-source: me"): "2:50: inbound-source: 'me' is none of its words",
    pod(annotations="weir.io/dns-servers: fe80::1"): "2:25: fe80::1: DNS queries to link-local addresses are not captured",
    pod(annotations="weir.io/vips: 127.1.0.0/16"): "2:25: 127.1.0.0/16 cannot be a range of virtual IPs",
    pod(annotations="weir.io/fail: open"): "2:25: fail: open is for interception by the node's agent only",
    pod(annotations="weir.io/hold-timeout: soon"): "2:48: hold-timeout: 'soon'",
    pod(annotations="weir.io/dns: [a]"): "2:39: an annotation is a text",
    "%YAML 1.2\n---\n": "1:1: directives",
    "a: \x00\n": "1:4: this byte is no UTF-8 text",
    "? [a, b]\n: c\n": "1:3: this key is no plain text",
    f"{'[' * 100}{']' * 100}": "nested too deeply|depth",
    MARK + ": added\nkind: Pod\n": '1:1: the line "# <<< weir inject" that belongs to this one is missing',
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[-40:])
def test_refusals_name_the_place(weir, text):
    done = weir_inject(weir, text, check=False)
    assert done.returncode == 1 and done.stdout == ""
    expected = REFUSED[text]
    if not re.search(r"\\d|\|depth", expected):
        expected = re.escape(expected)
    assert re.match(rf"standard input:.*{expected}", done.stderr), done.stderr
    assert done.stderr.count("\n") == 1


def test_more_pods_than_fit(weir):
    """The result has to be readable, too; it is not told of places that are only there."""
    for pods in ("".join(6000 * [f"---\nkind: Pod\n{POD}"]), "kind: List\nitems:\n" + item(f"kind: Pod\n{POD}") * 6000):
        done = weir_inject(weir, pods, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "standard input:1:1: with weir in all of its pods this text is too long or too deep: write more files\n"


def test_a_wrong_option_is_a_usage_error(weir):
    for words in (["--log-level=loud"], ["--nothing"], ["--image"], ["--probe-port=15006"], ["--cpu-limit=1m"]):
        assert weir_inject(weir, "", *words, check=False).returncode == 2
    assert subprocess.run([weir, "inject"], capture_output=True).returncode == 2


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole(weir, tmp_path):
    path = tmp_path / "app.yaml"
    path.write_text(DEPLOYMENT)
    path.chmod(0o640)
    subprocess.run([weir, "inject", "-f", path, "-o", path], check=True)
    assert MARK in path.read_text() and path.stat().st_mode & 0o777 == 0o640
    subprocess.run([weir, "inject", "-f", path, "-o", path, "--uninject"], check=True)
    assert path.read_text() == DEPLOYMENT and list(tmp_path.iterdir()) == [path]


def test_a_file_keeps_its_owner_and_its_names(weir, tmp_path):
    path, other, link = tmp_path / "app.yaml", tmp_path / "other.yaml", tmp_path / "link.yaml"
    path.write_text(DEPLOYMENT)
    os.chown(path, 65534, 65533)
    path.chmod(0o604)
    link.symlink_to("app.yaml")
    subprocess.run([weir, "inject", "-f", link, "-o", link], check=True)
    now = path.stat()
    assert MARK in path.read_text() and (now.st_uid, now.st_gid, now.st_mode & 0o777) == (65534, 65533, 0o604)
    assert link.is_symlink()
    other.hardlink_to(path)
    subprocess.run([weir, "inject", "-f", path, "-o", path, "--uninject"], check=True)
    assert other.read_text() == DEPLOYMENT and other.samefile(path)
    assert sorted(tmp_path.iterdir()) == [path, link, other]


PODS = 20 * f"---\nkind: Pod\n{POD}"


@pytest.mark.parametrize("names", [1, 2])
def test_a_full_disk_leaves_the_file(weir, tmp_path, names):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=True)
    try:
        path, filler = tmp_path / "app.yaml", tmp_path / "filler"
        path.write_text(PODS)
        if names == 2:
            (tmp_path / "other").hardlink_to(path)
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        before = sorted(tmp_path.iterdir())
        done = subprocess.run([weir, "inject", "-f", path, "-o", path], capture_output=True, text=True)
        assert done.returncode == 1 and "cannot be written: No space left" in done.stderr
        assert path.read_text() == PODS and sorted(tmp_path.iterdir()) == before
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_failure_leaves_the_file(weir, tmp_path):
    path = tmp_path / "app.yaml"
    path.write_text("kind: Pod\n")
    done = subprocess.run([weir, "inject", "-f", path, "-o", path], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"{path}:1:1: ") and path.read_text() == "kind: Pod\n"
    missing = subprocess.run([weir, "inject", "-f", tmp_path / "no"], capture_output=True, text=True)
    assert missing.returncode == 1 and "cannot be read" in missing.stderr


def test_schema_refuses_what_the_api_would():
    """The schema that the other tests rely on does tell right from wrong."""
    document = kubernetes.load(KINDS["Deployment"])[0]
    kubernetes.check(document)
    for path, value in (
        (["image"], None),
        (["restartPolicy"], "Sometimes"),
        (["livenessProbe"], {"httpGet": {"port": 80, "paht": "/"}}),
        (["securityContext"], {"runAsUser": "root"}),
        (["ports"], [{"containerPort": 70000}]),
    ):
        broken = kubernetes.load(KINDS["Deployment"])[0]
        pod_spec(broken)["containers"][0][path[0]] = value
        with pytest.raises(jsonschema.ValidationError):
            kubernetes.check(broken)
