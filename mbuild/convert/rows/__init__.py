"""What a family's row is made of: numbers, keys, rules, layout."""
