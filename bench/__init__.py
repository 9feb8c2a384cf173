"""What the service costs, side by side with others: make bench, or python -m bench.compare --short and its like."""
