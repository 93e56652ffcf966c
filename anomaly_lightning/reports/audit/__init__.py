"""Looks at images before anything is trained on them: what is there, what is broken, twice, odd, or in the way."""
