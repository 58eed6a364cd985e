"""Trains MatMul-free LMs: ``python -m weights train CONFIG.toml --data DIR --out DIR``.

The model is that of arXiv 2406.02528 as upstream's class ``HGRNBitForCausalLM`` computes it, and is
saved in upstream's directory format. PyTorch comes with the extra ``train``.
"""
