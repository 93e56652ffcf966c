"""A trained model behind HTTP: what comes in is bounded, what was taken is answered."""
