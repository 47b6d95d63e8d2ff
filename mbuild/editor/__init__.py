"""What an editor shows of a Modelfile while it is written; ``server`` speaks the protocol.

The other modules know neither the protocol nor the program: they work on a text and the offsets
of its characters.
"""
