"""Who writes: one of two replicas, another one when it vanishes, and of two releases each what is its own."""

import os
import signal
import time

import pytest

import cluster as clusters
from cluster import condition, echo, everywhere, kubectl, location, process_of, until, wsroute


@pytest.fixture(scope="module")
def backend(cluster, carrick, namespace):
    cluster.apply(echo("backend"), namespace)
    kubectl("wait", "-n", namespace, "--for=condition=Available", "deployment/backend", "--timeout=60s")


def lease(cluster, carrick):
    return cluster.get("Lease", carrick.namespace, carrick.name)["spec"]


def test_one_of_two_writes(cluster, carrick, namespace, backend):
    pods = {pod["metadata"]["name"] for pod in carrick.pods()}
    assert len(pods) == 2 and until(carrick.leader, "a leader") in pods
    assert lease(cluster, carrick)["leaseDurationSeconds"] == 15
    cluster.apply([wsroute("written", carrick.ingress_class, [location("/written", "backend")])], namespace)
    route = cluster.route_is(namespace, "written", Ready="True")
    writers = {entry["manager"] for entry in route["metadata"]["managedFields"] if entry.get("subresource") == "status"}
    assert len(writers) == 1, "both replicas write under one name, so that the second can take over"


def test_a_leader_that_freezes_is_replaced_and_writes_no_more(cluster, carrick, namespace, backend):
    leader = until(carrick.leader, "a leader")
    pod = next(pod for pod in carrick.pods() if pod["metadata"]["name"] == leader)
    process = process_of(pod, "controller")
    if process is None:
        pytest.skip("the leader runs on another machine")
    began = time.monotonic()
    os.kill(process, signal.SIGSTOP)
    try:
        cluster.apply([wsroute("takeover", carrick.ingress_class, [location("/takeover", "backend")])], namespace)
        cluster.route_is(namespace, "takeover", within=20, Ready="True")
        clusters.found(f"the leader frozen: another one wrote a status after {time.monotonic() - began:.1f} s")
        holder = lease(cluster, carrick)["holderIdentity"]
        assert not holder.startswith(leader)
    finally:
        os.kill(process, signal.SIGCONT)
    # It wakes with an old view; what it says now must not be said any more.
    cluster.patch("WsRoute", namespace, "takeover", {"spec": {"locations": [location("/takeover", "nobody")]}})
    cluster.route_is(namespace, "takeover", ResolvedRefs="ServiceNotFound")
    until(lambda: sum(1 for one in carrick.pods() if carrick.metric(one["metadata"]["name"], "carrick_leader") == 1) == 1, "one leader by its own metric")
    assert lease(cluster, carrick)["holderIdentity"] == holder


def test_a_killed_leader_is_replaced_within_20_seconds(cluster, carrick, namespace, backend):
    leader = until(carrick.leader, "a leader")
    pod = next(pod for pod in carrick.pods() if pod["metadata"]["name"] == leader)
    process = process_of(pod, "controller")
    began = time.monotonic()
    if process is None:
        kubectl("delete", "pod", leader, "-n", carrick.namespace, "--grace-period=0", "--force")
    else:
        os.kill(process, signal.SIGKILL)
    cluster.apply([wsroute("killed", carrick.ingress_class, [location("/killed", "backend")])], namespace)
    cluster.route_is(namespace, "killed", within=20, Ready="True")
    clusters.found(f"the leader killed: a status was written after {time.monotonic() - began:.1f} s")
    until(lambda: len(carrick.pods()) == 2, "two pods again")


def test_two_releases_never_touch_each_others_objects(cluster, carrick, namespace, backend):
    with cluster.namespace("second", clusters.RESTRICTED) as home:
        second = clusters.Release(cluster, "second", home, {"replicaCount": 1, "ingressClass": {"default": True}})
        with second.installed():
            mine = wsroute("of-first", carrick.ingress_class, [location("/of-first", "backend")])
            theirs = wsroute("of-second", second.ingress_class, [location("/of-second", "backend")])
            classless = wsroute("of-default", "", [location("/of-default", "backend")])
            del classless["spec"]["ingressClassName"]
            cluster.apply([mine, theirs, classless], namespace)
            for name, owner in (("of-first", carrick), ("of-second", second), ("of-default", second)):
                route = cluster.route_is(namespace, name, Ready="True")
                assert route["status"]["ingressClassName"] == owner.ingress_class
                assert route["status"]["controller"] == f"e2e.carrick.dev/{owner.name}"
                assert route["status"]["loadBalancer"]["ingress"] == [{"ip": owner.address}]
                other = second if owner is carrick else carrick
                everywhere(owner, f"/{name}")
                everywhere(other, f"/{name}", 404)
            before = cluster.get("WsRoute", namespace, "of-first")["metadata"]["resourceVersion"]
            # The host is owned in each of them for itself.
            assert condition(cluster.get("WsRoute", namespace, "of-second"), "Conflicted")["status"] in (None, "False")
        assert cluster.get("WsRoute", namespace, "of-first")["metadata"]["resourceVersion"] == before
        everywhere(carrick, "/of-first")
