"""What balancing comes to in a cluster: while pods are added under a stream of clients, for sessions that are several requests each on two
replicas of Carrick, and with a pod that is ready for Kubernetes and refuses every WebSocket.
"""

import collections
import contextlib
import json
import math
import socket
import subprocess
import time
import urllib.request

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import cluster as clusters
from cluster import echo, kubectl, location, until, wsroute
from conftest import HERE, node_env, running
from crowd import Crowd

HOST = "balance.test"

CLIENTS, PODS = 1000, 4
EVEN = 0.1  # of what a pod would have if all had the same
EARLY, AT_MOST_EARLY = 50, 150  # open when the pods are added, and before they are there: less than a pod's share in the end
# Clients a second before the pods are there, and from then on. A new pod counts for more than it has for 10 s, so that nobody runs to it: whoever
# comes within less could not be spread evenly.
TRICKLE, STREAM = 10, 60

STAYING, UPGRADING = 10, 20  # clients of Socket.IO, by whether they stay with long-polling
GRACE = 60  # seconds that a pod has to end in: more than its successors need to be there

MAX_FAILS, FAIL_TIMEOUT = 3, 10


def deployed(cluster, carrick, namespace, objects, **policies):
    """Applies a backend with a route to it at its own host, and waits until both replicas have its endpoints."""
    name, count = objects[0]["metadata"]["name"], objects[0]["spec"]["replicas"]
    cluster.apply([*objects, wsroute(name, carrick.ingress_class, [location("/", name, **policies)], hosts=[f"{name}.{HOST}"])], namespace)
    rolled_out(namespace, name)
    cluster.route_is(namespace, name, Ready="True")
    until(lambda: ready(carrick, namespace, name) == [count] * 2, f"{count} endpoints of {name} at each replica")


def of_peers(name, image, grace=1):
    """A Deployment of three pods that run peers/pod.mjs, and its Service."""
    deployment, service = echo(name, 3, grace=grace)
    deployment["spec"]["template"]["spec"]["containers"][0] |= {"image": image, "args": ["/peers/pod.mjs"]}
    return deployment, service


def tell(cluster, namespace, pod, word):
    """An order to a pod of these."""
    request = urllib.request.Request(f"{cluster.address}/api/v1/namespaces/{namespace}/pods/{pod}:8080/proxy/{word}", method="POST")
    urllib.request.urlopen(request, timeout=10).close()


def rolled_out(namespace, name):
    kubectl("rollout", "status", f"deployment/{name}", "-n", namespace, "--timeout=90s", within=100)


def replicas(carrick):
    return sorted(pod["metadata"]["name"] for pod in carrick.pods())


def metrics(carrick, name, **labels):
    """Of each replica."""
    return [carrick.metric(pod, name, **labels) for pod in replicas(carrick)]


def ready(carrick, namespace, name):
    return metrics(carrick, "carrick_pool_endpoints", pool=f"{namespace}/{name}:ws", state="ready")


def pods(cluster, namespace, name):
    """All names, those of pods about to end included."""
    return {pod["metadata"]["name"] for pod in cluster.list("Pod", namespace, f"app={name}")}


def test_scaling_out_under_a_thousand_connecting_clients_ends_even(cluster, carrick, namespace):
    deployed(cluster, carrick, namespace, echo("growing"))
    there = {"host": carrick.address, "port": 80}
    with Crowd({"growing": (f"ws://growing.{HOST}/", CLIENTS, there)}, per_second=0.4, arriving=TRICKLE) as crowd:

        def has(count):
            return sum(crowd.servers("growing").values()) >= count

        def grown():
            if has(AT_MOST_EARLY):
                crowd.arriving = 0  # whoever is here already is on the first pod
            return ready(carrick, namespace, "growing") == [PODS] * 2

        until(lambda: has(EARLY), f"{EARLY} clients")
        mark = crowd.mark()
        kubectl("scale", "deployment/growing", f"--replicas={PODS}", "-n", namespace)
        until(grown, f"{PODS} endpoints at each replica", 90)
        early = crowd.servers("growing")
        assert sum(early.values()) < CLIENTS / PODS, early
        crowd.arriving = STREAM
        until(lambda: has(CLIENTS), f"{CLIENTS} clients", 120)
        crowd.flows(messages=1)
        servers, report = crowd.servers("growing"), crowd.since(mark, "growing")

        def tunnels():
            counts = {pod: metrics(carrick, "carrick_tunnels_open", route_namespace=namespace, endpoint_pod=pod) for pod in servers}
            return sum(map(sum, counts.values())) == CLIENTS and counts

        at_replicas = until(tunnels, "every socket in the metrics of the replicas")
    clusters.found(f"scale 1 -> {PODS} with {sum(early.values())} of {CLIENTS} clients there: {sorted(servers.values())} sockets a pod, of each replica {sorted(at_replicas.values())}")
    assert not report.ends and not report.refused and report.lost == 0, (report.ends[:5], report.refused, report.lost)
    assert {pod: sum(counts) for pod, counts in at_replicas.items()} == servers
    even = CLIENTS / PODS
    assert len(servers) == PODS and all(abs(count - even) <= EVEN * even for count in servers.values()), servers


