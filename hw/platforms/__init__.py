"""Platforms of boards that Amaranth's own collection lacks: pins and clocks, data only."""
