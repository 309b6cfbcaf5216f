"""From tokenised rows to checkpoints of a LoRA adapter: the train stage."""