class SocketIo:
    """Clients of Socket.IO at a host, as peers/socketio_crowd.mjs: what they lived through up to now."""

    def __init__(self, stack, address, host, **scenario):
        command = ["node", str(HERE / "peers" / "socketio_crowd.mjs"), address, "80", host, json.dumps(scenario)]
        self.process, self.asked, self.count = stack.enter_context(running(command, env=node_env(), stdin=subprocess.PIPE)), 0, scenario["polling"] + scenario["upgrading"]

    def look(self, word="look"):
        """Every session so far, and who was refused."""
        self.asked += 1
        with contextlib.suppress(BrokenPipeError):  # what they said at their end is told below
            self.process.child.stdin.write(f"{word}\n")
            self.process.child.stdin.flush()
        state = json.loads(self.process.wait_line(rf"^state {self.asked} (.+)$")[1])
        self.sessions, self.refused = state["sessions"], state["refused"]
        return self.open()

    def open(self):
        """The sessions that go on."""
        return [session for session in self.sessions if "ended" not in session]

    def settled(self, pods):
        """Waits until each client has a session on one of these pods that talks, upgraded where it can be."""

        def talks(one):
            return home(one) in pods and one["echoed"] >= 5 and (one["transport"] == "websocket") == one["client"].startswith("upgrading")

        until(lambda: len(self.look()) == self.count and all(map(talks, self.open())), lambda: f"{self.count} clients settled: {self.open()}, {self.refused}")

    def returned(self, pods):
        """Waits until each of these pods has lost some session, and whoever that was is there again."""
        until(lambda: len(self.look()) == self.count and {home(one) for one in self.sessions if "ended" in one} == pods, lambda: f"some told to come back: {self.sessions}", 90)

    def speak(self):
        """Waits until each session that is there now has more of its messages back."""
        now = {one["session"]: one["echoed"] for one in self.look()}
        until(lambda: all(one["echoed"] > now[one["session"]] + 1 for one in self.look() if one["session"] in now), lambda: f"messages: {self.open()}")

    def quiet(self):
        """From now on nobody speaks; waits until every message of the sessions that are there has come back."""
        until(lambda: all(one["sent"] == one["echoed"] for one in self.look("quiet")), lambda: f"every message: {self.open()}")


def home(session):
    """The pod that a session is of."""
    return session["session"].partition(".")[0]


def said(lines):
    """What a pod has printed of itself, as far as it is known."""
    return [json.loads(line) for line in lines if line and line.startswith("{")]


def test_socketio_over_three_pods_through_two_replicas_survives_a_rollout(cluster, carrick, namespace, peers_image):
    """A session is known to one pod alone. It stays there while that pod answers, also after that was told to end: long-polling goes on until the pod
    itself ends the session. WebSockets end before, one by one, because Carrick closes them in time. None is opened to a pod that is about to go: a
    session there that would upgrade is refused that by another pod, and stays with long-polling.
    """
    deployed(cluster, carrick, namespace, of_peers("chat", peers_image, GRACE), affinity={"cookie": {}})
    addresses = {pod["status"]["podIP"] for pod in carrick.pods()}

    def served():
        return metrics(carrick, "carrick_requests_total", route_namespace=namespace, route="chat", status="2xx")

    before, old = served(), pods(cluster, namespace, "chat")
    with contextlib.ExitStack() as stack:
        logs = {pod: stack.enter_context(running(["kubectl", "logs", "-f", "-n", namespace, pod])) for pod in old}
        clients = SocketIo(stack, carrick.address, f"chat.{HOST}", polling=STAYING, upgrading=UPGRADING, every=400)
        clients.settled(old)
        until(lambda: all(set(one["through"]) == addresses for one in clients.look() if one["transport"] == "polling"), "each polling session through both replicas")
        assert len(clients.sessions) == clients.count and not clients.refused, (clients.sessions, clients.refused)
        assert {home(one) for one in clients.sessions} == old, "each pod has some"

        began = time.time() * 1000
        kubectl("rollout", "restart", "deployment/chat", "-n", namespace)
        rolled_out(namespace, "chat")
        new = pods(cluster, namespace, "chat") - old
        clients.returned(old)
        clients.speak()
        for pod in old:
            tell(cluster, namespace, pod, "end")
        until(lambda: pods(cluster, namespace, "chat") == new, "the old pods gone", GRACE + 30)
        clients.settled(new)
        clients.quiet()
        printed = {pod: said(kubectl("logs", "-n", namespace, pod).splitlines()) for pod in new}
        for pod, log in logs.items():
            log.wait_line('"what":"ended"')
            printed[pod] = said(log.lines)
        sessions, refused = clients.sessions, clients.refused

    ended = {pod: entry["at"] for pod, entries in printed.items() for entry in entries if entry["what"] == "ended"}
    unknown = [entry for entries in printed.values() for entry in entries if entry["what"] == "unknown"]
    alive = [entry for entry in unknown if entry["at"] < ended.get(home(entry), math.inf)]
    over = [one for one in sessions if "ended" in one]
    answers = [now - then for now, then in zip(served(), before)]
    ends, strays = collections.Counter(f"{one['reason']} of {one['transport']}" for one in over), collections.Counter(entry["transport"] for entry in alive)
    clusters.found(
        f"Socket.IO over a rollout: {clients.count} clients had {len(sessions)} sessions; ends {dict(ends)}; {len(unknown)} requests met a pod that did not know their session, "
        f"while its own pod answered {dict(strays)}; answers of each replica {answers}"
    )
    assert not refused and all(answers), (refused, answers)
    # No session moves, and no message of one is lost while it lasts.
    assert not [one for one in sessions if one["servers"] not in ([], [home(one)]) or one["wrong"]]
    # No pod is asked for the session of another that answers, but for upgrades.
    assert not [entry for entry in alive if entry["transport"] != "websocket"]
    # The rollout alone ended any, and long-polling only when the pod did.
    assert not [one for one in over if home(one) not in old or one["ended"] < began]
    assert not [one for one in over if one["transport"] == "polling" and one["ended"] < ended[home(one)]]


