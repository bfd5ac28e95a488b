"""What the service account may do: all it needs, and a golden file says that it is no more."""

import os
import re

import pytest

import cluster as clusters
from cluster import ROOT, TOKEN, echo, http, kubectl, location, until, wsroute

GOLDEN = ROOT / "tests/golden"


def rights(release, namespace):
    """The lines of `kubectl auth can-i --list` without those that any service account has."""

    def listed(account):
        said = kubectl("auth", "can-i", "--list", f"--as=system:serviceaccount:{account}", "-n", namespace)
        return {re.sub(r"\s{2,}", "  ", line).strip().replace(f"-{TOKEN}", "") for line in said.splitlines()[1:]}

    return sorted(listed(f"{release.namespace}:{release.name}") - listed(f"{release.namespace}:nobody"))


def is_golden(name, text):
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text, f"{path} (UPDATE_GOLDEN=1 writes it)"


def test_the_rights_of_the_service_account(carrick, namespace):
    own, elsewhere = rights(carrick, carrick.namespace), rights(carrick, namespace)
    is_golden("rbac-cluster.txt", "\n".join(["# In every namespace", *elsewhere, "", "# In its own, besides", *sorted(set(own) - set(elsewhere)), ""]))


@pytest.mark.parametrize("verb, what", [("delete", "wsroutes"), ("update", "services"), ("create", "pods"), ("list", "nodes"), ("create", "secrets"), ("patch", "wsroutes")])
def test_what_it_may_not(carrick, namespace, verb, what):
    account = f"--as=system:serviceaccount:{carrick.namespace}:{carrick.name}"
    with pytest.raises(clusters.Failed, match="no"):
        kubectl("auth", "can-i", verb, what, account, "-n", namespace)


def test_the_pod_is_admitted_at_the_restricted_level(cluster, carrick):
    labels = kubectl("get", "namespace", carrick.namespace, "-o", "jsonpath={.metadata.labels}")
    assert '"pod-security.kubernetes.io/enforce":"restricted"' in labels and len(carrick.pods()) == 2


def test_a_namespaced_release_needs_roles_only_and_serves(cluster, namespace):
    with cluster.namespace("narrow", clusters.RESTRICTED) as home:
        narrow = clusters.Release(cluster, "narrow", home, {"watchNamespaces": [namespace], "replicaCount": 1, "ingressClass": {"enabled": False}})
        with narrow.installed():
            bound = kubectl("get", "clusterrolebindings,clusterroles", "-o", "name", "-l", f"app.kubernetes.io/instance={narrow.name}")
            assert bound == "", "nothing cluster-wide"
            is_golden("rbac-namespaced.txt", "\n".join(["# In a watched namespace", *rights(narrow, namespace), "", "# In its own", *rights(narrow, home), "", "# Elsewhere", *rights(narrow, "default"), ""]))
            cluster.apply([*echo("narrow"), wsroute("narrow", narrow.ingress_class, [location("/narrow", "narrow")])], namespace)
            cluster.apply([wsroute("outside", narrow.ingress_class, [location("/outside", "narrow")])], home)
            cluster.route_is(namespace, "narrow", Ready="True")
            until(lambda: http(narrow.address, "/narrow")[0] == 200, "an answer", 30)
            assert http(narrow.address, "/outside")[0] == 404
            assert "controller" not in cluster.get("WsRoute", home, "outside")["status"]
