"""Starts the real stage, listening for armed kills: `python real_stage.py BOX STAGE FOLDER`."""

import sys
from pathlib import Path

from killing import listen

from runner.training.__main__ import main

if __name__ == "__main__":
    listen(Path(sys.argv[1]), "child")
    sys.exit(main(sys.argv[2:]))
