"""A good session that goes on while others do their worst: asks the node something three times in a second, all the time.

    companion.py HOST:PORT ADDRESS FOLDER

Prints a JSON line once it is there, and another with its questions and answers once standard input ends.
"""

import json
import select
import sys
from pathlib import Path

from frames import secure
from registry import Place
from wire import Talk


def main(to, source, folder):
    host, _, port = to.rpartition(":")
    talk = Talk(secure(Place((host, int(port)), source, Path(folder), {}), "companion")).introduce()
    print(json.dumps({"there": True}), flush=True)
    answers, failure = 0, None
    try:
        ended = False
        while not ended:
            talk.ask(answers)
            answers += 1
            ended = select.select([sys.stdin], [], [], 0.35)[0]  # a node takes 200 such requests a minute
        talk.bye()
    except Exception as error:  # whatever it is, the session is over
        failure = f"{type(error).__name__}: {error}"
    print(json.dumps({"answers": answers, "failure": failure}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
