"""A small disk that fills while the engine is far behind (P18): `disk_rush.py
BINARY FOLDER`, the folder being on a file system of about 64 MiB that is empty
and nobody else's. The log takes batches faster than they are applied, so that
the stores grow after the log has stopped taking records."""

import os
import sys
import threading
import time

from server import Server, hold

binary, folder = sys.argv[1:]
data = os.path.join(folder, "data")
ballast = os.path.join(folder, "ballast")
SURVEY = {
    "name": "Rush",
    "status": "active",
    "activate": {"event": "woke"},
    "expires_after": "24h",
    "show_on": [{"trigger": "Main"}],
    "questions": [{"question_id": "q1", "type": "rating_star", "text": "How was it?"}],
}


def rush(server, name, acknowledged, stop):
    """Sends batches of large events, each of another user, until told to stop."""
    for n in range(4000):
        if stop.is_set():
            return
        users = [f"{name}-{n}-{i}" for i in range(25)]
        events = [{"user_id": user, "event_name": "woke", "properties": {"pad": "x" * 16_000}} for user in users]
        status, body = server.call("POST", "/v1/events", {"events": events})
        results = body.get("results", [])
        acknowledged.update(user for user, result in zip(users, results) if result.get("status") == 202)
        if status == 202 and not results:
            acknowledged.update(users)
        elif status != 202:
            time.sleep(0.1)


with open(ballast, "wb") as file:
    file.write(b"\0" * (16 << 20))
server = Server(binary, data, stderr=os.path.join("/tmp", f"askwhen-rush-{os.getpid()}.stderr"))
hold(server.base and server.wait_ready(), "it starts on a small disk")
status, body = server.call("PUT", "/v1/surveys/rush", SURVEY, key="admin")
hold(status in (200, 201), f"a survey is taken ({status} {body})")
acknowledged, stop = set(), threading.Event()
workers = [threading.Thread(target=rush, args=(server, f"rush{n}", acknowledged, stop)) for n in range(4)]
for worker in workers:
    worker.start()
until = time.time() + 120
while time.time() < until and server.event("probe")[0] != 503:
    time.sleep(0.05)
# The engine goes on with what was taken, as far as there is room.
time.sleep(10)
stop.set()
for worker in workers:
    worker.join()
hold(server.process.poll() is None, "the process goes on when the disk is full")
status, body = server.event("none-left")
hold((status, body.get("code")) == (503, "read_only"), f"it says read_only ({status} {body.get('code')})")
hold(server.call("GET", "/livez")[0] == 200, "it answers")
hold(server.call("GET", "/v1/decisions", key="admin")[0] == 200, "lists are read")
print("on a full disk:", server.call("GET", "/readyz")[1].get("reasons"), flush=True)
os.remove(ballast)
hold(server.wait_ready(60), "all partitions go on by themselves when there is room")
hold(server.event("healed")[0] == 202, "events are taken again")
missing = [user for user in sorted(acknowledged)[:: max(1, len(acknowledged) // 200)]
           if not server.call("GET", f"/v1/users/{user}")[1].get("windows")]
hold(not missing, f"all of {len(acknowledged)} acknowledged events have had their effect ({missing[:3]})")
user = max(acknowledged)
status, body = server.call("POST", f"/v1/users/{user}/triggers/Main", {}, key="server")
hold((status, body.get("reason")) == (200, "offered"), f"a trigger is decided ({status} {body.get('reason')})")
until = time.time() + 20
listed = []
while time.time() < until and not listed:
    listed = server.call("GET", f"/v1/decisions?user_id={user}", key="admin")[1].get("decisions", [])
    time.sleep(0.2)
hold(listed, "and is listed")
hold(server.stop() == 0, "an orderly end")
os.remove(server.stderr_path)
server = Server(binary, data)
hold(server.base and server.wait_ready(), "it starts again")
server.stop()
