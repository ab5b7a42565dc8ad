"""The modules of ``benchmarks`` are imported by their bare names, as the scripts there do."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))
