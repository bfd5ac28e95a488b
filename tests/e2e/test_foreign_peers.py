"""WebSocket peers that nobody here wrote, each language as client and as server, through Carrick."""

import pytest
from websockets.asyncio.client import connect

SERVERS = ["python", "node"]
BIG = 16 << 20


async def python_client(url, scenario):
    """The same scenario as peers/client.mjs runs, by the `websockets` package."""
    seen = {"messages": []}
    options = {"compression": "deflate" if scenario.get("deflate") else None, "max_size": 64 << 20, "subprotocols": scenario.get("protocols")}
    async with connect(url, **options) as socket:
        seen["extensions"] = ", ".join(extension.name for extension in socket.protocol.extensions)
        seen["protocol"] = socket.subprotocol or ""
        for message in scenario["send"]:
            if "bytes" in message:
                await socket.send(b"\x07" * message["bytes"])
            elif "fragments" in message:
                await socket.send(iter(message["fragments"]))
            else:
                await socket.send(message["text"])
        for _ in range(scenario["expect"]):
            data = await socket.recv()
            seen["messages"].append({"text": data} if isinstance(data, str) else {"bytes": len(data), "same": data == b"\x07" * len(data)})
        if close := scenario.get("close"):
            await socket.close(close["code"], close["reason"])
        else:
            await socket.wait_closed()
        seen["close"] = {"code": socket.close_code, "reason": socket.close_reason}
    return seen


@pytest.fixture(params=["python", "node"])
def client(request, node_client):
    async def run(url, scenario):
        return await python_client(url, scenario) if request.param == "python" else node_client(url, scenario)

    return run


@pytest.mark.asyncio
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("deflate", [False, True])
async def test_messages_of_every_size_come_back(gateway, client, server, deflate):
    url = "ws://%s:%d/%s" % (*gateway, server)
    send = [{"text": "hello"}, {"text": ""}, {"bytes": 125}, {"bytes": 126}, {"bytes": 65536}, {"bytes": BIG}]
    seen = await client(url, {"deflate": deflate, "send": send, "expect": len(send), "close": {"code": 1000, "reason": "done"}})
    assert seen["messages"] == [{"text": "hello"}, {"text": ""}] + [{"bytes": n, "same": True} for n in (125, 126, 65536, BIG)]
    assert ("permessage-deflate" in seen["extensions"]) == deflate


@pytest.mark.asyncio
@pytest.mark.parametrize("server", SERVERS)
async def test_fragments_pass_both_ways(gateway, client, server):
    url = "ws://%s:%d/%s" % (*gateway, server)
    send = [{"fragments": ["a", "b", "", "c"]}, {"text": "fragments"}]
    seen = await client(url, {"send": send, "expect": 2, "close": {"code": 1000, "reason": ""}})
    assert seen["messages"] == [{"text": "abc"}, {"text": "one two three"}]


@pytest.mark.asyncio
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("code, reason", [(1000, "bye"), (1001, ""), (1008, "no"), (3000, "x"), (4999, "grüße")])
async def test_the_servers_close_reaches_the_client_unchanged(gateway, client, server, code, reason):
    url = "ws://%s:%d/%s" % (*gateway, server)
    seen = await client(url, {"send": [{"text": f"close:{code}:{reason}"}], "expect": 0})
    assert seen["close"] == {"code": code, "reason": reason}


@pytest.mark.asyncio
@pytest.mark.parametrize("server", SERVERS)
async def test_the_clients_close_is_answered_by_the_server(gateway, client, server):
    url = "ws://%s:%d/%s" % (*gateway, server)
    seen = await client(url, {"send": [{"text": "x"}], "expect": 1, "close": {"code": 4321, "reason": "enough"}})
    assert seen["close"]["code"] == 4321


@pytest.mark.asyncio
@pytest.mark.parametrize("server", SERVERS)
async def test_the_subprotocol_is_the_servers_choice(gateway, client, server):
    url = "ws://%s:%d/%s" % (*gateway, server)
    seen = await client(url, {"protocols": ["mqtt", "chat"], "send": [{"text": "x"}], "expect": 1, "close": {"code": 1000, "reason": ""}})
    assert seen["protocol"] == "mqtt"
