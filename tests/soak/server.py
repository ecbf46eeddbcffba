"""A server of the program under test, for the jobs of script/soak: started in a
folder, asked over HTTP, and held against what was acknowledged."""

import http.client
import json
import os
import signal
import subprocess
import threading
import time
import urllib.parse


class Server:
    """A running server; `close` ends it whatever happens."""

    def __init__(self, binary, data, under=(), stderr=None, seconds=40):
        self.binary, self.data = binary, data
        command = [*under, binary, "--data-dir", data, "serve", "--dev", "--listen", "127.0.0.1:0"]
        self.stderr_path = stderr or data.rstrip("/") + ".stderr"
        self.stderr = open(self.stderr_path, "ab")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.stderr)
        # A server that neither serves nor ends is what must not be.
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        line = self.process.stdout.readline().decode()
        self.hung = not timer.is_alive()
        timer.cancel()
        self.base = line.strip().removeprefix("askwhen listens on ") if line else None
        self.keys = {}
        if self.base:
            kind = None
            for row in open(os.path.join(data, "keys.toml")):
                name, _, value = row.partition("=")
                if name.strip() == "kind":
                    kind = value.strip().strip('"')
                if name.strip() == "key":
                    self.keys[kind] = value.strip().strip('"')

    def call(self, method, path, body=None, key="server", seconds=20):
        """Status and body, or (0, why) when there is no answer."""
        where = urllib.parse.urlparse(self.base)
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=seconds)
        headers = {"authorization": "Bearer " + self.keys.get(key, "")}
        if body is not None:
            headers["content-type"] = "application/json"
            body = json.dumps(body)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, (json.loads(text) if text[:1] in b"{[" and text else {})
        except (OSError, http.client.HTTPException, ValueError) as error:
            return 0, {"error": str(error)}
        finally:
            connection.close()

    def event(self, event_id, size=0):
        body = {"user_id": "u-" + event_id, "event_name": "woke", "event_id": event_id, "properties": {"pad": "x" * size}}
        return self.call("POST", "/v1/events", body)

    def wait_ready(self, seconds=30):
        until = time.time() + seconds
        while time.time() < until:
            if self.call("GET", "/readyz")[0] == 200:
                return True
            time.sleep(0.1)
        return False

    def stop(self, seconds=40):
        """SIGTERM; gives its exit code, or None when it had to be killed."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.close()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.stderr.close()


def journal(binary, data):
    """The ids of all events of the journal."""
    out = subprocess.run([binary, "--data-dir", data, "tail", "events"], capture_output=True, check=True)
    return {json.loads(line)["value"].get("event_id") for line in out.stdout.splitlines()}


def hold(condition, sentence):
    if not condition:
        raise SystemExit("FAILED: " + sentence)
    print("holds: " + sentence, flush=True)


def load(server, acknowledged, refused, stop, name, size):
    """Sends events from one thread until told to stop or nobody answers."""
    silent = 0
    for n in range(10**9):
        if stop.is_set() or silent > 20:
            return
        event_id = f"{name}-{n}"
        status, body = server.event(event_id, size)
        if status == 202:
            acknowledged.add(event_id)
        elif status in (413, 422, 429) or (status == 503 and body.get("code") != "outcome_unknown"):
            refused.add(event_id)
        silent = silent + 1 if status == 0 else 0
        if status != 202:
            time.sleep(0.05)


def load_for(server, seconds, name, size=0, threads=4, until=lambda: False):
    """Loads for a while; gives what was acknowledged, and what was refused for good."""
    acknowledged, refused, stop = set(), set(), threading.Event()
    workers = [
        threading.Thread(target=load, args=(server, acknowledged, refused, stop, f"{name}{n}", size))
        for n in range(threads)
    ]
    for worker in workers:
        worker.start()
    end = time.time() + seconds
    while time.time() < end and not until() and server.process.poll() is None:
        time.sleep(0.05)
    stop.set()
    for worker in workers:
        worker.join()
    return acknowledged, refused
