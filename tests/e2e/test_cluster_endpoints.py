"""How fast endpoints reach the data plane, and that they compile nothing on their way."""

import json
import re
import urllib.request

import pytest

import cluster as clusters
from cluster import RESOURCES, http, location, until, wsroute

CHANGES = 100
APPLY = "carrick_config_apply_seconds"


def endpoint_slice(addresses):
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "by-hand-1", "labels": {"kubernetes.io/service-name": "by-hand"}},
        "addressType": "IPv4",
        "ports": [{"name": "ws", "port": 8080}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


@pytest.fixture(scope="module")
def by_hand(cluster, carrick, namespace):
    """A Service without a selector: its endpoints are what we say."""
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "by-hand"}, "spec": {"ports": [{"name": "ws", "port": 80}]}}
    cluster.apply([service, endpoint_slice(["198.51.100.1"]), wsroute("by-hand", carrick.ingress_class, [location("/", "by-hand")], hosts=["by-hand.test"])], namespace)
    cluster.route_is(namespace, "by-hand", Ready="True")


def buckets(carrick, pod):
    """Upper bound -> changes that took no longer."""
    text = carrick.cluster.read(f"api/v1/namespaces/{carrick.namespace}/pods/{pod}:9180/proxy/metrics", accept="*/*")
    series = re.findall(rf"^{APPLY}_bucket{{(.*)}} (\S+)$", text, re.MULTILINE)
    return {float(re.search(r'le="([^"]+)"', labels)[1]): float(count) for labels, count in series if 'lane="endpoints"' in labels}


def changes(buckets):
    return buckets.get(float("inf"), 0)


def quantile(before, after, share):
    """The upper bound of the bucket that it lies in."""
    total = changes(after) - changes(before)
    return next(bound for bound in sorted(after) if after[bound] - before.get(bound, 0) >= share * total)


def test_a_change_of_endpoints_is_in_the_data_plane_in_a_tenth_of_a_second(cluster, carrick, namespace, by_hand):
    pods = [pod["metadata"]["name"] for pod in carrick.pods()]
    before = {pod: buckets(carrick, pod) for pod in pods}
    compiled = {pod: carrick.metric(pod, "carrick_router_compilations_total") for pod in pods}
    for change in range(CHANGES):
        generations = {pod: carrick.metric(pod, "carrick_generation") for pod in pods}
        cluster.patch("EndpointSlice", namespace, "by-hand-1", {"endpoints": endpoint_slice([f"198.51.100.{2 + change}"])["endpoints"]})
        until(lambda: all(carrick.metric(pod, "carrick_generation") > generations[pod] for pod in pods), "the change in every data plane", 5)
    for pod in pods:
        # The last one is counted after it was published; one that meets a change of some object goes by the other lane.
        enough = CHANGES * 0.95
        until(lambda: changes(buckets(carrick, pod)) - changes(before[pod]) >= enough, f"{enough:.0f} changes counted", 5)
        after = buckets(carrick, pod)
        median, most = quantile(before[pod], after, 0.5), quantile(before[pod], after, 0.99)
        clusters.found(f"EndpointSlice event to data plane, {CHANGES} changes at {pod}: median at most {median * 1000:.0f} ms, 99 % at most {most * 1000:.0f} ms")
        assert median <= 0.1, median
    assert {pod: carrick.metric(pod, "carrick_router_compilations_total") for pod in pods} == compiled


def test_a_burst_is_held_off_for_half_a_second_at_most(cluster, carrick, namespace, by_hand):
    """Changes faster than the hold-off are taken together, and the data plane still moves twice a second."""
    pod = carrick.pods()[0]["metadata"]["name"]
    before, generation = buckets(carrick, pod), carrick.metric(pod, "carrick_generation")
    for change in range(60):
        request = urllib.request.Request(
            f"{cluster.address}/{RESOURCES['EndpointSlice'].format(namespace)}/by-hand-1",
            json.dumps({"endpoints": endpoint_slice([f"203.0.113.{1 + change}"])["endpoints"]}).encode(),
            {"Content-Type": "application/merge-patch+json"},
            method="PATCH",
        )
        urllib.request.urlopen(request, timeout=5).close()
    until(lambda: http(carrick.address, "/", "by-hand.test")[0] in (502, 504), "still a route", 20)
    moved = carrick.metric(pod, "carrick_generation") - generation
    assert 1 <= moved < 60, moved
    until(lambda: changes(buckets(carrick, pod)) - changes(before) >= moved, "each swap counted", 5)
    most = quantile(before, buckets(carrick, pod), 1.0)
    assert most <= 1.0, most
