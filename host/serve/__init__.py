"""A server: one device for many programs and people, by OpenAI's endpoints and a page.

================== ================================================================================
``scheduler.py``   one thread that owns the device; sessions that share it slice by slice
``prefixes.py``    states by the tokens that led to them, so that nothing is read twice
================== ================================================================================
"""
