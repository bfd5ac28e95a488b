"""Many WebSockets at once, with messages flowing, and what became of each.

A crowd lives in a thread of its own, so that a test changes the cluster while it talks. Each socket sends numbered messages to an echo
at a steady pace, expects each of them back in order, and comes back when it was closed.
"""

import asyncio
import collections
import contextlib
import dataclasses
import math
import random
import threading
import time

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

PER_SECOND = 3  # messages of a socket, where the crowd does not say
BACK_AFTER = 0.3  # seconds, drawn anew each time: a crowd that comes back in one instant would measure itself


@dataclasses.dataclass
class End:
    """A socket that was closed while it talked."""

    group: str
    socket: int
    code: int  # 1006: without a Close frame
    reason: str
    unanswered: int  # messages whose echo never came


@dataclasses.dataclass
class Report:
    """What happened to the sockets of one group since a mark."""

    ends: list
    lost: int = 0  # messages that a socket that stayed never got back, or got in another order
    latest: float = 0.0  # seconds from a message to its echo, at the most, of sockets that stayed
    refused: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    came_back: list = dataclasses.field(default_factory=list)  # seconds since the mark, of each new socket

    def codes(self):
        return collections.Counter(end.code for end in self.ends)

    def curve(self):
        """New sockets in each second, from the first one on."""
        seconds = collections.Counter(int(at - min(self.came_back)) for at in self.came_back)
        return [seconds[second] for second in range(max(seconds, default=-1) + 1)]


class Held:
    """One client: its present socket and those before."""

    def __init__(self, crowd, group, number, url, options):
        self.crowd, self.group, self.number, self.url, self.options = crowd, group, number, url, options
        self.open, self.received, self.server = False, 0, ""

    async def live(self):
        while not self.crowd.stopping:
            try:
                async with self.crowd.handshakes:
                    socket = await connect(self.url, compression=None, ping_interval=None, proxy=None, open_timeout=10, **self.options)
            except (InvalidHandshake, OSError, TimeoutError) as error:
                self.crowd.refused.append((time.monotonic(), self.group, str(error) or type(error).__name__))
                await asyncio.sleep(random.uniform(0.1, BACK_AFTER))
                continue
            self.server = socket.response.headers.get("Server", "")
            self.crowd.opened.append((time.monotonic(), self.group))
            await self.talk(socket)
            await asyncio.sleep(random.uniform(0, BACK_AFTER))

    async def talk(self, socket):
        sent = collections.deque()  # (number, when), of what was not echoed yet
        self.sent = sent
        speaker = asyncio.create_task(self.speak(socket, sent))
        try:
            self.open = True
            async for text in socket:
                now = time.monotonic()
                number, when = sent.popleft() if sent else (None, now)
                if text != str(number):
                    self.crowd.lost.append((now, self.group))
                self.received += 1
                self.crowd.late(self, now - when)
        except ConnectionClosed:
            pass
        finally:
            self.open = False
            speaker.cancel()
            # A reader that was ended by a fault of this side must not look like a close.
            await socket.close()
        if not self.crowd.stopping:
            code, reason = socket.close_code or 1006, socket.close_reason or ""
            self.crowd.ends.append((time.monotonic(), End(self.group, self.number, code, reason, len(sent))))

    async def speak(self, socket, sent):
        number = 0
        await asyncio.sleep(random.uniform(0, 1 / self.crowd.per_second))
        with contextlib.suppress(ConnectionClosed):
            while True:
                sent.append((number, time.monotonic()))
                await socket.send(str(number))
                number += 1
                await asyncio.sleep(1 / self.crowd.per_second)


class Crowd:
    """`groups`: name -> (url, how many[, options of the connection]).

    All come at once, and are there when the block begins; with `arriving`, so many come a second, from then on. It may be changed: 0 is nobody for now.
    """

    def __init__(self, groups, per_second=PER_SECOND, arriving=None):
        self.groups, self.per_second, self.arriving, self.stopping = groups, per_second, arriving, False
        self.opened, self.ends, self.lost, self.refused, self.lateness = [], [], [], [], {}
        self.held = [Held(self, name, i, url, options[0] if options else {}) for name, (url, count, *options) in groups.items() for i in range(count)]
        self.lag, self.loop = 0.0, asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        try:
            if self.arriving is None:
                self.flows()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_):
        self._end()

    def _end(self):
        self.stopping = True
        self.loop.call_soon_threadsafe(self.main.cancel)
        self.thread.join(30)

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.main = self.loop.create_task(self._main())
        with contextlib.suppress(asyncio.CancelledError):
            self.loop.run_until_complete(self.main)
        self.loop.close()

    async def _main(self):
        self.handshakes = asyncio.Semaphore(32)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_itself())
            for held in self.held:
                await self._turn()
                tasks.create_task(held.live())

    async def _turn(self):
        """Waits until one more may come."""
        last = time.monotonic()
        while self.arriving is not None:
            left = last + (1 / self.arriving if self.arriving else math.inf) - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(left, 0.05))

    async def _watch_itself(self):
        """How late this side is: what a message may be late through no fault of who carries it."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.05)
            self.lag = max(self.lag, time.monotonic() - began - 0.05)

    def late(self, held, seconds):
        self.lateness[held] = max(seconds, self.lateness.get(held, 0.0))

    def mark(self):
        """From here on is reported."""
        self.lateness.clear()
        self.lag = 0.0
        return time.monotonic()

    def flows(self, groups=None, messages=2, within=60):
        """Waits until every socket is open and has had `messages` more of its messages back."""
        held = [held for held in self.held if groups is None or held.group in groups]
        before = {one: one.received for one in held}
        deadline = time.monotonic() + within
        while missing := [one for one in held if not one.open or one.received < before[one] + messages]:
            if time.monotonic() > deadline:
                refused = collections.Counter(why for _, _, why in self.refused[-200:])
                silent = collections.Counter((one.group, "silent" if one.open else "not open", one.server) for one in missing)
                raise AssertionError(f"{len(missing)} of {len(held)} sockets have no messages: {dict(silent)}; refusals: {dict(refused)}")
            time.sleep(0.05)

    def since(self, mark, group):
        """What happened to a group since the mark."""
        ends = [end for when, end in self.ends if when >= mark and end.group == group]
        stayed = [held for held in self.held if held.group == group and held.number not in {end.socket for end in ends}]
        now = time.monotonic()
        waiting = [now - held.sent[0][1] for held in stayed if held.open and held.sent]
        return Report(
            ends=ends,
            lost=sum(1 for when, name in self.lost if when >= mark and name == group),
            latest=max([self.lateness.get(held, 0.0) for held in stayed] + waiting, default=0.0),
            refused=collections.Counter(why for when, name, why in self.refused if when >= mark and name == group),
            came_back=[when - mark for when, name in self.opened if when >= mark and name == group],
        )

    def servers(self, group):
        """Who answers: name -> sockets."""
        return collections.Counter(held.server for held in self.held if held.group == group and held.open)
