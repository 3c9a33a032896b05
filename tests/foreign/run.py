"""Runs cases against an appliance, driven by lines of JSON.

    run.py --to HOST:PORT --folder CERTIFICATES [--tool NAME=PATH ...]

The first line it prints names the cases, each with its reasons (none: it is served) and whether it takes a deadline's time; and those
that cannot run here, with the reason. Then each line `{"case": NAME, "from": ADDRESS}` is answered, once the case is over, by
`{"case": NAME, "failure": null or a sentence}`, in any order: cases run side by side. Ends with its standard input.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import certificates
import clients
import frames
import handshakes
import registry

WORKERS = 24
MODULES = (handshakes, certificates, frames, clients)


def say(line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def catalogue(tools):
    cases, missing = [], {}
    for name, case in registry.CASES.items():
        cases.append({"name": name, "reasons": list(case.reasons), "slow": case.slow})
    for module in MODULES:
        missing |= getattr(module, "missing", lambda tools: {})(tools)
    return {"cases": cases, "missing": missing}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tool", action="append", default=[])
    arguments = parser.parse_args()
    host, _, port = arguments.to.rpartition(":")
    tools = dict(tool.split("=", 1) for tool in arguments.tool)
    say(catalogue(tools))

    def run(question):
        place = registry.Place((host, int(port)), question["from"], arguments.folder, tools)
        say({"case": question["case"], "failure": registry.play(question["case"], place)})

    with ThreadPoolExecutor(WORKERS) as workers:
        for line in sys.stdin:
            workers.submit(run, json.loads(line))


if __name__ == "__main__":
    main()
