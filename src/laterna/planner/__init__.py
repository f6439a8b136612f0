"""The planner: tokens, FLOPs, memory, hours and money of a recipe before it is run.

`dry_run` runs a training step on the meta device, where tensors have shapes and no numbers, and
counts its FLOPs (`torch.utils.flop_counter`) and the bytes alive at every moment (`memory`).
`attention` stands in for the fused kernels, `hardware` knows the GPUs, `plan` puts it together,
`tables` shows it.
"""
