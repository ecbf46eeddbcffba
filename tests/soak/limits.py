"""Few file descriptors and little memory: `limits.py BINARY FOLDER`."""

import os
import socket
import subprocess
import sys
import time
import urllib.parse

from server import Server, hold, journal, load_for

binary, folder = sys.argv[1:]
data = os.path.join(folder, "data")
server = Server(binary, data)
hold(server.base and server.wait_ready(), "it starts")
acknowledged, _ = load_for(server, 2, "before")
hold(server.stop() == 0, "an orderly end")

# So few that nothing can be opened: it says so, or serves.
begun = time.time()
server = Server(binary, data, under=["prlimit", "--nofile=64:64"], seconds=40)
hold(not server.hung, f"with 64 descriptors it does not hang ({time.time() - begun:.1f} s)")
if server.base:
    hold(server.call("GET", "/livez")[0] == 200, "it serves with 64 descriptors")
    server.stop()
else:
    code = server.process.wait(10)
    text = open(server.stderr_path, "rb").read().decode(errors="replace").strip()
    hold(0 < code <= 4 and text, f"it ends with a sentence, exit code {code}: {text[-300:]}")
    server.close()

# Enough for the files, and too few for the clients.
server = Server(binary, data, under=["prlimit", "--nofile=700:700"])
hold(server.base and server.wait_ready(), "with 700 descriptors it starts")
where = urllib.parse.urlparse(server.base)
idle = []
for _ in range(1_000):
    try:
        idle.append(socket.create_connection((where.hostname, where.port), timeout=1))
    except OSError:
        break
hold(server.process.poll() is None, f"{len(idle)} idle connections do not end it")
for connection in idle:
    connection.close()
until = time.time() + 20
while server.event("after-crowd")[0] != 202 and time.time() < until:
    time.sleep(0.1)
hold(server.event("after-crowd")[0] == 202, "it serves when they are gone")
acknowledged.add("after-crowd")
hold(server.stop() == 0, "an orderly end")

# Memory that runs out while it works.
for round in range(int(os.environ.get("ASKWHEN_SOAK_ROUNDS", "3"))):
    server = Server(binary, data)
    hold(server.base and server.wait_ready(), "it starts")
    pid = server.process.pid
    size = int(next(line for line in open(f"/proc/{pid}/status") if line.startswith("VmSize")).split()[1]) << 10
    subprocess.run(["prlimit", "--pid", str(pid), f"--as={size // 2 + (round << 20)}"], check=True)
    more, _ = load_for(server, 10, f"tight{round}", size=20_000, threads=8)
    acknowledged |= more
    alive = server.process.poll() is None
    if alive:
        hold(server.call("GET", "/livez", seconds=10)[0] == 200, "short of memory it answers")
    server.close()
    print(f"short of memory it {'goes on' if alive else 'ended'}; {len(more)} more were acknowledged", flush=True)
    hold(acknowledged <= journal(binary, data), f"all {len(acknowledged)} acknowledged events are in the journal")
