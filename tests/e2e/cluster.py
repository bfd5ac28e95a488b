"""A real cluster: kubectl, Helm, namespaces and releases that go away again, and waiting for what it should come to.

Nothing here sleeps for a time; `until` asks again until a deadline. What the tests own bears `TOKEN` in its name, so that runs do not meet.
"""

import contextlib
import functools
import json
import os
import pathlib
import random
import re
import string
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
CHART = ROOT / "charts/carrick"
IMAGE = os.environ.get("IMAGE", "localhost/carrick:e2e")
TOKEN = "".join(random.choices(string.ascii_lowercase + string.digits, k=4))
SHARED = ROOT.parent / "shared/cluster"

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
FINDINGS = []  # what is printed at the end, failed or not

RESOURCES = {
    "ConfigMap": "api/v1/namespaces/{}/configmaps",
    "Deployment": "apis/apps/v1/namespaces/{}/deployments",
    "EndpointSlice": "apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
    "Event": "apis/events.k8s.io/v1/namespaces/{}/events",
    "Ingress": "apis/networking.k8s.io/v1/namespaces/{}/ingresses",
    "Lease": "apis/coordination.k8s.io/v1/namespaces/{}/leases",
    "Pod": "api/v1/namespaces/{}/pods",
    "Secret": "api/v1/namespaces/{}/secrets",
    "Service": "api/v1/namespaces/{}/services",
    "WsRoute": "apis/carrick.dev/v1alpha1/namespaces/{}/wsroutes",
}


class Failed(AssertionError):
    """A command that ended with another code than 0."""


def run(*argv, stdin=None, within=120, env=None):
    """What a command prints."""
    try:
        done = subprocess.run([str(word) for word in argv], input=stdin, capture_output=True, text=True, timeout=within, env=env)
    except subprocess.TimeoutExpired as expired:
        raise Failed(f"{' '.join(map(str, argv))} did not end within {within} s: {expired.stderr}") from None
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, argv))}: {done.stdout}{done.stderr}")
    return done.stdout


def kubectl(*arguments, stdin=None, within=120):
    return run("kubectl", *arguments, stdin=stdin, within=within)


def helm(*arguments, stdin=None, within=180):
    return run(ROOT / "packaging/helm", *arguments, stdin=stdin, within=within)


def component(name, action):
    """Stops or starts a part of the cluster, where it is the one beside this repository."""
    run(SHARED / "component", name, action)


def owns_cluster():
    """Whether the cluster is one whose parts may be stopped."""
    return (SHARED / "component").exists() and os.environ.get("KUBECONFIG", "").startswith(os.environ.get("CLUSTER_STATE", "/var/lib/carrick-cluster"))


def until(look, what, within=60):
    """The first true answer of `look`; faults of the API server are no answer. `what` is a text, or makes one when it is needed."""
    deadline, last = time.monotonic() + within, None
    while True:
        try:
            last = look()
            if last:
                return last
        except (urllib.error.URLError, OSError, Failed) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what() if callable(what) else what}; at last: {last!r}")
        time.sleep(0.1)


def condition(wsroute, kind):
    """A condition of an object: its status and reason, of the present generation only."""
    for found in (wsroute or {}).get("status", {}).get("conditions", []):
        if found["type"] == kind and found.get("observedGeneration") == wsroute["metadata"]["generation"]:
            return found
    return {"status": None, "reason": None, "message": ""}


@contextlib.contextmanager
def connected():
    """The cluster with the definitions in the tree; ReferenceGrant's only for as long as it takes, where nobody else brought it."""
    cluster = Cluster()
    try:
        kubectl("apply", "--server-side", "--force-conflicts", "-f", ROOT / "crds/wsroutes.yaml")
        granted = "referencegrants.gateway.networking.k8s.io" in kubectl("get", "crd", "-o", "name")
        if not granted:
            kubectl("apply", "-f", HERE / "referencegrant.yaml")
        kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/wsroutes.carrick.dev", "crd/referencegrants.gateway.networking.k8s.io")
        try:
            yield cluster
        finally:
            if not granted:
                kubectl("delete", "--wait=false", "-f", HERE / "referencegrant.yaml")
    finally:
        cluster.close()


