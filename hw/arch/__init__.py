"""What a machine is, for both sides: its sizes, its program, its formulas, and the link's words."""
