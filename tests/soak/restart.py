"""How long a start takes beside how much there is (P9): `restart.py BINARY FOLDER
USERS`. A start costs what is not yet checkpointed, and not the history."""

import os
import sys
import threading
import time
import urllib.request

from server import Server, hold

binary, folder, users = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = os.path.join(folder, "data")
MOST_SECONDS = 5.0


def lag(server):
    text = urllib.request.urlopen(server.base + "/metrics", timeout=20).read().decode()
    rows = (row for row in text.splitlines() if row.startswith("askwhen_engine_lag_records"))
    return sum(float(row.rsplit(" ", 1)[1]) for row in rows)


def timed_start():
    begun = time.time()
    server = Server(binary, data)
    hold(server.base and server.wait_ready(60), "it starts")
    while lag(server) > 0:
        time.sleep(0.02)
    return server, time.time() - begun


server, empty = timed_start()
body = {"name": "S", "status": "active", "activate": {"event": "woke"}, "expires_after": "2h", "show_on": [{"trigger": "Main"}],
        "questions": [{"question_id": "q", "type": "text", "text": "?"}]}
hold(server.call("PUT", "/v1/surveys/s", body, key="admin")[0] in (200, 201), "a survey listens")
begun = time.time()
numbers = iter(range(0, users, 1_000))
lock = threading.Lock()
wrong = []


def send():
    while True:
        with lock:
            first = next(numbers, None)
        if first is None:
            return
        events = [{"user_id": f"u{n}", "event_name": "woke", "event_id": f"e{n}"} for n in range(first, min(users, first + 1_000))]
        for _ in range(60):
            status, _said = server.call("POST", "/v1/events", {"events": events}, seconds=60)
            if status == 202:
                break
            time.sleep(0.5)
        else:
            wrong.append(first)


workers = [threading.Thread(target=send) for _ in range(4)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
hold(not wrong, f"{users} users came in ({users / (time.time() - begun):.0f}/s)")
until = time.time() + 600
while lag(server) > 0 and time.time() < until:
    time.sleep(0.2)
hold(lag(server) == 0, "the engine has taken them all")
# Two checkpoints later nothing is left to do again.
time.sleep(10)
hold(server.stop() == 0, "an orderly end")
server, seconds = timed_start()
hold(seconds <= MOST_SECONDS, f"after an orderly end with {users} users it is ready in {seconds:.2f} s ({empty:.2f} s with none)")
time.sleep(6)
server.close()
server, seconds = timed_start()
hold(seconds <= MOST_SECONDS, f"after a kill with {users} users it is ready in {seconds:.2f} s")
server.stop()
