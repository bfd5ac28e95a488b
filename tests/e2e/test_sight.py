"""What somebody sees of a running Carrick by other people's tools: its metrics page by Prometheus' own parser, `top` in a terminal."""

import os
import pty
import select
import signal
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from websockets.sync.client import connect

from conftest import CARRICK, PEERS, manifest, node_env, running


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    """Carrick in front of a server: its ports of HTTP, ops and admin."""
    folder = tmp_path_factory.mktemp("sight")
    with running(PEERS["python"], env=node_env()) as server:
        port = server.wait_line(r"^port (\d+)$").group(1)
        (folder / "python.yaml").write_text(manifest("python", port))
        flags = ["--manifests", str(folder), "--bind", "127.0.0.1", "--http-port", "0", "--https-port", "off", "--ops-bind", "127.0.0.1:0", "--admin-bind", "127.0.0.1:0"]
        with running([CARRICK, "standalone", *flags]) as carrick:
            found = [int(carrick.wait_line(rf"{name} on \S*?:(\d+)").group(1)) for name in ("http", "ops", "admin")]
            carrick.wait_line(r"serving a new configuration")
            yield found


def page(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_prometheus_reads_the_metrics(ports):
    http, ops, _ = ports
    with connect(f"ws://127.0.0.1:{http}/python", proxy=None) as socket:
        socket.send("hello")
        socket.recv()
        with pytest.raises(urllib.error.HTTPError):
            page(http, "/nowhere")
        kind, text = page(ops, "/metrics")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    # It fails on series that are there twice, on units that are not in the name, on buckets that do not add up.
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) > 30 and all(name.startswith("carrick_") and family.documentation for name, family in families.items())
    (open_now,) = families["carrick_tunnels_open"].samples
    assert open_now.value == 1 and open_now.labels["service"] == "python" and open_now.labels["route"] == "python"
    text_frames = {sample.labels["direction"]: sample.value for sample in families["carrick_tunnel_frames"].samples if sample.labels["opcode"] == "text"}
    assert text_frames["to_backend"] >= 1 and text_frames["to_client"] >= 1
    assert any(sample.labels["reason"] == "not_found" for sample in families["carrick_refusals"].samples)


def read_until(terminal, words, within=20):
    seen, deadline = b"", time.monotonic() + within
    while words not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:  # what a terminal says when nobody has it any more
                break
    assert words in seen, seen
    return seen


def test_top_gives_the_terminal_back(ports):
    admin = ports[2]
    ours, theirs = pty.openpty()
    top = subprocess.Popen([CARRICK, "tunnels", "top", "--admin", f"127.0.0.1:{admin}", "--interval", "100ms"], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        assert read_until(ours, b"\x1b[J").startswith(b"\x1b[?1049h"), "the other screen"
        read_until(ours, b"0 open, 0 match, 1 replica")
        top.send_signal(signal.SIGINT)
        read_until(ours, b"\x1b[?7h\x1b[?25h\x1b[?1049l")
        assert top.wait(10) == 0
    finally:
        top.kill()
        os.close(ours)
