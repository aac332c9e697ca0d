"""The rulers as a library: `partbench.metrics` offers what stands here, one module a ruler.

Each ruler is a function of whole arrays and a class of the same measure that is fed batch by batch.
Both call what the probes call.
"""
