"""The demo's page in a real browser, driven over the DevTools protocol: both sockets, who answers, and every way back."""

import asyncio
import base64
import contextlib
import json
import pathlib
import shutil
import urllib.request

import pytest
from websockets.asyncio.client import connect

from conftest import CARRICK, running

CHROMIUM = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-port=0",
]
SCREENSHOT = pathlib.Path("target/e2e/demo.png")

pytestmark = pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium")


class Page:
    """One tab."""

    def __init__(self, devtools):
        self.devtools, self.calls, self.complaints = devtools, 0, []

    async def call(self, method, **parameters):
        self.calls += 1
        await self.devtools.send(json.dumps({"id": self.calls, "method": method, "params": parameters}))
        async for text in self.devtools:
            message = json.loads(text)
            if message.get("id") == self.calls:
                assert "error" not in message, message
                return message["result"]
            if message["method"] == "Runtime.exceptionThrown":
                self.complaints.append(message["params"]["exceptionDetails"])

    async def evaluate(self, expression):
        answer = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, condition, within=20):
        """Waits in the page, at every change of it, and says what it shows if that takes too long."""
        held = await self.evaluate(f"""new Promise((resolve) => {{
            const look = () => ({condition}) && resolve(true);
            new MutationObserver(look).observe(document, {{subtree: true, childList: true, attributes: true, characterData: true}});
            setTimeout(resolve, {within * 1000}, false);
            look();
        }})""")
        assert held, f"{condition}: " + await self.evaluate("document.body?.innerText ?? ''")

    async def say(self, panel, text):
        await self.evaluate(f"document.querySelector('{panel} input').value = {json.dumps(text)}")
        await self.click(f"{panel} form button")

    async def click(self, selector):
        await self.evaluate(f"document.querySelector('{selector}').click()")


@contextlib.asynccontextmanager
async def browse(url, profile):
    """A fresh browser with one tab at `url`."""
    with running([*CHROMIUM, f"--user-data-dir={profile}", "about:blank"]) as browser:
        port = browser.wait_line(r"DevTools listening on ws://[^:]+:(\d+)/")[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as tabs:
            tab = next(tab for tab in json.load(tabs) if tab["type"] == "page")
        async with connect(tab["webSocketDebuggerUrl"], max_size=None) as devtools:
            page = Page(devtools)
            await page.call("Runtime.enable")
            await page.call("Emulation.setDeviceMetricsOverride", width=1000, height=700, deviceScaleFactor=2, mobile=False)
            await page.call("Page.navigate", url=url)
            await page.until("location.href !== 'about:blank' && document.readyState === 'complete'")
            yield page


def state(panel):
    return f"document.querySelector('{panel}').dataset.state"


def shows(panel, kind, text):
    return f"[...document.querySelectorAll('{panel} li.{kind}')].some((line) => line.textContent.includes({json.dumps(text)}))"


def closes(panel, code):
    return f"[...document.querySelectorAll('{panel} li.closed')].filter((line) => line.textContent.includes('with {code}')).length"


@pytest.mark.asyncio
async def test_both_sockets_of_the_page_talk_and_come_back(tmp_path):
    with running([CARRICK, "demo"]) as demo:
        url = demo.wait_line(r"the page\s+(http://\S+)")[1]
        async with browse(url, tmp_path) as page:
            for panel in ("#wsapp", "#wschat"):
                await page.until(f"{state(panel)} === 'open'")
            await page.until(shows("#wsapp", "message", "hello"))
            await page.say("#wsapp", "is anybody there?")
            await page.until(shows("#wsapp", "message", "is anybody there?"))
            await page.say("#wschat", "1 < 2 in this room")
            await page.until(shows("#wschat", "message", "1 < 2 in this room"))

            # A server that goes without a word: a clean Close that says come back, and the page does.
            await page.click("#wsapp [value=vanish]")
            await page.until(f"{closes('#wsapp', 1012)} === 1")
            await page.until(f"{state('#wsapp')} === 'open'")
            # A server's own Close arrives as it was sent.
            await page.click("#wschat [value=close]")
            await page.until(shows("#wschat", "closed", "closed with 4000: chat-"))
            await page.until(f"{state('#wschat')} === 'open'")
            await page.say("#wschat", "back again")
            await page.until(shows("#wschat", "message", "back again"))

            SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
            SCREENSHOT.write_bytes(base64.b64decode((await page.call("Page.captureScreenshot"))["data"]))
            assert page.complaints == []

            # The end of the demo: both are told to come back before their sockets go.
            ended = asyncio.create_task(asyncio.to_thread(demo.stop))
            await page.until(f"{closes('#wsapp', 1012)} === 2")
            await page.until(f"{closes('#wschat', 1012)} === 1")
            assert await ended == 0
