"""`carrick tunnels` and `kubectl carrick`, as somebody with a kubeconfig uses them: every socket of both replicas is seen, and those named end."""

import collections
import json
import os

import pytest

import cluster as clusters
from cluster import Failed, echo, kubectl, location, run, until, wsroute
from crowd import Crowd

CARRICK = os.environ["CARRICK"]
HOST = "tunnels.test"
KEPT, DRAINED = 30, 20


@pytest.fixture(scope="module")
def crowd(cluster, carrick, namespace):
    """Sockets of two routes, enough that each replica has some of both."""
    routes = [wsroute(name, carrick.ingress_class, [location(f"/{name}", name)], hosts=[HOST]) for name in ("kept", "drained")]
    cluster.apply([*echo("kept"), *echo("drained"), *routes], namespace)
    kubectl("wait", "-n", namespace, "--for=condition=Available", "deployment", "--all", "--timeout=60s")
    for name in ("kept", "drained"):
        cluster.route_is(namespace, name, Ready="True")
    there = {"host": carrick.address, "port": 80}
    with Crowd({"kept": (f"ws://{HOST}/kept", KEPT, there), "drained": (f"ws://{HOST}/drained", DRAINED, there)}) as crowd:
        yield crowd


def tunnels(carrick, *words, program=(CARRICK,), **more):
    return run(*program, "tunnels", *words, "-n", carrick.namespace, **more)


def listed(carrick, *words, **more):
    return json.loads(tunnels(carrick, "list", "-o", "json", *words, **more))


def test_a_list_has_every_socket_of_both_replicas(crowd, carrick, namespace):
    crowd.flows()
    found = listed(carrick, "--route-namespace", namespace, "--sort", "frames")
    pods = {f"{carrick.namespace}/{pod['metadata']['name']}" for pod in carrick.pods()}
    assert {answer["replica"] for answer in found["replicas"]} == pods and found["unreached"] == []
    assert {row["replica"] for row in found["tunnels"]} == pods, "each of them has some"
    routes = collections.Counter(row["route"] for row in found["tunnels"])
    assert routes == {f"{namespace}/kept": KEPT, f"{namespace}/drained": DRAINED}
    frames = [row["frames_received"] + row["frames_sent"] for row in found["tunnels"]]
    assert frames == sorted(frames, reverse=True) and frames[-1] > 0
    assert {row["pod"].rsplit("-", 2)[0] for row in found["tunnels"]} == {"kept", "drained"}


def test_all_namespaces_are_looked_through_by_the_labels_of_the_chart(crowd, carrick, namespace):
    found = json.loads(run(CARRICK, "tunnels", "list", "-o", "json", "--route-namespace", namespace, "--limit", "1"))
    mine = {answer["replica"]: answer["matching"] for answer in found["replicas"] if answer["replica"].startswith(f"{carrick.namespace}/")}
    assert len(mine) == 2 and sum(mine.values()) == KEPT + DRAINED, found["replicas"]
    assert len(found["tunnels"]) == 1


def test_a_drain_ends_exactly_what_is_named(crowd, carrick, namespace):
    crowd.flows()
    since = crowd.mark()
    said = json.loads(tunnels(carrick, "drain", "--route", f"{namespace}/drained", "--over", "3s", "-o", "json"))
    assert sum(answer["closing"] for answer in said["replicas"]) == DRAINED and len(said["replicas"]) == 2
    until(lambda: len(crowd.since(since, "drained").ends) == DRAINED, "every socket told", 20)
    crowd.flows()
    ended, kept = crowd.since(since, "drained"), crowd.since(since, "kept")
    assert ended.codes() == {1012: DRAINED} and len({end.socket for end in ended.ends}) == DRAINED, ended.codes()
    assert not kept.ends and kept.lost == 0
    clusters.found(f"carrick tunnels drain: {dict(ended.codes())} of those named, {KEPT} others stay")


def test_top_shows_both_replicas_once_where_no_terminal_is(crowd, carrick, namespace):
    shown = tunnels(carrick, "top", "--route-namespace", namespace)
    assert f"{KEPT + DRAINED} match, 2 replicas" in shown.splitlines()[0], shown


def test_kubectl_finds_it_as_a_plugin(crowd, carrick, namespace, tmp_path):
    (tmp_path / "kubectl-carrick").symlink_to(CARRICK)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    table = tunnels(carrick, "list", "--route", f"{namespace}/kept", program=("kubectl", "carrick"), env=env)
    assert table.startswith("REPLICA") and len(table.splitlines()) == 1 + KEPT
    assert "Usage: kubectl carrick tunnels" in run("kubectl", "carrick", "tunnels", "--help", env=env)


def test_a_pod_without_an_admin_port_is_named(crowd, cluster, carrick, namespace):
    """One more pod with the labels of the chart, whose admin port nobody listens on."""
    (pod, _) = echo("other")
    labels = {"app.kubernetes.io/name": "carrick", "app": "other"}
    pod["spec"]["template"]["metadata"]["labels"] = labels
    cluster.apply([pod], namespace)
    kubectl("wait", "-n", namespace, "--for=condition=Available", "deployment/other", "--timeout=60s")
    with pytest.raises(Failed, match="other-.* can not be reached: its port 9181 can not be connected to"):
        run(CARRICK, "tunnels", "list", "-n", namespace)
    found = json.loads(run(CARRICK, "tunnels", "list", "-o", "json", "--route-namespace", namespace))
    assert any(missing["replica"].startswith(f"{namespace}/other-") for missing in found["unreached"])
    assert len(found["tunnels"]) == KEPT + DRAINED
