"""Fine-tuning box: job specs dropped into a folder become LoRA adapters, one run a card."""

__version__ = "0.1.0"

import os

# Without this, pydantic reads the metadata of every installed package in search of plugins: a tenth
# of a second at each start of `runner status`. And nothing that happens to be installed has a say
# in how records and specs are read.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
