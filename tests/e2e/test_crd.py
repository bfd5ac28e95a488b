"""The WsRoute's definition at a real API server: taken whole, every field kept, every mistake refused with the words for it.

Needs a cluster (KUBECONFIG) and kubectl. Leaves the definition installed and no object behind: everything is a server-side dry run.
"""

import json
import os
import pathlib
import re
import subprocess
import urllib.error
import urllib.request

import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent

pytestmark = pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="no cluster: KUBECONFIG is not set")


def kubectl(*arguments, stdin=None):
    return subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True)


def location(**fields):
    """A spec with one location that would be fine without `fields`."""
    base = {"path": "/", "backends": [{"service": "app", "port": 80}]}
    base.update(fields)
    return {"locations": [{key: value for key, value in base.items() if value is not None}]}


def backend(**fields):
    return location(backends=[fields])


def tcp(**fields):
    return {"tcp": [{"port": 9000, "backends": [{"service": "app", "port": 80}], **fields}]}


APP = [{"service": "app", "port": 80}]
HOSTS = ["db.example.com"]

# What is refused, and with which words.
REFUSED = {
    # spec
    "host-with-port": ({"hosts": ["example.com:80"]}, "should match"),
    "host-upper-case": ({"hosts": ["Example.com"]}, "should match"),
    "wildcard-inside": ({"hosts": ["a.*.com"]}, "should match"),
    "wildcard-alone": ({"hosts": ["*"]}, "should match"),
    "hosts-too-many": ({"hosts": [f"h{i}.example.com" for i in range(33)]}, "must have at most 32 items"),
    "locations-too-many": ({"locations": [{"path": f"/{i}", "backends": APP} for i in range(65)]}, "must have at most 64 items"),
    "same-name-twice": (
        {"locations": [{"name": "a", "path": "/a", "backends": APP}, {"name": "a", "path": "/b", "backends": APP}]},
        "names of locations must be unique",
    ),
    "min-version": ({"tls": {"minVersion": "1.1"}}, 'supported values: "1.2", "1.3"'),
    "two-authorities": (
        {"tls": {"clientAuth": {"caSecret": {"name": "a"}, "caConfigMap": {"name": "a"}}}},
        "exactly one of caSecret and caConfigMap",
    ),
    "delegate-to-nobody": ({"delegate": [{"paths": ["/"]}]}, "at least one of namespaces and selector"),
    "selector-without-values": (
        {"delegate": [{"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]},
        "In and NotIn need values",
    ),
    "default-prefix-for-exact": (
        {"defaults": {"rewrite": {"prefix": "/a"}}, "locations": [{"path": "/", "pathType": "Exact", "backends": APP}]},
        "needs every location to be of pathType Prefix",
    ),
    "unknown-field": ({"location": []}, 'unknown field "spec.location"'),
    # locations
    "neither": (location(backends=None), "exactly one of backends, static and redirect"),
    "both": (location(static={"directory": "a"}), "exactly one of backends, static and redirect"),
    "no-backends": (location(backends=[]), "should have at least 1 items"),
    "path-relative": (location(path="ws"), "path must start with /"),
    "path-with-query": (location(path="/ws?a=b"), "path must start with /"),
    "path-with-dots": (location(path="/a/../b"), "no element .."),
    "path-with-double-slash": (location(path="/a//b"), "path must have no //"),
    "path-no-expression": (location(path="/(", pathType="RegularExpression"), "must be a regular expression"),
    "path-long-expression": (location(path="/" * 600, pathType="RegularExpression"), "at most 512 bytes"),
    "path-type": (location(pathType="prefix"), "Unsupported value"),
    "prefix-for-exact": (location(pathType="Exact", rewrite={"prefix": "/b"}), "rewrite.prefix needs pathType Prefix"),
    "redirect-prefix-for-exact": (
        location(pathType="Exact", backends=None, redirect={"prefix": "/b"}),
        "redirect.prefix needs pathType Prefix",
    ),
    "static-by-expression": (
        location(pathType="RegularExpression", backends=None, static={"directory": "a"}),
        "static needs pathType Prefix or Exact",
    ),
    "method-lower-case": (location(match={"methods": ["get"]}), "should match"),
    "match-without-value": (location(match={"headers": [{"name": "a"}]}), "exactly one of value and regex"),
    "match-no-expression": (location(match={"cookies": [{"name": "a", "regex": "["}]}), "must be a regular expression"),
    "match-subprotocol-of-http": (location(match={"subprotocols": ["a"], "upgrade": "None"}), "offered by WebSocket handshakes only"),
    # backends
    "backend-empty": (backend(), "exactly one of service and address"),
    "backend-both": (backend(service="a", port=80, address="a:80"), "exactly one of service and address"),
    "backend-without-port": (backend(service="a"), "service needs port"),
    "backend-port-zero": (backend(service="a", port=0), "greater than or equal to 1"),
    "backend-port-large": (backend(service="a", port=65536), "less than or equal to 65535"),
    "backend-port-number-as-name": (backend(service="a", port="80"), "should match"),
    "backend-address-without-port": (backend(address="example.com"), "should match"),
    "backend-address-elsewhere": (backend(address="example.com:80", namespace="b"), "namespace is that of service"),
    "backend-weight": (backend(service="a", port=80, weight=10001), "less than or equal to 10000"),
    "backend-tls-two-authorities": (
        backend(service="a", port=80, tls={"caSecret": {"name": "a"}, "caConfigMap": {"name": "a"}}),
        "at most one of caSecret and caConfigMap",
    ),
    "backend-tls-insecure-with-authority": (
        backend(service="a", port=80, tls={"mode": "Insecure", "caSecret": {"name": "a"}}),
        "mode Insecure verifies nothing",
    ),
    # static, redirect, rewrite
    "static-empty": (location(backends=None, static={}), "exactly one of configMap and directory"),
    "static-outside": (location(backends=None, static={"directory": "a/../../b"}), "directory must be relative"),
    "static-absolute": (location(backends=None, static={"directory": "/etc"}), "directory must be relative"),
    "static-index": (location(backends=None, static={"directory": "a", "index": "b/c"}), "index must be the name of a file"),
    "static-fallback": (location(backends=None, static={"directory": "a", "fallback": "/c"}), "fallback must be relative"),
    "static-item": (
        location(backends=None, static={"configMap": {"name": "a", "items": [{"key": "a", "path": "../a"}]}}),
        "path must be relative",
    ),
    "redirect-nowhere": (location(backends=None, redirect={}), "one of scheme, host, port, path and prefix"),
    "redirect-twice": (location(backends=None, redirect={"path": "/a", "prefix": "/b"}), "at most one of path and prefix"),
    "redirect-status": (location(backends=None, redirect={"path": "/a", "status": 304}), "Unsupported value: 304"),
    "redirect-scheme": (location(backends=None, redirect={"scheme": "ftp"}), "Unsupported value"),
    "rewrite-half": (location(rewrite={"regex": "a"}), "regex and replacement need each other"),
    "rewrite-twice": (location(rewrite={"regex": "a", "replacement": "b", "prefix": "/"}), "at most one of prefix and regex"),
    "rewrite-no-expression": (location(rewrite={"regex": "(", "replacement": "b"}), "must be a regular expression"),
    # policy
    "connect-zero": (location(timeouts={"connect": "0s"}), "must be more than 0s"),
    "handshake-zero": (location(timeouts={"handshake": "0m0s"}), "must be more than 0s"),
    "duration": (location(timeouts={"idle": "5 minutes"}), "should match"),
    "reconnect-code": (location(websocket={"reconnectCode": 1011}), "reconnectCode must be 1001, 1012, 1013 or 4000 to 4999"),
    "reconnect-code-large": (location(websocket={"reconnectCode": 5000}), "less than or equal to 4999"),
    "origin-with-path": (location(websocket={"origins": ["https://example.com/"]}), "should match"),
    "ping-timeout": (location(websocket={"ping": {"interval": "10s", "timeout": "0s"}}), "must be more than 0s"),
    "message-burst": (location(websocket={"messages": {"burst": 5}}), "burst needs perSecond"),
    "message-size": (location(websocket={"messages": {"maxSize": "1 MB"}}), "should match"),
    "upgrade-h2c": (location(upgrades=["H2C"]), "websocket is always upgraded, h2c never"),
    "affinity-twice": (location(affinity={"header": "a", "query": "b"}), "exactly one of cookie, header, query and sourceIP"),
    "affinity-cookie-site": (location(affinity={"cookie": {"sameSite": "None", "secure": False}}), "sameSite None needs secure"),
    "health-path": (location(healthCheck={"active": {"path": "/"}}), "path is for type WebSocket and HTTP"),
    "limit-burst": (location(limits={"burst": 5}), "burst needs handshakesPerSecond"),
    "access": (location(access={"allow": ["everybody"]}), "should match"),
    "header-connection": (location(requestHeaders={"remove": ["Connection"]}), "are not for edits"),
    "header-host": (location(requestHeaders={"set": [{"name": "host", "value": "a"}]}), "see rewrite.host"),
    "header-split": (location(responseHeaders={"add": [{"name": "X-A", "value": "a\r\nX-B: b"}]}), "should match"),
    "default-connect-zero": ({"defaults": {"timeouts": {"connect": "0s"}}}, "must be more than 0s"),
    # tcp
    "tcp-port-name": (tcp(port="http"), "should match"),
    "tcp-port-twice": ({"tcp": tcp()["tcp"] * 2}, "a port without hosts may be given once"),
    "tcp-no-backends": ({"tcp": [{"port": 9000}]}, "backends: Required value"),
    "tcp-hosts-without-tls": (tcp(hosts=HOSTS), "hosts need tls"),
    "tcp-https-without-hosts": (tcp(port="https", tls={}), "port https needs hosts"),
    "tcp-https-terminated": (
        tcp(port="https", hosts=HOSTS, tls={"mode": "Terminate", "certificates": [{"secretName": "a"}]}),
        "port https passes TLS through",
    ),
    "tcp-terminate-without-certificates": (tcp(tls={"mode": "Terminate"}), "mode Terminate needs certificates"),
    "tcp-passthrough-with-certificates": (tcp(tls={"certificates": [{"secretName": "a"}]}), "mode Terminate needs certificates"),
    "tcp-client-auth-passed-through": (tcp(tls={"clientAuth": {"caSecret": {"name": "a"}}}), "clientAuth needs mode Terminate"),
    "tcp-body": (tcp(limits={"requestBody": 1}), "limits.requestBody is for HTTP"),
    "tcp-connect-zero": (tcp(timeouts={"connect": "0s"}), "must be more than 0s"),
}


@pytest.fixture(scope="module")
def definition():
    """The definition in the tree, installed."""
    applied = kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds/wsroutes.yaml"))
    assert applied.returncode == 0 and "Warning" not in applied.stderr, applied.stderr
    established = kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/wsroutes.carrick.dev")
    assert established.returncode == 0, established.stderr


@pytest.fixture(scope="module")
def api_server(definition):
    """The API server's address, by way of `kubectl proxy`: its answers arrive unedited and a request costs no process."""
    process = subprocess.Popen(["kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        yield "http://" + process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()


def complaint(server, name, spec):
    """What the API server says against a WsRoute; empty if nothing."""
    wsroute = {"apiVersion": "carrick.dev/v1alpha1", "kind": "WsRoute", "metadata": {"name": name}, "spec": spec}
    url = f"{server}/apis/carrick.dev/v1alpha1/namespaces/default/wsroutes?dryRun=All&fieldValidation=Strict"
    request = urllib.request.Request(url, json.dumps(wsroute).encode(), {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request).close()
        return ""
    except urllib.error.HTTPError as error:
        return json.load(error)["message"]


@pytest.mark.parametrize("manifest", [HERE / "every-field.yaml", *sorted((ROOT / "examples").glob("*.yaml"))], ids=lambda path: path.stem)
def test_what_is_right_is_taken(definition, manifest):
    # A dry run creates no namespace for what comes after it.
    text = re.sub(r", namespace: (web|chat)\b", "", manifest.read_text())
    applied = kubectl("apply", "--dry-run=server", "-f", "-", stdin=text)
    assert applied.returncode == 0, applied.stderr


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_refused_in_words(api_server, name):
    spec, words = REFUSED[name]
    said = complaint(api_server, name, spec)
    assert words in said, said or "it was taken"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("wsroute.spec.locations", "Exactly one of backends, static and redirect"),
        ("wsroute.spec.locations.timeouts.idle", "[default: 1h]"),
        ("wsroute.spec.locations.loadBalancing.policy", "the endpoint with the fewest open tunnels"),
    ],
)
def test_kubectl_explains_it(definition, path, words):
    said = kubectl("explain", path)
    assert words in " ".join(said.stdout.split()), said.stdout + said.stderr


def test_kubectl_shows_its_columns(api_server):
    url = f"{api_server}/apis/carrick.dev/v1alpha1/wsroutes?limit=1"
    request = urllib.request.Request(url, headers={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"})
    with urllib.request.urlopen(request) as answer:
        columns = [column["name"] for column in json.load(answer)["columnDefinitions"]]
    assert columns == ["Name", "Hosts", "Address", "Ready", "Age"]
