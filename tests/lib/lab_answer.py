"""Holds what `hedgerow lab --json` printed against what a lab must show: reads one JSON object from standard input."""

import json
import sys

answer = json.load(sys.stdin)
wrong = [
    f"{key} is {answer.get(key)!r}, not {what}"
    for key, what, holds in [
        ("sessions_ok", "positive", lambda value: value > 0),
        ("sessions_failed", "zero", lambda value: value == 0),
        ("messages_forwarded", "positive", lambda value: value > 0),
        ("frames_in", "positive", lambda value: value > 0),
        ("frames_refused", "counts by reason", lambda value: sum(value.values()) > 0),
        ("flows_peak", "positive", lambda value: value > 0),
        ("stranger_bytes", "zero", lambda value: value == 0),
    ]
    if key not in answer or not holds(answer[key])
]
for sentence in wrong:
    print(sentence)
sys.exit(bool(wrong))
