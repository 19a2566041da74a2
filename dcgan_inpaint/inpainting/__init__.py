"""The search for z, what one would use instead, and what either gives."""
