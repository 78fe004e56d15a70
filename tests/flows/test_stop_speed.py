"""How soon a request that is put into the inbox of a running server stops the use of its data: a benchmark, run with `-m benchmarks`."""

from pathlib import Path

import pytest
from built_workspace import copy_built
from served_workspace import serve
from tiny_workspace import OWNERS, signed_request

from tasks.inbox import create_inbox
