"""Receives webhooks and verifies them: python3 receive.py"""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import base64, hashlib, hmac, time

def verify(secret: str, headers: dict, body: bytes) -> bool:
    if abs(time.time() - int(headers["webhook-timestamp"])) > 300:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f'{headers["webhook-id"]}.{headers["webhook-timestamp"]}.'.encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    return any(hmac.compare_digest(expected, given) for given in headers["webhook-signature"].split(" "))


SECRET = os.environ["ASKWHEN_WEBHOOK_SECRET"]
MAX_BODY_BYTES = 1 << 20
SEEN = set()  # in earnest: a table of the last days' ids


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        length = int(self.headers.get("content-length") or 0)
        if length > MAX_BODY_BYTES:
            return self.answer(413)
        body = self.rfile.read(length)
        try:
            genuine = verify(SECRET, self.headers, body)
        except (KeyError, TypeError, ValueError, AttributeError):  # a header is missing or malformed
            genuine = False
        if not genuine:
            return self.answer(401)
        self.answer(204)
        if self.headers["webhook-id"] not in SEEN:
            SEEN.add(self.headers["webhook-id"])
            message = json.loads(body)
            print("verified", message["type"], message["data"]["user_id"], flush=True)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "9000"))), Receiver).serve_forever()
