"""Lets the tests of this folder import `scenes` and the message samples of tests/wire."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "wire")]
