#!/usr/bin/env bash
# Tells askwhen that a user has woken up: ./send.sh user_123
set -euo pipefail
user="${1:?which user}"
url="${ASKWHEN_URL:-http://127.0.0.1:8080}"
: "${ASKWHEN_KEY:?a key of kind server}"

# The id makes a second try harmless: curl tries again after 429 and 503, as Retry-After says.
curl -sS --fail-with-body --retry 5 "$url/v1/events" \
  -H "Authorization: Bearer $ASKWHEN_KEY" -H 'Content-Type: application/json' \
  -d "{\"event_id\": \"$(cat /proc/sys/kernel/random/uuid)\", \"user_id\": \"$user\",
       \"event_name\": \"ended_sleep\", \"properties\": {\"duration_min\": 415}}"
echo
