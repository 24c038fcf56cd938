"""`python -m kivnun.serving.bound_process COMMAND...`: run a command that ends, with all it started, when we do.

Whoever starts this keeps the other end of its standard input open. However that process dies, the operating system
closes the pipe; then the command's whole process group is asked to end, and killed if it does not.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

GRACE_SECONDS = 10.0


def main(command: Sequence[str]) -> int:
    """Run a command until it ends or nobody holds our standard input any more.

    Args:
        command: With its arguments.

    Returns:
        Its exit status.
    """
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - our caller's own
    signal.signal(signal.SIGTERM, lambda *_: _signal_group(child.pid, signal.SIGTERM))
    threading.Thread(target=_end_with_our_caller, args=(child,), daemon=True).start()
    status = child.wait()
    # What it started and left behind goes too.
    _signal_group(child.pid, signal.SIGKILL)
    return status if status >= 0 else 128 - status


def _end_with_our_caller(child: "subprocess.Popen[bytes]") -> None:
    while os.read(0, 4096):
        pass
    _signal_group(child.pid, signal.SIGTERM)
    end = time.monotonic() + GRACE_SECONDS
    while child.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    _signal_group(child.pid, signal.SIGKILL)


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