class Cluster:
    """The API server, by way of `kubectl proxy`: a look costs no process."""

    def __init__(self):
        self.proxy = subprocess.Popen(["kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, text=True)
        self.address = "http://" + self.proxy.stdout.readline().split()[-1]

    def close(self):
        self.proxy.terminate()
        self.proxy.wait()

    def read(self, path, accept="application/json"):
        with urllib.request.urlopen(urllib.request.Request(f"{self.address}/{path}", headers={"Accept": accept}), timeout=10) as answer:
            return answer.read().decode()

    def get(self, kind, namespace, name):
        """The object, or None."""
        try:
            return json.loads(self.read(f"{RESOURCES[kind].format(namespace)}/{name}"))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def list(self, kind, namespace, selector=""):
        return json.loads(self.read(f"{RESOURCES[kind].format(namespace)}?labelSelector={urllib.parse.quote(selector)}"))["items"]

    def patch(self, kind, namespace, name, patch):
        """A JSON merge patch."""
        request = urllib.request.Request(
            f"{self.address}/{RESOURCES[kind].format(namespace)}/{name}",
            json.dumps(patch).encode(),
            {"Content-Type": "application/merge-patch+json"},
            method="PATCH",
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def apply(self, manifests, namespace):
        """Text or objects."""
        text = manifests if isinstance(manifests, str) else yaml.safe_dump_all(manifests)
        kubectl("apply", "-n", namespace, "-f", "-", stdin=text)

    def route_is(self, namespace, name, within=30, **wanted):
        """Waits until a WsRoute's conditions are as said (`Ready="True"`, `ResolvedRefs="ServiceNotFound"`), and returns it."""

        def look():
            route = self.get("WsRoute", namespace, name)
            return route if all(value in (condition(route, kind)["status"], condition(route, kind)["reason"]) for kind, value in wanted.items()) else None

        try:
            return until(look, f"WsRoute {namespace}/{name} {wanted}", within)
        except AssertionError as error:
            conditions = (self.get("WsRoute", namespace, name) or {}).get("status")
            raise AssertionError(f"{error}; its status: {json.dumps(conditions, indent=1)}") from None

    @contextlib.contextmanager
    def namespace(self, purpose, labels=None, annotations=None):
        """A namespace that lives as long as the block."""
        name = f"e2e-{purpose}-{TOKEN}"
        kubectl("apply", "-f", "-", stdin=json.dumps({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"carrick-e2e": TOKEN, **(labels or {})}, "annotations": annotations or {}},
        }))
        try:
            yield name
        finally:
            # At once: what it claims is free for the next test.
            kubectl("delete", "wsroutes", "--all", "-n", name, "--wait=false")
            kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


class Release:
    """An installation of the chart, with a class of its own."""

    live = []

    def __init__(self, cluster, name, namespace, values):
        self.cluster, self.name, self.namespace, self.values = cluster, f"{name}-{TOKEN}", namespace, values
        self.ingress_class = self.name

    def all_values(self, **more):
        repository, _, tag = IMAGE.rpartition(":")
        own = {
            "fullnameOverride": self.name,
            "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
            "ingressClass": {"name": self.ingress_class},
            "controllerName": f"e2e.carrick.dev/{self.name}",
            # Nobody waits for minutes here.
            "shutdownDelay": "1s",
            "drainTimeout": "20s",
            "terminationGracePeriodSeconds": 40,
        }
        return merged(merged(own, self.values), more)

    def upgrade(self, within=120, **values):
        """Installs it, or changes it."""
        text = yaml.safe_dump(self.all_values(**values))
        helm("upgrade", "--install", self.name, CHART, "-n", self.namespace, "-f", "-", "--wait", f"--timeout={within}s", stdin=text, within=within + 30)

    def uninstall(self):
        helm("uninstall", self.name, "-n", self.namespace, "--wait", "--ignore-not-found")

    @contextlib.contextmanager
    def installed(self):
        """For as long as the block."""
        self.live.append(self)
        try:
            self.upgrade()
            yield self
        finally:
            self.uninstall()
            self.live.remove(self)

    def pods(self, ready=True):
        """The pods that are not about to go."""
        pods = self.cluster.list("Pod", self.namespace, f"app.kubernetes.io/instance={self.name},app.kubernetes.io/name=carrick")
        alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return [pod for pod in alive if not ready or any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))]

    def leader(self):
        """The name of the pod that writes statuses; None for a while."""
        lease = self.cluster.get("Lease", self.namespace, self.name)
        holder = (lease or {}).get("spec", {}).get("holderIdentity") or ""
        return next((pod["metadata"]["name"] for pod in self.pods() if holder.startswith(pod["metadata"]["name"])), None)

    @functools.cached_property
    def address(self):
        """Where its load balancer is; asked for once, so that it is known while the API server is away."""

        def look():
            service = self.cluster.get("Service", self.namespace, self.name)
            points = service["status"].get("loadBalancer", {}).get("ingress") or [{}]
            return points[0].get("ip") or points[0].get("hostname")

        return until(look, f"an address of Service {self.namespace}/{self.name}")

    def metric(self, pod, name, **labels):
        """The sum of a metric's series of a pod that have these labels."""
        text = self.cluster.read(f"api/v1/namespaces/{self.namespace}/pods/{pod}:9180/proxy/metrics", accept="*/*")
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        series = re.findall(rf"^{name}(\{{.*\}})? ([-+.\deE]+)$", text, re.MULTILINE)
        return sum(float(value) for found, value in series if all(one in found for one in wanted))

    def logs(self):
        for pod in self.pods(ready=False):
            name = pod["metadata"]["name"]
            with contextlib.suppress(Failed):
                text = kubectl("logs", "-n", self.namespace, name, "--tail=500", "--all-containers")
                yield name, "".join(line for line in text.splitlines(keepends=True) if " client=" not in line)  # what the access log says


