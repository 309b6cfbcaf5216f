"""From an adapter to held-out losses and answers: the evaluate stage."""
