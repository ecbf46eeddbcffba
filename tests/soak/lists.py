"""What the lists, results and explanations answer, and how fast, when there is much of
everything; and what is sent again in bulk while the server is killed.

    lists.py BINARY FOLDER [--small]

Full: 100,000 deliveries, 50,000 failures of three kinds, 200 users of surveys with quotas and
caps, a million responses. Small: a fiftieth and less, and the times are printed without being
held to anything, because a build with debug assertions has others.
"""

import datetime
import http.client
import itertools
import json
import math
import multiprocessing
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

from server import Server, hold

BINARY, FOLDER = sys.argv[1:3]
SMALL = "--small" in sys.argv[3:]
SCALE = 50 if SMALL else 1
DATA = os.path.join(FOLDER, "data")
# One process is asked for all of it.
os.environ["ASKWHEN__LIMITS__PER_KEY"] = "1000000/s"
os.environ["ASKWHEN__DELIVERY__MAX_IN_FLIGHT"] = "200"


def within(what, seconds, bound):
    """Holds a time to its bound; a small run shows it."""
    sentence = f"{what}: {seconds * 1000:.0f} ms, of {bound * 1000:.0f}"
    if SMALL:
        print("shown: " + sentence, flush=True)
    else:
        hold(seconds < bound, sentence)


def p95(times):
    return sorted(times)[max(0, math.ceil(len(times) * 0.95) - 1)]


def until(what, holds, seconds=900):
    end = time.monotonic() + (60 if SMALL else seconds)
    while not (found := holds()):
        if time.monotonic() > end:
            raise SystemExit("FAILED: waited too long: " + what)
        time.sleep(0.1)
    return found


def cpu_seconds(server):
    """What the server has used until now: on a busy machine that says more than the time."""
    fields = open(f"/proc/{server.process.pid}/stat").read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- requests, many at a time

