"""Looks at pictures before anything is trained on them: what is there, what is broken, twice, odd, or in the way."""
