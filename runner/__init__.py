"""Fine-tuning box: job specs dropped into a folder become LoRA adapters, one run at a time."""

__version__ = "0.1.0"
