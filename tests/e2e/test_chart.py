"""The chart without an installation: linted, its outputs as they were, mistakes refused in words, and taken by a real API server."""

import json
import os
import re
import subprocess

import pytest
import yaml

from cluster import CHART, ROOT, TOKEN

HELM = ROOT / "packaging/helm"
GIVEN = sorted((ROOT / "tests/golden/chart").glob("*.values.yaml"))


def run(*argv, stdin=None):
    return subprocess.run([str(word) for word in argv], input=stdin, capture_output=True, text=True)


def template(*arguments, namespace="carrick"):
    return run(HELM, "template", "carrick", CHART, "--namespace", namespace, *arguments)


def test_what_is_generated_is_current():
    checked = run(ROOT / "packaging/generate", "--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("given", GIVEN, ids=lambda path: path.name)
def test_it_is_linted(given):
    linted = run(HELM, "lint", "--strict", CHART, "--values", given)
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("replicas=3", "additional properties 'replicas' not allowed"),
        ("service.typ=NodePort", "additional properties 'typ' not allowed"),
        ("kind=StatefulSet", "at '/kind'"),
        ("drainTimeout=240", "at '/drainTimeout'"),
        ("drainTimeout=5m", "must be more than drainTimeout and shutdownDelay together, 305 s"),
        ("manageTcpService=true,service.enabled=false", "manageTcpService goes by the chart's own Service"),
        ("watchNamespaces={a},defaultTlsSecret=b/wildcard", "defaultTlsSecret b/wildcard is in none of watchNamespaces"),
        ("staticRoot=/srv", "mount it with extraVolumes"),
        ("listeners[0].name=internal", "at '/listeners/0'"),
    ],
)
def test_a_mistake_is_refused_in_words(mistake, words):
    said = template("--set", mistake)
    assert said.returncode != 0 and words in said.stderr, said.stderr or "it was taken"


def test_the_schema_knows_every_value():
    """A value that the schema does not know could not be set."""
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(values, known, path):
        if "properties" in known:
            assert set(values) <= set(known["properties"]), path
            unset = set(known["properties"]) - set(values) - {"global", "limits", "claims"}
            assert not unset, f"{path}: {unset} are not in values.yaml, and so not in the README"
            for key, value in values.items():
                if isinstance(value, dict):
                    compare(value, known["properties"][key], f"{path}.{key}")

    compare(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


def test_every_flag_of_the_pods_is_known(tmp_path):
    """The binary takes the arguments that the chart writes: it gets as far as to look for a cluster."""
    for given in GIVEN:
        for document in yaml.safe_load_all(template("--values", given).stdout):
            if document and document["kind"] in ("Deployment", "DaemonSet"):
                (container,) = document["spec"]["template"]["spec"]["containers"]
                arguments = [re.sub(r"^--(https?-port|ops-bind|admin-bind)=.*", r"--\1=off", argument) for argument in container["args"]]
                said = run(os.environ["CARRICK"], *arguments, f"--kubeconfig={tmp_path}/none", "--bind=127.0.0.1")
                assert "the kubeconfig can not be used" in said.stderr, (given.name, said.stderr)


def test_the_definition_in_a_release_is_kept_when_it_goes():
    (definition,) = yaml.safe_load_all(template("--set", "crds.upgrade=true", "--show-only", "templates/crds.yaml").stdout)
    assert definition["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert definition["spec"] == yaml.safe_load((ROOT / "crds/wsroutes.yaml").read_text())["spec"]


def test_grafana_is_given_the_dashboard_whole():
    said = template("--set", "dashboard.enabled=true,dashboard.namespace=monitoring", "--show-only", "templates/dashboard.yaml").stdout
    (found,) = yaml.safe_load_all(said)
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1" and found["metadata"]["namespace"] == "monitoring"
    dashboard = json.loads(found["data"]["carrick.json"])
    assert dashboard == json.loads((CHART / "dashboards/carrick.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) and dashboard["schemaVersion"] >= 41
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}", panel["title"]
            named = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert named <= variables, (panel["title"], named)


@pytest.fixture(scope="module")
def namespaces():
    """Where a dry run may be: a namespace of its own would not be there for what comes after it."""
    names = [f"e2e-chart-{TOKEN}{purpose}" for purpose in ("", "-shop", "-shop-staging")]
    for name in names:
        run("kubectl", "create", "namespace", name)
    yield names[0]
    run("kubectl", "delete", "namespace", "--wait=false", *names)


@pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="no cluster: KUBECONFIG is not set")
@pytest.mark.parametrize("given", GIVEN, ids=lambda path: path.name)
def test_an_api_server_takes_it(namespaces, given):
    text = template("--values", given, namespace=namespaces).stdout
    text = re.sub(r"namespace: (shop\S*)", rf"namespace: {namespaces}-\1", text)
    # The one kind that most clusters do not have.
    documents = [document for document in yaml.safe_load_all(text) if document and document["kind"] != "ServiceMonitor"]
    applied = run("kubectl", "apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump_all(documents))
    assert applied.returncode == 0 and "Warning" not in applied.stderr, applied.stderr


@pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="no cluster: KUBECONFIG is not set")
def test_kustomize_builds_the_same_objects():
    built = run("kubectl", "kustomize", ROOT / "deploy")
    assert built.returncode == 0, built.stderr

    def names(text):
        return {(document["kind"], document["metadata"]["name"]) for document in yaml.safe_load_all(text) if document}

    added = {("Namespace", "carrick"), ("CustomResourceDefinition", "wsroutes.carrick.dev")}
    assert names(built.stdout) == names(template("--no-hooks").stdout) | added
