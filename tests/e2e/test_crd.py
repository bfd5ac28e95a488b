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
import yaml

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent

MISTAKES = yaml.safe_load((HERE / "mistakes.yaml").read_text())

pytestmark = pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="no cluster: KUBECONFIG is not set")


def kubectl(*arguments, stdin=None):
    return subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True)


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
    # A dry run creates no namespace for what comes after it; and not every cluster knows ReferenceGrant.
    documents = re.sub(r", namespace: (web|chat|certificates)\b", "", manifest.read_text()).split("\n---\n")
    text = "\n---\n".join(document for document in documents if "kind: ReferenceGrant" not in document)
    applied = kubectl("apply", "--dry-run=server", "-f", "-", stdin=text)
    assert applied.returncode == 0, applied.stderr


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake["name"])
def test_what_is_wrong_is_refused_in_words(api_server, mistake):
    said = complaint(api_server, mistake["name"], mistake["spec"])
    assert mistake["says"] in said, said or "it was taken"


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
