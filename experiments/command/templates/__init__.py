"""What `espalier new` writes: working files by the name of `example`, and a test of each.

They are code like any other, so that a change that breaks one is found here.
"""
