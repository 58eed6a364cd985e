"""Benches that drive the generated Verilog with cocotb, against the same golden formulas."""
