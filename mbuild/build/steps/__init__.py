"""The kinds of steps: what a build is made of. Each sees its inputs and the store."""
