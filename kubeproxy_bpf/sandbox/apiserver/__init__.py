# SPDX-License-Identifier: Apache-2.0
"""An API server small enough to be embedded: what Services are made of, over real HTTP."""

from .faults import Fault
from .front import Options
from .server import ApiServer

__all__ = ["ApiServer", "Fault", "Options"]
