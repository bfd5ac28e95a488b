"""The first ten minutes of a user: installed with Helm, the recipe applied, sockets through the load balancer."""

import asyncio

import pytest
import yaml
from websockets.asyncio.client import connect

from cluster import IMAGE, ROOT, everywhere, http, kubectl, until

pytestmark = pytest.mark.usefixtures("carrick")


@pytest.fixture(scope="module")
def recipe(cluster, carrick, namespace):
    """examples/recipe.yaml as it stands, but for our class and the image under test."""
    objects = [one for one in yaml.safe_load_all((ROOT / "examples/recipe.yaml").read_text()) if one]
    for one in objects:
        if one["kind"] == "WsRoute":
            one["spec"]["ingressClassName"] = carrick.ingress_class
        if one["kind"] == "Deployment":
            for container in one["spec"]["template"]["spec"]["containers"]:
                container["image"] = IMAGE
    cluster.apply(objects, namespace)
    cluster.route_is(namespace, "recipe", Ready="True")
    kubectl("wait", "-n", namespace, "--for=condition=Available", "deployment", "--all", "--timeout=60s")


async def talk(url, sockets=12):
    """The servers that answer, and that each gives back what it gets."""
    servers = set()
    for _ in range(sockets):
        async with connect(url, proxy=None) as socket:
            servers.add(socket.response.headers["Server"])
            await socket.send("hello")
            assert await asyncio.wait_for(socket.recv(), 5) == "hello"
    return servers


def pods(cluster, namespace, selector):
    return {pod["metadata"]["name"] for pod in cluster.list("Pod", namespace, selector) if "deletionTimestamp" not in pod["metadata"]}


@pytest.mark.parametrize("group", ["app", "chat"])
def test_sockets_through_the_load_balancer_reach_both_servers_of_a_group(cluster, carrick, namespace, recipe, group):
    everybody = pods(cluster, namespace, f"wsbackend={group}")
    assert len(everybody) == 2
    seen = until(lambda: asyncio.run(talk(f"ws://{carrick.address}/ws{group}")) == everybody, f"answers of {everybody}")
    assert seen


def test_the_page_is_served(carrick, recipe):
    everywhere(carrick, "/")
    status, headers, body = http(carrick.address)
    assert (status, headers.get_content_type()) == (200, "text/html") and "<title>" in body


def test_the_tcp_port_leads_to_all_four(cluster, carrick, namespace, recipe):
    everybody = pods(cluster, namespace, "recipe=wsbackends")
    assert len(everybody) == 4

    def ports():
        service = cluster.get("Service", carrick.namespace, f"{carrick.name}-tcp")
        return service and {port["port"] for port in service["spec"]["ports"]} == {9000} and service["status"].get("loadBalancer", {}).get("ingress")

    address = until(ports, f"Service {carrick.name}-tcp with port 9000 and an address")[0]["ip"]
    until(lambda: asyncio.run(talk(f"ws://{address}:9000/", 16)) == everybody, f"answers of {everybody}")


def test_a_route_has_the_address_of_the_load_balancer(cluster, carrick, namespace, recipe):
    address = carrick.address
    route = until(lambda: (found := cluster.get("WsRoute", namespace, "recipe")) and found["status"].get("loadBalancer") and found, "an address")
    assert route["status"]["loadBalancer"]["ingress"] == [{"ip": address}]
    header, row = kubectl("get", "wsr", "-n", namespace).splitlines()
    assert header.split() == ["NAME", "HOSTS", "ADDRESS", "READY", "AGE"]
    assert row.split()[0] == "recipe" and row.split()[-3:-1] == [address, "True"]
