"""Reading datasets into tracklets, and drawing a synthetic one. No torch here: the command line enrols with it."""
