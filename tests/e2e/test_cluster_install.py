"""Coming and going: the chart's own test, what an uninstalled release leaves, and a controller beside the cluster."""

import os
import re

import pytest
from conftest import CARRICK, running

import cluster as clusters
from cluster import echo, helm, http, kubectl, location, run, until, wsroute


def everything(namespace):
    """Every object of a namespace but what a namespace has by itself, and events."""
    kinds = [kind for kind in kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split() if not kind.startswith(("events", "pods.metrics"))]
    found = kubectl("get", ",".join(kinds), "-n", namespace, "-o", "name", "--ignore-not-found").split()
    return {one for one in found if one not in ("configmap/kube-root-ca.crt", "serviceaccount/default")}


def cluster_wide(release):
    kinds = [kind for kind in kubectl("api-resources", "--namespaced=false", "--verbs=list", "-o", "name").split() if not kind.startswith("componentstatuses")]
    found = kubectl("get", ",".join(kinds), "-o", "name", "--ignore-not-found").split()
    return {one for one in found if release.name in one and not one.startswith("namespace/")}


def test_uninstalling_leaves_nothing_but_the_definition(cluster, namespace):
    with cluster.namespace("leaves", clusters.RESTRICTED) as home:
        release = clusters.Release(cluster, "leaves", home, {"tcpPorts": "9000-9010", "manageTcpService": True})
        with release.installed():
            cluster.apply([*echo("backend"), wsroute("left", release.ingress_class, [location("/", "backend")], hosts=["left.test"], tcp=[{"port": 9003, "backends": [{"service": "backend", "port": "ws"}]}])], namespace)
            cluster.route_is(namespace, "left", Ready="True")
            until(lambda: cluster.get("Service", home, f"{release.name}-tcp"), "the layer-4 Service")
            helm("test", release.name, "-n", home, "--timeout=60s")
            assert cluster_wide(release) and everything(home)
        until(lambda: not everything(home), lambda: f"left in the namespace: {everything(home)}", 60)
        assert not cluster_wide(release)
    assert "wsroutes.carrick.dev" in kubectl("get", "crd", "-o", "name")
    assert cluster.get("WsRoute", namespace, "left"), "and the routes of users"


@pytest.fixture(scope="module")
def laptop_class(cluster):
    name = f"laptop-{clusters.TOKEN}"
    cluster.apply([{"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": name}, "spec": {"controller": f"e2e.carrick.dev/{name}"}}], "default")
    yield name
    kubectl("delete", "ingressclass", name, "--ignore-not-found")
    kubectl("delete", "lease", name, "-n", "default", "--ignore-not-found")


def test_a_controller_runs_beside_the_cluster(cluster, namespace, laptop_class):
    """With the rights of a kubeconfig; its data plane reaches pods where this machine does."""
    of_laptop = [f"--kubeconfig={os.environ['KUBECONFIG']}", f"--ingress-class={laptop_class}", f"--controller-name=e2e.carrick.dev/{laptop_class}"]
    serve = ["--bind=127.0.0.1", "--http-port=0", "--https-port=off", "--ops-bind=127.0.0.1:0", "--admin-bind=off", "--shutdown-delay=0s", f"--lease-name={laptop_class}", "--publish-address=203.0.113.7"]
    cluster.apply([*echo("beside"), wsroute("beside", laptop_class, [location("/beside", "beside")])], namespace)
    with running([CARRICK, "controller", *of_laptop, *serve]) as process:
        port = int(process.wait_line(r"http on \S*?:(\d+)")[1])
        route = cluster.route_is(namespace, "beside", Ready="True")
        assert route["status"]["loadBalancer"]["ingress"] == [{"ip": "203.0.113.7"}]
        if clusters.owns_cluster():
            until(lambda: http("127.0.0.1", "/beside", port=port)[0] == 200, "an answer of the pod", 30)
        explained = run(CARRICK, "explain", *of_laptop, "ws://anything.test/beside")
        assert re.search(rf"{namespace}/beside", explained), explained
        refused = run(CARRICK, "explain", *of_laptop, "ws://anything.test/nothing-here")
        assert "404" in refused or "not_found" in refused, refused
        assert process.stop() == 0
    assert not cluster.get("Lease", "default", laptop_class)["spec"].get("holderIdentity"), "the Lease was given back"
