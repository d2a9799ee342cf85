"""Ballet: dancers perform one after the other; later the one with a named dance is asked for.

**Source**: Lampinen, Chan, Banino, Hill 2021 (arXiv 2105.14039). ``pixel`` follows the released
environment's room, timing, dances, sprites and colours; ``grid`` and ``lite`` ask the same of
memory and leave out seeing, or seeing and walking.
"""
