"""One job on several cards: the processes that train side by side, one a card."""
