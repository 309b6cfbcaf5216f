"""The pages for people: each module is one page and what can be done on it."""
