"""What a card's results are compared with; `make.py` makes the files."""
