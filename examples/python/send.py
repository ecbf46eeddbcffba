"""Tells askwhen that a user has woken up: python3 send.py user_123"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid

URL = os.environ.get("ASKWHEN_URL", "http://127.0.0.1:8080")
KEY = os.environ["ASKWHEN_KEY"]


def send(user_id: str, event_name: str, properties: dict) -> dict:
    """Sends an event. Its id makes a second try harmless."""
    event = {"event_id": str(uuid.uuid4()), "user_id": user_id, "event_name": event_name, "properties": properties}
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{URL}/v1/events", json.dumps(event).encode(), headers)
    for attempt in range(5):
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503) or attempt == 4:
                raise RuntimeError(f"{error.code} {error.read().decode()}") from error
            time.sleep(float(error.headers.get("Retry-After") or 1))
    raise AssertionError("the last try returns or raises")


if __name__ == "__main__":
    print(json.dumps(send(sys.argv[1], "ended_sleep", {"duration_min": 415})))
