"""Where an engine's process begins: it ends with the replica that started it, however that ends.

vLLM's engine notices that its replica is gone only when it has something to send. A replica that is
killed would leave an engine behind that holds its memory, or its GPU, for ever.

Imported by replicas and by engines only: it loads vLLM.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from typing import Any

from vllm.v1.engine.core import EngineCoreProc

PR_SET_PDEATHSIG = 1
"""From `linux/prctl.h`: the signal that a process gets when its parent ends."""

_run_engine_core: Any = EngineCoreProc.run_engine_core


def run_engine_core(*args: Any, **kwargs: Any) -> None:
    """What an engine's process runs."""
    die_with_parent()
    _run_engine_core(*args, **kwargs)


def die_with_parent() -> None:
    """Have this process killed as soon as its parent is gone; on Linux only."""
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)  # it was faster than the call


def bind_engines() -> None:
    """Have engines that this process starts begin here."""
    EngineCoreProc.run_engine_core = staticmethod(run_engine_core)