def merged(base, over):
    """Maps are merged, everything else is replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {key: merged(base[key], over[key]) if key in base and key in over else over.get(key, base.get(key)) for key in {**base, **over}}
    return over


def echo(name, replicas=1, labels=None, arguments=(), grace=1):
    """A Deployment of echo servers and its Service, with port 80 called ws."""
    labels = {"app": name, **(labels or {})}
    container = {
        "name": "echo",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": ["echo", *arguments],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
        "securityContext": {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    pods = {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": grace, "containers": [container]}}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": pods},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"name": "ws", "port": 80, "targetPort": 8080}]},
        },
    ]


def wsroute(name, ingress_class, locations=(), **spec):
    if locations:
        spec["locations"] = list(locations)
    return {"apiVersion": "carrick.dev/v1alpha1", "kind": "WsRoute", "metadata": {"name": name}, "spec": {"ingressClassName": ingress_class, **spec}}


def process_of(pod, command):
    """The pod's process that runs this command of ours, where its node is this machine; else None."""
    uid = pod["metadata"]["uid"]
    for group in pathlib.Path("/proc").glob("[0-9]*/cgroup"):
        try:
            if uid in group.read_text().replace("_", "-") and command.encode() in (group.parent / "cmdline").read_bytes().split(b"\0"):
                return int(group.parent.name)
        except OSError:
            continue
    return None


def location(path, service, port="ws", **more):
    return {"path": path, "backends": [{"service": service, "port": port}], **more}


def http(address, path="/", host=None, port=80):
    """Status, header and body of a GET; refusals too."""
    request = urllib.request.Request(f"http://{address}:{port}{path}", headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def everywhere(release, path, status=200, host=None, word="", within=10):
    """Waits until every replica answers so: the load balancer spreads ten connections over them. The leader says Programmed of itself."""

    def look():
        answers = [http(release.address, path, host) for _ in range(10)]
        return all(code == status and word in body for code, _, body in answers)

    until(look, f"{status} {word!r} at {host or release.address}{path} from every replica", within)


def found(text):
    """A line for the end of the run."""
    FINDINGS.append(text)
