"""Carrick as a real process on free ports with WebSocket servers of two languages behind it, and Carrick in a real cluster."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import pytest

import cluster as clusters

HERE = pathlib.Path(__file__).parent
CARRICK = os.environ["CARRICK"]
PEERS = {
    "python": [sys.executable, str(HERE / "peers" / "server.py")],
    "node": ["node", str(HERE / "peers" / "server.mjs")],
}


class Process:
    """A child whose printed lines can be waited for."""

    def __init__(self, argv, **kwargs):
        self.lines, self.seen = [], threading.Condition()
        self.child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stdout:
            with self.seen:
                self.lines.append(line)
                self.seen.notify_all()
        with self.seen:
            self.lines.append(None)
            self.seen.notify_all()

    def wait_line(self, pattern, within=60):
        """The first match of `pattern` in what the child prints."""
        found = None

        def look():
            nonlocal found
            found = next((m for line in self.lines if line and (m := re.search(pattern, line))), None)
            return found or None in self.lines

        with self.seen:
            if not self.seen.wait_for(look, within) or not found:
                raise AssertionError(f"{pattern!r} was not printed:\n" + "".join(line or "(ended)" for line in self.lines))
        return found

    def stop(self):
        self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(40)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise


@contextlib.contextmanager
def running(argv, **kwargs):
    process = Process(argv, **kwargs)
    try:
        yield process
    finally:
        if process.child.poll() is None:
            process.stop()


def node_env():
    return {**os.environ, "NODE_MODULES": os.environ["E2E_NODE_MODULES"]}


def manifest(service, port):
    """A Service with one endpoint on this machine."""
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {service}}}
spec: {{ports: [{{name: ws, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
ports: [{{name: ws, port: {port}}}]
endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]
---
apiVersion: carrick.dev/v1alpha1
kind: WsRoute
metadata: {{name: {service}}}
spec:
  locations:
  - {{path: /{service}, backends: [{{service: {service}, port: ws}}]}}
"""


@pytest.fixture(scope="session")
def gateway():
    """Carrick in front of a server of each language, reached below /python and /node: (host, port)."""
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for language, argv in PEERS.items():
            server = stack.enter_context(running(argv, env=node_env()))
            port = server.wait_line(r"^port (\d+)$").group(1)
            (folder / f"{language}.yaml").write_text(manifest(language, port))
        carrick = stack.enter_context(running(
            [CARRICK, "standalone", "--manifests", str(folder), "--bind", "127.0.0.1", "--http-port", "0", "--https-port", "off",
             "--ops-bind", "127.0.0.1:0", "--admin-bind", "off"]))
        port = int(carrick.wait_line(r"http on \S*?:(\d+)").group(1))
        carrick.wait_line(r"serving a new configuration")
        yield "127.0.0.1", port


@pytest.fixture
def node_client():
    """Runs the client of the other language: its scenario as JSON in, what it saw as JSON out."""

    def run(url, scenario):
        done = subprocess.run(["node", str(HERE / "peers" / "client.mjs"), url, json.dumps(scenario)], env=node_env(), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def cluster():
    """The cluster of KUBECONFIG, with the definitions that Carrick reads."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("no cluster: KUBECONFIG is not set")
    with clusters.connected() as found:
        yield found


@pytest.fixture(scope="session")
def carrick(cluster):
    """The release that most tests share: two replicas, with layer-4 ports and a Service that it keeps for them."""
    with cluster.namespace("main", clusters.RESTRICTED) as namespace:
        release = clusters.Release(cluster, "main", namespace, {"tcpPorts": "9000-9099", "manageTcpService": True})
        with release.installed():
            yield release


def node_with_all_it_reads():
    """This machine's node, the libraries that it is linked with, and those parts of its own library that Debian builds it with as files."""
    node = str(pathlib.Path(shutil.which("node")).resolve())
    linked = [node, *re.findall(r"(/\S+) \(0x", clusters.run("ldd", node))]
    own = {path.decode() for file in linked for path in re.findall(rb"/usr/share/nodejs/[\w./-]+\.js", pathlib.Path(file).read_bytes())}
    return node, [*linked, *sorted(own)]


@pytest.fixture(scope="session")
def peers_image(cluster, tmp_path_factory):
    """An image of node and the servers in peers/, given to the cluster: its name. Its arguments are a server's file and what that is told."""
    if not clusters.owns_cluster():
        pytest.skip("this cluster can't be given an image of servers")
    name, archive = "localhost/carrick-peers:e2e", tmp_path_factory.mktemp("image") / "peers.tar"
    node, files = node_with_all_it_reads()
    inside = [f"{file}={file}" for file in files] + [f"{HERE / 'peers'}=/peers", f"{os.environ['E2E_NODE_MODULES']}=/node_modules"]
    clusters.run(clusters.SHARED / "image", archive, name, "--entrypoint", node, "--env", "NODE_MODULES=/node_modules", *inside)
    clusters.run(clusters.SHARED / "load", archive)
    archive.unlink()
    return name


@pytest.fixture(scope="module")
def namespace(cluster, request):
    """A namespace of the module's own."""
    with cluster.namespace(request.module.__name__.removeprefix("test_cluster_").replace("_", "-"), clusters.RESTRICTED) as name:
        yield name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that failed tells what the pods said."""
    report = yield
    if report.failed and call.when != "teardown":
        for release in clusters.Release.live:
            report.sections += [(f"log of {pod}", text) for pod, text in release.logs()]
    return report


def pytest_terminal_summary(terminalreporter):
    if clusters.FINDINGS:
        terminalreporter.section("what was measured")
        for line in clusters.FINDINGS:
            terminalreporter.write_line(line)
