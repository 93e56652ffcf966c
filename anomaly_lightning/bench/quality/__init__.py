"""The quality suite: metrics of experiments over categories and seeds, in one file that two of can be compared.

A row is one run (category, seed, experiment). Changes of a method are judged by the same rows before and after.
"""
