"""Side-by-side measurements, one command each; docs/ has their results. May import everything; nothing imports them."""
