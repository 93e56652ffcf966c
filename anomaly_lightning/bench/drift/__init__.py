"""What the drift monitor keeps of its promise, and how soon it finds what: on streams made of real images.

Images of a trained model's category are inspected once, as they are and changed (`pools`); streams are drawn from what
they measured (`streams`). A draw with replacement from some dozens of images is no line: it repeats them.
"""
