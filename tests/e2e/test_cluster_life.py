"""What 500 sockets live through, each with a message a second: the table of docs/connection-life.md.

Two applications of four pods, with 30 s to end in: one serves on after SIGTERM, one ends at once. Every change that a cluster knows
happens to them and to Carrick; what the clients saw of it is printed as a line of the table.
"""

import math
import os
import signal

import pytest

import cluster as clusters
from cluster import echo, kubectl, location, process_of, until, wsroute
from crowd import Crowd

HOST = "life.test"
SOCKETS, PODS, GRACE = 500, 4, 30
MANY = 2000
APPLICATIONS = {"serves on": ["--linger", "60s"], "ends at once": []}
CLEAN = {1012}


@pytest.fixture(scope="module", params=APPLICATIONS)
def application(request, cluster, carrick, namespace):
    """Its name as an object, and whether it serves on after SIGTERM."""
    name = request.param.replace(" ", "-")
    route = wsroute(name, carrick.ingress_class, [location(f"/{name}", name)], hosts=[HOST])
    cluster.apply([*echo(name, PODS, arguments=APPLICATIONS[request.param], grace=GRACE), route], namespace)
    rolled_out(namespace, name)
    cluster.route_is(namespace, name, Ready="True")
    yield name
    kubectl("delete", f"deployment/{name}", "-n", namespace, "--wait=false")


@pytest.fixture(scope="module")
def crowd(application, carrick):
    groups = {application: (f"ws://{HOST}/{application}", SOCKETS, {"host": carrick.address, "port": 80})}
    with Crowd(groups, per_second=1) as crowd:
        yield crowd


@pytest.fixture(scope="module", autouse=True)
def as_it_was(cluster, carrick):
    """The release is shared: other tests find it with its own values."""
    yield
    replaced(cluster, carrick, carrick.upgrade)


class Event:
    """From before a change until messages flow again everywhere: what became of the sockets."""

    def __init__(self, crowd, application, name):
        self.crowd, self.application, self.name = crowd, application, name

    def __enter__(self):
        self.crowd.flows()
        self.mark = self.crowd.mark()
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            return
        self.crowd.flows()
        self.report = report = self.crowd.since(self.mark, self.application)
        codes = ", ".join(f"{count} × {code}" for code, count in sorted(report.codes().items())) or "none"
        unclean, unanswered, curve = report.codes()[1006], sum(end.unanswered for end in report.ends), report.curve()
        back = f"{max(curve, default=0)} a second at most, over {len(curve)} s"
        clusters.found(f"| {self.application} | {self.name} | {codes} | {unclean} | {report.lost} | {unanswered} | {sum(report.refused.values())} | {back} |")

    def is_clean(self, at_least=1, at_most=math.inf):
        """Whoever ended was told so by a Close frame; the others lost nothing; nobody was refused."""
        report = self.report
        assert at_least <= len(report.ends) <= at_most, (self.name, len(report.ends))
        assert set(report.codes()) <= CLEAN, (self.name, report.codes(), [end for end in report.ends if end.code not in CLEAN][:5])
        assert report.lost == 0 and not report.refused, (self.name, report.lost, report.refused)


def rolled_out(namespace, name):
    kubectl("rollout", "status", f"deployment/{name}", "-n", namespace, "--timeout=150s", within=160)


def pods(cluster, namespace, application):
    return cluster.list("Pod", namespace, f"app={application}")


def busiest(crowd, application):
    """The pod with the most sockets: what happens to one without any shows nothing."""
    (name, _), = crowd.servers(application).most_common(1)
    return name


def settled(cluster, namespace, application, count):
    """Waits until there are so many pods, those about to end included."""
    until(lambda: len(pods(cluster, namespace, application)) == count, f"{count} pods of {application}", GRACE + 60)


def scaled(cluster, namespace, application, count):
    kubectl("scale", f"deployment/{application}", f"--replicas={count}", "-n", namespace)
    rolled_out(namespace, application)
    settled(cluster, namespace, application, count)


