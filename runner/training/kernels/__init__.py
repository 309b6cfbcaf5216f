"""The fast path of training: one LoRA model's layers as Triton kernels and large products."""
