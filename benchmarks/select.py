"""Measure max-min selection: ``python benchmarks/select.py`` runs `max_min.py`.

The standard library has a module of this name, too, which every script of this folder
would find here. So whoever imports this one gets that one.
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:] = [path for path in sys.path if Path(path).resolve() != FOLDER]

if __name__ == "__main__":
    import runpy

    runpy.run_path(str(FOLDER / "max_min.py"), run_name="__main__")
else:
    del sys.modules[__name__]
    import select  # noqa: F401