def test_rollout_restart(crowd, cluster, namespace, application):
    with Event(crowd, application, "`kubectl rollout restart` of the application") as event:
        kubectl("rollout", "restart", f"deployment/{application}", "-n", namespace)
        rolled_out(namespace, application)
        settled(cluster, namespace, application, PODS)
    event.is_clean(SOCKETS)


def test_scale_down_and_up(crowd, cluster, namespace, application):
    with Event(crowd, application, "`kubectl scale` 4 → 2") as event:
        scaled(cluster, namespace, application, 2)
    event.is_clean(at_most=SOCKETS - 1)
    with Event(crowd, application, "`kubectl scale` 2 → 6") as event:
        scaled(cluster, namespace, application, 6)
    event.is_clean(0, 0)
    scaled(cluster, namespace, application, PODS)


def test_delete_pod(crowd, cluster, namespace, application):
    victim = busiest(crowd, application)
    with Event(crowd, application, "`kubectl delete pod`") as event:
        kubectl("delete", "pod", victim, "-n", namespace, "--wait=false")
        until(lambda: cluster.get("Pod", namespace, victim) is None, "the pod gone", GRACE + 60)
        rolled_out(namespace, application)
    event.is_clean(at_most=SOCKETS - 1)


def test_killed_container(crowd, cluster, namespace, application):
    victim = cluster.get("Pod", namespace, busiest(crowd, application))
    process = process_of(victim, "echo")
    if process is None:
        pytest.skip("its pods run on another machine")
    with Event(crowd, application, "SIGKILL of a container") as event:
        os.kill(process, signal.SIGKILL)
        until(lambda: any(status["restartCount"] for status in cluster.get("Pod", namespace, victim["metadata"]["name"])["status"]["containerStatuses"]), "it restarted")
        rolled_out(namespace, application)
    # Nobody could be told before; those who try in the second until it is seen to be away go to the next pod.
    event.is_clean(at_most=SOCKETS - 1)
    assert max(event.report.came_back) - min(event.report.came_back) < 2 + crowd.lag, "within 2 s"


def replaced(cluster, carrick, change):
    """Makes a change that replaces Carrick's pods, and waits until the old ones are gone."""
    old = [pod["metadata"]["name"] for pod in carrick.pods()]
    change()
    until(lambda: all(cluster.get("Pod", carrick.namespace, pod) is None for pod in old), "the old pods gone", 120)
    until(lambda: len(carrick.pods()) == 2, "two pods again")


def test_carrick_restarted(crowd, cluster, carrick, application):
    with Event(crowd, application, "`kubectl rollout restart` of Carrick") as event:
        replaced(cluster, carrick, lambda: (kubectl("rollout", "restart", f"deployment/{carrick.name}", "-n", carrick.namespace), rolled_out(carrick.namespace, carrick.name)))
    event.is_clean(SOCKETS)


def test_carrick_upgraded(crowd, cluster, carrick, application):
    with Event(crowd, application, "`helm upgrade` of Carrick") as event:
        replaced(cluster, carrick, lambda: carrick.upgrade(podAnnotations={"life": application}))
    event.is_clean(SOCKETS)


def test_many_sockets_outlive_a_restart_of_carrick(cluster, carrick, namespace):
    cluster.apply([*echo("many", 2), wsroute("many", carrick.ingress_class, [location("/many", "many")], hosts=[HOST])], namespace)
    rolled_out(namespace, "many")
    cluster.route_is(namespace, "many", Ready="True")
    with Crowd({"many": (f"ws://{HOST}/many", MANY, {"host": carrick.address, "port": 80})}, per_second=0.4) as crowd:
        with Event(crowd, "many", f"`kubectl rollout restart` of Carrick, {MANY} sockets") as event:
            replaced(cluster, carrick, lambda: (kubectl("rollout", "restart", f"deployment/{carrick.name}", "-n", carrick.namespace), rolled_out(carrick.namespace, carrick.name)))
    clusters.found(f"new sockets in each second of it: {', '.join(map(str, event.report.curve()))}")
    event.is_clean(MANY)
