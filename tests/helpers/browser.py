"""A page in Chromium without a window, driven by keys: its debugging protocol over a pipe, and nothing to install."""

import contextlib
import json
import os
import subprocess
import sys

CODES = {"Tab": 9, "Enter": 13, " ": 32, "ArrowRight": 39}  # of keys, as browsers number them
TYPED = {"Enter": "\r", " ": " "}
LOADED = "new Promise((done) => document.readyState === 'complete' ? done() : addEventListener('load', () => done()))"
# A browser reads messages from file 3 and writes them to file 4.
START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """A loaded page."""

    def __init__(self, read, write):
        self.pipe, self.count, self.rest, self.session = (read, write), 0, b"", {}

    def send(self, method, **params):
        """Return the answer to a message of the protocol."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params, **self.session}
        os.write(self.pipe[1], json.dumps(message).encode() + b"\0")
        while True:  # events come between
            while b"\0" not in self.rest:
                more = os.read(self.pipe[0], 1 << 16)
                assert more, "the browser closed"
                self.rest += more
            line, _, self.rest = self.rest.partition(b"\0")
            found = json.loads(line)
            if found.get("id") == self.count:
                return found["result"]

    def do(self, script):
        """Return the value of a script."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key):
        """Press a key as a user does: the browser moves the focus and activates what has it."""
        about = {"key": key, "code": key.replace(" ", "Space"), "windowsVirtualKeyCode": CODES[key]}
        typed = {"text": TYPED[key]} if key in TYPED else {}
        self.send("Input.dispatchKeyEvent", type="keyDown" if typed else "rawKeyDown", **about, **typed)
        self.send("Input.dispatchKeyEvent", type="keyUp", **about)


@contextlib.contextmanager
def opened(browser, path, profile):
    """Open a file in a browser, and close the browser at the end."""
    (read_there, write), (read, write_there) = os.pipe(), os.pipe()
    start = [sys.executable, "-c", START, str(read_there), str(write_there), browser, "--remote-debugging-pipe"]
    start += ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(start, pass_fds=(read_there, write_there), stderr=subprocess.DEVNULL)
    os.close(read_there)
    os.close(write_there)
    try:
        page = Page(read, write)
        target = next(each for each in page.send("Target.getTargets")["targetInfos"] if each["type"] == "page")
        session = page.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        page.session = {"sessionId": session}
        page.send("Page.navigate", url=path.as_uri())
        page.do(LOADED)
        yield page
    finally:
        process.terminate()
        process.wait(30)
        os.close(read)
        os.close(write)
