"""Fills a server with one of everything, and writes the ids to files of their own.

    prepare.py URL ADMIN_KEY FOLDER

So requests that are made up reach what is there, and not only what is not.
"""

import json
import sys
import time
import urllib.request
from pathlib import Path

BASE, KEY, FOLDER = sys.argv[1], sys.argv[2], Path(sys.argv[3])


def call(method, path, body=None):
    request = urllib.request.Request(BASE + path, method=method)
    request.add_header("authorization", f"Bearer {KEY}")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def survey(**more):
    questions = [
        {"question_id": "q1", "type": "nps", "text": "Would you recommend us?"},
        {"question_id": "q2", "type": "multi_choice", "text": "Why?", "options": ["price", "bugs"], "required": False},
        {"question_id": "q3", "type": "text", "text": "Anything else?", "required": False},
    ]
    return {"name": "A survey", "status": "active", "questions": questions, **more}


def main():
    often = {"repeat": "every_activation", "global_cooldown": "ignore"}
    call("PUT", "/v1/surveys/shown", survey(show_on=[{"trigger": "Main"}], frequency=often))
    call("PUT", "/v1/surveys/linked", survey(link=True))
    call("PUT", "/v1/endpoints/crm", {"url": "http://127.0.0.1:47999/hooks", "events": ["*"]})
    call("PUT", "/v1/settings", {"global_cooldown": "0s", "max_per_session": 1000})
    offers = []
    for user in ("ann", "ben"):
        call("POST", "/v1/events", {"user_id": user, "event_name": "woke"})
        for _ in range(4):
            decision = call("POST", f"/v1/users/{user}/triggers/Main", {})
            offers.append(decision["survey"]["offer_id"])
            call("POST", f"/v1/users/{user}/offers/{offers[-1]}/displayed", {})
        answers = {"answers": [{"question_id": "q1", "value": 9}], "completed": True}
        call("POST", f"/v1/users/{user}/offers/{offers[-1]}/answers", answers)
    call("POST", "/v1/triggers", {"name": "Declared", "kind": "backend"})
    key = call("POST", "/v1/keys", {"name": "made", "kind": "viewer"})["key_id"]
    job = call("POST", "/v1/jobs", {"kind": "recover", "endpoint_id": "crm", "since": "2020-01-01T00:00:00Z"})["job_id"]
    until = time.monotonic() + 30
    while not (deliveries := call("GET", "/v1/deliveries")["deliveries"]):
        assert time.monotonic() < until, "the list of deliveries stays empty"
        time.sleep(0.1)
    known = {
        "survey_id": ["shown", "linked"],
        "endpoint_id": ["crm"],
        "user_id": ["ann", "ben"],
        "offer_id": offers,
        "trigger_id": ["declared", "Main", "woke"],
        "trigger": ["Main"],
        "delivery_id": [row["delivery_id"] for row in deliveries],
        "job_id": [job],
        "key_id": [key],
        "version": [1],
        "partition": [0],
    }
    for name, ids in known.items():
        (FOLDER / f"{name}.txt").write_text("".join(f'"{one}"\n' for one in ids))


main()
