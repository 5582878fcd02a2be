"""Plans: specs and facts in, decisions out. Pure."""
