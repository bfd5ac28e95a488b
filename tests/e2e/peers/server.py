"""An echo server on a free port, by the `websockets` package; the same commands as server.mjs."""

import asyncio
import re
import signal

import websockets
from websockets.asyncio.server import serve


async def answer(socket):
    async for message in socket:
        if isinstance(message, str) and (close := re.match(r"close:(\d+):(.*)$", message)):
            await socket.close(int(close[1]), close[2])
        elif message == "fragments":
            await socket.send(iter(["one ", "two ", "three"]))
        else:
            await socket.send(message)


async def main():
    stop = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set_result, None)
    first = lambda connection, offers: offers[0] if offers else None
    async with serve(answer, "127.0.0.1", 0, max_size=64 << 20, select_subprotocol=first) as server:
        print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
        await stop


asyncio.run(main())
