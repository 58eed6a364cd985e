"""SDR SDRAM outside the chip: parts, what they may be told and when, and a store of weight rows."""
