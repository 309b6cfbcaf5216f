"""The stages, the only importers of torch: each is `python -m runner.training STAGE FOLDER`.

Torch and its family are imported inside functions, so that naming a stage costs nothing.
"""
