"""After the first day: whether promises hold on other images, new thresholds, new versions, and the way back.

Nothing here but `updating` needs torch, so that a line can calibrate anew where it runs.
"""
