"""Where trials stand: the one reader of states."""
