"""The language model: any causal one of transformers, its tokenizer, its adapters, its packing."""
