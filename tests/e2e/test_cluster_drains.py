"""What a cluster tells of pods that go away with sockets open to them, and which of its pods it takes when it has the choice."""

import collections
import re

import pytest

import cluster as clusters
from cluster import echo, kubectl, location, until, wsroute
from crowd import Crowd

HOST = "drains.test"
COST = "controller.kubernetes.io/pod-deletion-cost"


@pytest.fixture(scope="module")
def release(cluster):
    """Two replicas that say what it costs to delete a pod."""
    with cluster.namespace("drains-home", clusters.RESTRICTED) as home:
        release = clusters.Release(cluster, "drains", home, {"podDeletionCost": True})
        with release.installed():
            yield release


def serve(cluster, release, namespace, name, replicas, **more):
    cluster.apply([*echo(name, replicas, **more), wsroute(name, release.ingress_class, [location("/", name)], hosts=[f"{name}.{HOST}"])], namespace)
    kubectl("rollout", "status", f"deployment/{name}", "-n", namespace, "--timeout=90s", within=100)
    cluster.route_is(namespace, name, Ready="True")


def crowd(release, name, count):
    return Crowd({name: (f"ws://{name}.{HOST}/", count, {"host": release.address, "port": 80})})


def pods(cluster, namespace, name):
    """Those that stay: name -> pod."""
    found = cluster.list("Pod", namespace, f"app={name}")
    return {pod["metadata"]["name"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}


def told(cluster, namespace, pod):
    """Reason -> notes of the Events about a pod that are ours."""
    notes = collections.defaultdict(list)
    for event in cluster.list("Event", namespace):
        if event["regarding"].get("name") == pod and event.get("action") == "Drain":
            notes[event["reason"]].append(event["note"])
    return notes


def test_a_pod_that_goes_tells_its_story(cluster, release, namespace):
    serve(cluster, release, namespace, "patient", 2, arguments=["--linger=40s"], grace=30)
    with crowd(release, "patient", 40) as held:
        ((victim, open_before),) = held.servers("patient").most_common(1)
        kubectl("delete", "pod", victim, "-n", namespace, "--wait=false")
        story = until(lambda: (notes := told(cluster, namespace, victim)) and "DrainEnded" in notes and notes, f"the end of {victim}", 60)
        (began,), (ended,) = story["DrainStarted"], story["DrainEnded"]
        clusters.found(f"{open_before} sockets of a pod with 30 s to go: {[*story.values()]}")
        count, replicas = map(int, re.match(r"(\d+) sockets? on (\d) replicas?", began).groups())
        assert count == open_before and replicas in (1, 2), began
        assert ended.startswith(f"all of {count} sockets have ended") and "no answer" not in began + ended, story
        assert all(re.fullmatch(rf"\d+ of {count} sockets are left", note) for note in story["Draining"]) and story["Draining"], story
        assert "EndpointGoneBeforeDrain" not in story, story
        held.flows()


def test_a_pod_that_does_not_wait_is_a_warning(cluster, release, namespace):
    serve(cluster, release, namespace, "hasty", 2, grace=30)
    with crowd(release, "hasty", 30) as held:
        ((victim, _),) = held.servers("hasty").most_common(1)
        kubectl("delete", "pod", victim, "-n", namespace, "--wait=false")
        story = until(lambda: (notes := told(cluster, namespace, victim)) and "DrainEnded" in notes and notes, f"the end of {victim}", 60)
        (warning,) = story["EndpointGoneBeforeDrain"]
        clusters.found(f"a pod that exits at once: {warning}")
        assert re.match(rf"pod {victim} ended \d+\.\d s after termination with \d+ sockets; add a preStop sleep", warning), warning
        printed = kubectl("get", "events", "-n", namespace, "--field-selector", f"involvedObject.name={victim},reason=EndpointGoneBeforeDrain")
        assert "Warning" in printed and f"pod/{victim}" in printed, printed


def test_a_scale_down_takes_the_emptiest_pods(cluster, release, namespace):
    """Two of four pods have all the sockets: those that came last, which Kubernetes would rather take."""
    serve(cluster, release, namespace, "crowded", 2)
    old = set(pods(cluster, namespace, "crowded"))
    serve(cluster, release, namespace, "crowded", 4)
    full = set(pods(cluster, namespace, "crowded")) - old
    kubectl("label", "pod", "-n", namespace, *full, "fill=yes")
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "full"}, "spec": {"selector": {"app": "crowded", "fill": "yes"}, "ports": [{"name": "ws", "port": 80, "targetPort": 8080}]}}
    cluster.apply([service, wsroute("full", release.ingress_class, [location("/", "full")], hosts=[f"full.{HOST}"])], namespace)
    cluster.route_is(namespace, "full", Ready="True")
    with crowd(release, "full", 20) as held:
        servers = held.servers("full")
        assert set(servers) == full, servers

        def costs():
            return {name: pod["metadata"].get("annotations", {}).get(COST) for name, pod in pods(cluster, namespace, "crowded").items()}

        wanted = {name: str(servers.get(name, 0)) for name in old | full}
        until(lambda: all(int(cost or 0) == int(wanted[name]) for name, cost in costs().items()), lambda: f"costs {wanted}, not {costs()}", 40)
        mark = held.mark()
        kubectl("scale", "deployment/crowded", "-n", namespace, "--replicas=2")
        until(lambda: set(pods(cluster, namespace, "crowded")) == full, lambda: f"the full ones {full} stay, not {set(pods(cluster, namespace, 'crowded'))}", 30)
        held.flows()
        assert not held.since(mark, "full").ends
        clusters.found(f"scale 4 -> 2 with costs {sorted(wanted.values())}: the two emptiest went, no socket ended")
