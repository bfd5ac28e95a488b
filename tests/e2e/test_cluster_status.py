"""What a route's status says of itself: each mistake by its name, mended as soon as the cause is, and waited for by kubectl and Helm."""

import json

import pytest
import yaml

from cluster import Failed, condition, echo, everywhere, helm, http, kubectl, location, until, wsroute

# name, what is different from a good route, what its conditions come to, and a word of the message
MISTAKES = [
    ("missing-service", {"locations": [location("/missing-service", "nobody")]}, {"Ready": "False", "Accepted": "True", "ResolvedRefs": "ServiceNotFound"}, "nobody"),
    ("wrong-port", {"locations": [location("/wrong-port", "backend", "metrics")]}, {"Ready": "False", "ResolvedRefs": "PortNotFound"}, "metrics"),
    ("missing-secret", {"hosts": ["missing-secret.test"], "tls": {"certificates": [{"secretName": "none"}]}}, {"Ready": "False", "ResolvedRefs": "SecretNotFound"}, "none"),
    ("bad-certificate", {"hosts": ["bad-certificate.test"], "tls": {"certificates": [{"secretName": "broken"}]}}, {"Ready": "False", "ResolvedRefs": "InvalidCertificate"}, "broken"),
    ("wrong-type", {"hosts": ["wrong-type.test"], "tls": {"certificates": [{"secretName": "opaque"}]}}, {"Ready": "False", "ResolvedRefs": "SecretWrongType"}, "opaque"),
    ("missing-page", {"locations": [{"path": "/missing-page", "static": {"configMap": {"name": "nothing"}}}]}, {"Ready": "False", "ResolvedRefs": "ConfigMapNotFound"}, "nothing"),
    ("missing-grant", {"hosts": ["missing-grant.test"], "tls": {"certificates": [{"secretName": "tls", "namespace": "default"}]}}, {"Ready": "False", "ResolvedRefs": "RefNotPermitted"}, "default"),
    ("an-address", {"locations": [{"path": "/an-address", "backends": [{"address": "example.com:80"}]}]}, {"Ready": "False", "ResolvedRefs": "AddressNotAllowed"}, "--allow-addresses"),
    ("wrong-listener", {"listeners": ["nowhere"]}, {"Ready": "False", "Accepted": "ListenerNotFound"}, "nowhere"),
    ("wrong-tcp-port", {"tcp": [{"port": 8999, "backends": [{"service": "backend", "port": "ws"}]}]}, {"Ready": "False", "Accepted": "PortNotAllowed"}, "8999"),
]


def said(route):
    """Every condition; of a route that nobody looks at the one that the definition gives it."""
    return [(found["type"], found["status"], found["reason"]) for found in route["status"]["conditions"]]


@pytest.fixture(scope="module")
def backend(cluster, carrick, namespace):
    secrets = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "broken"}, "type": "kubernetes.io/tls", "stringData": {"tls.crt": "no", "tls.key": "no"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "opaque"}, "stringData": {"tls.crt": "no", "tls.key": "no"}},
    ]
    cluster.apply([*echo("backend"), *secrets], namespace)
    kubectl("wait", "-n", namespace, "--for=condition=Available", "deployment/backend", "--timeout=60s")


@pytest.fixture(scope="module")
def mistakes(cluster, carrick, namespace, backend):
    """All of them at once, with a good location each: one bad object harms only itself."""

    def route(name, spec):
        own = spec.get("locations", [])
        return wsroute(name, carrick.ingress_class, [location(f"/good/{name}", "backend"), *own], **{key: value for key, value in spec.items() if key != "locations"})

    cluster.apply([route(name, spec) for name, spec, *_ in MISTAKES], namespace)


@pytest.mark.parametrize(("name", "conditions", "word"), [(name, conditions, word) for name, _, conditions, word in MISTAKES], ids=[name for name, *_ in MISTAKES])
def test_a_mistake_has_its_reason(cluster, namespace, mistakes, name, conditions, word):
    route = cluster.route_is(namespace, name, **conditions)
    told = route["status"]["conditions"]
    assert any(word in found["message"] for found in told), told
    assert all(found["observedGeneration"] == route["metadata"]["generation"] for found in told), told
    assert condition(route, "Ready")["message"], "what kubectl wait and Helm show"


def test_a_good_route_is_ready_and_waited_for(cluster, carrick, namespace, backend):
    cluster.apply([wsroute("good", carrick.ingress_class, [location("/fine", "backend")])], namespace)
    for kind in ("Accepted", "ResolvedRefs", "Programmed", "Ready"):
        kubectl("wait", "-n", namespace, f"--for=condition={kind}", "wsr/good", "--timeout=20s")
    everywhere(carrick, "/fine")
    route = cluster.get("WsRoute", namespace, "good")
    assert route["status"]["observedGeneration"] == 1 and route["status"]["ingressClassName"] == carrick.ingress_class
    assert not route["status"].get("locations"), "only what is not served"
    # An edit is told of by its own generation, not by the last one's conditions.
    cluster.patch("WsRoute", namespace, "good", {"spec": {"locations": [location("/fine", "nobody")]}})
    assert cluster.route_is(namespace, "good", Ready="False")["metadata"]["generation"] == 2


def test_the_rest_of_a_broken_route_is_served(cluster, carrick, namespace, mistakes):
    cluster.route_is(namespace, "missing-service", Ready="False")
    everywhere(carrick, "/good/missing-service")
    everywhere(carrick, "/missing-service", 503)
    assert http(carrick.address, "/missing-service")[1]["X-Carrick-Reason"] == "unavailable"
    listed = cluster.get("WsRoute", namespace, "missing-service")["status"]["locations"]
    assert [one["reason"] for one in listed] == ["ServiceNotFound"], "only those not served"


