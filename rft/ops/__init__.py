"""Pure tensor functions: no config, no device moves, no logger.

Dimensions: ``B`` sequences, ``R`` response tokens, ``V`` vocabulary.
"""
