"""cert-manager's HTTP-01 solver: the one Ingress that is served already."""

from cluster import echo, everywhere, kubectl, location, wsroute

PATH = "/.well-known/acme-challenge/a-token"


def solver(ingress_class, host, path=PATH, path_type="Exact"):
    """As cert-manager makes it."""
    backend = {"service": {"name": "cm-acme-http-solver", "port": {"number": 8089}}}
    rule = {"host": host, "http": {"paths": [{"path": path, "pathType": path_type, "backend": backend}]}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "cm-acme-http-solver-x", "labels": {"acme.cert-manager.io/http01-solver": "true"}},
        "spec": {"ingressClassName": ingress_class, "rules": [rule]},
    }


def test_the_challenge_is_answered_by_the_solver_while_it_is_there(cluster, carrick, namespace):
    host = f"acme-{namespace}.test"
    deployment, service = echo("cm-acme-http-solver")
    service["spec"]["ports"] = [{"port": 8089, "targetPort": 8080}]
    page = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "page"}, "data": {"index.html": "the site"}}
    site = wsroute("site", carrick.ingress_class, [{"path": "/", "static": {"configMap": {"name": "page"}}}], hosts=[host], tls={"certificates": [{"secretName": "not-yet-issued"}]})
    cluster.apply([deployment, service, page, site], namespace)
    kubectl("wait", "-n", namespace, "--for=condition=Available", "deployment/cm-acme-http-solver", "--timeout=60s")
    cluster.route_is(namespace, "site", ResolvedRefs="SecretNotFound")
    everywhere(carrick, PATH, 404, host)
    cluster.apply([solver(carrick.ingress_class, host)], namespace)
    everywhere(carrick, PATH, 200, host, "cm-acme-http-solver")
    everywhere(carrick, "/", 200, host, "the site")
    kubectl("delete", "ingress", "cm-acme-http-solver-x", "-n", namespace)
    everywhere(carrick, PATH, 404, host)


def test_any_other_ingress_is_not_served(cluster, carrick, namespace):
    host = f"plain-{namespace}.test"
    cluster.apply([solver(carrick.ingress_class, host, "/", "Prefix")], namespace)
    # Whatever comes after it has been seen after it.
    cluster.apply([wsroute("after", carrick.ingress_class, [location("/", "cm-acme-http-solver", 8089)], hosts=[f"after.{host}"])], namespace)
    cluster.route_is(namespace, "after", Ready="True")
    everywhere(carrick, "/", 404, host)
    kubectl("delete", "ingress", "cm-acme-http-solver-x", "-n", namespace)
