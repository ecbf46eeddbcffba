"""A small disk that fills (P18): `disk_full.py BINARY FOLDER`, the folder being
on a file system of about 64 MiB that is empty and nobody else's."""

import os
import sys
import time

from server import Server, hold, journal, load_for

binary, folder = sys.argv[1:]
data = os.path.join(folder, "data")
ballast = os.path.join(folder, "ballast")


def fill(leave):
    """Writes the ballast until so many bytes are free."""
    with open(ballast, "ab") as file:
        while True:
            found = os.statvfs(folder)
            left = found.f_bavail * found.f_frsize - leave
            if left <= 0:
                return
            try:
                file.write(b"\0" * min(left, 1 << 20))
                file.flush()
            except OSError:
                return


with open(ballast, "wb") as file:
    file.write(b"\0" * (12 << 20))
# Log lines go to the very disk that fills.
server = Server(binary, data, stderr=os.path.join(folder, "stderr"))
hold(server.base and server.wait_ready(), "it starts on a small disk")
seen = []


def full():
    status, body = server.event("probe-%d" % len(seen))
    seen.append((status, body.get("code")))
    return status == 503


acknowledged, refused = load_for(server, 120, "fill", size=30_000, threads=8, until=full)
hold(server.process.poll() is None, "the process goes on when the disk is full")
hold(seen and seen[-1] == (503, "read_only"), f"it says read_only ({seen[-1:]})")
hold(server.call("GET", "/livez")[0] == 200, "it answers")
hold(server.call("GET", "/v1/surveys", key="admin")[0] == 200, "reads are served")
fill(0)
time.sleep(2)
hold(server.call("GET", "/livez")[0] == 200, "it answers without a free byte")
status, body = server.event("none-left")
hold(status == 503, f"it takes nothing without a free byte ({status} {body.get('code')})")
os.remove(ballast)
until = time.time() + 30
while server.event("healed")[0] != 202:
    hold_until = time.time() < until
    if not hold_until:
        hold(False, "it heals by itself when there is room")
    time.sleep(0.2)
hold(True, "it heals by itself when there is room")
acknowledged.add("healed")
hold(server.stop() == 0, "an orderly end")
there = journal(binary, data)
hold(acknowledged <= there, f"all {len(acknowledged)} acknowledged events are in the journal")
hold(not (refused & there), f"none of {len(refused)} refused events is")
# A start on a full disk serves reads, or says why at once.
fill(0)
begun = time.time()
server = Server(binary, data, stderr=os.path.join("/tmp", f"askwhen-full-{os.getpid()}.stderr"), seconds=30)
hold(not server.hung, f"a start on a full disk does not hang ({time.time() - begun:.1f} s)")
if server.base:
    hold(server.call("GET", "/livez")[0] == 200, "it serves on a full disk")
    server.stop()
else:
    code = server.process.wait(10)
    text = open(server.stderr_path, "rb").read().decode(errors="replace").strip()
    hold(code in (1, 3) and text, f"it says why it does not start: {text[-300:]}")
    server.close()
os.remove(server.stderr_path)
os.remove(ballast)
server = Server(binary, data)
hold(server.base and server.wait_ready(), "it starts again with room")
hold(acknowledged <= journal(binary, data), "and everything acknowledged is still there")
server.stop()
