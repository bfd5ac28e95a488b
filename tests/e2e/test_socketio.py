"""Socket.IO, which begins with long-polling, over three servers that share no session."""

import contextlib
import json
import pathlib
import subprocess
import tempfile

import pytest

from conftest import CARRICK, HERE, node_env, running

CLIENTS = 30

MANIFEST = """
apiVersion: v1
kind: Service
metadata: {{name: chat}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: carrick.dev/v1alpha1
kind: WsRoute
metadata: {{name: chat}}
spec:
  defaults: {{loadBalancing: {{policy: RoundRobin}}}}
  locations:
  - {{path: /cookie, rewrite: {{prefix: /}}, backends: [{{service: chat, port: http}}], affinity: {{cookie: {{}}}}}}
  - {{path: /sid, rewrite: {{prefix: /}}, backends: [{{service: chat, port: http}}], affinity: {{query: sid}}}}
  - {{path: /none, rewrite: {{prefix: /}}, backends: [{{service: chat, port: http}}]}}
"""

# One slice each: their ports differ.
SLICE = """---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: chat-{port}, labels: {{kubernetes.io/service-name: chat}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]
"""


@pytest.fixture(scope="module")
def chat():
    """Carrick in front of three servers: its URL."""
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = stack.enter_context(running(["node", str(HERE / "peers" / "socketio_server.mjs")], env=node_env()))
        ports = servers.wait_line(r"^ports (.+)$").group(1).split()
        (folder / "chat.yaml").write_text(MANIFEST.format() + "".join(SLICE.format(port=port) for port in ports))
        carrick = stack.enter_context(running(
            [CARRICK, "standalone", "--manifests", str(folder), "--bind", "127.0.0.1", "--http-port", "0", "--https-port", "off",
             "--ops-bind", "127.0.0.1:0", "--admin-bind", "off"]))
        port = carrick.wait_line(r"http on \S*?:(\d+)").group(1)
        carrick.wait_line(r"serving a new configuration")
        yield f"http://127.0.0.1:{port}"


def clients(url, location, **scenario):
    """What became of clients that came to a location."""
    command = ["node", str(HERE / "peers" / "socketio_client.mjs"), url, f"/{location}/socket.io/", json.dumps({"clients": CLIENTS, **scenario})]
    done = subprocess.run(command, env=node_env(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("location", ["cookie", "sid"])
def test_long_polling_then_upgrade_stays_with_the_server_of_the_session(chat, location):
    seen = clients(chat, location, messages=5, upgrade=True)
    assert (seen["failed"], seen["moved"], seen["upgraded"]) == ([], 0, CLIENTS)
    assert len(seen["servers"]) == 3, "and clients are spread over all"


@pytest.mark.parametrize("location", ["cookie", "sid"])
def test_long_polling_alone_stays_with_the_server_of_the_session(chat, location):
    seen = clients(chat, location, messages=20, upgrade=False)
    assert (seen["failed"], seen["moved"]) == ([], 0)


def test_without_affinity_sessions_are_unknown(chat):
    seen = clients(chat, "none", messages=5, upgrade=False)
    assert any("Session ID unknown" in failed or "error" in failed for failed in seen["failed"])
