"""The NVIDIA card as its driver shows it: memory, holders, errors."""
