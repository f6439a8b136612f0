"""The planner: tokens, FLOPs, memory, hours and money of a recipe before it is run.

`plan` (open first) puts a plan together · `assumptions` (records and machine) · `images` (what they
take) · `dry_run` (a training step on the meta device, where tensors have shapes and no numbers: its
FLOPs and memory) · `memory` (bytes alive at every moment, attention without scores) · `sharding`
(FSDP) · `hardware` (GPUs) · `tables` (a plan for people).
"""
