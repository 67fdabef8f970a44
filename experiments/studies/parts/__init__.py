"""What several studies need: their options, the facts they draw, statistics, figures and tables."""
