"""What stands for the dashboard agent of Ray's nodes in tests.

It says that it serves nothing, as Ray's own does where no dashboard is installed, and goes with its raylet.
Ray's own takes a second of processor time to say so.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
"""Files in which a raylet looks for ports; -1 stands for none."""

if __name__ == "__main__":
    raylet = os.getppid()
    (session,) = (word.partition("=")[2] for word in sys.argv if word.startswith("--session-dir="))
    for name in PORTS:
        file = Path(session, f"{name}_{os.environ['RAY_NODE_ID']}")
        hidden = file.with_suffix(".partial")
        hidden.write_text("-1")
        hidden.rename(file)
    while os.getppid() == raylet:
        time.sleep(0.5)
