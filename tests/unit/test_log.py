# SPDX-License-Identifier: Apache-2.0
"""How much is logged can change at any time, also for loggers that exist."""

import subprocess
import sys

PROGRAM = """
import structlog
from kubeproxy_bpf import log

log.set_up(2)
logger = structlog.get_logger("first")
bound = logger.bind(kind="bound")
logger.debug("too_early")
log.set_verbosity(4)
logger.debug("seen")
bound.debug("seen_bound")
log.set_verbosity(0)
bound.debug("too_late")
logger.log(10, "too_late")
logger.info("always")
"""


def test_verbosity_changes_for_loggers_that_exist() -> None:
    """Debug events come and go; in a process of its own, since loggers are kept for good."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr
    events = [line.split("] ")[1].split()[0] for line in done.stderr.splitlines()]
    assert ["seen", "seen_bound", "always"] == events


OF_LIBBPF = """
from ctypes import addressof, create_string_buffer
from kubeproxy_bpf import log
from kubeproxy_bpf.libbpf.enums import LogLevel
from kubeproxy_bpf.libbpf.log import forward

log.set_up()
arguments = create_string_buffer(24)
for verbosity in 7, 8:
    log.set_verbosity(verbosity)
    for level in LogLevel.DEBUG, LogLevel.INFO:
        forward(level, b"%d-%s" % (verbosity, level.name.encode()), addressof(arguments))
"""


def test_debug_messages_of_libbpf_need_more_verbosity() -> None:
    """An operator who wants to see decisions is not flooded with what libbpf does."""
    done = subprocess.run([sys.executable, "-c", OF_LIBBPF], capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr
    messages = [line.split("message=")[1] for line in done.stderr.splitlines()]
    assert ["7-INFO", "8-DEBUG", "8-INFO"] == [message.split()[0] for message in messages]


LOSING = """
import os, structlog
from kubeproxy_bpf import log

log.set_up()
logger = structlog.get_logger()
out = os.dup(2)
full = os.open("/dev/full", os.O_WRONLY)
logger.info("before")
os.dup2(full, 2)
logger.info("lost")
logger.info("lost")
os.dup2(out, 2)
logger.info("after")
os.close(2)
logger.info("nowhere")
"""


def test_a_log_without_room_ends_nothing() -> None:
    """What cannot be written is lost and counted, and the program goes on to its end."""
    done = subprocess.run([sys.executable, "-c", LOSING], capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr
    lines = [line.split("] ")[-1].strip() for line in done.stderr.splitlines()]
    assert ["before", "", "2 lines of this log were lost here", "after"] == lines
