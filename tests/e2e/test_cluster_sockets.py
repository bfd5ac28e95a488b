"""200 sockets with messages flowing, while the cluster changes around them.

A socket that an event does not concern stays, with every message back in order and soon; one that must end gets a Close frame and comes
back. The groups: `steady`, `secure` (TLS) and `tcp` (layer 4) have backends that nobody touches, `moving` has those that are changed.
"""

import hashlib
import socket
import ssl
import time

import pytest

import cluster as clusters
from cluster import echo, everywhere, http, kubectl, location, run, until, wsroute
from crowd import Crowd

UNTOUCHED = ("steady", "secure", "tcp")
SOON = 1.0  # seconds a message may take, beside what this side itself was late
HOST, SECURE = "crowd.test", "secure.crowd.test"


def certificate(tmp, name):
    """A self-made certificate as a Secret, and its fingerprint."""
    key, cert = tmp / f"{name}.key", tmp / f"{name}.crt"
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert,
        "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{SECURE}")
    data = {"tls.crt": cert.read_text(), "tls.key": key.read_text()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "crowd-tls"}, "type": "kubernetes.io/tls", "stringData": data}
    return secret, hashlib.sha256(ssl.PEM_cert_to_DER_cert(data["tls.crt"])).hexdigest()


def trusting():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def served(address):
    """The fingerprint of the certificate that a new client gets."""
    with socket.create_connection((address, 443), 5) as plain, trusting().wrap_socket(plain, server_hostname=SECURE) as secured:
        return hashlib.sha256(secured.getpeercert(binary_form=True)).hexdigest()


def routes(ingress_class, **edits):
    """The crowd's routes; `edits` are fields of the location `/moving`."""
    return [
        wsroute("crowd", ingress_class, [location("/steady", "steady"), location("/moving", "moving", **edits)], hosts=[HOST]),
        wsroute("secure", ingress_class, [location("/", "steady")], hosts=[SECURE], tls={"certificates": [{"secretName": "crowd-tls"}], "redirect": False}),
        wsroute("layer-4", ingress_class, tcp=[{"port": 9001, "backends": [{"service": "steady", "port": "ws"}]}]),
    ]


@pytest.fixture(scope="module")
def scene(cluster, carrick, namespace, tmp_path_factory):
    secret, _ = certificate(tmp_path_factory.mktemp("tls"), "first")
    cluster.apply([*echo("steady", 2), *echo("moving", 2), secret, *routes(carrick.ingress_class)], namespace)
    kubectl("wait", "-n", namespace, "--for=condition=Available", "deployment", "--all", "--timeout=60s")
    for name in ("crowd", "secure", "layer-4"):
        cluster.route_is(namespace, name, Ready="True")


@pytest.fixture(scope="module")
def crowd(cluster, carrick, scene):
    address = carrick.address

    def layer_4():
        service = cluster.get("Service", carrick.namespace, f"{carrick.name}-tcp")
        ports = {port["port"] for port in service["spec"]["ports"]} if service else set()
        return 9001 in ports and service["status"]["loadBalancer"]["ingress"][0]["ip"]

    tcp = until(layer_4, "port 9001 of the layer-4 Service")
    groups = {
        "steady": (f"ws://{HOST}/steady", 80, {"host": address, "port": 80}),
        "secure": (f"wss://{SECURE}/", 40, {"host": address, "port": 443, "ssl": trusting()}),
        "tcp": ("ws://anything/", 20, {"host": tcp, "port": 9001}),
        "moving": (f"ws://{HOST}/moving", 60, {"host": address, "port": 80}),
    }
    with Crowd(groups) as crowd:
        yield crowd


