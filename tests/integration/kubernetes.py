# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' rules for the fields of the objects that weir writes and changes, as a JSON Schema: types, required
fields, allowed words and ranges; unknown fields are errors, as for `kubectl apply --validate=strict`. Only the fields that
occur in weir's manifests and tests are known.

    check(document)      raises jsonschema.ValidationError
    load(text)           the documents in a YAML text
    manifest(path, kind) the container of the workload in a file
    confined(container)  the words that run a program with the user and the capabilities of a container and no more, and
                         with a root that it cannot write to, either
"""

import jsonschema
import yaml

STRING, BOOL, INT = {"type": "string"}, {"type": "boolean"}, {"type": "integer"}
COUNT = {"type": "integer", "minimum": 0}
POSITIVE = {"type": "integer", "minimum": 1}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
PORT_OR_NAME = {"anyOf": [PORT, {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$"}]}
LABEL = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
NAME = {"type": "string", "maxLength": 253, "pattern": "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"}
QUANTITY = {"type": ["string", "integer"], "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|Ki|Mi|Gi)?$"}
STRINGS = {"type": "array", "items": STRING}
TEXTS = {"type": "object", "additionalProperties": STRING}


def words(*values):
    return {"enum": list(values)}


def items(schema, least=0):
    return {"type": "array", "items": schema, "minItems": least}


def fields(required="", **known):
    """An object with these fields and no others. A trailing underscore keeps a name from being a Python word."""
    known = {name.rstrip("_"): schema for name, schema in known.items()}
    return {"type": "object", "properties": known, "required": required.split(), "additionalProperties": False}


def exactly_one(schema, *names):
    return {**schema, "oneOf": [{"required": [name]} for name in names]}


METADATA = fields(name=NAME, generateName=STRING, namespace=LABEL, labels=TEXTS, annotations=TEXTS, uid=STRING)
SELECTOR = fields(
    matchLabels=TEXTS,
    matchExpressions=items(
        fields("key operator", key=STRING, operator=words("In", "NotIn", "Exists", "DoesNotExist"), values=STRINGS)
    ),
)

# --- pods ------------------------------------------------------------------------------------------------------------
HTTP_GET = fields(
    "port",
    path=STRING,
    port=PORT_OR_NAME,
    host=STRING,
    scheme=words("HTTP", "HTTPS"),
    httpHeaders=items(fields("name value", name=STRING, value=STRING)),
)
EXEC = fields("command", command=STRINGS)
PROBE = exactly_one(
    fields(
        httpGet=HTTP_GET,
        tcpSocket=fields("port", port=PORT_OR_NAME, host=STRING),
        grpc=fields("port", port=PORT, service=STRING),
        exec=EXEC,
        initialDelaySeconds=COUNT,
        periodSeconds=POSITIVE,
        timeoutSeconds=POSITIVE,
        successThreshold=POSITIVE,
        failureThreshold=POSITIVE,
        terminationGracePeriodSeconds=POSITIVE,
    ),
    "httpGet",
    "tcpSocket",
    "grpc",
    "exec",
)
HANDLER = exactly_one(
    fields(httpGet=HTTP_GET, exec=EXEC, sleep=fields("seconds", seconds=POSITIVE)), "httpGet", "exec", "sleep"
)
AMOUNTS = fields(cpu=QUANTITY, memory=QUANTITY)
SECCOMP = fields("type", type=words("RuntimeDefault", "Unconfined", "Localhost"))
SECURITY = fields(
    allowPrivilegeEscalation=BOOL,
    capabilities=fields(add=STRINGS, drop=STRINGS),
    privileged=BOOL,
    readOnlyRootFilesystem=BOOL,
    runAsGroup=COUNT,
    runAsNonRoot=BOOL,
    runAsUser=COUNT,
    seccompProfile=SECCOMP,
    seLinuxOptions=fields(level=STRING, role=STRING, type=STRING, user=STRING),
)
ENV = fields(
    "name",
    name={"type": "string", "pattern": "^[-._a-zA-Z][-._a-zA-Z0-9]*$"},
    value=STRING,
    valueFrom=fields(fieldRef=fields("fieldPath", fieldPath=STRING)),
)
CONTAINER = fields(
    "name image",
    name=LABEL,
    image={"type": "string", "minLength": 1},
    imagePullPolicy=words("Always", "IfNotPresent", "Never"),
    command=STRINGS,
    args=STRINGS,
    env=items(ENV),
    ports=items(
        fields(
            "containerPort",
            name={"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$"},
            containerPort=PORT,
            protocol=words("TCP", "UDP", "SCTP"),
        )
    ),
    resources=fields(requests=AMOUNTS, limits=AMOUNTS),
    startupProbe=PROBE,
    readinessProbe=PROBE,
    livenessProbe=PROBE,
    lifecycle=fields(postStart=HANDLER, preStop=HANDLER),
    securityContext=SECURITY,
    volumeMounts=items(
        fields(
            "name mountPath",
            name=LABEL,
            mountPath={"type": "string", "pattern": "^[^:]+$"},
            readOnly=BOOL,
            mountPropagation=words("None", "HostToContainer", "Bidirectional"),
        )
    ),
    tty=BOOL,
)
# Native sidecars restart always; other init containers say nothing. A probe of an init container is an error without it.
INIT_CONTAINER = {
    **CONTAINER,
    "properties": {**CONTAINER["properties"], "restartPolicy": words("Always")},
    "dependentRequired": {
        name: ["restartPolicy"] for name in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle")
    },
}
VOLUME = exactly_one(
    fields(
        "name",
        name=LABEL,
        configMap=fields("name", name=NAME, optional=BOOL),
        secret=fields("secretName", secretName=NAME, optional=BOOL, defaultMode=COUNT),
        emptyDir=fields(medium=words("", "Memory"), sizeLimit=QUANTITY),
        hostPath=fields("path", path=STRING, type=words("Directory", "DirectoryOrCreate", "File", "Socket")),
    ),
    "configMap",
    "secret",
    "emptyDir",
    "hostPath",
)
POD_SPEC = fields(
    "containers",
    containers=items(CONTAINER, 1),
    initContainers=items(INIT_CONTAINER),
    volumes=items(VOLUME),
    restartPolicy=words("Always", "OnFailure", "Never"),
    serviceAccountName=NAME,
    automountServiceAccountToken=BOOL,
    terminationGracePeriodSeconds=COUNT,
    hostNetwork=BOOL,
    hostPID=BOOL,
    dnsPolicy=words("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
    nodeSelector=TEXTS,
    priorityClassName=STRING,
    tolerations=items(
        fields(key=STRING, operator=words("Exists", "Equal"), value=STRING, effect=words("NoSchedule", "NoExecute"))
    ),
    topologySpreadConstraints=items(
        fields(
            "maxSkew topologyKey whenUnsatisfiable",
            maxSkew=POSITIVE,
            topologyKey=STRING,
            whenUnsatisfiable=words("DoNotSchedule", "ScheduleAnyway"),
            labelSelector=SELECTOR,
        )
    ),
    securityContext=fields(runAsNonRoot=BOOL, runAsUser=COUNT, runAsGroup=COUNT, fsGroup=COUNT, seccompProfile=SECCOMP),
    os=fields("name", name=words("linux", "windows")),
)
TEMPLATE = fields("spec", metadata=METADATA, spec=POD_SPEC)


def job_template(schema):
    spec = schema["properties"]["spec"]
    spec = {**spec, "properties": {**spec["properties"], "restartPolicy": words("OnFailure", "Never")}}
    return {**schema, "properties": {**schema["properties"], "spec": {**spec, "required": ["containers", "restartPolicy"]}}}


JOB_SPEC = fields("template", template=job_template(TEMPLATE), backoffLimit=COUNT, completions=COUNT, parallelism=COUNT)


# --- kinds -----------------------------------------------------------------------------------------------------------
def workload(version, **spec):
    """(apiVersion, schema of spec) of something that makes pods."""
    return version, fields("selector template", selector=SELECTOR, template=TEMPLATE, **spec)


RULE = fields(
    "operations apiGroups apiVersions resources",
    operations=items(words("CREATE", "UPDATE", "DELETE", "CONNECT", "*"), 1),
    apiGroups=STRINGS,
    apiVersions=STRINGS,
    resources=STRINGS,
    scope=words("Cluster", "Namespaced", "*"),
)
WEBHOOK = fields(
    "name admissionReviewVersions clientConfig sideEffects",
    name={"type": "string", "pattern": r"^[a-z0-9-]+(\.[a-z0-9-]+){2,}$"},
    admissionReviewVersions=items(words("v1"), 1),
    clientConfig=fields(
        service=fields("name namespace", name=LABEL, namespace=LABEL, path={"type": "string", "pattern": "^/"}, port=PORT),
        caBundle=STRING,
    ),
    failurePolicy=words("Ignore", "Fail"),
    matchPolicy=words("Exact", "Equivalent"),
    namespaceSelector=SELECTOR,
    objectSelector=SELECTOR,
    reinvocationPolicy=words("Never", "IfNeeded"),
    rules=items(RULE),
    sideEffects=words("None", "NoneOnDryRun"),
    timeoutSeconds={"type": "integer", "minimum": 1, "maximum": 30},
)
SERVICE_PORT = fields("port", name=LABEL, port=PORT, targetPort=PORT_OR_NAME, protocol=words("TCP", "UDP"))
KINDS = {
    "Pod": ("v1", POD_SPEC),
    "Deployment": workload("apps/v1", replicas=COUNT, strategy=fields(type=words("Recreate", "RollingUpdate"))),
    "StatefulSet": workload("apps/v1", replicas=COUNT, serviceName=LABEL),
    "DaemonSet": workload("apps/v1", updateStrategy=fields(type=words("OnDelete", "RollingUpdate"))),
    "ReplicaSet": workload("apps/v1", replicas=COUNT),
    "ReplicationController": ("v1", fields("template", selector=TEXTS, template=TEMPLATE, replicas=COUNT)),
    "Job": ("batch/v1", JOB_SPEC),
    "CronJob": ("batch/v1", fields("schedule jobTemplate", schedule=STRING, jobTemplate=fields("spec", spec=JOB_SPEC))),
    "Service": ("v1", fields(ports=items(SERVICE_PORT, 1), selector=TEXTS, clusterIP=STRING)),
    "PodDisruptionBudget": ("policy/v1", fields(selector=SELECTOR, minAvailable=COUNT)),
}
# Kinds without a spec: version and fields.
FLAT = {
    "Namespace": ("v1", {}),
    "ServiceAccount": ("v1", {"automountServiceAccountToken": BOOL}),
    "ConfigMap": ("v1", {"data": TEXTS}),
    "PodTemplate": ("v1", {"template": TEMPLATE}),
    "Secret": ("v1", {"type": STRING, "data": TEXTS, "stringData": TEXTS}),
    "MutatingWebhookConfiguration": ("admissionregistration.k8s.io/v1", {"webhooks": items(WEBHOOK)}),
}


def _schemas():
    for kind, (version, spec) in KINDS.items():
        yield kind, fields("kind spec", apiVersion=words(version), kind=STRING, metadata=METADATA, spec=spec)
    for kind, (version, known) in FLAT.items():
        yield kind, fields("kind", apiVersion=words(version), kind=STRING, metadata=METADATA, **known)


VALIDATORS = {kind: jsonschema.Draft202012Validator(schema) for kind, schema in _schemas()}


def check(document):
    """Raises jsonschema.ValidationError if the API would refuse the object; None and unknown kinds of tests pass."""
    kind = (document or {}).get("kind") if isinstance(document, dict) else None
    if kind and kind.endswith("List"):
        for item in document["items"] or []:
            check(item)
    elif kind in VALIDATORS:
        VALIDATORS[kind].validate(document)


def load(text):
    return list(yaml.load_all(text, yaml.CSafeLoader))


READ_ONLY = 'mount -o remount,bind,ro / && exec "$@"'


def confined(container):
    """To be put before a program, which then has the user, the capabilities and the root of a manifest's container."""
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"]
    added = [f"+{name.lower()}" for name in security["capabilities"].get("add", [])]
    assert security["capabilities"]["drop"] == ["ALL"] and not security["privileged"]
    words = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh"]
    words += ["setpriv", "--reuid", security["runAsUser"], "--regid", security["runAsGroup"], "--clear-groups", "--inh-caps=-all"]
    words += [f"--bounding-set={','.join(['-all', *added])}"]
    return words + ([] if security["allowPrivilegeEscalation"] else ["--no-new-privs"])


def manifest(path, kind):
    """The only container of the workload of a kind in a file."""
    [document] = [document for document in load(path.read_text()) if document["kind"] == kind]
    [container] = document["spec"]["template"]["spec"]["containers"]
    return container