def test_a_route_is_mended_when_its_cause_is(cluster, carrick, namespace, mistakes):
    cluster.route_is(namespace, "missing-service", Ready="False")
    cluster.apply([{**echo("nobody")[1], "spec": {"selector": {"app": "backend"}, "ports": [{"name": "ws", "port": 80, "targetPort": 8080}]}}], namespace)
    cluster.route_is(namespace, "missing-service", Ready="True", within=10)
    everywhere(carrick, "/missing-service")
    kubectl("delete", "service", "nobody", "-n", namespace)
    cluster.route_is(namespace, "missing-service", ResolvedRefs="ServiceNotFound", within=10)


def test_the_younger_of_two_is_conflicted_until_the_older_goes(cluster, carrick, namespace, backend):
    cluster.apply([wsroute("conflict-1", carrick.ingress_class, [location("/same", "backend")])], namespace)
    cluster.route_is(namespace, "conflict-1", Ready="True")
    cluster.apply([wsroute("conflict-2", carrick.ingress_class, [location("/same", "backend"), location("/other", "backend")])], namespace)
    route = cluster.route_is(namespace, "conflict-2", Conflicted="True")
    assert f"{namespace}/conflict-1" in condition(route, "Conflicted")["message"]
    assert condition(cluster.get("WsRoute", namespace, "conflict-1"), "Conflicted")["status"] in (None, "False")
    kubectl("delete", "wsr", "conflict-1", "-n", namespace)
    until(lambda: condition(cluster.get("WsRoute", namespace, "conflict-2"), "Conflicted")["status"] in (None, "False"), "the conflict over", 10)
    cluster.route_is(namespace, "conflict-2", Ready="True")


def test_a_route_of_another_class_is_left_alone_and_loses_our_status(cluster, carrick, namespace, backend):
    cluster.apply([wsroute("foreign", "somebody-elses", [location("/foreign", "backend")]), wsroute("leaves", carrick.ingress_class, [location("/leaves", "backend")])], namespace)
    cluster.route_is(namespace, "leaves", Ready="True")
    nobody = [("Ready", "Unknown", "Pending")]
    assert said(cluster.get("WsRoute", namespace, "foreign")) == nobody
    assert http(carrick.address, "/foreign")[0] == 404
    cluster.patch("WsRoute", namespace, "leaves", {"spec": {"ingressClassName": "somebody-elses"}})
    until(lambda: said(cluster.get("WsRoute", namespace, "leaves")) == nobody, "our conditions taken back", 15)
    assert "controller" not in cluster.get("WsRoute", namespace, "leaves")["status"]
    everywhere(carrick, "/leaves", 404)


def test_a_wrong_regular_expression_is_refused_at_once(cluster, carrick, namespace):
    route = wsroute("regex", carrick.ingress_class, [location("/a(", "backend", pathType="RegularExpression")])
    with pytest.raises(Failed, match="(?i)regular expression|regex"):
        cluster.apply([route], namespace)


def test_what_a_user_must_see_is_an_event_of_the_route(cluster, namespace, mistakes):
    def told():
        events = cluster.list("Event", namespace)
        return [one for one in events if one["regarding"]["kind"] == "WsRoute" and one["regarding"]["name"] == "wrong-port" and one["type"] == "Warning"]

    event = until(told, "a Warning about wrong-port")[0]
    assert event["reason"] == "PortNotFound" and "metrics" in event["note"]
    described = kubectl("describe", "wsr", "wrong-port", "-n", namespace)
    assert "PortNotFound" in described[described.index("Events:") :]


def test_a_status_is_written_only_when_it_changes(cluster, carrick, namespace, mistakes):
    """Other routes come and go; what is said of this one stays the same object."""
    cluster.route_is(namespace, "wrong-port", Ready="False")
    before = cluster.get("WsRoute", namespace, "wrong-port")["metadata"]["resourceVersion"]
    cluster.apply([wsroute("passing", carrick.ingress_class, [location("/passing", "backend")])], namespace)
    cluster.route_is(namespace, "passing", Ready="True")
    kubectl("delete", "wsr", "passing", "-n", namespace)
    assert cluster.get("WsRoute", namespace, "wrong-port")["metadata"]["resourceVersion"] == before


def test_helm_waits_for_a_route(carrick, namespace, backend, tmp_path):
    """A chart with a broken route fails to upgrade, and the same one mended succeeds."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump({"apiVersion": "v2", "name": "site", "version": "0.1.0"}))
    route = wsroute("site", carrick.ingress_class, [location("/site", "{{ .Values.service }}")])
    (tmp_path / "templates/route.yaml").write_text(json.dumps(route))
    install = ["upgrade", "--install", "site", tmp_path, "-n", namespace, "--wait"]
    with pytest.raises(Failed, match="(?i)timeout|deadline|not ready|InProgress"):
        helm(*install, "--set", "service=nobody-at-all", "--timeout=6s")
    helm(*install, "--set", "service=backend", "--timeout=30s")
    helm("uninstall", "site", "-n", namespace)


def test_ingresses_are_still_listed_by_their_short_name(cluster, namespace):
    cluster.apply(
        [{"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "plain"}, "spec": {"ingressClassName": "none", "defaultBackend": {"service": {"name": "a", "port": {"number": 80}}}}}],
        namespace,
    )
    assert "plain" in kubectl("get", "ingress", "-n", namespace)
    assert "wsroutes" not in kubectl("get", "ingress", "-n", namespace, "-o", "name")
