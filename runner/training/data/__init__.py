"""From data files to tokenised rows: the prepare stage."""
