"""Trains MatMul-free LMs: ``python -m weights train CONFIG.toml --data DIR --out DIR``.

The model is docs/model.md's as upstream's class ``HGRNBitForCausalLM`` computes it (arXiv
2406.02528), and is saved in upstream's directory format. PyTorch comes with the extra ``train``.
"""