class Change:
    """What an event did to the crowd, from before it until messages flow again everywhere."""

    def __init__(self, crowd, name):
        self.crowd, self.name = crowd, name

    def __enter__(self):
        self.crowd.flows()
        self.since = self.crowd.mark()
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.crowd.flows()
            self.reports = {group: self.crowd.since(self.since, group) for group in self.crowd.groups}
            told = "; ".join(f"{group} {dict(report.codes()) or 'all stay'}" for group, report in self.reports.items())
            latest = max(report.latest for report in self.reports.values())
            clusters.found(f"{self.name}: {told}; latest message of those that stay {latest * 1000:.0f} ms (this side up to {self.crowd.lag * 1000:.0f} ms late)")

    def untouched(self, *groups):
        """Nobody ended, no message was lost or late, nobody was refused."""
        for group in groups or self.crowd.groups:
            report = self.reports[group]
            assert not report.ends, (self.name, group, report.ends[:5])
            assert report.lost == 0, (self.name, group)
            assert report.latest < SOON + self.crowd.lag, (self.name, group, report.latest)

    def told(self, group, code=1012):
        """Whoever ended got a Close frame with this code; no message of the others was lost or late."""
        report = self.reports[group]
        assert report.ends, f"{self.name}: nobody of {group} ended"
        assert set(report.codes()) == {code}, (self.name, group, report.codes(), [end for end in report.ends if end.code != code][:5])
        assert report.lost == 0, (self.name, group)
        assert report.latest < SOON + self.crowd.lag, (self.name, group, report.latest)


def rolled_out(namespace, name):
    kubectl("rollout", "status", f"deployment/{name}", "-n", namespace, "--timeout=90s", within=100)


def gone(cluster, namespace, selector, count):
    """Waits until there are so many pods, those about to end included."""
    until(lambda: len(cluster.list("Pod", namespace, selector)) == count, f"{count} pods of {selector}")


def test_all_are_there_and_spread(crowd, cluster, namespace):
    for group in crowd.groups:
        assert len(crowd.servers(group)) == 2, crowd.servers(group)


def test_a_backend_scaled_up_ends_nobody(crowd, cluster, namespace):
    with Change(crowd, "a backend scaled from 2 to 4") as change:
        kubectl("scale", "deployment/moving", "--replicas=4", "-n", namespace)
        rolled_out(namespace, "moving")
    change.untouched()


def test_a_backend_scaled_down_tells_its_own_and_nobody_else(crowd, cluster, namespace):
    with Change(crowd, "scaled down to 1") as change:
        kubectl("scale", "deployment/moving", "--replicas=1", "-n", namespace)
        gone(cluster, namespace, "app=moving", 1)
    change.untouched(*UNTOUCHED)
    change.told("moving")
    kubectl("scale", "deployment/moving", "--replicas=2", "-n", namespace)
    rolled_out(namespace, "moving")


def test_a_rollout_tells_its_own_and_compiles_no_router(crowd, cluster, carrick, namespace):
    pods = [pod["metadata"]["name"] for pod in carrick.pods()]
    before = [carrick.metric(pod, "carrick_router_compilations_total") for pod in pods]
    with Change(crowd, "a backend rolled") as change:
        kubectl("rollout", "restart", "deployment/moving", "-n", namespace)
        rolled_out(namespace, "moving")
        gone(cluster, namespace, "app=moving", 2)
    change.untouched(*UNTOUCHED)
    change.told("moving")
    assert [carrick.metric(pod, "carrick_router_compilations_total") for pod in pods] == before


def test_an_edited_route_ends_nobody(crowd, cluster, carrick, namespace):
    with Change(crowd, "its route edited, five times") as change:
        for idle in range(5):
            cluster.apply(routes(carrick.ingress_class, timeouts={"idle": f"{10 + idle}m"}, responseHeaders={"set": [{"name": "X-Edit", "value": str(idle)}]}), namespace)
            cluster.route_is(namespace, "crowd", Ready="True")
    change.untouched()


def test_other_routes_come_and_go(crowd, cluster, carrick, namespace):
    others = [wsroute(f"other-{i}", carrick.ingress_class, [location("/", "steady")], hosts=[f"other-{i}.test"]) for i in range(20)]
    with Change(crowd, "20 other routes added and removed") as change:
        cluster.apply(others, namespace)
        cluster.route_is(namespace, "other-19", Ready="True")
        everywhere(carrick, "/", host="other-19.test")
        kubectl("delete", "wsr", "-n", namespace, *[one["metadata"]["name"] for one in others])
        everywhere(carrick, "/", 404, "other-19.test")
    change.untouched()


