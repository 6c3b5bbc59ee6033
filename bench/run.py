"""All benchmarks, one after the other; each prints what it measured. See README.md beside this file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).parent
_BENCHMARKS = ("watch_decode.py", "judgement.py", "at_scale.py", "nas_load.py", "lab_nas.py")


def main() -> int:
    for name in _BENCHMARKS:
        print(f"==> {name}", flush=True)
        arguments = sys.argv[1:] if name == "at_scale.py" else []
        done = subprocess.run([sys.executable, str(_HERE / name), *arguments], check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