class Handshakes:
    """One client after the other, none before the last one was answered: who answered, and how. The latest sockets stay open."""

    def __init__(self, address, host):
        self.address, self.host = address, host
        self.held, self.refusals, self.servers = collections.deque(), [], collections.Counter()

    def shake(self):
        """One more client; of a refusal is kept when it was sent and when it was answered."""
        sent = time.monotonic()
        try:
            client = connect(f"ws://{self.host}/", sock=socket.create_connection((self.address, 80), 10), compression=None, ping_interval=None)
        except InvalidStatus as refused:
            assert refused.response.status_code == 500, refused.response
            self.refusals.append((sent, time.monotonic()))
            return
        self.servers[client.response.headers["Server"]] += 1
        self.held.append(client)
        if len(self.held) > 30:
            self.held.popleft().close()

    def until(self, look, what, within=60):
        """Lets clients come until `look` is true."""

        def shaken():
            self.shake()
            return look()

        return until(shaken, what, within)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for client in self.held:
            client.close()


def test_a_pod_that_answers_500_to_handshakes_is_out_within_fail_timeout(cluster, carrick, namespace, peers_image):
    policy = {"passive": {"maxFails": MAX_FAILS, "failTimeout": f"{FAIL_TIMEOUT}s"}}
    deployed(cluster, carrick, namespace, of_peers("moody", peers_image), healthCheck=policy)
    victim = min(pods(cluster, namespace, "moody"))
    before = metrics(carrick, "carrick_endpoint_ejections_total", reason="server_error")

    def resting():
        return metrics(carrick, "carrick_pool_endpoints_unhealthy", pool=f"{namespace}/moody:ws", cause="resting")

    def ejections():
        now = metrics(carrick, "carrick_endpoint_ejections_total", reason="server_error")
        return [after - earlier for after, earlier in zip(now, before)]

    with Handshakes(carrick.address, f"moody.{HOST}") as clients:
        clients.until(lambda: len(clients.servers) == 3, "sockets on three pods")
        assert resting() == [0, 0] and not clients.refusals
        tell(cluster, namespace, victim, "fail")
        # Whoever has the fewest sockets gets the next client, and that is soon the pod that takes none.
        clients.until(lambda: resting() == [1, 1], "the pod is out at both replicas")
        assert ready(carrick, namespace, "moody") == [3, 3], "Kubernetes knows nothing of it"
        # None may be tried again before it has rested, and the first one rests since the third refusal at the earliest.
        due = clients.refusals[MAX_FAILS - 1][0] + FAIL_TIMEOUT
        clients.until(lambda: min(ejections()) > 1, "a trial at each replica")
        assert sum(answered < due for _, answered in clients.refusals) <= 2 * MAX_FAILS, (due, clients.refusals)
        # A replica refuses through it so many clients as it takes to find out, and then one in each failTimeout.
        assert len(clients.refusals) == sum(MAX_FAILS - 1 + count for count in ejections()), (ejections(), clients.refusals)
        lasted = clients.refusals[-1][1] - clients.refusals[0][0]
        assert len(clients.refusals) <= 2 * (MAX_FAILS + lasted // FAIL_TIMEOUT), (lasted, clients.refusals)

        tell(cluster, namespace, victim, "succeed")
        refusals, answers = len(clients.refusals), clients.servers[victim]
        clients.until(lambda: resting() == [0, 0], "the pod is back at both replicas")
        clients.until(lambda: all(metrics(carrick, "carrick_tunnels_open", route_namespace=namespace, endpoint_pod=victim)), "and has sockets of both")
        assert len(clients.refusals) == refusals and clients.servers[victim] > answers
        clusters.found(f"a pod that answers 500: {refusals} of {refusals + sum(clients.servers.values())} handshakes in {lasted:.0f} s, {ejections()} times out at the replicas; mended, it took {clients.servers[victim] - answers} sockets")
