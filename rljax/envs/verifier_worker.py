"""What a process of `verifier_pool` runs: answers in, verdicts out, one at a time.

    python -m rljax.envs.verifier_worker LINE MODULE:FUNCTION SECONDS

LINE is the number of an open file, one end of a pipe. An answer that takes longer than
SECONDS ends the process, whoever else may be there to do so. It must not import JAX.
"""

import faulthandler
import importlib
import json
import sys
from multiprocessing.connection import Connection

from rljax.envs.verifiers import told


def main(line: int, name: str, seconds: float) -> None:
    """Says that it is ready, then what is right, until the line is closed.

    Args:
      line: the number of the open file.
      name: "module:function" of the verifier.
      seconds: after which an answer ends the process.
    """
    with Connection(line) as pipe:

        def say(**words: object) -> None:
            pipe.send_bytes(json.dumps(words).encode())

        module, _, function = name.partition(":")
        try:
            verify = getattr(importlib.import_module(module), function)
        except Exception as error:
            return say(refused=told(error))
        say(ready=True)
        while True:
            try:
                answer, response = json.loads(pipe.recv_bytes())
            except EOFError:
                return None
            faulthandler.dump_traceback_later(seconds, exit=True)
            try:
                say(right=bool(verify(answer, response)))
            except Exception as error:
                say(raised=told(error))
            faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
