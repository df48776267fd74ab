"""How near the emulator's network comes to real ones: the same transfers through four of them.

`grid` says which transfers; `ours`, `kernel`, `ns3` and `simgrid` each carry them out; `figures`
compares. `python benchmarks/fidelity.py` runs it.
"""