def test_a_new_certificate_is_for_new_clients(crowd, cluster, carrick, namespace, tmp_path):
    secret, fingerprint = certificate(tmp_path, "second")
    with Change(crowd, "its certificate rotated") as change:
        cluster.apply([secret], namespace)
        until(lambda: served(carrick.address) == fingerprint, "the new certificate", 15)
    change.untouched()


@pytest.mark.skipif(not clusters.owns_cluster(), reason="the API server of this cluster is not ours to stop")
def test_without_an_api_server_everything_is_served_on(crowd, cluster, carrick, namespace):
    moved = clusters.merged(routes(carrick.ingress_class)[0], {"metadata": {"name": "after"}, "spec": {"hosts": ["after.test"]}})
    with Change(crowd, "the API server away for some seconds") as change:
        clusters.component("apiserver", "stop")
        try:
            crowd.flows(messages=6)
            assert http(carrick.address, "/steady", HOST)[0] == 200, "new requests too"
        finally:
            clusters.component("apiserver", "start")
        until(lambda: cluster.read("readyz", accept="*/*") == "ok", "the API server back")
        back = time.monotonic()
        until(lambda: cluster.apply([moved], namespace) or True, "a route applied")
        cluster.route_is(namespace, "after", within=60, Ready="True")
        everywhere(carrick, "/steady", host="after.test", within=60)
        clusters.found(f"both replicas served a new route {time.monotonic() - back:.1f} s after the API server was back")
    change.untouched()
    assert len(carrick.pods()) == 2, "and both stayed ready"


def test_a_leader_that_ends_tells_its_own_sockets(crowd, cluster, carrick, namespace):
    leader = until(carrick.leader, "a leader")
    open_at = {pod["metadata"]["name"]: carrick.metric(pod["metadata"]["name"], "carrick_tunnels_open", route_namespace=namespace) for pod in carrick.pods()}
    assert sum(open_at.values()) == 200 and all(open_at.values()), open_at
    with Change(crowd, f"the leader deleted, with {open_at[leader]:.0f} of the sockets") as change:
        began = time.monotonic()
        kubectl("delete", "pod", leader, "-n", carrick.namespace, "--wait=false")
        until(lambda: carrick.leader() not in (None, leader), "another leader", 20)
        cluster.apply([wsroute("new-leader", carrick.ingress_class, [location("/", "steady")], hosts=["new-leader.test"])], namespace)
        cluster.route_is(namespace, "new-leader", within=20, Ready="True")
        clusters.found(f"another leader wrote a status {time.monotonic() - began:.1f} s after the leader was told to end")
        until(lambda: cluster.get("Pod", carrick.namespace, leader) is None, "the old leader gone", 60)
        until(lambda: len(carrick.pods()) == 2, "two pods again")
    for group in ("steady", "secure", "moving"):
        change.told(group)
    assert sum(len(report.ends) for report in change.reports.values()) == open_at[leader], "nobody else ended, and nobody twice"


def test_an_upgrade_that_concerns_no_pod_ends_nobody(crowd, carrick):
    pods = {pod["metadata"]["name"] for pod in carrick.pods()}
    with Change(crowd, "helm upgrade of the Service's annotations") as change:
        carrick.upgrade(service={"annotations": {"example.com/note": "changed"}})
    change.untouched()
    assert {pod["metadata"]["name"] for pod in carrick.pods()} == pods


def test_an_upgrade_of_the_pods_tells_every_socket(crowd, cluster, carrick):
    pods = {pod["metadata"]["name"] for pod in carrick.pods()}
    with Change(crowd, "helm upgrade of the pods") as change:
        carrick.upgrade(log={"access": True})
        until(lambda: all(cluster.get("Pod", carrick.namespace, pod) is None for pod in pods), "the old pods gone", 90)
    for group in ("steady", "secure", "moving"):
        change.told(group)
    # The first of the old pods may go when the first of the new ones is ready; then some come back to the second.
    told, sockets = sum(len(report.ends) for report in change.reports.values()), len(crowd.held)
    assert sockets <= told <= 1.1 * sockets, "each once, and hardly any twice"
