"""What may be used across namespaces, and by whom: references, hosts, ports. A grant that is taken back is gone at once."""

import pytest

import cluster as clusters
from cluster import condition, echo, everywhere, kubectl, location, wsroute


@pytest.fixture(scope="module")
def other(cluster):
    """The other team's namespace."""
    with cluster.namespace("other", clusters.RESTRICTED) as name:
        cluster.apply(echo("shared"), name)
        kubectl("wait", "-n", name, "--for=condition=Available", "deployment/shared", "--timeout=60s")
        yield name


def grant(to, kind="Service"):
    return {
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": {"name": f"to-{kind.lower()}"},
        "spec": {"from": [{"group": "carrick.dev", "kind": "WsRoute", "namespace": to}], "to": [{"group": "", "kind": kind}]},
    }


def test_a_service_next_door_needs_a_grant_and_loses_it_at_once(cluster, carrick, namespace, other):
    borrowed = {"path": "/borrowed", "backends": [{"service": "shared", "namespace": other, "port": "ws"}]}
    cluster.apply([wsroute("borrows", carrick.ingress_class, [borrowed])], namespace)
    route = cluster.route_is(namespace, "borrows", ResolvedRefs="RefNotPermitted")
    assert other in condition(route, "ResolvedRefs")["message"]
    everywhere(carrick, "/borrowed", 503)
    cluster.apply([grant(namespace)], other)
    cluster.route_is(namespace, "borrows", Ready="True")
    everywhere(carrick, "/borrowed")
    kubectl("delete", "referencegrant", "to-service", "-n", other)
    everywhere(carrick, "/borrowed", 503)
    cluster.route_is(namespace, "borrows", ResolvedRefs="RefNotPermitted")


def test_a_page_next_door_too(cluster, carrick, namespace, other):
    cluster.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "page"}, "data": {"index.html": "next door\n"}}, grant(namespace, "ConfigMap")], other)
    cluster.apply([wsroute("reads", carrick.ingress_class, [{"path": "/page", "static": {"configMap": {"name": "page", "namespace": other}}}])], namespace)
    cluster.route_is(namespace, "reads", Ready="True")
    everywhere(carrick, "/page/", word="next door")
    # A page that changes is served as it is now.
    cluster.patch("ConfigMap", other, "page", {"data": {"index.html": "changed\n"}})
    everywhere(carrick, "/page/", word="changed")


def test_a_host_has_one_owner_who_may_delegate(cluster, carrick, namespace, other):
    host = f"owned-{clusters.TOKEN}.test"
    cluster.apply(echo("mine"), namespace)
    cluster.apply([wsroute("owner", carrick.ingress_class, [location("/", "mine")], hosts=[host])], namespace)
    cluster.route_is(namespace, "owner", Ready="True")
    cluster.apply([wsroute("guest", carrick.ingress_class, [location("/guests", "shared")], hosts=[host])], other)
    route = cluster.route_is(other, "guest", Accepted="HostNotAllowed")
    assert namespace in condition(route, "Accepted")["message"], "names the owner"
    cluster.patch("WsRoute", namespace, "owner", {"spec": {"delegate": [{"namespaces": [other], "paths": ["/guests"]}]}})
    cluster.route_is(other, "guest", Ready="True")
    everywhere(carrick, "/guests", 200, host, "shared")
    cluster.patch("WsRoute", namespace, "owner", {"spec": {"delegate": None}})
    cluster.route_is(other, "guest", Accepted="HostNotAllowed")
    everywhere(carrick, "/guests", 200, host, "mine")


def test_with_require_grants_a_namespace_claims_what_its_annotations_say(cluster, namespace, other):
    with cluster.namespace("strict", clusters.RESTRICTED) as home:
        strict = clusters.Release(cluster, "strict", home, {"requireGrants": True, "replicaCount": 1, "tcpPorts": "9000-9010", "service": {"type": "ClusterIP"}})
        with strict.installed():
            host = f"granted-{clusters.TOKEN}.test"
            spec = {"hosts": [host], "tcp": [{"port": 9005, "backends": [{"service": "shared", "port": "ws"}]}]}
            cluster.apply([wsroute("claims", strict.ingress_class, [location("/", "shared")], **spec)], other)
            cluster.route_is(other, "claims", Ready="False", Accepted="HostNotAllowed")
            kubectl("annotate", "namespace", other, f"carrick.dev/hosts={host}", "carrick.dev/tcp-ports=9000-9005", "--overwrite")
            cluster.route_is(other, "claims", Ready="True")
            kubectl("annotate", "namespace", other, "carrick.dev/hosts-", "--overwrite")
            cluster.route_is(other, "claims", Accepted="HostNotAllowed")
