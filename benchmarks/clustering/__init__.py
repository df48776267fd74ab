"""How well neighborhoods are found on real text: gradients once, then any number of studies.

`text` says which examples; `gradients` takes the gradient of each, once, and keeps its count sketch
parameter by parameter; `deals` makes clients of them; `studies` compares settings and controls.
`python benchmarks/clustering.py` runs it.
"""