def pipelined(server, requests, connections=4, depth=32):
    """Sends (path, body) by POST over a few connections, each with some on their way; all
    must be answered with 2xx."""
    where = urllib.parse.urlparse(server.base)
    todo, lock, wrong = iter(requests), threading.Lock(), []

    def work():
        with socket.create_connection((where.hostname, where.port)) as stream:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = stream.makefile("rb")
            while True:
                with lock:
                    some = list(itertools.islice(todo, depth))
                if not some or wrong:
                    return
                out = bytearray()
                for path, body in some:
                    text = json.dumps(body).encode()
                    out += (
                        f"POST {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {server.keys['server']}\r\n"
                        f"content-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
                    ).encode() + text
                stream.sendall(out)
                for path, _ in some:
                    status = int(answers.readline().split()[1])
                    length = 0
                    while (line := answers.readline()) != b"\r\n":
                        if line.lower().startswith(b"content-length:"):
                            length = int(line.split(b":")[1])
                    text = answers.read(length)
                    if not 200 <= status < 300:
                        wrong.append((path, status, text))

    workers = [threading.Thread(target=work) for _ in range(connections)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    if wrong:
        raise SystemExit(f"FAILED: {len(wrong)} requests, first {wrong[0]}")


class Reader:
    """One connection that is kept, so that a time is that of the answer."""

    def __init__(self, server, key="admin"):
        where = urllib.parse.urlparse(server.base)
        self.connection = http.client.HTTPConnection(where.hostname, where.port, timeout=300)
        self.headers = {"authorization": "Bearer " + server.keys[key]}

    def get(self, path):
        begun = time.perf_counter()
        self.connection.request("GET", path, headers=self.headers)
        answer = self.connection.getresponse()
        text = answer.read()
        taken = time.perf_counter() - begun
        if answer.status != 200:
            raise SystemExit(f"FAILED: {answer.status} of {path}: {text[:400]}")
        return json.loads(text), taken

    def listed(self, path):
        """Every row of a list; a page that has a cursor is never empty."""
        rows, cursor = [], ""
        while True:
            page, _ = self.get(f"{path}{'&' if '?' in path else '?'}limit=200{cursor}")
            name = next(iter(set(page) - {"next_cursor"}))
            rows += page[name]
            if page["next_cursor"] is None:
                return rows
            if not page[name]:
                raise SystemExit("FAILED: an empty page with a cursor: " + path)
            cursor = "&cursor=" + urllib.parse.quote(page["next_cursor"])


def made(server, method, path, body, key="admin"):
    status, said = server.call(method, path, body, key, seconds=60)
    if not 200 <= status < 300:
        raise SystemExit(f"FAILED: {status} of {method} {path}: {said}")
    return said


# --- a receiver in a process of its own

def receive(port, broken, told):
    """Answers /ok with 200, /500 with 500 while `broken` is set, /404 with 404; tells every
    webhook-id of /500 that was answered 200."""
    import asyncio

    async def talk(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                await reader.readexactly(int(headers.get("content-length", 0)))
                path = lines[0].split()[1]
                if path == "/ids":
                    body = json.dumps(ids).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                    continue
                status = {"/500": 500 if broken.value else 200, "/404": 404}.get(path, 200)
                if path == "/500" and status == 200:
                    ids.append(headers["webhook-id"])
                writer.write(b"HTTP/1.1 %d x\r\ncontent-length: 0\r\n\r\n" % status)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    ids = []

    async def main():
        server = await asyncio.start_server(talk, "127.0.0.1", port.value, backlog=1000)
        port.value = server.sockets[0].getsockname()[1]
        told.set()
        await server.serve_forever()

    asyncio.run(main())


class Receiver:
    def __init__(self):
        self.port, self.broken, told = multiprocessing.Value("i", 0), multiprocessing.Value("i", 1), multiprocessing.Event()
        self.process = multiprocessing.Process(target=receive, args=(self.port, self.broken, told), daemon=True)
        self.process.start()
        told.wait(20)
        self.url = f"http://127.0.0.1:{self.port.value}"

    def ids(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port.value, timeout=60)
        connection.request("GET", "/ids")
        return json.loads(connection.getresponse().read())


def shut_url():
    """An address at which nobody listens, and nobody will."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    kept.append(taken)
    return f"http://127.0.0.1:{taken.getsockname()[1]}/"


kept = []
QUESTIONS = [
    {"question_id": "q1", "type": "nps", "text": "How likely?"},
    {"question_id": "q2", "type": "single_choice", "text": "Which?", "options": ["a", "b", "c"], "required": False},
    {"question_id": "q3", "type": "text", "text": "Why?", "required": False},
]
ONCE = {"kind": "schedule", "delays": [], "breaker": False}


def survey(server, survey_id):
    body = {"name": survey_id, "status": "active", "link": True, "questions": QUESTIONS}
    body["frequency"] = {"repeat": "every_activation", "global_cooldown": "ignore"}
    made(server, "PUT", "/v1/surveys/" + survey_id, body)


def endpoint(server, endpoint_id, url, surveys, **more):
    made(server, "PUT", "/v1/endpoints/" + endpoint_id, {"url": url, "events": ["response.completed"], "surveys": surveys, **more})


def response(survey_id, user, n):
    answers = [{"question_id": "q1", "value": n % 11}]
    if n % 3:
        answers.append({"question_id": "q2", "value": "abc"[n % 7 % 3]})
    if n % 5 == 0:
        answers.append({"question_id": "q3", "value": f"because {n}"})
    return f"/v1/users/{user}/surveys/{survey_id}/responses", {"answers": answers, "completed": n % 4 != 0 or survey_id != "results"}


# --- the parts

def filters(server, receiver):
    """100,000 deliveries of which each filter takes one in a hundred: every filter and every
    pair of them."""
    surveys, each = (100, 10) if not SMALL else (20, 5)
    off = surveys - 3
    for n in range(surveys):
        survey(server, f"s-{n}")
    closed = shut_url()
    for n in range(off):
        endpoint(server, f"off-{n}", closed, ["s-*"], enabled=False)
    endpoint(server, "answered", closed, ["s-*"], enabled=False, events=["response.answered"])
    endpoint(server, "ok", receiver.url + "/ok", ["s-*"], concurrency=100)
    endpoint(server, "dead", receiver.url + "/404", ["s-*"], retry=ONCE, concurrency=100)
    count = surveys * each
    requests = [response(f"s-{n % surveys}", f"u-{n // each}", n) for n in range(count)]
    reader, marks, sent = Reader(server), [], 0
    for some in (requests[:each], requests[each:-each], requests[-each:]):
        pipelined(server, some)
        sent += len(some)
        until("deliveries", lambda: len(reader.listed("/v1/deliveries?endpoint_id=off-0")) == sent)
        # Between two of them, a time that no delivery has.
        time.sleep(0.05)
        marks.append(datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z")
        time.sleep(0.05)
    until("what was sent", lambda: len(reader.listed("/v1/deliveries?status=delivered")) == count)
    until("what is dead", lambda: len(reader.listed("/v1/deliveries?status=dead")) == count)
    rows = reader.listed("/v1/deliveries")
    hold(len(rows) == count * (off + 3), f"the list has all {len(rows)} deliveries")
    causes, _ = reader.get("/v1/deliveries/causes")
    cause = next(one["cause"] for one in causes["causes"] if one["endpoint_id"] == "dead")
    outcome = {one["endpoint_id"]: one for one in causes["causes"]}["dead"]["outcome"]

    known = {
        "endpoint_id": [("off-3", lambda row: row["endpoint_id"] == "off-3"), ("dead", lambda row: row["endpoint_id"] == "dead")],
        "status": [(name, lambda row, name=name: row["status"] == name) for name in ("delivered", "dead")],
        "outcome": [("delivered", lambda row: row["endpoint_id"] == "ok"), (outcome, lambda row: row["endpoint_id"] == "dead")],
        "http_status": [("200", lambda row: row["endpoint_id"] == "ok"), ("404", lambda row: row["endpoint_id"] == "dead")],
        "cause": [(cause, lambda row: row["endpoint_id"] == "dead")],
        "survey_id": [("s-7", lambda row: row["survey_id"] == "s-7")],
        "user_id": [("u-11", lambda row: row["user_id"] == "u-11")],
        "type": [("response.answered", lambda row: row["type"] == "response.answered")],
        "since": [(marks[1], lambda row: row["created_at"] >= marks[1])],
        "until": [(marks[0], lambda row: row["created_at"] < marks[0])],
    }
    everyone = [(name, value, takes) for name, values in known.items() for value, takes in values]
    asked = [(one,) for one in everyone]
    asked += [(one, other) for i, one in enumerate(everyone) for other in everyone[i + 1 :] if one[0] != other[0]]
    slowest, all_times, costs, empty = (0, ""), [], [], 0
    for combination in asked:
        query = "&".join(f"{name}={urllib.parse.quote(value)}" for name, value, _ in combination)
        taken, begun = [], cpu_seconds(server)
        for _ in range(5):
            page, seconds = reader.get("/v1/deliveries?" + query)
            taken.append(seconds)
        costs.append(((cpu_seconds(server) - begun) / 5, query))
        wanted = [row["delivery_id"] for row in rows if all(takes(row) for _, _, takes in combination)]
        found = [row["delivery_id"] for row in page["deliveries"]]
        if found != wanted[:50] or (page["next_cursor"] is None) != (len(wanted) <= 50):
            raise SystemExit(f"FAILED: {query}: {len(found)} rows of {len(wanted)}, next {page['next_cursor']}")
        empty += not wanted
        all_times += taken
        slowest = max(slowest, (p95(taken), query))
    print(f"{len(asked)} filters and pairs, {empty} of which take nothing; slowest {slowest[1]}")
    dearest = sorted(costs)[-3:]
    print("CPU-ms of a request, the dearest three: " + ", ".join(f"{cost * 1000:.0f} {query}" for cost, query in dearest))
    within(f"p95 of any filter or pair over {len(rows)} deliveries", slowest[0], 0.2)
    within("p95 of all of them", p95(all_times), 0.2)



def failures(server, receiver):
    """Failures of three kinds have three causes, each with its count."""
    each = 16_700 // SCALE
    survey(server, "fail")
    for name, url in (("fails", receiver.url + "/500"), ("gone", receiver.url + "/404"), ("refused", shut_url())):
        endpoint(server, name, url, ["fail"], retry=ONCE, concurrency=100)
    pipelined(server, (response("fail", f"f-{n}", n) for n in range(each)))
    reader = Reader(server)
    mine = lambda: [one for one in reader.get("/v1/deliveries/causes")[0]["causes"] if one["endpoint_id"] in ("fails", "gone", "refused")]
    until("failures", lambda: sum(one["count"] for one in mine()) == 3 * each)
    causes = sorted((one["endpoint_id"], one["outcome"], one["http_status"], one["count"]) for one in mine())
    print(causes)
    hold([(one[0], one[2], one[3]) for one in causes] == [("fails", 500, each), ("gone", 404, each), ("refused", None, each)],
         f"{3 * each} failures of three kinds have three causes with their counts")
    times = [reader.get("/v1/deliveries/causes")[1] for _ in range(20)]
    within("p95 of the causes", p95(times), 0.2)
    for one in mine():
        counted = made(server, "POST", "/v1/jobs", {"kind": "resend", "filter": {"cause": one["cause"]}, "dry_run": True})
        hold(counted == {"count": each}, f"a dry run counts the {each} of {one['endpoint_id']}")
    return each


def resend(server, receiver, each):
    """A bulk resend that is killed in its middle sends each once."""
    receiver.broken.value = 0
    job = {"kind": "resend", "filter": {"endpoint_id": "fails"}}
    count = made(server, "POST", "/v1/jobs", {**job, "dry_run": True})["count"]
    job_id = made(server, "POST", "/v1/jobs", job)["job_id"]
    until("the job is under way", lambda: made(server, "GET", "/v1/jobs/" + job_id, None)["done"] > each // 4)
    server.process.kill()
    server.close()
    under_way = len(receiver.ids())
    server = Server(BINARY, DATA)
    hold(server.wait_ready(60), "the server is ready after a kill")
    done = until("the job is done", lambda: (job := made(server, "GET", "/v1/jobs/" + job_id, None))["state"] == "done" and job)
    until("all were taken", lambda: len(set(receiver.ids())) >= count)
    time.sleep(2)
    ids = receiver.ids()
    print(f"{under_way} had come at the kill; {len(ids) - len(set(ids))} came twice; the job says {done['result']}")
    hold(len(set(ids)) == count == each, f"a bulk resend of {count} that was killed in its middle reaches every message")
    hold(len(ids) - len(set(ids)) <= 200, "what came twice was in flight at the kill")
    again = made(server, "POST", "/v1/jobs", {**job, "dry_run": True})["count"]
    hold(again == 0, "nothing is left to be sent")
    return server


def explained_by_verb(user, trigger, at):
    command = [BINARY, "--data-dir", DATA, "--output", "json", "explain", user, "--trigger", trigger, "--at", at]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def same(user, by_http, by_verb):
    for one in (by_http, by_verb):
        # How much was read depends on the newest snapshot.
        for member in ("records", "snapshot"):
            one.pop(member, None)
    if by_http != by_verb:
        raise SystemExit(f"FAILED: the command line explains {user} otherwise: {by_http} {by_verb}")


def people(server):
    """Users of surveys with quotas, caps and cooldowns, in the middle of them: of random ones the
    server and the command line say the same, of random moments."""
    dice = random.Random(2)
    count, compared = (300, 200) if not SMALL else (60, 20)
    caps = [{"count": "displayed", "max": count // 20, "within": "7d", "per": {"attribute": "company"}},
            {"count": "completed", "max": count // 10}]
    for survey_id, more in {
        "capped": {"limits": {"caps": caps}, "priority": 3},
        "scarce": {"limits": {"max_completed": count // 12}, "priority": 2},
        "sampled": {"sampling": {"percent": 50}, "priority": 1, "frequency": {"repeat": "once", "global_cooldown": "respect"}},
    }.items():
        body = {"name": survey_id, "status": "active", "questions": QUESTIONS, "show_on": [{"trigger": "Ask"}],
                "frequency": {"repeat": "every_activation", "global_cooldown": "ignore"}, **more}
        made(server, "PUT", "/v1/surveys/" + survey_id, body)
    moments, reasons = [], {}
    for n in range(2 * count):
        user = f"p-{dice.randrange(count)}"
        path = f"/v1/users/{user}"
        if dice.random() < 0.7:
            made(server, "PUT", path, {"attributes": {"company": f"c{dice.randrange(5)}"}}, "server")
        decision = made(server, "POST", path + "/triggers/Ask", {}, "server")
        reasons[decision["reason"]] = reasons.get(decision["reason"], 0) + 1
        if decision["survey"] and (what := dice.randrange(4)):
            offer = f"{path}/offers/{decision['survey']['offer_id']}"
            made(server, "POST", offer + "/displayed", {}, "server")
            if what == 2:
                made(server, "POST", offer + "/dismissed", {}, "server")
            elif what == 3:
                made(server, "POST", offer + "/answers", {"answers": [{"question_id": "q1", "value": 5}], "completed": True}, "server")
        if n % (count // 5) == 0:
            moments.append(Reader(server).get(path + "/explain?trigger=Ask")[0]["at"])
        if n == count:
            made(server, "POST", "/v1/snapshots", None)
    moments.append(Reader(server).get("/v1/users/p-0/explain?trigger=Ask")[0]["at"])
    reader, gates = Reader(server), {}
    for user in dice.sample([f"p-{n}" for n in range(count)], compared):
        at = dice.choice(moments)
        by_http, _ = reader.get(f"/v1/users/{user}/explain?trigger=Ask&at={urllib.parse.quote(at)}")
        for evaluation in by_http["decision"]["evaluations"]:
            gate = evaluation.get("gate") or "passed"
            gates[gate] = gates.get(gate, 0) + 1
        same(user, by_http, explained_by_verb(user, "Ask", at))
    print(f"decisions {reasons}; gates of what was explained {gates}")
    hold(True, f"of {compared} random users of surveys with quotas and caps the server and the command line say the same")


def results(server):
    """Results of a million responses, and a recount of the topic."""
    count = 1_000_000 // (4 * SCALE if SMALL else 1)
    survey(server, "results")
    begun = time.monotonic()
    batch = max(1, count // 20)
    for first in range(0, count, batch):
        if first == 19 * batch:
            made(server, "POST", "/v1/snapshots", None)
        pipelined(server, (response("results", f"r-{n}", n) for n in range(first, min(first + batch, count))))
    took = time.monotonic() - begun
    print(f"{count} responses came in {took:.0f} s, {count / took:.0f} a second", flush=True)
    reader = Reader(server)
    path = "/v1/surveys/results/results"
    shown = until("all count", lambda: (shown := reader.get(path)[0])["responses"] == count and shown)
    for query in ("", "?by=day", "?by=week", "?by=month", "?by=version", "?by=locale", "?by=platform", "?by=trigger"):
        times = [reader.get(path + query)[1] for _ in range(10)]
        within(f"results of {count} responses{query}, slowest of ten", max(times), 0.5)

    completed, nps, choice, texts, seen = 0, [0] * 11, {}, 0, set()
    topic = subprocess.Popen([BINARY, "--data-dir", DATA, "tail", "responses"], stdout=subprocess.PIPE)
    for line in topic.stdout:
        if b'"survey_id":"results"' not in line:
            continue
        value = json.loads(line)["value"]
        data = value["data"]
        if data["survey_id"] != "results":
            continue
        completed += value["type"] == "response.completed"
        if value["type"] != "response.answered" or data["response_id"] in seen:
            continue
        seen.add(data["response_id"])
        for answer in data["answers"]:
            if answer["question_id"] == "q1":
                nps[answer["value"]] += 1
            elif answer["question_id"] == "q2":
                choice[answer["value"]] = choice.get(answer["value"], 0) + 1
            else:
                texts += 1
    hold(topic.wait() == 0, "the topic is read to its end")
    q1, q2, q3 = shown["questions"]
    recount = (len(seen), completed, nps, choice, texts)
    said = (shown["responses"], shown["completed"], [row["count"] for row in q1["distribution"]],
            {row["value"]: row["count"] for row in q2["distribution"]}, q3["answered"])
    hold(recount == said, f"the results are those of a recount of the topic: {said}")
    score = 100 * (sum(nps[9:]) - sum(nps[:7])) / sum(nps)
    hold(abs(q1["nps"]["score"] - score) < 1e-9, f"the NPS is {score:.3f}")
    begun, lines = time.perf_counter(), 0
    request = urllib.request.Request(server.base + "/v1/surveys/results/responses.csv", headers=reader.headers)
    with urllib.request.urlopen(request, timeout=600) as answer:
        for _ in answer:
            lines += 1
    hold(lines == count + 1, f"the table has {lines} lines; it took {time.perf_counter() - begun:.1f} s")


def explain(server):
    """Explanations beside a server that has a long journal; the command line says the same."""
    reader = Reader(server)
    dice = random.Random(1)
    count = 1_000_000 // (4 * SCALE if SMALL else 1)
    users = [f"r-{dice.randrange(count)}" for _ in range(60)] + [f"u-{dice.randrange(100)}" for _ in range(20)] + ["nobody"]
    times, totals = [], 0
    for user in users:
        explained, seconds = reader.get(f"/v1/users/{user}/explain?trigger=Main")
        times.append(seconds)
        totals += explained["records"]
    print(f"explained {len(users)} users, {totals / len(users):.0f} records read for each; median {sorted(times)[len(times) // 2] * 1000:.0f} ms")
    within("p95 of an explanation over HTTP", p95(times), 0.3)
    for user in dice.sample(users, 5):
        present = reader.get(f"/v1/users/{user}/explain?trigger=Main")[0]
        at = present["at"]
        past, _ = reader.get(f"/v1/users/{user}/explain?trigger=Main&at={urllib.parse.quote(at)}")
        by_verb = explained_by_verb(user, "Main", at)
        same(user, past, dict(by_verb))
        same(user, present, by_verb)
    print("holds: the command line explains the same", flush=True)


def rebuild(server):
    """The lists are made once more from the topics."""
    ends = made(server, "POST", "/v1/snapshots", None)["ends"]
    names = ("decisions", "responses", "displays", "deliveries", "attempts", "dead")
    records = sum(end for place, end in ends.items() if place.split("/")[0] in names or place.startswith("deliveries."))
    before = Reader(server).get("/v1/surveys/results/results")[0]
    hold(server.stop() == 0, "the server ends in order")
    shutil.rmtree(os.path.join(DATA, "state", "console"))
    begun = time.monotonic()
    server = Server(BINARY, DATA)
    until("the lists are whole", lambda: server.call("GET", "/v1/deliveries?limit=1", key="admin")[0] == 200)
    took = time.monotonic() - begun
    rate = records / took
    sentence = f"the lists are made again of {records} records in {took:.1f} s: {rate:.0f} a second"
    if SMALL:
        print("shown: " + sentence)
    else:
        hold(rate >= 50_000, sentence)
    hold(Reader(server).get("/v1/surveys/results/results")[0] == before, "and results are the same")
    return server


def main():
    os.makedirs(FOLDER, exist_ok=True)
    receiver = Receiver()
    server = Server(BINARY, DATA)
    try:
        hold(server.wait_ready(60), "the server is ready")
        filters(server, receiver)
        each = failures(server, receiver)
        server = resend(server, receiver, each)
        people(server)
        results(server)
        explain(server)
        server = rebuild(server)
        hold(server.stop() == 0, "the server ends in order")
    finally:
        server.close()
        receiver.process.kill()


if __name__ == "__main__":
    main()
